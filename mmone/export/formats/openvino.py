"""OpenVINO, for Intel's processors: an ``.xml`` with its ``.bin``, made from the ONNX graph."""
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from mmone.export.graph import Graph
from mmone.runtime.metadata import KEY

from . import onnx

HALF = False


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    import openvino
    with TemporaryDirectory() as folder:
        onnx.write(graph, example, dynamic, False, '', Path(folder, 'graph.onnx'))
        model = openvino.convert_model(str(Path(folder, 'graph.onnx')))
    model.set_rt_info(meta, [KEY])
    openvino.save_model(model, str(path), compress_to_fp16=half)
    return Counter(kind for node in model.get_ops()
                   if (kind := node.get_type_name()) not in ('Constant', 'Parameter', 'Result'))
