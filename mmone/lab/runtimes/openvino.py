"""OpenVINO, of the same ONNX file."""
import numpy as np

from mmone.runtime.openvino import untold

from ..cache import Prepared
from ..store import Setting
from ..subject import Subject
from . import Runner, clocked

with untold():
    import openvino


def open_model(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    compiled = openvino.compile_model(str(prepared.onnx), 'CPU', {
        'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': setting.threads})
    request, images = compiled.create_infer_request(), prepared.images()

    def answer() -> list[np.ndarray]:
        request.infer({'images': images}, share_inputs=True)
        return [request.get_tensor(output).data.copy() for output in compiled.outputs]

    return clocked(answer)
