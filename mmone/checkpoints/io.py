"""Reading and writing checkpoint files: untrusted until said otherwise, whole or not at all."""
import codecs
import os
import pickle
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmone.errors import InputError

# Added in PyTorch 2.6, as was naming what is safe by a string.
_HAS_SAFE_GLOBALS = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')

_STATISTICS = ('min', 'max', 'current', 'mean')


def _history_buffer_getattr(owner, name):
    """What ``builtins.getattr`` may do in a weights-only checkpoint: name a log statistic."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')


def _mmengine_globals() -> dict[str, object]:
    """What mmengine's runner writes besides weights: the log history, as arrays of numbers."""
    # numpy 1.26 has a module _core too, for the names in numpy 2's pickles alone.
    core = np._core if np.lib.NumpyVersion(np.__version__) >= '2.0.0' else np.core
    allowed = {
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'builtins.getattr': _history_buffer_getattr,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        '_codecs.encode': codecs.encode,  # how pickle's protocol 2 writes a number's bytes
    }
    for name in ('_reconstruct', 'scalar'):
        for module in ('numpy._core', 'numpy.core'):  # as numpy 2 and numpy 1 write it
            allowed[f'{module}.multiarray.{name}'] = getattr(core.multiarray, name)
    return allowed


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine's runner writes.

    PyTorch 2.6 and later refuse the log history by default: resuming, and testing a checkpoint of
    one's own, would fail. Only data types are allowed, and ``getattr`` for the names of
    HistoryBuffer's statistics. Earlier PyTorch has no list to add to: mmengine reads without
    ``weights_only`` there, and :func:`read_checkpoint` brings its own unpickler.
    """
    if _HAS_SAFE_GLOBALS:
        number_dtypes = [type(np.dtype(kind)) for kind in ('f8', 'f4', 'i8', 'i4', 'b1')]
        torch.serialization.add_safe_globals(
            [(value, name) for name, value in _mmengine_globals().items()] + number_dtypes)


class _WeightsUnpickler(pickle.Unpickler):
    """For PyTorch before 2.6: its own list of what weights need, and mmengine's."""

    def find_class(self, module, name):
        from torch._weights_only_unpickler import _get_allowed_globals
        allowed = {**_get_allowed_globals(), **_mmengine_globals()}
        module = {'__builtin__': 'builtins'}.get(module, module)  # pickle's name for it
        try:
            return allowed[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name} is not allowed') from None


class _WeightsPickle:
    """The part of the pickle module that ``torch.load(pickle_module=…)`` uses."""
    __name__ = 'mmone.checkpoints.io'
    Unpickler = _WeightsUnpickler

    @staticmethod
    def load(file, **kwargs):
        return _WeightsUnpickler(file, **kwargs).load()


def _load(path: Path, trust: bool) -> object:
    if trust or _HAS_SAFE_GLOBALS:
        return torch.load(path, map_location='cpu', weights_only=not trust)
    return torch.load(path, map_location='cpu', pickle_module=_WeightsPickle)


def read_checkpoint(path: str | Path, trust: bool = False) -> dict:
    """Read a ``.pth`` file to CPU memory.

    Args:
        path (str | Path): The file.
        trust (bool): Allow a pickle that can run code. Defaults to False.

    Raises:
        InputError: If the file is missing, truncated, no checkpoint, or needs ``trust``.
    """
    path = Path(path)
    if not path.is_file():
        kind = 'is a directory' if path.is_dir() else 'does not exist'
        raise InputError(f'checkpoint {path} {kind}: give a .pth file')
    try:
        checkpoint = _load(path, trust)
    except pickle.UnpicklingError as error:
        code = re.search(r'(?:GLOBAL|class|function|getattr)[ (](\S+)', str(error))
        if code is None:
            raise InputError(f'{path} is no PyTorch checkpoint: give a .pth file') from None
        raise InputError(f'checkpoint {path} holds more than weights ({code[1]}) and reading it '
                         'could run code: if you trust its source, pass --trust') from None
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).split('\n')[0]
        raise InputError(f'checkpoint {path} is truncated or no PyTorch checkpoint ({reason}): '
                         'copy or download it again') from None
    if not isinstance(checkpoint, dict):
        raise InputError(f'checkpoint {path} holds a {type(checkpoint).__name__}: expected a dict '
                         'of weights')
    return checkpoint


def check_output(path: str | Path, overwrite: bool) -> None:
    """Raise InputError, before any work, if a file cannot or must not be written."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f'cannot write {path}: it is a directory')
    if not path.parent.is_dir():
        raise InputError(f'cannot write {path}: there is no directory {path.parent}')
    if path.exists() and not overwrite:
        raise InputError(f'{path} exists: give another file, or --force to replace it')


def write_checkpoint(checkpoint: dict, path: str | Path) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all, replacing what is there."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
