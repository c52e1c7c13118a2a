#!/usr/bin/env python
"""Write a MobileOne checkpoint of another source under mmone's names."""
import argparse


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The source is recognised by the checkpoint's keys: Apple's, fused or unfused\n"
        "(mmpretrain's names are mmone's). The weights themselves are not touched.\n\nexample:\n"
        '  tools/convert.py mobileone_s0.pth.tar mobileone_s0_deploy.pth')
    parser.add_argument('checkpoint', metavar='IN', help='checkpoint to read')
    parser.add_argument('out', metavar='OUT', help='checkpoint to write')
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    parser.add_argument('--trust', action='store_true',
                        help='allow a checkpoint that can run code when it is loaded')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli import error_boundary
    with error_boundary():
        from mmone.checkpoints import convert
        source = convert(args.checkpoint, args.out, trust=args.trust, overwrite=args.force)
        print(f"{args.out}: {args.checkpoint} had {source}'s names")


if __name__ == '__main__':
    main()
