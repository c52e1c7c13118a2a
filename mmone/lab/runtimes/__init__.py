"""What computes a model that is measured: a module for each runtime, which imports nothing but its own packages."""
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from mmone.errors import InputError

from ..cache import Prepared
from ..store import Setting
from ..subject import Subject


class Runner(NamedTuple):
    """A model that is open.

    Attributes:
        answer (Callable): Computes the example; returns the outputs as arrays.
        time (Callable): Runs once; returns milliseconds.
    """
    answer: Callable[[], list[np.ndarray]]
    time: Callable[[], float]


class Kind(NamedTuple):
    """A runtime.

    Attributes:
        opener (str): The module here and its function that opens a model, ``'module:function'``: ``(subject,
            prepared, setting)`` to a :class:`Runner`.
        needs (tuple[str, ...]): Packages.
        graph (bool): Whether it computes the ONNX file, and not PyTorch's modules.
        devices (tuple[str, ...]): What it is measured on.
        branches (bool): Whether train-time branches are left as they are.
    """
    opener: str
    needs: tuple[str, ...]
    graph: bool = False
    devices: tuple[str, ...] = ('cpu', )
    branches: bool = False


_GPU = ('cpu', 'cuda')
RUNTIMES = {
    'onnxruntime': Kind('onnxruntime:open_model', ('onnxruntime', 'onnx'), graph=True),
    'openvino': Kind('openvino:open_model', ('openvino', 'onnx'), graph=True),
    'ncnn': Kind('ncnn:open_model', ('ncnn', 'pnnx', 'onnx'), graph=True),
    'torch': Kind('pytorch:eager', ('torch', ), devices=_GPU),
    'torch-branches': Kind('pytorch:with_branches', ('torch', ), devices=_GPU, branches=True),
    'torch-compile': Kind('pytorch:compiled', ('torch', ), devices=_GPU),
    'torchscript': Kind('pytorch:scripted', ('torch', ), devices=_GPU),
    'coreml': Kind('coreml:open_model', ('coremltools', 'torch')),
}
DEFAULT_RUNTIME = dict(cpu='onnxruntime', cuda='torch')  # by device


def check(names: Sequence[str], device: str = 'cpu') -> None:
    """Raise InputError for runtimes that are unknown, not installed, or cannot compute on a device."""
    for name in names:
        if name not in RUNTIMES:
            raise InputError(f'unknown runtime {name!r}: expected {", ".join(RUNTIMES)}', parameter='runtime')
        kind = RUNTIMES[name]
        missing = [package for package in kind.needs if find_spec(package) is None]
        if missing:
            raise InputError(f'runtime {name} needs {" and ".join(missing)}, not installed here: pip install '
                             f'{" ".join(missing)}', parameter='runtime')
        if name == 'coreml' and sys.platform != 'darwin':
            raise InputError('runtime coreml computes on macOS only', parameter='runtime')
        if device not in kind.devices:
            able = [other for other, kind in RUNTIMES.items() if device in kind.devices]
            raise InputError(f'runtime {name} is not measured on {device}: expected {", ".join(able)}',
                             parameter='runtime')


def open_model(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    """Open a model that is ready, in the runtime of a setting."""
    module, _, function = RUNTIMES[setting.runtime].opener.partition(':')
    return getattr(import_module(f'.{module}', __name__), function)(subject, prepared, setting)


def clocked(answer: Callable[[], list[np.ndarray]]) -> Runner:
    """Timed by the clock, from the image as an array to the answer as an array."""

    def run() -> float:
        start = time.perf_counter()
        answer()
        return (time.perf_counter() - start) * 1000

    return Runner(answer, run)
