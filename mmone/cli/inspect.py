"""Find what is wrong with a config and its data, before it is trained.

Reads every annotation and every file, and compares them with the config: classes, images, boxes,
masks, batches. Each line names a file or a key of the config, and what to do. Errors stop a training
or spoil what it learns; warnings probably are no intention. mmone train looks at a part of the data
in the same way before it begins; inspect=False in the config is to do without.
"""
from argparse import Namespace
from pathlib import Path

from .output import aligned, progress
from .parser import Parser

EXAMPLES = """\
The exit status is 1 if there are errors, else 0.

examples:
  mmone inspect CONFIG
  mmone inspect CONFIG --cfg-options train_dataloader.batch_size=8 --out data.png
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('--out', metavar='FILE',
                        help='picture of the data (default: inspect.png in the work directory)')
    parser.add_trust()


def run(args: Namespace) -> int:
    from mmone.config import load_config
    from mmone.datasets.inspection.inspect import inspect
    from mmone.datasets.inspection.picture import draw
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    out = Path(args.out or Path(cfg.work_dir, 'inspect.png'))
    found = inspect(cfg, whole=True, trust=args.trust, progress=lambda jobs: progress('looking', len(jobs)))
    print(aligned(found.table()))
    print()
    for finding in found.findings:
        print(finding)
    if found.subject.splits:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw(found, out)
    numbers = ', '.join(f'{len(some)} {name}{"" if len(some) == 1 else "s"}' for name, some in
                        (('error', found.errors), ('warning', found.warnings)))
    print(f'{numbers}{f"; a picture is in {out}" if found.subject.splits else ""}')
    return int(bool(found.errors))
