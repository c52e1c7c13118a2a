#!/usr/bin/env python
"""Train, evaluate, deploy and export MobileOne for three tasks on generated images, in minutes on a CPU."""
import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs' / 'demo', metavar='DIR',
                        help='folder for checkpoints, table and picture (default: %(default)s)')
    parser.add_argument('--data', type=Path, default=ROOT / 'data' / 'shapes', metavar='DIR',
                        help='folder for the generated images (default: %(default)s)')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from mmone.cli.demo import run
        run(args.out.absolute(), ROOT / 'configs', args.data.absolute())


if __name__ == '__main__':
    main()
