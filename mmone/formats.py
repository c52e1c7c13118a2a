"""The formats of exported models. Standard library only: a command's help lists them too."""
from pathlib import Path
from typing import NamedTuple


class Format(NamedTuple):
    """A format of exported models.

    Attributes:
        suffix (str): The end of its file names.
        backend (str): The module of :mod:`mmone.runtime` that computes it.
        runs_with (tuple[str, ...]): Packages needed to compute it.
        written_with (tuple[str, ...]): Packages needed to write it.
        weights (str): The end of the name of a second file, beside it, which has its weights. Defaults to none.
        fixed (bool): A file is for one size and batch 1. Defaults to False.
    """
    suffix: str
    backend: str
    runs_with: tuple[str, ...]
    written_with: tuple[str, ...]
    weights: str = ''
    fixed: bool = False


_TORCH = ('torch', 'torchvision')  # torchvision has the operator for non-maximum suppression

FORMATS = {
    'onnx': Format('.onnx', 'onnxruntime', ('onnxruntime', ), ('onnx', 'onnxruntime')),
    'openvino': Format('.xml', 'openvino', ('openvino', ), ('onnx', 'openvino'), weights='.bin'),
    'ncnn': Format('.param', 'ncnn', ('ncnn', ), ('pnnx', 'ncnn'), weights='.bin', fixed=True),
    'litert': Format('.tflite', 'litert', ('ai_edge_litert', ), ('ai_edge_litert', ), fixed=True),
    'coreml': Format('.mlpackage', 'coreml', ('coremltools', ), ('coremltools', ), fixed=True),
    'torchscript': Format('.pt', 'pytorch', _TORCH, _TORCH),
    'pt2': Format('.pt2', 'pytorch', _TORCH, _TORCH),
}
SUFFIXES = tuple(kind.suffix for kind in FORMATS.values())


def format_of(path: str | Path) -> str | None:
    """The name of the format that a path's suffix stands for; None for any other suffix."""
    return next((name for name, kind in FORMATS.items() if kind.suffix == Path(path).suffix), None)


def weights_of(path: str | Path) -> Path | None:
    """The second file of an exported model, which has its weights; None where they are in the first."""
    kind = FORMATS.get(format_of(path) or '')
    return Path(path).with_suffix(kind.weights) if kind and kind.weights else None
