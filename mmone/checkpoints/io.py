"""Reading and writing checkpoint files: untrusted until said otherwise, whole or not at all."""
import codecs
import pickle
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmone.compat import PythonUnpickler, weights_only_globals
from mmone.errors import InputError
from mmone.files import written_whole
from mmone.untrusted import is_archive, open_archive, taken_for_something_else

# As of PyTorch 2.6, which also has a list of what is safe that can be added to, by name.
WEIGHTS_ONLY_BY_DEFAULT = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')
# PyTorch has one list of what is safe for the whole process.
_allowing = threading.RLock()

_STATISTICS = ('min', 'max', 'current', 'mean')
_PROTOCOL_OF_PYTORCH = b'\x80\x02'  # how a pickle of protocol 2 begins


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
    if not WEIGHTS_ONLY_BY_DEFAULT:
        yield
        return
    wanted: list[Any] = [(value, name) for name, value in _mmengine_globals().items()]
    wanted += [type(np.dtype(kind)) for kind in ('f8', 'f4', 'i8', 'i4', 'b1')]
    with _allowing:
        # Leaving the context removes what it added, so not what others have allowed themselves.
        others = set(torch.serialization.get_safe_globals())
        with torch.serialization.safe_globals([item for item in wanted if item not in others]):
            yield


class _WeightsUnpickler(PythonUnpickler):
    """Unpickles what PyTorch's own list of what weights need has, and mmengine's; of any protocol.

    PyTorch's, which it shares the list with, knows protocol 2 only, and before 2.6 has no list to add to.
    """
    dispatch = dict(PythonUnpickler.dispatch)

    def find_class(self, module, name):
        allowed = {**weights_only_globals(), **_mmengine_globals()}
        module = {'__builtin__': 'builtins'}.get(module, module)  # pickle's name for it
        try:
            return allowed[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name} is not allowed') from None

    def load_build(self):
        # What an object is given, here the object itself: a class or function would stay changed.
        if isinstance(self.stack[-2], (type, FunctionType, BuiltinFunctionType, ModuleType)):
            raise pickle.UnpicklingError(f'GLOBAL {self.stack[-2].__name__} is not allowed to be changed')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


class _WeightsPickle:
    """The part of the pickle module that ``torch.load(pickle_module=…)`` uses."""
    __name__ = 'mmone.checkpoints.io'
    Unpickler = _WeightsUnpickler

    @staticmethod
    def load(file, **kwargs):
        return _WeightsUnpickler(file, **kwargs).load()


def read_checkpoint(path: str | Path, trust: bool = False, name: str | None = None) -> dict:
    """Read a ``.pth`` or ``.safetensors`` file to CPU memory.

    Args:
        path (str | Path): The file.
        trust (bool): Allow a pickle that can run code. Defaults to False.
        name (str, optional): What messages call it. Defaults to its path.

    Raises:
        InputError: If the file is missing, truncated, no checkpoint, unpacks to more than its
            size, needs ``trust``, or holds weights that are not numbers.
    """
    path, name = Path(path), name or str(path)
    if not path.is_file():
        kind = 'is a directory' if path.is_dir() else 'does not exist'
        raise InputError(f'checkpoint {name} {kind}: give a .pth or .safetensors file')
    try:
        checkpoint = _load(path, trust, name)
        if not isinstance(checkpoint, dict):
            raise InputError(f'checkpoint {name} holds a {type(checkpoint).__name__}: expected a dict of weights')
        _check_numbers(state_dict_of(checkpoint), name)
    except pickle.UnpicklingError as error:
        code = re.search(r'(?:GLOBAL|class|function|getattr)[ (](\S+)', str(error))
        if code is None:
            raise InputError(f'{name} is no PyTorch checkpoint: give a .pth file') from None
        raise InputError(f'checkpoint {name} holds more than weights ({code[1]}) and reading it '
                         'could run code: allow that only if you trust its source', parameter='trust') from None
    except InputError:
        raise
    except Exception as error:  # what a file raises that was cut off, or made to break what reads it
        reason = (str(error) or type(error).__name__).split('\n')[0].split('. ')[0]
        kind = 'safetensors file' if path.suffix == '.safetensors' else 'PyTorch checkpoint'
        raise InputError(f'checkpoint {name} is truncated or no {kind} ({reason}): '
                         'copy or download it again') from None
    return checkpoint


def _load(path: Path, trust: bool, name: str) -> object:
    if path.suffix == '.safetensors':
        return _safetensors(path).load_file(path)
    other = taken_for_something_else(path)
    if other:
        raise InputError(f'checkpoint {name} is {other}, no PyTorch checkpoint: copy or download it again')
    begin = _check_archive(path, name) if is_archive(path) else _begin_of(path)
    if trust:
        return torch.load(path, map_location='cpu', weights_only=False)
    if WEIGHTS_ONLY_BY_DEFAULT and begin == _PROTOCOL_OF_PYTORCH:
        with mmengine_checkpoints_allowed():
            return torch.load(path, map_location='cpu', weights_only=True)
    return torch.load(path, map_location='cpu', weights_only=False, pickle_module=_WeightsPickle)


def _begin_of(path: Path) -> bytes:
    with open(path, 'rb') as file:
        return file.read(len(_PROTOCOL_OF_PYTORCH))


def _check_archive(path: Path, name: str) -> bytes:
    """Refuse a zip archive that must not reach PyTorch; returns the first bytes of its pickle."""
    with open_archive(path, f'checkpoint {name}') as archive:
        members = {member.rpartition('/')[2]: member for member in archive.namelist()}
        if 'constants.pkl' in members:  # torch.load would run it, whatever it is told
            raise InputError(f'checkpoint {name} is a TorchScript program: give the checkpoint it was made from')
        if 'data.pkl' not in members:
            raise InputError(f'checkpoint {name} is a zip archive without weights, no PyTorch checkpoint')
        with archive.open(members['data.pkl']) as file:
            return file.read(len(_PROTOCOL_OF_PYTORCH))


def _safetensors(path: Path):
    try:
        import safetensors.torch
    except ImportError:
        raise InputError(f'{path} needs safetensors: pip install safetensors') from None
    return safetensors.torch


def _check_numbers(state_dict: dict, name: str) -> None:
    for key, value in state_dict.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or not value.is_floating_point():
            continue
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f'checkpoint {name} is damaged: {key} has {value.numel():,} values, more than the '
                             'file holds')
        if value.isnan().any():
            raise InputError(f'checkpoint {name} is damaged: {key} holds NaN; the training that wrote it diverged, '
                             'use an earlier checkpoint')


# Where a checkpoint may have its weights: averaged ones first, as timm does. The first ones are taken as they
# are; other dicts of the last ones' names only if they hold weights.
_CONTAINERS = ('state_dict_ema', 'model_ema', 'ema_model', 'params_ema', 'ema', 'state_dict', 'model_state_dict',
               'model', 'module', 'params', 'net', 'network', 'weights')
_ALWAYS_WEIGHTS = ('state_dict', 'model_state_dict', 'model')
_DEPTH = 4  # of containers in containers, and of wrappers in wrappers
# What wrappers for several devices, for averaging and for compiling put before names.
WRAPPERS = re.compile(r'(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')


def state_dict_of(checkpoint: dict) -> dict:
    """The state dict in a checkpoint, averaged weights first where it has both.

    Without the ``module.`` or ``_orig_mod.`` that wrappers put before every key, and the counters that
    averaging puts beside them.
    """
    for _ in range(_DEPTH):
        checkpoint = next((checkpoint[key] for key in _CONTAINERS if _is_container(key, checkpoint.get(key))),
                          checkpoint)
    for _ in range(_DEPTH):
        wrapped = [key for key in checkpoint if isinstance(key, str) and WRAPPERS.match(key)]
        others = checkpoint.keys() - wrapped
        if not wrapped or not all(is_counter(key, checkpoint[key]) for key in others):
            break
        checkpoint = {WRAPPERS.sub('', key, count=1): checkpoint[key] for key in wrapped}
    return checkpoint


def _is_container(key: str, value: object) -> bool:
    return isinstance(value, dict) and (key in _ALWAYS_WEIGHTS or _has_weights(value, _DEPTH))


def _has_weights(node: dict, depth: int) -> bool:
    return depth > 0 and any(isinstance(value, torch.Tensor) or isinstance(value, dict) and
                             _has_weights(value, depth - 1) for value in node.values())


def is_counter(key: object, value: object) -> bool:
    """Whether an entry of a state dict counts something for a wrapper, as ``n_averaged`` does."""
    return '.' not in str(key) and (not isinstance(value, torch.Tensor) or value.numel() == 1)


def meta_of(checkpoint: dict) -> dict:
    """What mmengine writes of a checkpoint's origin; empty if it has none, or of another type."""
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, dict) else {}


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
