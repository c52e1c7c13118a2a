"""Look at a folder of your own data and write a config that trains on it.

The data are class folders, a CSV of files and labels, boxes in COCO JSON, Pascal VOC XML or YOLO's text, or images and
masks. Nothing in the folder is changed: lists of splits, and labels that have to be converted, go to a folder beside
the config.
"""
from argparse import ArgumentTypeError, Namespace

from .output import progress
from .parser import Parser, positive

EXAMPLES = """\
examples:
  mmone new photos --out my_config.py
  mmone new photos --out my_config.py --weights mobileone_s0.pth.tar
      fine-tune from a classifier's weights: fewer epochs, better results
  mmone browse my_config.py --out-dir pictures
  mmone train my_config.py
"""
TASKS = ('classification', 'detection', 'segmentation')
FORMATS = ('folders', 'csv', 'coco', 'voc', 'yolo', 'masks')
SHOWN_CLASSES = 12


def add_arguments(parser: Parser) -> None:
    parser.add_argument('data', metavar='DATA', help='folder that has the images and their labels')
    parser.add_argument('--out', default='my_config.py', metavar='FILE', help='config to write (default: %(default)s)')
    parser.add_argument('--arch', metavar='NAME', help='variant: s0 to s4, micro214, micro139 or micro68 (default: '
                        'that of --weights, or s0)')
    parser.add_argument('--shape', type=positive, nargs='+', metavar=('H', 'W'),
                        help='size that the network is trained on (default: what suits the images; 320 for boxes)')
    parser.add_argument('--weights', metavar='FILE', help="a classifier's checkpoint, of any source, to start from")
    parser.add_argument('--task', choices=TASKS, help='where the data could be for several')
    parser.add_argument('--format', choices=FORMATS, help='how the data are labelled, where there are several ways')
    parser.add_argument('--classes', type=_names, default=(), metavar='A,B,…',
                        help='names of the classes, in the order of their numbers')
    parser.add_argument('--label-column', metavar='NAME', help='column of a CSV that has the classes')
    parser.add_argument('--ignore-index', type=int, metavar='N', help='value of masks that is no class, beside 255')
    parser.add_argument('--val-fraction', type=float, default=0.2, metavar='X',
                        help='part for validation, where no images are for that (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the split (default: %(default)s)')
    parser.add_force('replace the config and the folder beside it')
    parser.add_trust()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(','))
    if not all(names) or len(set(names)) < len(names):
        raise ArgumentTypeError(f'{text!r} is no list of different names with commas between them')
    return names


def run(args: Namespace) -> None:
    from mmone.datasets.layouts import Options, find
    from mmone.datasets.new_config import Wishes, write_config
    from mmone.errors import InputError
    options = Options(args.classes, args.label_column, args.ignore_index, progress('reading'))
    try:
        found = find(args.data, args.task, args.format, options)
        print('\n'.join(_description(found, args.data)))
        wishes = Wishes(args.arch, args.shape, args.weights, args.seed, args.val_fraction, args.trust)
        plan = write_config(found, args.out, wishes, args.force)
    except OSError as error:
        raise InputError(str(error)) from None
    print('\n'.join([*_choices(plan, args.out), *(f'  note: {note}' for note in (*found.notes, *plan.notes))]))
    print(f'look at what training sees: mmone browse {args.out} --out-dir pictures\nthen: mmone train {args.out}')


def _description(found, data: str) -> list[str]:
    """What was found, in a few lines."""
    from mmone.datasets.layouts import LAYOUTS
    samples = found.samples()
    sizes = sorted({sample.size for sample in samples if all(sample.size)}, key=lambda size: size[0] * size[1])
    size = '' if not sizes else f' of {_shape(sizes[0])}' + (f' to {_shape(sizes[-1])}' if len(sizes) > 1 else '')
    splits = ', '.join(f'{split} {len(group)}' for split, group in found.splits.items() if split != 'all')
    what = dict(classification='images', detection='boxes', segmentation='% of pixels')[found.task]
    total = sum(found.counts) or 1
    counts = [f'{100 * count / total:.1f}' if found.task == 'segmentation' else str(count) for count in found.counts]
    listed = ', '.join(f'{name} {count}' for name, count in zip(found.classes[:SHOWN_CLASSES], counts))
    more = ', …' if len(found.classes) > SHOWN_CLASSES else ''
    return [f'{data}: {LAYOUTS[found.layout].title}, for {found.task}',
            f'  {len(samples)} images{size}; {splits or "no splits"}',
            f'  {len(found.classes)} classes ({what}): {listed}{more}']


def _choices(plan, out: str) -> list[str]:
    """What was chosen, in a few lines."""
    splits = ', '.join(f'{split} {len(group)}' for split, group in plan.splits.items())
    start = f'from {plan.weights}' if plan.weights else 'from scratch'
    return [f'{out}: MobileOne-{plan.arch}, {_shape(plan.shape[::-1])} pixels, {start}',
            f'  {splits}; {plan.epochs} epochs of {plan.iterations // plan.epochs} iterations of {plan.batch} images']


def _shape(size) -> str:
    return f'{size[0]}x{size[1]}'
