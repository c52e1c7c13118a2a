#!/usr/bin/env python
"""Train a classifier, detector or segmentor."""
from arguments import Parser

EXAMPLES = """\
examples:
  tools/train.py CONFIG
      results go to work_dirs/, in a folder named as the config
  tools/train.py CONFIG --resume
      go on after the newest whole checkpoint in the work directory
  tools/train.py CONFIG --cfg-options train_dataloader.batch_size=8 optim_wrapper.optimizer.lr=0.01
      with other settings than the config's
  tools/dist_train.sh CONFIG 4
      on four GPUs (or in four CPU processes where there is no GPU)
"""


def parse_args(argv=None):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('--work-dir', metavar='DIR', help='folder for checkpoints and logs')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='resume from CHECKPOINT, or from the newest whole one in the work directory')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help="scale the learning rate by batch size, from the config's auto_scale_lr")
    parser.add_argument(
        '--trust', action='store_true',
        help='allow checkpoints that can run code when they are loaded')
    parser.add_launcher()
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary(log_warnings=True):
        from mmone.engine.train import train
        train(**vars(args))


if __name__ == '__main__':
    main()
