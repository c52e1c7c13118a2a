"""Reading and writing checkpoint files: untrusted until said otherwise, whole or not at all."""
import codecs
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmone.compat import weights_only_globals
from mmone.errors import InputError
from mmone.files import written_whole

# Added in PyTorch 2.6, as was naming what is safe by a string.
_HAS_SAFE_GLOBALS = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')
# PyTorch has one list of what is safe for the whole process.
_allowing = threading.RLock()

_STATISTICS = ('min', 'max', 'current', 'mean')


def _history_buffer_getattr(owner, name):
    """What ``builtins.getattr`` may do in a weights-only checkpoint: name a log statistic."""
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not allowed')


def _mmengine_globals() -> dict[str, object]:
    """What mmengine's runner writes besides weights: the log history, as arrays of numbers."""
    allowed = {
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'builtins.getattr': _history_buffer_getattr,
        'numpy.ndarray': np.ndarray,
        'numpy.dtype': np.dtype,
        '_codecs.encode': codecs.encode,  # how pickle's protocol 2 writes a number's bytes
    }
    for module in ('numpy._core', 'numpy.core'):  # as numpy 2 and numpy 1 write it
        allowed[f'{module}.multiarray._reconstruct'] = np.zeros(1).__reduce__()[0]
        allowed[f'{module}.multiarray.scalar'] = np.float64().__reduce__()[0]
    return allowed


@contextmanager
def mmengine_checkpoints_allowed() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read what mmengine's runner writes, until the block ends.

    PyTorch 2.6 and later refuse the log history by default: resuming, and testing a checkpoint of
    one's own, would fail. Only data types are allowed, and ``getattr`` for the names of
    HistoryBuffer's statistics. Earlier PyTorch has no list to add to: mmengine reads without
    ``weights_only`` there, and :func:`read_checkpoint` brings its own unpickler.
    """
    if not _HAS_SAFE_GLOBALS:
        yield
        return
    wanted: list[Any] = [(value, name) for name, value in _mmengine_globals().items()]
    wanted += [type(np.dtype(kind)) for kind in ('f8', 'f4', 'i8', 'i4', 'b1')]
    with _allowing:
        # Leaving the context removes what it added, so not what others have allowed themselves.
        others = set(torch.serialization.get_safe_globals())
        with torch.serialization.safe_globals([item for item in wanted if item not in others]):
            yield


class _WeightsUnpickler(pickle.Unpickler):
    """For PyTorch before 2.6: its own list of what weights need, and mmengine's."""

    def find_class(self, module, name):
        allowed = {**weights_only_globals(), **_mmengine_globals()}
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
    if path.suffix == '.safetensors':
        return _safetensors(path).load_file(path)
    if trust or _HAS_SAFE_GLOBALS:
        with mmengine_checkpoints_allowed():
            return torch.load(path, map_location='cpu', weights_only=not trust)
    return torch.load(path, map_location='cpu', pickle_module=_WeightsPickle)


def _safetensors(path: Path):
    try:
        import safetensors.torch
    except ImportError:
        raise InputError(f'{path} needs safetensors: pip install safetensors') from None
    return safetensors.torch


def _check_size(path: Path) -> None:
    """Refuse an archive that says it holds more than it has bytes: PyTorch never compresses."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > path.stat().st_size:
            raise InputError(f'checkpoint {path} has {path.stat().st_size:,} bytes but would '
                             f'unpack to {claimed:,}: PyTorch writes no such files, it may be a '
                             'zip bomb')


def read_checkpoint(path: str | Path, trust: bool = False) -> dict:
    """Read a ``.pth`` or ``.safetensors`` file to CPU memory.

    Args:
        path (str | Path): The file.
        trust (bool): Allow a pickle that can run code. Defaults to False.

    Raises:
        InputError: If the file is missing, truncated, no checkpoint, unpacks to more than its
            size, needs ``trust``, or holds weights that are not numbers.
    """
    path = Path(path)
    if not path.is_file():
        kind = 'is a directory' if path.is_dir() else 'does not exist'
        raise InputError(f'checkpoint {path} {kind}: give a .pth or .safetensors file')
    try:
        _check_size(path)
        checkpoint = _load(path, trust)
    except pickle.UnpicklingError as error:
        code = re.search(r'(?:GLOBAL|class|function|getattr)[ (](\S+)', str(error))
        if code is None:
            raise InputError(f'{path} is no PyTorch checkpoint: give a .pth file') from None
        raise InputError(f'checkpoint {path} holds more than weights ({code[1]}) and reading it '
                         'could run code: allow that only if you trust its source', parameter='trust') from None
    except InputError:
        raise
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).split('\n')[0].split('. ')[0]
        raise InputError(f'checkpoint {path} is truncated or no PyTorch checkpoint ({reason}): '
                         'copy or download it again') from None
    except Exception as error:
        if type(error).__name__ != 'SafetensorError':
            raise
        raise InputError(f'checkpoint {path} is truncated or no safetensors file ({error}): copy '
                         'or download it again') from None
    if not isinstance(checkpoint, dict):
        raise InputError(f'checkpoint {path} holds a {type(checkpoint).__name__}: expected a dict '
                         'of weights')
    for key, value in state_dict_of(checkpoint).items():
        if isinstance(value, torch.Tensor) and value.isnan().any():
            raise InputError(f'checkpoint {path} is damaged: {key} holds NaN; the training that '
                             'wrote it diverged, use an earlier checkpoint')
    return checkpoint


def state_dict_of(checkpoint: dict) -> dict:
    """The state dict in a checkpoint, averaged weights first where it has both (as timm does).

    Without the ``module.`` that data-parallel wrappers put before every key.
    """
    for key in ('state_dict_ema', 'model_ema', 'state_dict', 'model_state_dict', 'model'):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    if checkpoint and all(str(key).startswith('module.') for key in checkpoint):
        return {key[len('module.'):]: value for key, value in checkpoint.items()}
    return checkpoint


def write_checkpoint(checkpoint: dict, path: str | Path) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all, replacing what is there.

    A ``.safetensors`` file takes the weights alone: it has no place for anything else.
    """
    path = Path(path)
    with written_whole(path) as made:
        if path.suffix == '.safetensors':
            tensors = {key: value.contiguous() for key, value in state_dict_of(checkpoint).items()}
            made.write_bytes(_safetensors(path).save(tensors, metadata=dict(format='pt')))
        else:
            torch.save(checkpoint, made)
