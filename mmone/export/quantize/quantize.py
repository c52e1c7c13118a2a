"""A float ONNX graph becomes one that is computed on integers, by some images without labels."""
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from mmone.errors import InputError

from . import EXPONENT, Progress, qdq
from .compensate import ROUNDINGS, compensate
from .equalize import equalize
from .network import Layer, Network
from .ranges import RULES, Observed, Steps, observe, steps
from .schemes import QDQ, Scheme


@dataclass
class Quantized:
    """A graph that is computed on integers.

    Attributes:
        model (onnx.ModelProto): With Q and DQ operators.
        network (Network): The float one, equalized.
        layers (list[Layer]): Those that are quantized.
        steps (dict[str, Steps]): Of the tensors between them.
        images (Sequence[np.ndarray]): What it was calibrated on.
    """
    model: onnx.ModelProto
    network: Network
    layers: list[Layer]
    steps: dict[str, Steps]
    images: Sequence[np.ndarray]

    def integers(self, layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A layer's weights as int8, their scales (outputs, ), and its bias (outputs, ) in float32."""
        constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        found = {part: numpy_helper.to_array(constants[name]) for part, name in qdq.names_of(layer).items()}
        return (found['weight'], np.broadcast_to(found['weight_scale'], len(found['weight'])),
                found['bias'] * found['bias_scale'])


def prepare(model: onnx.ModelProto, images: Sequence[np.ndarray], exponent: float | None = EXPONENT, seed: int = 0,
            progress: Progress = lambda each, _: each) -> tuple[Network, dict[str, Observed]]:
    """A network that is equalized, and what its tensors take: what does not depend on the layers that are kept.

    Args:
        model (onnx.ModelProto): Float, of fixed sizes, with the input ``images``; it is left as it is.
        images (Sequence[np.ndarray]): Each (C, H, W), as the network takes it.
        exponent (float, optional): See :func:`mmone.export.quantize.equalize.equalize`; None leaves the channels
            as they are. Defaults to 0.5.
        seed (int): Of the values that are drawn. Defaults to 0.
        progress (Callable): Defaults to silence.

    Raises:
        InputError: If the graph has no layers, is quantized already, or takes values that are no numbers.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    network = Network(copied)
    if any(node.op_type in ('QuantizeLinear', 'DequantizeLinear', 'QLinearConv') for node in model.graph.node):
        raise InputError('the model is quantized already: give the one in float')
    if not network.layers:
        raise InputError('the model has no convolution and no fully connected layer with weights of its own: there '
                         'is nothing to quantize')
    for layer in network.layers:
        if not (np.isfinite(network.tensors[layer.weight]).all() and np.isfinite(network.tensors[layer.bias]).all()):
            raise InputError(f'the weights of {layer.name} are not all numbers (NaN or infinite): such a model '
                             'predicts nothing')
    tensors = qdq.tensors_of(network, qdq.quantized_nodes(network))
    if exponent is not None:
        seen = observe(network, tensors, progress(images, 'ranges of channels'))
        equalize(network, {name: each.largest for name, each in seen.items()}, exponent)
    seen = observe(network, tensors, progress(images, 'ranges'), tensors, np.random.default_rng(seed))
    for name, each in seen.items():
        if not (np.isfinite(each.low).all() and np.isfinite(each.high).all()):
            raise InputError(f'{name} is not a number (NaN or infinite) on the images given: such a model predicts '
                             'nothing')
    return network, seen


def quantize(network: Network, seen: dict[str, Observed], images: Sequence[np.ndarray],
             keep: Collection[str] = (), ranges: str = 'min-max', rounding: str = 'compensated', correct: bool = True,
             seed: int = 0, progress: Progress = lambda each, _: each, scheme: Scheme = QDQ) -> Quantized:
    """Quantize a network from :func:`prepare`.

    Args:
        network (Network): It is left as it is.
        seen (dict[str, Observed]): What its tensors take.
        images (Sequence[np.ndarray]): Those that it was seen on.
        keep (Collection[str]): The names of layers that stay in float. Defaults to none.
        ranges (str): How the steps of tensors are chosen, see :func:`mmone.export.quantize.ranges.steps`.
            Defaults to ``'min-max'``.
        rounding (str): How weights are rounded, see :func:`mmone.export.quantize.compensate.compensate`.
            Defaults to ``'compensated'``.
        correct (bool): Correct the biases. Defaults to True.
        seed (int): Of what is drawn. Defaults to 0.
        progress (Callable): Defaults to silence.
        scheme (Scheme): How the runtime computes on integers. Defaults to that of ONNX Runtime and OpenVINO.
    """
    _check_choice('ranges', ranges, RULES)
    _check_choice('rounding', rounding, ROUNDINGS)
    nodes = qdq.quantized_nodes(network, keep, scheme.between)
    names = {node.name for node in nodes}
    layers = [layer for layer in network.layers if layer.name in names]
    tensors = {name: steps(seen[name], ranges, scheme.symmetric)
               for name in qdq.tensors_of(network, nodes, scheme.between)}
    # Placeholders of the right shapes: the scales that count are found layer by layer.
    scales = {layer.weight: _largest(network.tensors[layer.weight]) for layer in layers}
    model = qdq.write(network, nodes, tensors, scales, scheme.between)
    compensate(model, network, layers, tensors, seen, images, rounding, correct, seed,
               lambda each: progress(each, 'layers'), scheme.largest_pair)
    return Quantized(model, network, layers, tensors, images)


def _largest(weight: np.ndarray) -> np.ndarray:
    largest = np.abs(weight).reshape(len(weight), -1).max(1)
    return np.where(largest > 0, largest, 1).astype(np.float32)


def _check_choice(name: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise InputError(f'{name}={given!r}: expected one of {", ".join(known)}', parameter=name)
