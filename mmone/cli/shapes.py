"""Generate images of coloured shapes with class folders, boxes and masks.

Running it again with the same arguments does nothing. A folder made with other arguments is
replaced with --force; a folder that it did not make, never. The layout is described in
mmone/datasets/shapes.py.
"""
from argparse import Namespace

from .output import progress
from .parser import Parser

EXAMPLES = """\
example:
  mmone shapes data/shapes --images 2500
      where the configs of shapes look for them
"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument('out', metavar='OUT', help='folder to make')
    parser.add_argument('--images', type=int, required=True, metavar='N', help='number of images')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='default: %(default)s')
    parser.add_argument('--size', type=int, default=128, metavar='N', help='side in pixels (default: %(default)s)')
    parser.add_argument('--val-fraction', type=float, default=0.2, metavar='X',
                        help='part for validation (default: %(default)s)')
    parser.add_force('replace a data set made with other arguments')
    parser.add_argument('--preview', metavar='PNG', help='also draw a contact sheet of the first images')


def run(args: Namespace) -> int | None:
    from mmone.datasets.shapes import make_dataset
    from mmone.errors import InputError
    try:
        made = make_dataset(args.out, args.images, args.seed, args.size, args.val_fraction, args.force,
                            progress('shapes'))
        print(f'{args.images} images in {args.out}' if made else f'{args.out}: already there')
        if args.preview:
            _write_preview(args)
    except OSError as error:
        raise InputError(str(error)) from None
    except KeyboardInterrupt:
        return 130
    return None


def _write_preview(args: Namespace) -> None:
    from PIL import Image

    from mmone.datasets.shapes import make_preview
    from mmone.files import written_whole
    sheet = make_preview(args.seed, min(args.images, 24), args.size)
    with written_whole(args.preview) as made:
        Image.fromarray(sheet).save(made)
    print(f'contact sheet in {args.preview}')
