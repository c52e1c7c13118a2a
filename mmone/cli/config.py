"""Print a config with everything that it inherits."""
import argparse

from .parser import CONFIG_SUFFIXES, Parser

EXAMPLES = """\
examples:
  mmone config CONFIG
  mmone config CONFIG --cfg-options model.backbone.arch=s1 --save-path s1.py
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('--save-path', type=_config_name, metavar='FILE', help='also write it: .py, .yml or .json')


def _config_name(path: str) -> str:
    if not path.endswith(CONFIG_SUFFIXES):
        raise argparse.ArgumentTypeError(f'{path} is no .py, .yml or .json')
    return path


def run(args: argparse.Namespace) -> None:
    from mmone.config import load_config
    from mmone.files import written_whole
    cfg = load_config(args.config, args.cfg_options)
    print(cfg.pretty_text)
    if args.save_path:
        with written_whole(args.save_path) as made:
            cfg.dump(made)
