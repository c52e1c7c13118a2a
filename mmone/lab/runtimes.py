"""What computes a model that is measured: an opener a runtime, each importing nothing but its own packages."""
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from mmone.errors import InputError
from mmone.runtime import Runtime

from .cache import Prepared
from .store import Setting
from .subject import Subject


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
        open (Callable): Opens a model: ``(subject, prepared, setting)`` to a :class:`Runner`.
        needs (tuple[str, ...]): Packages.
        graph (bool): Whether it computes the ONNX file, and not PyTorch's modules.
        devices (tuple[str, ...]): What it computes on here.
        branches (bool): Whether train-time branches are left as they are.
    """
    open: Callable[[Subject, Prepared, Setting], Runner]
    needs: tuple[str, ...]
    graph: bool = False
    devices: tuple[str, ...] = ('cpu', )
    branches: bool = False


def check(names: list[str], device: str = 'cpu') -> None:
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
            raise InputError(f'runtime {name} is not measured on {device}: expected '
                             f'{", ".join(able) or "another device"}', parameter='runtime')


def open_file(path: str, setting: Setting) -> Runner:
    """An exported file of mmone's, whole: from uint8 images to the final answer."""
    runtime = Runtime(path, threads=setting.threads)
    shape = (setting.batch, runtime.channels, setting.height, setting.width)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    given = images.astype(np.float32) if runtime.normalizes_outside else images
    return _clocked(lambda: list(runtime(given).values()))


def _clocked(answer: Callable[[], list[np.ndarray]]) -> Runner:

    def run() -> float:
        start = time.perf_counter()
        answer()
        return (time.perf_counter() - start) * 1000

    return Runner(answer, run)


def _torch(subject: Subject, prepared: Prepared, setting: Setting, branches: bool = False,
           change: Callable[[Any, Any], Any] = lambda network, images: network) -> Runner:
    import torch

    from .building import build, fused
    torch.set_num_threads(setting.threads)
    network: Any = build(subject, (setting.height, setting.width))
    if subject.fuse and not branches:
        network = fused(network)
    dtype = getattr(torch, setting.precision)
    network = network.to(setting.device, dtype).requires_grad_(False)
    given = prepared.images()
    images = torch.from_numpy(given).to(setting.device, dtype)
    with torch.inference_mode():
        network = change(network, images)
    if setting.device != 'cpu':
        return _by_events(network, images)

    def answer() -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in network(torch.from_numpy(given))]

    return _clocked(answer)


def _by_events(network: Any, images: Any) -> Runner:
    """Timed by the GPU's own events."""
    import torch

    def answer() -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.float().cpu().numpy() for output in network(images)]

    def run() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.inference_mode():
            torch.cuda.synchronize()
            start.record()
            network(images)
            end.record()
            torch.cuda.synchronize()
        return start.elapsed_time(end)

    return Runner(answer, run)


def _with_branches(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    return _torch(subject, prepared, setting, branches=True)


def _compiled(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    import torch
    return _torch(subject, prepared, setting, change=lambda network, images: torch.compile(network, dynamic=False))


def _scripted(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    import torch
    return _torch(subject, prepared, setting, change=lambda network, images: torch.jit.freeze(
        torch.jit.trace(network, images, check_trace=False)))


def _onnxruntime(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings
    options.intra_op_num_threads = setting.threads
    session = onnxruntime.InferenceSession(str(prepared.onnx), options, providers=['CPUExecutionProvider'])
    images = prepared.images()
    return _clocked(lambda: session.run(None, {'images': images}))


def _openvino(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    from mmone.runtime.openvino import untold
    with untold():
        import openvino
    compiled = openvino.compile_model(str(prepared.onnx), 'CPU', {
        'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': setting.threads})
    request, images = compiled.create_infer_request(), prepared.images()

    def answer() -> list[np.ndarray]:
        request.infer({'images': images}, share_inputs=True)
        return [request.get_tensor(output).data.copy() for output in compiled.outputs]

    return _clocked(answer)


def _coreml(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    import coremltools
    import torch

    from .building import build, fused
    network = build(subject, (setting.height, setting.width))
    images = prepared.images()
    traced = torch.jit.trace(fused(network) if subject.fuse else network, torch.from_numpy(images), check_trace=False)
    model = coremltools.convert(
        traced, inputs=[coremltools.TensorType('images', shape=images.shape)], convert_to='mlprogram',
        compute_precision=coremltools.precision.FLOAT32)
    return _clocked(lambda: list(model.predict({'images': images}).values()))


_GPU = ('cpu', 'cuda')
RUNTIMES = {
    'onnxruntime': Kind(_onnxruntime, ('onnxruntime', 'onnx'), graph=True),
    'openvino': Kind(_openvino, ('openvino', 'onnx'), graph=True),
    'torch': Kind(_torch, ('torch', ), devices=_GPU),
    'torch-branches': Kind(_with_branches, ('torch', ), devices=_GPU, branches=True),
    'torch-compile': Kind(_compiled, ('torch', ), devices=_GPU),
    'torchscript': Kind(_scripted, ('torch', ), devices=_GPU),
    'coreml': Kind(_coreml, ('coremltools', 'torch')),
}
DEFAULT_RUNTIME = dict(cpu='onnxruntime', cuda='torch')  # by device
