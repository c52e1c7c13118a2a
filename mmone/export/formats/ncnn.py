"""ncnn, for phones and boards: a ``.param`` with its ``.bin``, made by pnnx from a trace.

It has no type for bytes: images are floats of 0 to 255. Where it has no operator for the end of a graph, that is
left to :mod:`mmone.runtime.ncnn`, which says what the outputs are.
"""
import copy
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmone.export.graph import Detection, Graph, Segmentation
from mmone.export.quantize.schemes import NCNN
from mmone.pnnx import convert
from mmone.runtime.ncnn import INPUT, Layer, read_param, write_param

from .boxes import describe, leave_boxes
from .equalized import equalized

__all__ = ['HALF', 'describe', 'write']

HALF = False
SCHEME = NCNN
_NO_OPERATORS = ('Input', 'MemoryData', 'Split')


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    graph = as_computed(graph)
    names = list(graph.outputs)
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
    return _operators(layers)


def _operators(layers: Sequence[Layer]) -> Counter:
    return Counter(layer.kind for layer in layers if layer.kind not in _NO_OPERATORS)


def as_computed(graph: Graph) -> Graph:
    """A graph that ends where ncnn's does: it answers what :func:`mmone.runtime.ncnn.raw_outputs` names."""
    graph = copy.copy(graph)
    if isinstance(graph, Detection):
        leave_boxes(graph)
    elif isinstance(graph, Segmentation):
        def answer(outputs, images):
            return (F.interpolate(outputs[0], size=graph.shape, mode='bilinear', align_corners=graph.align_corners), )

        graph.outputs = dict(logits=('batch', 'classes', 'height', 'width'))
        graph.answer = answer  # type: ignore[method-assign]
    return graph


# INT8

# The parameters of a layer: of how many weights it is, and whether there is a bias.
_SIZES = dict(Convolution=('6', '5'), ConvolutionDepthWise=('6', '5'), InnerProduct=('2', '1'))
_OUTPUTS, _GROUPS, _INT8 = '0', '7', '8'
_FLOAT_WEIGHTS, _INT8_WEIGHTS = (number.to_bytes(4, 'little') for number in (0, 0x000D4B38))


def write_int8(made, graph: Graph, example: Tensor, meta: str, path: Path) -> Counter:
    """Write the equalized network in float, and put integers in place of its weights.

    Args:
        made (Quantized): From :func:`mmone.export.quantize.quantize.quantize`, for :data:`SCHEME`.
        graph (Graph): That was quantized; it is left as it is.
        example (Tensor): Of its input.
        meta (str): The metadata.
        path (Path): The ``.param``.
    """
    write(equalized(graph, made), example, (), False, meta, path)
    layers, _ = read_param(path.read_text(encoding='ascii'))
    weights = path.with_suffix('.bin')
    layers, content = _with_integers(layers, weights.read_bytes(), made)
    path.write_text(write_param(layers, meta), encoding='ascii', newline='\n')
    weights.write_bytes(content)
    return _operators(layers)


def _with_integers(layers: Sequence[Layer], content: bytes, made) -> tuple[list[Layer], bytes]:
    """The layers of a ``.param`` and the content of its ``.bin``, in INT8 as far as they were quantized.

    pnnx gives layers names of its own; in which order it goes through the network is that of the ``.bin``. So each is
    known by its weights.
    """
    left = [(layer, made.network.tensors[layer.weight].astype('<f4').tobytes()) for layer in made.network.layers]
    quantized = {layer.name for layer in made.layers}
    lines, parts, place = [], [], 0
    for line in layers:
        given = dict(parameter.split('=') for parameter in line.parameters)
        size, bias = (int(given.get(key, 0)) for key in _SIZES.get(line.kind, ('', '')))
        found = min(((start, number) for number, (_, weights) in enumerate(left) if len(weights) == 4 * size
                     and (start := content.find(_FLOAT_WEIGHTS + weights, place)) >= 0), default=None)
        if size and found:
            start, number = found
            layer, _ = left.pop(number)
            # ncnn has a scale for each group: that is one for each output where each has a group.
            if layer.name in quantized and given.get(_GROUPS, '1') in ('1', given[_OUTPUTS]):
                end = start + len(_FLOAT_WEIGHTS) + 4 * size
                parts += [content[place:start], _int8(layer, made, bool(bias))]
                place = end + (4 * int(given[_OUTPUTS]) if bias else 0)
                line = line._replace(parameters=[*line.parameters, f'{_INT8}=1'])
        lines.append(line)
    return lines, b''.join([*parts, content[place:]])


def _int8(layer, made, has_bias: bool) -> bytes:
    """A layer's part of a ``.bin``. ncnn's scales are integers for a unit, not units for an integer."""
    weights, scales, bias = made.integers(layer)
    integers = weights.astype(np.int8).tobytes()
    floats = [bias] if has_bias else []
    floats += [1 / scales.astype(np.float64), np.array([1 / made.steps[layer.input].scale])]
    return b''.join([_INT8_WEIGHTS, integers, bytes(-len(integers) % 4),
                     *(value.astype('<f4').tobytes() for value in floats)])
