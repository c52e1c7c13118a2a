"""Channels are scaled so that one range suits them all; the network computes what it did.

A channel may be divided by a positive number before a ReLU, and multiplied by it in the layers after it
(Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, arXiv 1906.04721). What a
layer's outputs are divided by costs nothing, since its weights have a scale for each output channel. What a
depthwise layer's inputs are multiplied by costs nothing either, for the same reason: there all channels get the same
range. A dense layer has its inputs in one kernel, so it is a trade between their ranges and those of its
weights (as in SmoothQuant, arXiv 2211.10438).
"""
from collections.abc import Mapping

import numpy as np
import onnx

from . import EXPONENT
from .network import Layer, Network

# Operators on each channel by itself, for which f(s x) = s f(x) with s > 0.
_HOMOGENEOUS = ('Relu', 'LeakyRelu', 'MaxPool', 'AveragePool', 'GlobalAveragePool', 'Resize')
_LARGEST = 2.0**10  # A channel that is nearly dead is not blown up further.


def equalize(network: Network, ranges: Mapping[str, np.ndarray], exponent: float = EXPONENT) -> int:
    """Scale the channels of a network.

    Args:
        network (Network): Its weights are changed.
        ranges (Mapping[str, np.ndarray]): The largest absolute value of each channel (C, ) that the tensors take
            before which there are layers, by tensor.
        exponent (float): How far a dense layer takes over the differences between its inputs' ranges: 0, not at all,
            to 1, all. Defaults to 0.5.

    Returns:
        int: How many layers' outputs were scaled.
    """
    changed = 0
    by_node = {layer.name: layer for layer in network.layers}
    for layer in network.layers:
        after = _layers_after(network, layer.output, by_node)
        if not after or network.shared(layer) or any(network.shared(each) for each, _ in after):
            continue
        # The ranges that count are those at the layers that read them, behind the ReLU.
        found = np.max([_per_channel(ranges[name], len(ranges[layer.output])) for _, name in after], axis=0)
        scale = _scale(network, _that_count(network, after), found, exponent)
        _divide_outputs(network, layer, scale)
        for each, _ in after:
            _multiply_inputs(network, each, scale)
        changed += 1
    return changed


def _per_channel(values: np.ndarray, channels: int) -> np.ndarray:
    return values.reshape(channels, -1).max(1)


def _layers_after(network: Network, tensor: str, by_node: Mapping[str, Layer]) -> list[tuple[Layer, str]] | None:
    """The layers that read a tensor, with what of it they read; None if something else does that may not be scaled."""
    found: list[tuple[Layer, str]] = []
    if any(output.name == tensor for output in network.model.graph.output):
        return None
    for node in network.consumers.get(tensor, []):
        if node.name in by_node:
            if node.input[0] != tensor:
                return None
            found.append((by_node[node.name], tensor))
        elif _passes(network, node, tensor):
            behind = _layers_after(network, node.output[0], by_node)
            if behind is None:
                return None
            found += behind
        else:
            return None
    return found


def _that_count(network: Network, after: list[tuple[Layer, str]]) -> list[Layer]:
    """Without the layers of a squeeze-excite, which read one pixel where others read all."""
    def pixels(name):
        return int(np.prod(network.shapes.get(name, [])[2:]))
    most = max(pixels(name) for _, name in after)
    return [layer for layer, name in after if pixels(name) == most]


def _passes(network: Network, node: onnx.NodeProto, tensor: str) -> bool:
    """Whether what a node gives is scaled as its input is."""
    if node.op_type in _HOMOGENEOUS:
        return node.input[0] == tensor
    if node.op_type == 'ReduceMean':
        return network.shapes.get(node.output[0], [])[:2] == network.shapes.get(tensor, [0])[:2]
    if node.op_type in ('Flatten', 'Reshape'):  # (N, C, 1, 1) -> (N, C)
        before, after = network.shapes.get(tensor, []), network.shapes.get(node.output[0], [])
        return len(before) == 4 and before[2:] == [1, 1] and after == before[:2]
    if node.op_type == 'Mul':  # squeeze-excite: the factors are bounded, and are not scaled
        other = next((name for name in node.input if name != tensor), '')
        producer = network.producers.get(other)
        return producer is not None and producer.op_type in ('Sigmoid', 'HardSigmoid')
    return False


def _scale(network: Network, after: list[Layer], found: np.ndarray, exponent: float) -> np.ndarray:
    """What channels of the ranges ``found`` (C, ) are divided by."""
    used = found > 0
    scale = np.ones(len(found))
    if not used.any():
        return scale
    dense = [layer for layer in after if not _is_depthwise(network, layer)]
    scale[used] = found[used]**(exponent if dense else 1)
    if dense:
        largest = np.max([_input_ranges(network, layer, len(found)) for layer in dense], axis=0)
        counted = used & (largest > 0)
        scale[counted] /= largest[counted]**(1 - exponent)
    # The common factor is free: 1 in the middle.
    middle = np.exp(np.log(scale[used]).mean())
    scale[used] = np.clip(scale[used] / middle, 1 / _LARGEST, _LARGEST)
    scale[~used] = 1
    return scale


def _is_depthwise(network: Network, layer: Layer) -> bool:
    return layer.groups > 1 and network.tensors[layer.weight].shape[1] == 1


def _input_ranges(network: Network, layer: Layer, channels: int) -> np.ndarray:
    """The largest share (C, ) that a layer's weights for an input channel have in the range of their kernel."""
    weight = np.abs(network.tensors[layer.weight])
    weight = weight.reshape(layer.groups, -1, *weight.shape[1:])
    weight = weight.reshape(*weight.shape[:3], -1).max(-1)  # groups, outputs, inputs
    return (weight / np.maximum(weight.max(2, keepdims=True), 1e-12)).max(1).reshape(channels)


def _divide_outputs(network: Network, layer: Layer, scale: np.ndarray) -> None:
    weight, bias = network.tensors[layer.weight], network.tensors[layer.bias]
    network.tensors[layer.weight] = (weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
    network.tensors[layer.bias] = (bias / scale).astype(bias.dtype)


def _multiply_inputs(network: Network, layer: Layer, scale: np.ndarray) -> None:
    weight = network.tensors[layer.weight]
    inputs = np.repeat(scale.reshape(layer.groups, -1), len(weight) // layer.groups, axis=0)
    network.tensors[layer.weight] = (
        weight * inputs.reshape(*inputs.shape, *[1] * (weight.ndim - 2))).astype(weight.dtype)
