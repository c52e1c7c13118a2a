"""OpenVINO: computes ``.xml`` with its ``.bin``."""
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .metadata import KEY


def open_model(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str | None, Callable]:
    """The text of a file's metadata, and a function from images to named outputs."""
    with untold():
        import openvino
    core = openvino.Core()
    model = core.read_model(path)
    options: dict[str, str | int] = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    # On a thread of its own: OpenVINO's plugin for CPUs gives the thread that compiles a stack for signals, and takes
    # it back with the model. Of two models, the one that goes last puts back the first one's, which is no memory any
    # more, and the next signal that Python handles, as an interrupt, ends the process (seen in OpenVINO 2026.4).
    with ThreadPoolExecutor(1) as thread:
        request = thread.submit(core.compile_model, model, 'CPU', options).result().create_infer_request()
    outputs = [output.get_any_name() for output in model.outputs]

    def compute(images):
        request.infer({'images': images}, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in outputs}

    return model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None, compute


@contextmanager
def untold() -> Iterator[None]:
    """Import OpenVINO, or convert by it, without its maker being told; until the block ends.

    Its package for telemetry is kept out, in whose place it has a stub that does nothing. Where OpenVINO was
    imported before, the stub stands in for it in the modules of the converter, which call it ``tm`` (seen in
    OpenVINO 2026.4).
    """
    name = 'openvino_telemetry'
    package = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment] # so that importing it fails
    modules: list[Any] = [module for key, module in list(sys.modules.items())
               if key.startswith('openvino.tools.ovc') and hasattr(module, 'tm')]
    real = [module.tm for module in modules]
    try:
        if modules:
            from openvino.tools.ovc import telemetry_stub
            for module in modules:
                module.tm = telemetry_stub
        yield
    finally:
        for module, before in zip(modules, real):
            module.tm = before
        del sys.modules[name]
        if package is not None:
            sys.modules[name] = package
