#!/usr/bin/env python
"""Count a model's parameters and multiply-adds, in training form and deployed."""
from arguments import Parser

EXAMPLES = """\
Multiply-adds are mmengine's count; of a classifier without its last linear layer, as mmpretrain
publishes them.

examples:
  tools/get_flops.py CONFIG
  tools/get_flops.py CONFIG --shape 512 1024
"""


def parse_args(argv=None):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument(
        '--shape', nargs=2, type=int, metavar=('H', 'W'),
        help='height and width of the image (default: that of the config)')
    parser.add_argument('--deploy', action='store_true', help='count the deployed form only')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from mmone.complexity import config_complexity
        from mmone.config import load_config
        shape, forms = config_complexity(load_config(args.config, args.cfg_options), args.shape)
    print(f'{"image " + "x".join(map(str, shape)):<16}{"parameters":>14}{"multiply-adds":>18}')
    for form, count in forms.items():
        if form == 'deployed' or not args.deploy:
            print(f'{form:<16}{count.parameters:>14,}{count.multiply_adds:>18,}')


if __name__ == '__main__':
    main()
