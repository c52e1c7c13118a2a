"""ONNX Runtime."""
import onnxruntime

from ..cache import Prepared
from ..store import Setting
from ..subject import Subject
from . import Runner, clocked


def open_model(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings
    options.intra_op_num_threads = setting.threads
    session = onnxruntime.InferenceSession(str(prepared.onnx), options, providers=['CPUExecutionProvider'])
    images = prepared.images()
    return clocked(lambda: session.run(None, {'images': images}))
