#!/usr/bin/env python
"""Turn a MobileOne classifier's checkpoint of one source into one of another."""
import argparse

EPILOG = """\
The source is recognised by the checkpoint's keys, never by its file's name: mmpretrain (whose
names are mmone's), apple (ml-mobileone), timm or cvnets; fused or with branches. Renaming does
not touch the weights, and nothing is dropped or invented. IN and OUT are .pth, .pth.tar or
.safetensors files, by their names.

examples:
  tools/convert.py mobileone_s0_unfused.pth.tar mobileone_s0.pth
  tools/convert.py mobileone_s0_unfused.pth.tar mobileone_s0_deploy.pth --deploy
  tools/convert.py mobileone_s0_deploy.pth model.safetensors --to timm
  tools/convert.py mobileone_s0.pth.tar trainable.pth --expand CONFIG --batches 8
      branches that compute the same function, with BatchNorm statistics of CONFIG's training data
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG)
    parser.add_argument('checkpoint', metavar='IN', help='checkpoint to read')
    parser.add_argument('out', metavar='OUT', help='checkpoint to write')
    parser.add_argument(
        '--to', choices=('mmone', 'mmpretrain', 'apple', 'timm', 'cvnets'), default='mmone',
        help='whose names to write (default: %(default)s, the same as mmpretrain)')
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--deploy', action='store_true', help='fuse the branches')
    form.add_argument(
        '--expand', metavar='CONFIG',
        help='give fused weights branches again, to train them; CONFIG is the config that they '
        'will be trained with, its training images calibrate the BatchNorm statistics')
    parser.add_argument(
        '--batches', type=int, default=16, metavar='N',
        help='batches that --expand calibrates with (default: %(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', action='extend', default=[], metavar='KEY=VALUE',
        help='override entries of the config of --expand')
    parser.add_argument('--drop-head', action='store_true',
                        help='leave the classifier out, to fine-tune on other classes')
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    parser.add_argument('--trust', action='store_true',
                        help='allow a checkpoint that can run code when it is loaded')
    args = parser.parse_args(argv)
    if args.batches < 1:
        parser.error(f'--batches must be at least 1, got {args.batches}')
    return args


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary():
        from mmone.convert.rename import convert

        def expand(backbone):
            from mmone.convert.calibrate import expand_for
            expanded, images = expand_for(args.expand, backbone, args.batches, args.cfg_options)
            print(f'\nBatchNorm statistics of {images} images')
            return expanded

        before, after = convert(
            args.checkpoint, args.out, to='mmpretrain' if args.to == 'mmone' else args.to,
            deploy=args.deploy, expand=expand if args.expand else None, drop_head=args.drop_head,
            trust=args.trust, overwrite=args.force)
        print(f'{args.checkpoint}: {before}\n{args.out}: {after}')


if __name__ == '__main__':
    main()
