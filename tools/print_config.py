#!/usr/bin/env python
"""Print a config with everything that it inherits."""
from arguments import Parser

EXAMPLES = """\
examples:
  tools/print_config.py CONFIG
  tools/print_config.py CONFIG --cfg-options model.backbone.arch=s1 --save-path s1.py
"""


def parse_args(argv=None):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('--save-path', metavar='FILE', help='also write it: .py, .yml or .json')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if args.save_path and not args.save_path.endswith(('.py', '.yml', '.yaml', '.json')):
        Parser(__doc__, EXAMPLES).error(f'--save-path {args.save_path} is no .py, .yml or .json')
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from mmone.config import load_config
        cfg = load_config(args.config, args.cfg_options)
    print(cfg.pretty_text)
    if args.save_path:
        cfg.dump(args.save_path)


if __name__ == '__main__':
    main()
