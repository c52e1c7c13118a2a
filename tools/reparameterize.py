#!/usr/bin/env python
"""Turn a training checkpoint into a deployed one: one convolution a block, the same outputs."""
from arguments import Parser

EXAMPLES = """\
The deployed model is checked against its branches before anything is written. The checkpoint
written holds the class names and the config with deploy=True; test it with

  tools/test.py CONFIG OUT --deploy

example:
  tools/reparameterize.py CONFIG work_dirs/x/epoch_300.pth work_dirs/x/epoch_300_deploy.pth
"""


def parse_args(argv=None):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='training checkpoint')
    parser.add_argument('out', metavar='OUT', help='file to write')
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    parser.add_argument(
        '--trust', action='store_true', help='allow a checkpoint that can run code when it is loaded')
    parser.add_argument(
        '--tolerance', type=float, default=1e-4, metavar='X',
        help='largest relative difference from the branches, in float64 (default: %(default)s)')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from mmone.config import load_config
        from mmone.convert import reparameterize_checkpoint
        report = reparameterize_checkpoint(
            load_config(args.config, args.cfg_options), args.checkpoint, args.out,
            trust=args.trust, overwrite=args.force, tolerance=args.tolerance)
    print(f'{args.out}: {report}')


if __name__ == '__main__':
    main()
