"""Train a classifier, detector or segmentor."""
from argparse import Namespace

from .boundary import warnings_on_stdout
from .parser import Parser

EXAMPLES = """\
examples:
  mmone train CONFIG
      results go to work_dirs/, in a folder named as the config
  mmone train CONFIG --resume
      go on after the newest whole checkpoint in the work directory
  mmone train CONFIG --cfg-options train_dataloader.batch_size=8 optim_wrapper.optimizer.lr=0.01
      with other settings than the config's
  torchrun --nproc_per_node 4 -m mmone.cli train CONFIG --launcher pytorch
      on four GPUs (or in four CPU processes where there is no GPU), as tools/dist_train.sh does;
      under Slurm: tools/slurm_train.sh
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('--work-dir', metavar='DIR', help='folder for checkpoints and logs')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='resume from CHECKPOINT, or from the newest whole one in the work directory')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help="scale the learning rate by batch size, from the config's auto_scale_lr")
    parser.add_trust()
    parser.add_launcher()


def run(args: Namespace) -> None:
    with warnings_on_stdout():
        from mmone.engine.train import train
        train(**vars(args))
