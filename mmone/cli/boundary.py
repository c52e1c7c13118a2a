"""Where library and command line meet: what is wrong becomes a line that names flags."""
import re
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager

from mmone import ranks
from mmone.errors import InputError
from mmone.libraries import explain

# Parameters of the library for which a flag has another name.
FLAGS = dict(overwrite='force')
# What to type where the running command has no flag for a parameter.
ELSEWHERE = dict(drop_head='mmone convert CHECKPOINT OUT --drop-head', set_up='mmone lab setup')


@contextmanager
def error_boundary(parser: ArgumentParser) -> Iterator[None]:
    """Turn an :class:`InputError`, or a package that is missing, into one line on stderr and exit status 2.

    Every rank of a distributed run exits; rank 0 prints the line, unless only the rank at fault
    knows it. Any other exception is a bug and keeps its traceback.

    Args:
        parser (ArgumentParser): Of the running command: the line begins with its name, and ends with
            its flag, if it has one, for the parameter whose other value would mend the error.
    """
    try:
        yield
    except InputError as error:
        if ranks.is_first() or not error.on_all_ranks:
            message = ' '.join(error.message.split())
            print(f'{parser.prog}: error: {message}{_remedy(error.parameter, parser)}', file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        line = explain(error)
        if line is None:
            raise
        if ranks.is_first():
            print(f'{parser.prog}: error: {line}', file=sys.stderr)
        sys.exit(2)


def _remedy(parameter: str | None, parser: ArgumentParser) -> str:
    if parameter is None:
        return ''
    flag = '--' + FLAGS.get(parameter, parameter).replace('_', '-')
    if flag in re.findall(r'--[\w-]+', parser.format_usage()):
        return f' ({flag})'
    return f' ({ELSEWHERE[parameter]})' if parameter in ELSEWHERE else ''


@contextmanager
def warnings_on_stdout() -> Iterator[None]:
    """Print warnings to stdout, where the log is, so that stderr has nothing but what ended a run."""

    def show(message, category, filename, lineno, file=None, line=None):
        if ranks.is_first():
            print(f'{filename}:{lineno}: {category.__name__}: {message}')

    with warnings.catch_warnings():  # which puts back what is replaced
        warnings.showwarning = show
        yield
