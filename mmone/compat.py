"""Which versions of its foundations mmone is tested with, and what it uses of them beyond their public API."""
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import mmengine.model.utils
import numpy as np
import torch
import torch.utils._device
from mmengine.config import Config, DictAction
from mmengine.dataset import InfiniteSampler
from mmengine.model import BaseModel
from mmengine.runner import Runner, loops
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.data import DataLoader, Sampler

from .errors import InputError
from .libraries import build_mmcv, pip_name
from .version import __version__

# module -> (minimum, first unsupported). What mmdet and mmsegmentation refuse beyond is theirs to refuse.
SUPPORTED = {
    'mmengine': ('0.10.4', '1.0.0'),
    'mmcv': ('2.1.0', '3.0.0'),
}


def check_versions() -> None:
    """Raise InputError if mmengine or mmcv is outside the supported range.

    The modules are asked, whichever distribution has brought them: a lite one, a fork's, somebody's own build.
    An mmcv that is absent, or that cannot be imported, is for those who need it.
    """
    for name, (minimum, unsupported) in SUPPORTED.items():
        try:
            found = import_module(name).__version__
        except (ImportError, AttributeError):
            continue
        if not digit_version(minimum) <= digit_version(found) < digit_version(unsupported):
            command = build_mmcv(replace=True) if name == 'mmcv' else f'pip install {pip_name(name)}'
            raise InputError(f'mmone {__version__} supports {name}>={minimum},<{unsupported}, found {found}: {command}')
    _check_numpy()


def _check_numpy() -> None:
    """PyTorch before 2.3 was compiled for NumPy 1, and says so only when an array is given to it."""
    try:
        torch.from_numpy(np.zeros(1))
    except RuntimeError as error:
        raise InputError(f'torch {torch.__version__} was compiled for another NumPy than {np.__version__}, which is '
                         'installed: pip install "numpy<2"') from error


def parse_option(value: str):
    """The Python value of an override's text, as mmengine's own command lines read it.

    ``DictAction._parse_iterable``, seen in mmengine 0.10.
    """
    return DictAction._parse_iterable(value)


def registered_loaders() -> dict:
    """mmengine's checkpoint loaders by the prefix of the names that they are for.

    ``CheckpointLoader._schemes``, seen in mmengine 0.10.
    """
    return dict(CheckpointLoader._schemes)


def built_loops(runner: Runner) -> dict[str, BaseLoop]:
    """The loops that a runner has built so far, by ``'train'``, ``'val'`` and ``'test'``.

    ``Runner._train_loop`` and so on, configs until they are built, seen in mmengine 0.10;
    the public properties build them.
    """
    found = {phase: getattr(runner, f'_{phase}_loop') for phase in ('train', 'val', 'test')}
    return {phase: loop for phase, loop in found.items() if isinstance(loop, BaseLoop)}


def endless_iterator(loader: DataLoader) -> Iterator:
    """mmengine's iterator for training by iterations, which begins again when the data end.

    ``mmengine.runner.loops._InfiniteDataloaderIterator``, seen in mmengine 0.10.
    """
    return loops._InfiniteDataloaderIterator(loader)


def restart_sampler(sampler: Sampler) -> None:
    """Let a sampler go by its ``seed`` from the beginning: an endless one has begun. Others do it anyway.

    ``InfiniteSampler._indices_of_rank``, seen in mmengine 0.10.
    """
    if isinstance(sampler, InfiniteSampler):  # mmdet's MultiSourceSampler has another of that name
        sampler.indices = sampler._indices_of_rank()


def takes_rgb(preprocessor: nn.Module) -> bool:
    """Whether the network behind a library's data preprocessor takes RGB; images are read as BGR.

    ``ImgDataPreprocessor._channel_conversion``, seen in mmengine 0.10 and so in mmdet;
    mmpretrain and mmseg have public names for it.
    """
    return any(getattr(preprocessor, name, False)
               for name in ('to_rgb', '_channel_conversion', 'channel_conversion'))


@contextmanager
def without_graph_dump() -> Iterator[None]:
    """Let ``torch.onnx`` not print the whole graph where it has no operator for a part of it.

    ``torch._C._jit_onnx_log``, which it calls with the graph, seen in PyTorch 2.1 to 2.11.
    """
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *message: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def set_mmpretrain_attributes(model: BaseModel, cfg: Config, dataset_meta: dict) -> None:
    """Give a model what mmpretrain's inferencers read from the models that they are given.

    ``_config`` and ``_dataset_meta``, seen in mmpretrain 1.0 to 1.2.
    """
    model._config, model._dataset_meta = cfg, dataset_meta


def reverted_batch_norm() -> type[nn.Module]:
    """The BatchNorm that mmengine puts in the place of a synchronized one where there is one process.

    ``mmengine.model.utils._BatchNormXd``, a BatchNorm for any number of dimensions, seen in mmengine 0.10.
    """
    return mmengine.model.utils._BatchNormXd


def is_transforming() -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp, …) is active.

    ``torch._C._are_functorch_transforms_active``, seen in PyTorch 2.1 to 2.11.
    """
    return torch._C._are_functorch_transforms_active()


_HOOKS_ON_ALL_MODULES = ('_global_backward_pre_hooks', '_global_backward_hooks', '_global_forward_pre_hooks',
                         '_global_forward_hooks')


def interception() -> str | None:
    """What sees, replaces or differentiates PyTorch's operators at the moment, beside ordinary autograd.

    Private names of PyTorch, seen in 2.1 to 2.11. While torch.compile traces, it sees to the modes and
    hooks by itself.

    Returns:
        str | None: Of what kind it is; None for nothing.
    """
    if is_transforming():
        return 'a transform of torch.func is active'
    if is_compiling():
        return None
    if torch.jit.is_tracing():
        return 'torch.jit.trace is recording'
    if torch.autograd.forward_ad._current_level >= 0:
        return 'forward-mode differentiation is active'
    if torch._C._len_torch_dispatch_stack():
        return 'a TorchDispatchMode is active'
    if torch._C._len_torch_function_stack() and not all(
            isinstance(mode, torch.utils._device.DeviceContext) for mode in _get_current_function_mode_stack()):
        return 'a TorchFunctionMode is active'
    if any(getattr(torch.nn.modules.module, name) for name in _HOOKS_ON_ALL_MODULES):
        return 'a hook on all modules is registered'
    return None


# The unpickler that is written in Python, whose steps can be overridden: ``pickle._Unpickler``, seen in
# Python 3.8 to 3.14.
PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


def weights_only_globals() -> dict[str, object]:
    """What PyTorch's own weights-only reading allows, by the names that pickles have for it.

    ``torch._weights_only_unpickler._get_allowed_globals``, seen in PyTorch 2.1 to 2.11; used where
    PyTorch's own reading cannot be: below 2.6, and for other protocols of pickle than 2.
    """
    return torch._weights_only_unpickler._get_allowed_globals()


_KEYS_HAVE_A_NUMBER = hasattr(torch._C.DispatchKeySet, 'raw_repr')


def dispatch_keys(tensor: Tensor) -> int | str:
    """What PyTorch's dispatcher goes by: the device and layout of a tensor, and all that wraps it.

    ``torch._C._dispatch_keys``, seen in PyTorch 2.1 to 2.14: one number, of old ones their names.
    """
    keys = torch._C._dispatch_keys(tensor)
    return keys.raw_repr() if _KEYS_HAVE_A_NUMBER else str(keys)


@cache
def ordinary_keys(device: str) -> tuple[int | str, int | str]:
    """The :func:`dispatch_keys` of dense tensors on a device, made as usual and in inference mode.

    Others have more or other keys: subclasses that dispatch, what torch.func wraps, fake, nested, sparse and
    quantized tensors, negations and zeros that are not written down.
    """
    found = []
    for inference in (False, True):
        with torch.inference_mode(inference):
            found.append(dispatch_keys(torch.empty(0, device=device)))
    return found[0], found[1]


# Not asked while tracing, which old versions of torch.compile cannot.
IS_COMPILING_IS_PUBLIC = hasattr(getattr(torch, 'compiler', None), 'is_compiling')
IS_EXPORTING_IS_KNOWN = hasattr(getattr(torch, 'compiler', None), 'is_exporting')


def is_compiling() -> bool:
    """Whether torch.compile is tracing the code that asks.

    Public since torch 2.3; before, ``torch._utils.is_compiling``, seen in torch 2.1 and 2.2.
    """
    return torch.compiler.is_compiling() if IS_COMPILING_IS_PUBLIC else torch._utils.is_compiling()


def is_exporting() -> bool:
    """Whether torch.export is tracing the code that asks; never before torch 2.7, which does not tell."""
    return IS_EXPORTING_IS_KNOWN and torch.compiler.is_exporting()
