"""The parser of the command lines. Only the standard library: ``--help`` must not wait for torch."""
import argparse
import os
from pathlib import Path

from mmone import ranks

CONFIG_SUFFIXES = ('.py', '.yml', '.yaml', '.json')


class Parser(argparse.ArgumentParser):
    """An argument parser whose help keeps its line breaks and whose errors are one line.

    Args:
        prog (str): What usage and errors begin with.
        description (str): What the help begins with.
        examples (str): What it ends with.
    """

    def __init__(self, prog: str, description: str, examples: str = ''):
        super().__init__(prog, description=description, epilog=examples,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        # In a distributed run once, not from every rank.
        self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n' if ranks.is_first() else None)

    # Arguments that several subcommands have

    def add_config(self) -> None:
        self.add_argument('config', metavar='CONFIG', type=config_file,
                          help='config file, or name of one in the model zoo')
        self.add_cfg_options('override entries of the config, e.g. train_cfg.max_epochs=10 '
                             "or model.backbone.out_indices='(2, 3)'")

    def add_cfg_options(self, text: str) -> None:
        self.add_argument('--cfg-options', nargs='+', action='extend', default=[], type=key_value,
                          metavar='KEY=VALUE', help=text)

    def add_force(self, text: str) -> None:
        self.add_argument('--force', action='store_true', help=text)

    def add_trust(self) -> None:
        self.add_argument('--trust', action='store_true',
                          help='allow a checkpoint that can run code when it is loaded')

    def add_launcher(self) -> None:
        self.add_argument(
            '--launcher', choices=('none', *ranks.LAUNCHERS), default='none',
            help='what started the processes of a distributed run (default: %(default)s)')
        # torch.distributed.launch passes --local-rank, and --local_rank before PyTorch 2.0.
        self.add_argument('--local_rank', '--local-rank', type=int, action=_SetLocalRank,
                          dest=argparse.SUPPRESS, help=argparse.SUPPRESS)


class _SetLocalRank(argparse.Action):
    """Puts the argument where torchrun puts it: into the environment."""

    def __call__(self, parser, namespace, value, option_string=None):
        os.environ.setdefault('LOCAL_RANK', str(value))


# Types of arguments


def config_file(given: str) -> str:
    """The path of a config, given by its path or by its name in the model zoo."""
    if Path(given).is_file():
        return given
    if '::' not in given and (os.path.dirname(given) or given.endswith(CONFIG_SUFFIXES)):
        raise argparse.ArgumentTypeError(f'config {given} does not exist')
    from mmone.errors import InputError
    from mmone.zoo import find_entry
    try:
        return str(find_entry(given).config)
    except InputError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def key_value(option: str) -> str:
    key, equals, _ = option.partition('=')
    if not key or not equals:
        raise argparse.ArgumentTypeError(f'{option!r} is not of the form key=value')
    return option


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {number}')
    return number
