"""Turn a training checkpoint into a deployed one: one convolution a block, the same outputs."""
from argparse import Namespace

from .parser import Parser

EXAMPLES = """\
The deployed model is checked against its branches before anything is written. The checkpoint
written holds the class names and the config with deploy=True; test it with

  mmone test CONFIG OUT --deploy

example:
  mmone reparameterize CONFIG work_dirs/x/epoch_300.pth work_dirs/x/epoch_300_deploy.pth
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='training checkpoint')
    parser.add_argument('out', metavar='OUT', help='file to write')
    parser.add_force('replace OUT if it exists')
    parser.add_trust()
    parser.add_argument(
        '--tolerance', type=float, default=1e-4, metavar='X',
        help='largest relative difference from the branches, in float64 (default: %(default)s)')


def run(args: Namespace) -> None:
    from mmone.config import load_config
    from mmone.convert import reparameterize_checkpoint
    report = reparameterize_checkpoint(
        load_config(args.config, args.cfg_options), args.checkpoint, args.out,
        trust=args.trust, overwrite=args.force, tolerance=args.tolerance)
    print(f'{args.out}: {report}')
