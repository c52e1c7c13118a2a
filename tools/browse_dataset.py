#!/usr/bin/env python
"""Draw samples of a config's data set with their labels, as the pipeline leaves them."""
from arguments import Parser

EXAMPLES = """\
examples:
  tools/browse_dataset.py CONFIG --out-dir pictures
  tools/browse_dataset.py CONFIG --out-dir pictures --phase test --number 40
"""


def parse_args(argv=None):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('--out-dir', required=True, metavar='DIR', help='folder for the pictures')
    parser.add_argument(
        '--phase', choices=('train', 'val', 'test'), default='train',
        help='whose data and pipeline (default: %(default)s)')
    parser.add_argument(
        '--number', type=int, default=16, metavar='N',
        help='how many, taken evenly over the data set (default: %(default)s)')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from rich.console import Console
        from rich.progress import track

        from mmone.cli.browse import draw_samples
        from mmone.config import load_config
        console = Console(stderr=True)
        drawn = draw_samples(load_config(args.config, args.cfg_options), args.out_dir, args.phase,
                             args.number)
        count = sum(1 for _ in track(drawn, total=args.number, description='drawing',
                                     console=console, disable=not console.is_terminal))
    print(f'{count} pictures in {args.out_dir}')


if __name__ == '__main__':
    main()
