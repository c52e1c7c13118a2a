"""Turn a MobileOne classifier's checkpoint of one source into one of another."""
from argparse import Namespace

from .output import progress
from .parser import Parser, config_file, positive

EXAMPLES = """\
The source is recognised by the checkpoint's keys, never by its file's name: mmpretrain (whose
names are mmone's), apple (ml-mobileone), timm or cvnets; fused or with branches. Renaming does
not touch the weights, and nothing is dropped or invented. IN and OUT are .pth, .pth.tar or
.safetensors files, by their names.

examples:
  mmone convert mobileone_s0_unfused.pth.tar mobileone_s0.pth
  mmone convert mobileone_s0_unfused.pth.tar mobileone_s0_deploy.pth --deploy
  mmone convert mobileone_s0_deploy.pth model.safetensors --to timm
  mmone convert mobileone_s0.pth.tar trainable.pth --expand CONFIG --batches 8
      branches that compute the same function, with BatchNorm statistics of CONFIG's training data
"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument('checkpoint', metavar='IN', help='checkpoint to read')
    parser.add_argument('out', metavar='OUT', help='checkpoint to write')
    parser.add_argument(
        '--to', choices=('mmone', 'mmpretrain', 'apple', 'timm', 'cvnets'), default='mmone',
        help='whose names to write (default: %(default)s, the same as mmpretrain)')
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--deploy', action='store_true', help='fuse the branches')
    form.add_argument(
        '--expand', type=config_file, metavar='CONFIG',
        help='give fused weights branches again, to train them; CONFIG is the config that they '
        'will be trained with, its training images calibrate the BatchNorm statistics')
    parser.add_argument(
        '--batches', type=positive, default=16, metavar='N',
        help='batches that --expand calibrates with (default: %(default)s)')
    parser.add_cfg_options('override entries of the config of --expand')
    parser.add_argument('--drop-head', action='store_true',
                        help='leave the classifier out, to fine-tune on other classes')
    parser.add_force('replace OUT if it exists')
    parser.add_trust()


def run(args: Namespace) -> None:
    from mmone.convert.rename import convert
    before, after = convert(
        args.checkpoint, args.out, to='mmpretrain' if args.to == 'mmone' else args.to,
        deploy=args.deploy, expand=_expansion(args) if args.expand else None, drop_head=args.drop_head,
        trust=args.trust, overwrite=args.force)
    print(f'{args.checkpoint}: {before}\n{args.out}: {after}')


def _expansion(args: Namespace):
    """What gives a backbone branches, by the training data of a config."""
    from mmone.config import load_config
    from mmone.convert.calibrate import expand_for, training_images, training_loader
    from mmone.engine.explain import Situation, translated

    def expand(backbone):
        cfg = load_config(args.expand, args.cfg_options)
        situation = Situation(cfg, ('train_dataloader', ))
        with translated(situation):
            loader = training_loader(cfg)
            situation.add('train_dataloader', loader.dataset)
            track = progress('calibrating', min(args.batches, len(loader)))
            expanded, images = expand_for(cfg, backbone, track(training_images(cfg, loader, args.batches)))
        print(f'BatchNorm statistics of {images} images')
        return expanded

    return expand
