"""A ``.tflite`` in INT8: ai-edge-quantizer writes it, the integers are ours.

It is told which operators are computed on integers, and what their tensors take on the images; what it would round the
weights to is replaced.
"""
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmone.runtime.litert import from_objects, operator_kinds, to_objects

# LiteRT's kinds of layers, and the order that it has the dimensions of PyTorch's weights in.
LAYERS = dict(CONV_2D=(0, 2, 3, 1), DEPTHWISE_CONV_2D=(1, 2, 3, 0), FULLY_CONNECTED=(0, 1))
_BETWEEN = ('PAD', 'PADV2', 'MEAN', 'AVERAGE_POOL_2D', 'MAX_POOL_2D', 'CONCATENATION', 'RESIZE_BILINEAR',
            'RESIZE_NEAREST_NEIGHBOR', 'RESHAPE', 'RELU', 'ADD', 'MUL')
_INTEGERS = dict(num_bits=8, dtype='INT')
_STATIC = dict(activation_tensor_config=dict(_INTEGERS, symmetric=False, granularity='TENSORWISE'),
               weight_tensor_config=dict(_INTEGERS, symmetric=True, granularity='CHANNELWISE'),
               compute_precision='INTEGER', explicit_dequantize=False, skip_checks=False, min_weight_elements=0)


def plan(content: bytes, made) -> dict:
    """What :mod:`mmone.export.formats.litert_quantize` is told for INT8.

    Args:
        content (bytes): The ``.tflite`` of the equalized network in float.
        made (Quantized): From :func:`mmone.export.quantize.quantize.quantize`.
    """
    graph = _Graph(content)
    layers = dict(graph.layers(made.network))
    quantized = {layer.name for layer in made.layers}
    before: set[int] = set()
    after: set[int] = set()
    for number, operator in enumerate(graph.operators):
        if number in layers or before.intersection(operator.inputs):
            before.update(operator.outputs)
    for number, operator in reversed(list(enumerate(graph.operators))):
        if number in layers or after.intersection(operator.outputs):
            after.update(operator.inputs)
    recipe = []
    for number, operator in enumerate(graph.operators):
        inside = before.intersection(operator.inputs) and after.intersection(operator.outputs)
        if (layers[number].name in quantized if number in layers else inside and graph.kind(operator) in _BETWEEN):
            scope = ''.join(f'{graph.name(output)};' for output in operator.outputs)
            recipe.append(dict(regex=f'^{re.escape(scope)}?$', operation=graph.kind(operator),
                               algorithm_key='min_max_uniform_quantize', op_config=_STATIC))
    return dict(recipe=recipe, ranges=_ranges(content, made.images))


def _ranges(content: bytes, images: Sequence[np.ndarray]) -> dict[str, tuple[float, float, int]]:
    """What the tensors of a float model take: the least, the most, and how many dimensions they have."""
    from ai_edge_litert.interpreter import Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the memory that this takes
        interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    graph = _Graph(content)
    computed = {graph.name(number) for operator in graph.operators for number in operator.outputs}
    given = interpreter.get_input_details()[0]['index']
    found: dict[str, tuple[float, float, int]] = {}
    for image in images:
        interpreter.set_tensor(given, image[None])
        interpreter.invoke()
        for tensor in interpreter.get_tensor_details():
            if tensor['dtype'] != np.float32 or tensor['name'] not in computed:
                continue
            try:
                value = interpreter.get_tensor(tensor['index'])
            except ValueError:  # one that another operator has taken into itself
                continue
            low, high, _ = found.get(tensor['name'], (0.0, 0.0, 0))  # 0 is one of the steps
            found[tensor['name']] = min(low, float(value.min())), max(high, float(value.max())), value.ndim
    return found


def with_integers(content: bytes, source: bytes, made) -> bytes:
    """A ``.tflite`` in INT8 with the weights and biases of what was quantized.

    Args:
        content (bytes): As ai-edge-quantizer writes it.
        source (bytes): The float one that it was made from: it has the layers' weights, which say which is which.
        made (Quantized): From :func:`mmone.export.quantize.quantize.quantize`.
    """
    plain, graph = _Graph(source), _Graph(content)
    layers: dict[str, list] = {}  # more than one where heads of several levels have the same weights
    for number, layer in plain.layers(made.network):
        layers.setdefault(plain.name(plain.operators[number].inputs[1]), []).append(layer)
    quantized = {layer.name for layer in made.layers}
    for operator in graph.operators:
        kind = graph.kind(operator)
        named = layers.get(graph.name(operator.inputs[1])) if kind in LAYERS else None
        layer = named.pop(0) if named else None
        if layer is None or layer.name not in quantized:
            continue
        weights, scales, bias = made.integers(layer)
        given, weight = (graph.tensors[number] for number in operator.inputs[:2])
        _set(graph, weight, weights.transpose(LAYERS[kind]).astype(np.int8), scales)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            unit = scales.astype(np.float64) * float(given.quantization.scale[0])
            integers = np.clip(np.rint(bias / unit), -2**31, 2**31 - 1)
            _set(graph, graph.tensors[operator.inputs[2]], integers.astype(np.int32), unit)
    _name_outputs(plain, graph)
    return from_objects(graph.model)


def _name_outputs(plain: '_Graph', graph: '_Graph') -> None:
    """Have the signature name what the graph gives, and not what it has in INT8 before that, which others read too."""
    now = dict(zip(plain.model.subgraphs[0].outputs, graph.model.subgraphs[0].outputs))
    for before, after in zip(plain.model.signatureDefs[0].outputs, graph.model.signatureDefs[0].outputs):
        after.tensorIndex = int(now[before.tensorIndex])


def _set(graph: '_Graph', tensor: Any, integers: np.ndarray, scales: np.ndarray) -> None:
    if tuple(tensor.shape) != integers.shape or len(tensor.quantization.scale) != len(scales):
        raise RuntimeError(f'{tensor.name.decode()} is of another shape in INT8')
    graph.model.buffers[tensor.buffer].data = np.frombuffer(integers.tobytes(), np.uint8)
    tensor.quantization.scale = scales.astype(np.float32)


class _Graph:
    """The operators of a ``.tflite``, and what they read and write."""

    def __init__(self, content: bytes):
        self.model = to_objects(content)
        self.operators, self.tensors = self.model.subgraphs[0].operators, self.model.subgraphs[0].tensors
        self._kinds = operator_kinds(self.model)

    def kind(self, operator: Any) -> str:
        return self._kinds[operator.opcodeIndex]

    def name(self, tensor: int) -> str:
        return self.tensors[tensor].name.decode()

    def layers(self, network) -> Iterator[tuple[int, Any]]:
        """The operators, by number, that are layers of a network: each is known by its weights."""
        left = [(layer, network.tensors[layer.weight].astype('<f4')) for layer in network.layers]
        for number, operator in enumerate(self.operators):
            order = LAYERS.get(self.kind(operator))
            if order is None:
                continue
            content = self.model.buffers[self.tensors[operator.inputs[1]].buffer].data
            content = b'' if content is None else bytes(content)
            for place, (layer, weights) in enumerate(left):
                if weights.nbytes == len(content) and _reordered(weights, order).tobytes() == content:
                    yield number, layer
                    del left[place]
                    break


def _reordered(weights: np.ndarray, order: Sequence[int]) -> np.ndarray:
    if weights.ndim == 4 and len(order) == 2:
        weights = weights.reshape(weights.shape[:2])
    return np.ascontiguousarray(weights.transpose(order))
