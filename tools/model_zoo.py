#!/usr/bin/env python
"""Write the tables of models in README.md and docs/model_zoo.md from the metafiles, or check them."""
import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='The tables lie between <!-- zoo: … --> and <!-- end zoo -->; '
        'the metafiles are those that model-index.yml lists.')
    parser.add_argument('--check', action='store_true',
                        help='change nothing; exit with status 2 if a table has drifted')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from zoo_tables import with_tables

        from mmone.errors import InputError
        for name in ('README.md', 'docs/model_zoo.md'):
            path = ROOT / name
            text = path.read_text(encoding='utf-8')
            wanted = with_tables(text)
            if args.check and text != wanted:
                raise InputError(f'a table in {name} differs from the metafiles: run '
                                 'tools/model_zoo.py')
            if text != wanted:
                path.write_text(wanted, encoding='utf-8')
                print(f'{name} written')


if __name__ == '__main__':
    main()
