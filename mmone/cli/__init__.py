"""The command ``mmone``: a module for each subcommand.

The module's docstring is the subcommand's help; its first line stands in the list of subcommands. It has
``EXAMPLES``, what follows the help; ``add_arguments(parser)``; and ``run(args)``, which returns the exit
status if it is not 0. Whatever takes long to import is imported when ``run`` is called, so that help and
errors of the command line come at once.
"""
import sys
from collections.abc import Sequence
from importlib import import_module

from mmone.files import temporary_files
from mmone.version import __version__

from .boundary import error_boundary
from .parser import Parser

COMMANDS = ('train', 'test', 'predict', 'export', 'quantize', 'convert', 'reparameterize', 'flops', 'browse',
            'inspect', 'config', 'shapes', 'new', 'zoo', 'bench', 'demo', 'lab', 'ablate', 'robustness', 'compare',
            'info')


def main(argv: Sequence[str] | None = None, command: str | None = None, prog: str | None = None) -> int:
    """Run a subcommand.

    Args:
        argv (Sequence[str], optional): The arguments. Defaults to those of this process.
        command (str, optional): The subcommand. Defaults to the first argument.
        prog (str, optional): What usage and errors call it. Defaults to ``mmone <command>``.

    Returns:
        int: The exit status.

    Raises:
        SystemExit: After help, and with status 2 after the line of an error.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        if not argv or argv[0] not in COMMANDS:
            return _overview(argv)
        command, *argv = argv
    module = import_module(f'{__name__}.{command}')
    parser = Parser(prog or f'mmone {command}', module.__doc__ or '', module.EXAMPLES)
    module.add_arguments(parser)
    # Reading the arguments looks names up, which takes packages too.
    with error_boundary(parser), temporary_files():
        return module.run(parser.parse_args(argv)) or 0


def _overview(argv: Sequence[str]) -> int:
    """Print the subcommands, or say what is wrong with arguments that begin with none of them."""
    lines = {name: (import_module(f'{__name__}.{name}').__doc__ or '').partition('\n')[0] for name in COMMANDS}
    parser = Parser('mmone', 'MobileOne for OpenMMLab: train with many branches, deploy as one.', '\n'.join(
        ['commands:', *(f'  {name:<16}{line}' for name, line in lines.items()), '',
         'mmone COMMAND --help has the arguments of a command, and examples.']))
    parser.add_argument('--version', action='version', version=f'mmone {__version__}')
    parser.add_argument('command', metavar='COMMAND', choices=COMMANDS, help='one of those below')
    if argv:
        parser.parse_args(argv)
    parser.print_help()
    return 0
