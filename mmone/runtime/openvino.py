"""OpenVINO: computes ``.xml`` with its ``.bin``."""
from collections.abc import Callable, Sequence
from pathlib import Path

from .metadata import KEY


def open_model(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str | None, Callable]:
    """The text of a file's metadata, and a function from images to named outputs."""
    import openvino
    core = openvino.Core()
    model = core.read_model(path)
    options: dict[str, str | int] = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    if threads:
        options['INFERENCE_NUM_THREADS'] = threads
    request = core.compile_model(model, 'CPU', options).create_infer_request()
    outputs = [output.get_any_name() for output in model.outputs]

    def compute(images):
        request.infer({'images': images}, share_inputs=True)
        return {name: request.get_tensor(name).data.copy() for name in outputs}

    return model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None, compute
