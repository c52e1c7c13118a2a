"""The error boundary of the command lines."""
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

from mmone.engine.explain import SampleError
from mmone.errors import InputError

# What torchrun, Slurm and Open MPI tell a process about its place among the others.
RANK_VARIABLES = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


@contextmanager
def error_boundary(log_warnings=False):
    """Turn an :class:`InputError` into one line on stderr and exit status 2.

    Every rank of a distributed run exits; rank 0 prints the line, unless only the rank at fault
    knows it. Any other exception is a bug and keeps its traceback.

    Args:
        log_warnings (bool): Print warnings of the libraries to stdout, for tools whose log is
            there, so that stderr holds nothing but what ended the run. Defaults to False.
    """
    with warnings.catch_warnings():
        if log_warnings:
            warnings.showwarning = _print_warning
        try:
            yield
        except InputError as error:
            if is_first_rank() or isinstance(error, SampleError):
                print(f'{Path(sys.argv[0]).name}: error: {" ".join(str(error).split())}',
                      file=sys.stderr)
            sys.exit(2)


def _print_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if is_first_rank():
        print(f'{filename}:{lineno}: {category.__name__}: {message}')


def is_first_rank() -> bool:
    """Whether this is rank 0 (or the only process), also before torch.distributed is set up."""
    return all(os.environ.get(variable, '0') == '0' for variable in RANK_VARIABLES)
