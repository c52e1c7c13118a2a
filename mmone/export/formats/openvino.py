"""OpenVINO, for Intel's processors: an ``.xml`` with its ``.bin``, made from the ONNX graph."""
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mmone.export.graph import Graph
from mmone.export.quantize.schemes import QDQ
from mmone.runtime.metadata import KEY
from mmone.runtime.openvino import untold

from . import onnx

HALF = False
SCHEME = QDQ


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    source = path.with_suffix('.onnx')  # beside it, where what a killed process leaves is cleared away
    onnx.write(graph, example, dynamic, False, '', source)
    return _write(source, meta, path, half)


def write_int8(made, graph: Graph, example: Tensor, meta: str, path: Path) -> Counter:
    return write_onnx(made.model, meta, path)


def write_onnx(model, meta: str, path: Path) -> Counter:
    """Write an ONNX graph as OpenVINO's; returns how often each operator occurs."""
    source = path.with_name(f'{path.stem}.source.onnx')
    onnx.write_onnx(model, '', source)
    return _write(source, meta, path, False)


def _write(source: Path, meta: str, path: Path, half: bool) -> Counter:
    with untold():
        import openvino
        model = openvino.convert_model(str(source))
    model.set_rt_info(meta, [KEY])
    openvino.save_model(model, str(path), compress_to_fp16=half)
    source.unlink()
    return Counter(kind for node in model.get_ops()
                   if (kind := node.get_type_name()) not in ('Constant', 'Parameter', 'Result'))
