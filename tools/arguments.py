"""What the command lines share. Only the standard library: ``--help`` must not wait for torch."""
import argparse
import os
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """An argument parser whose help keeps its line breaks and whose errors are one line."""

    def __init__(self, description, examples):
        super().__init__(description=description, epilog=examples,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument('config', metavar='CONFIG', type=existing_config, help='config file')
        self.add_argument(
            '--cfg-options', nargs='+', action='extend', default=[], type=key_value,
            metavar='KEY=VALUE',
            help='override entries of the config, e.g. train_cfg.max_epochs=10 '
            "or model.backbone.out_indices='(2, 4)'")

    def error(self, message):
        # In a distributed run once, not from every rank.
        first = all(os.environ.get(name, '0') == '0' for name in ('RANK', 'SLURM_PROCID'))
        self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n' if first else None)

    def add_launcher(self):
        self.add_argument(
            '--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none',
            help='what started the processes of a distributed run; use dist_train.sh, '
            'dist_test.sh, slurm_train.sh or slurm_test.sh')
        # torch.distributed.launch passes --local-rank, and --local_rank before PyTorch 2.0.
        self.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)

    def parse_args(self, argv=None):
        args = super().parse_args(argv)
        local_rank = args.__dict__.pop('local_rank', None)
        if local_rank is not None:
            os.environ.setdefault('LOCAL_RANK', str(local_rank))
        return args


def existing_config(path):
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f'config {path} does not exist')
    return path


def key_value(option):
    key, equals, _ = option.partition('=')
    if not key or not equals:
        raise argparse.ArgumentTypeError(f'{option!r} is not of the form key=value')
    return option
