"""Count a model's parameters and multiply-adds, in training form and deployed."""
from argparse import Namespace

from .parser import Parser

EXAMPLES = """\
Multiply-adds are mmengine's count; of a classifier without its last linear layer, as mmpretrain
publishes them, of a detector of two stages with as many proposals as the first gives at most.

examples:
  mmone flops CONFIG
  mmone flops CONFIG --shape 512 1024
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'),
        help='height and width of the image (default: that of the config)')
    parser.add_argument('--deploy', action='store_true', help='count the deployed form only')


def run(args: Namespace) -> None:
    from mmone.complexity import config_complexity
    from mmone.config import load_config
    shape, forms = config_complexity(load_config(args.config, args.cfg_options), args.shape)
    print(f'{"image " + "x".join(map(str, shape)):<16}{"parameters":>14}{"multiply-adds":>18}')
    for form, count in forms.items():
        if form == 'deployed' or not args.deploy:
            print(f'{form:<16}{count.parameters:>14,}{count.multiply_adds:>18,}')
