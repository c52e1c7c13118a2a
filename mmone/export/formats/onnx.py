"""ONNX, for ONNX Runtime and whatever else reads it."""
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmone.compat import without_graph_dump
from mmone.errors import InputError
from mmone.export.graph import Detection, Graph
from mmone.export.quantize.schemes import QDQ
from mmone.runtime.metadata import KEY

HALF = True
SCHEME = QDQ
OPSET = 17


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator of that name: (N, P, 4) boxes, (N, P) scores → (M, 2), image and box."""

    @staticmethod
    def forward(ctx, boxes, scores, iou_threshold, score_thr, limit):
        # While tracing, any indices of the right shape and type will do.
        return torch.zeros(1, 2, dtype=torch.int64, device=boxes.device)

    @staticmethod
    def symbolic(g, boxes, scores, iou_threshold, score_thr, limit):

        def constant(value, dtype):
            return g.op('Constant', value_t=torch.tensor([value], dtype=dtype))

        one_class = g.op('Unsqueeze', scores, constant(1, torch.int64))
        selected = g.op(
            'NonMaxSuppression', boxes, one_class, constant(limit, torch.int64),
            constant(iou_threshold, torch.float32), constant(score_thr, torch.float32))
        return g.op('Gather', selected, g.op('Constant', value_t=torch.tensor([0, 2])), axis_i=1)


def _select(boxes: Tensor, scores: Tensor, iou_threshold: float, score_thr: float,
            limit: int) -> Tensor:
    image, box = _NonMaxSuppression.apply(boxes, scores, iou_threshold, score_thr, limit).unbind(1)
    return torch.zeros_like(scores).index_put((image, box), scores[image, box])


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    import onnx
    if isinstance(graph, Detection):
        graph.select = _select
    free = (['batch'] if 'batch' in dynamic else []) + (['height', 'width'] if 'hw' in dynamic else [])
    tensors = dict(graph.outputs, images=('batch', 'colours', 'height', 'width'))
    axes = {tensor: {i: name for i, name in enumerate(dimensions) if name in free}
            for tensor, dimensions in tensors.items()}
    with without_graph_dump(), warnings.catch_warnings():
        # The tracer's, of sizes that are fixed on purpose, and that another exporter is to come.
        warnings.simplefilter('ignore')
        torch.onnx.utils.export(
            graph, (example, ), str(path), input_names=['images'],
            output_names=list(graph.outputs), dynamic_axes=axes, opset_version=OPSET)
    model = onnx.load(str(path))
    _check_operators(model.graph)
    _remove_identities(model.graph)
    return write_onnx(model, meta, path)


def write_int8(made, graph: Graph, example: Tensor, meta: str, path: Path) -> Counter:
    return write_onnx(made.model, meta, path)


def write_onnx(model, meta: str, path: Path) -> Counter:
    """Write an ONNX graph with the metadata; returns how often each operator occurs."""
    import onnx
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, meta
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return Counter(node.op_type for node in model.graph.node if node.op_type != 'Constant')


def _check_operators(graph) -> None:
    """Raise InputError for operators that ONNX has not: PyTorch writes those of other packages unasked."""
    others = sorted({f'{node.domain}::{node.op_type}' for node in graph.node if node.domain not in ('', 'ai.onnx')})
    if others:
        raise InputError(f'the model cannot be written as onnx: {", ".join(others)} are none of its operators')


def _remove_identities(graph) -> None:
    """Remove every Identity: the exporter leaves one where two layers have equal weights."""
    outputs = {output.name for output in graph.output}
    names: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        if node.op_type == 'Identity' and node.output[0] not in outputs:
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
