#!/usr/bin/env python
"""Evaluate a checkpoint of a classifier, detector or segmentor."""
from arguments import Parser

EXAMPLES = """\
examples:
  tools/test.py CONFIG CHECKPOINT
  tools/test.py CONFIG CHECKPOINT --deploy
      reparameterize the backbone while the checkpoint loads
  tools/test.py CONFIG CHECKPOINT --out predictions.pkl --show-dir pictures
      also keep the predictions, and pictures of them
  tools/dist_test.sh CONFIG CHECKPOINT 4
      on four GPUs (or in four CPU processes where there is no GPU)
"""


def parse_args(argv=None):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='.pth file or URL')
    parser.add_argument('--work-dir', metavar='DIR', help='folder for metrics and logs')
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        '--deploy', action='store_true',
        help='evaluate the deployed form; takes checkpoints of either form')
    form.add_argument(
        '--branches', action='store_true',
        help="evaluate the training form, without the config's DeployHook")
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to this file')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions into this folder')
    parser.add_argument(
        '--tta', action='store_true',
        help="test-time augmentation, by the config's tta_model and tta_pipeline")
    parser.add_argument(
        '--trust', action='store_true',
        help='allow checkpoints that can run code when they are loaded')
    parser.add_launcher()
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from mmone.cli.boundary import error_boundary
    with error_boundary(log_warnings=True):
        from mmone.engine.test import test
        test(**vars(args))


if __name__ == '__main__':
    main()
