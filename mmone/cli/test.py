"""Evaluate a checkpoint of a classifier, detector or segmentor."""
from argparse import Namespace

from .boundary import warnings_on_stdout
from .parser import Parser

EXAMPLES = """\
examples:
  mmone test CONFIG CHECKPOINT
  mmone test CONFIG CHECKPOINT --deploy
      reparameterize the backbone while the checkpoint loads
  mmone test CONFIG CHECKPOINT --out predictions.pkl --show-dir pictures
      also keep the predictions, and pictures of them
  mmone test CONFIG model.onnx
      an exported model
  torchrun --nproc_per_node 4 -m mmone.cli test CONFIG CHECKPOINT --launcher pytorch
      on four GPUs (or in four CPU processes where there is no GPU), as tools/dist_test.sh does;
      under Slurm: tools/slurm_test.sh
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint file or URL, or exported model')
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
    parser.add_trust()
    parser.add_launcher()


def run(args: Namespace) -> None:
    with warnings_on_stdout():
        from mmone.engine.test import test
        test(**vars(args))
