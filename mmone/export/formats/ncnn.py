"""ncnn, for phones and boards: a ``.param`` with its ``.bin``, made by pnnx from a trace.

It has no type for bytes: images are floats of 0 to 255. Where it has no operator for the end of a graph, that is
left to :mod:`mmone.runtime.ncnn`, which says what the outputs are.
"""
import json
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmone.errors import InputError
from mmone.export.graph import Detection, Graph, Segmentation
from mmone.pnnx import convert
from mmone.runtime.ncnn import INPUT, raw_outputs, read_param, write_param

from .boxes import describe, leave_boxes

__all__ = ['HALF', 'describe', 'write']

HALF = False
_NO_OPERATORS = ('Input', 'MemoryData', 'Split')


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    if dynamic:
        raise InputError('an ncnn model is written for one size and batch 1: export one for each size',
                         parameter='dynamic')
    names = raw_outputs(json.loads(meta)['task'], list(graph.outputs))
    _leave_to_runtime(graph)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # where what a killed process leaves is cleared away
        source = Path(folder, 'model.pt')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            torch.jit.save(torch.jit.trace(graph, example.float(), check_trace=False), str(source))
        param, weights = convert(source, example.shape, half)
        layers, _ = read_param(param.read_text(encoding='ascii'))
        blobs = {'in0': INPUT, **{f'out{number}': name for number, name in enumerate(names)}}
        layers = [layer._replace(name=blobs.get(layer.name, layer.name),
                                 inputs=[blobs.get(name, name) for name in layer.inputs],
                                 outputs=[blobs.get(name, name) for name in layer.outputs]) for layer in layers]
        path.write_text(write_param(layers, meta), encoding='ascii', newline='\n')
        os.replace(weights, path.with_suffix(weights.suffix))
    return Counter(layer.kind for layer in layers if layer.kind not in _NO_OPERATORS)


def _leave_to_runtime(graph: Graph) -> None:
    """Have a graph answer what :func:`mmone.runtime.ncnn.raw_outputs` names."""
    if isinstance(graph, Detection):
        leave_boxes(graph)
    elif isinstance(graph, Segmentation):
        def answer(outputs, images):
            return (F.interpolate(outputs[0], size=graph.shape, mode='bilinear', align_corners=graph.align_corners), )

        graph.answer = answer  # type: ignore[method-assign]
