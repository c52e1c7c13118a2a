"""ONNX Runtime: computes ``.onnx``."""
from collections.abc import Callable, Sequence
from pathlib import Path

from .metadata import KEY


def open_model(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str | None, Callable]:
    """The text of a file's metadata, and a function from images to named outputs."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    outputs = [output.name for output in session.get_outputs()]

    def compute(images):
        return dict(zip(outputs, session.run(outputs, {'images': images})))

    return session.get_modelmeta().custom_metadata_map.get(KEY), compute
