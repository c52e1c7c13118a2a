"""Layer after layer, weights are fitted and rounded, and biases corrected, by inputs that are quantized already.

Of each image only those tensors are kept that layers still to come read: as bytes, and as half precision of the
network in float.
"""
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from onnx.utils import Extractor
from torch import Tensor

from . import weights
from .network import Layer, Network, session
from .qdq import names_of, tensor_of
from .ranges import Observed, Steps
from .schemes import QDQ

ROUNDINGS = ('compensated', 'nearest')
_POSITIONS = 40000  # of a layer's input, over all images: enough for the covariance of 1,024 channels
_LARGEST_KERNEL = 3072  # weights of a kernel whose covariance is kept, 75 MB
_RIDGE = 1.0  # of a fit, in mean variances of the inputs: from 0.3 to 3 the logits differ least from float's
_TIMES_FITTED = 4  # positions for each weight of a kernel, without which nothing is fitted


def compensate(model: onnx.ModelProto, network: Network, layers: Sequence[Layer], steps: Mapping[str, Steps],
               floats: Mapping[str, Observed], images: Sequence[np.ndarray], rounding: str = 'compensated',
               correct: bool = True, seed: int = 0, progress: Callable[[Sequence], Iterable] = iter,
               pair: int = QDQ.largest_pair) -> onnx.ModelProto:
    """Round the weights of a graph from :func:`mmone.export.quantize.qdq.write`, and correct its biases.

    Args:
        model (onnx.ModelProto): The graph; its constants are replaced.
        network (Network): The float one that it was made from.
        layers (Sequence[Layer]): Those that are quantized.
        steps (Mapping[str, Steps]): Of the tensors.
        floats (Mapping[str, Observed]): Of the layers' outputs in float, on the same images.
        images (Sequence[np.ndarray]): Each (C, H, W), as the network takes it.
        rounding (str): ``'nearest'``; or ``'compensated'``: the weights are fitted to the inputs as they are
            quantized, and each one's rounding is made up for by the others (GPTQ). Defaults to
            ``'compensated'``.
        correct (bool): Correct the biases. Defaults to True.
        seed (int): Of the positions that are drawn. Defaults to 0.
        progress (Callable): Given the operators, gives them back one by one. Defaults to silence.
        pair (int): The most that two weights of a kernel may add up to. Defaults to 128.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    names = {layer.name: layer for layer in layers}
    order = [node for node in model.graph.node if node.name in names or tensor_of(node)]
    quantized = _Stream(model, images, [node.output[0] for node in order if tensor_of(node)],
                        [node.output[0] for node in order])
    plain = _Stream(network.model, images, [tensor for node in order if (tensor := tensor_of(node))],
                    [tensor_of(node) or names[node.name].output for node in order], np.float16)
    done: set[str] = set()
    for node in progress(order):
        if tensor := tensor_of(node):
            quantized.keep(node.output[0])
            plain.keep(tensor)
            continue
        layer = names[node.name]
        scale = steps[layer.input]
        if layer.weight not in done:
            done.add(layer.weight)
            inputs = quantized.kept[quantized.producers[node.input[0]].input[0]], plain.kept[layer.input]
            rng = np.random.default_rng([seed, len(done)])
            integers, scales = _round(network, layer, *inputs, scale, rounding, rng, pair)
            _replace(constants[names_of(layer)['weight']], integers.astype(np.int8))
            _replace(constants[names_of(layer)['weight_scale']], scales.astype(np.float32))
        unit = numpy_helper.to_array(constants[names_of(layer)['weight_scale']]).astype(np.float64) * scale.scale
        bias = network.tensors[layer.bias].astype(np.float64)
        _set_bias(constants, layer, bias, unit)
        if correct:
            _set_bias(constants, layer, bias - (quantized.mean(node.output[0]) - floats[layer.output].mean), unit)
        quantized.leave(node.output[0])
        plain.leave(layer.output)
    return model


def _set_bias(constants: Mapping[str, onnx.TensorProto], layer: Layer, bias: np.ndarray, unit: np.ndarray) -> None:
    integers = np.clip(np.rint(bias / unit), -2**31, 2**31 - 1).astype(np.int32)
    _replace(constants[names_of(layer)['bias']], integers)
    _replace(constants[names_of(layer)['bias_scale']], unit.astype(np.float32))


def _replace(constant: onnx.TensorProto, value: np.ndarray) -> None:
    constant.CopyFrom(numpy_helper.from_array(value.reshape(tuple(constant.dims)), constant.name))


class _Stream:
    """A graph that is computed piece after piece on all images.

    Args:
        model (onnx.ModelProto): Its constants may change before a piece that has them is computed.
        images (Sequence[np.ndarray]): Each (C, H, W).
        cuts (Collection[str]): The tensors that pieces end at.
        points (Sequence[str]): All tensors that will be kept or left, each as often as it will.
        dtype (type, optional): What floats are kept as. Defaults to what they are.

    Attributes:
        kept (dict[str, list[np.ndarray]]): Of each image, the tensors that are still to be read.
        producers (dict[str, onnx.NodeProto]): The operators by what they give.
    """

    def __init__(self, model: onnx.ModelProto, images: Sequence[np.ndarray], cuts: Collection[str],
                 points: Sequence[str], dtype: type | None = None):
        self.kept = {'images': [image[None] for image in images]}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self._model = model
        self._dtype = dtype
        self._cuts = set(cuts)
        self._readers = Counter(name for point in points for name in self._sources(point))

    def _sources(self, tensor: str) -> list[str]:
        """The tensors that are kept, or the images, that one is computed from."""
        found, seen = set(), set()
        waiting = list(self.producers[tensor].input)
        while waiting:
            name = waiting.pop()
            if name in self._cuts or name == 'images':
                found.add(name)
            elif name in self.producers and name not in seen:
                seen.add(name)
                waiting += self.producers[name].input
        return sorted(found)

    def _compute(self, tensor: str) -> Iterable[np.ndarray]:
        sources = self._sources(tensor)
        computed = session(Extractor(self._model).extract_model(sources, [tensor]))
        types = {given.name: np.float32 if given.type == 'tensor(float)' else np.uint8
                 for given in computed.get_inputs()}
        for i in range(len(self.kept[sources[0]])):
            yield computed.run([tensor], {name: self.kept[name][i].astype(types[name], copy=False)
                                          for name in sources})[0]

    def mean(self, tensor: str) -> np.ndarray:
        """The means of a tensor's channels (C, )."""
        means = [value.reshape(value.shape[1], -1).mean(1, dtype=np.float64) for value in self._compute(tensor)]
        return np.mean(means, axis=0)

    def keep(self, tensor: str) -> None:
        """Compute a tensor, and forget what nothing else reads."""
        self.kept[tensor] = [value.astype(self._dtype or value.dtype, copy=False) for value in self._compute(tensor)]
        self.leave(tensor)

    def leave(self, tensor: str) -> None:
        """Forget what nothing but a tensor was still to read."""
        for name in self._sources(tensor):
            self._readers[name] -= 1
            if not self._readers[name]:
                self.kept.pop(name, None)


def _round(network: Network, layer: Layer, inputs: Sequence[np.ndarray], floats: Sequence[np.ndarray], steps: Steps,
           rounding: str, rng: np.random.Generator, pair: int) -> tuple[np.ndarray, np.ndarray]:
    """A layer's weights as integers, and their scales (outputs, )."""
    value = network.tensors[layer.weight]
    weight = torch.from_numpy(value).double().reshape(layer.groups, len(value) // layer.groups, -1)
    compensates, covariance = rounding == 'compensated', None
    if weight.shape[2] <= _LARGEST_KERNEL:
        covariance, crossed, count = _covariances(layer, value.shape, inputs, floats, steps, rng)
        if compensates and count >= _TIMES_FITTED * weight.shape[2]:
            weight = _fitted(weight, covariance, crossed)
    scale = weights.scales(weight, covariance, pair)
    # A kernel of nearly nothing: its bias has to fit 32 bits.
    bias = torch.from_numpy(network.tensors[layer.bias]).double().abs().reshape(layer.groups, -1, 1)
    scale = scale.maximum(bias / (steps.scale * 2**30)).float().double()
    integers = (weights.compensated(weight, scale, covariance, pair) if compensates and covariance is not None else
                weights.nearest(weight, scale, pair))
    return integers.reshape(value.shape).numpy(), scale.reshape(-1).numpy()


def _fitted(weight: Tensor, covariance: Tensor, crossed: Tensor) -> Tensor:
    """Weights (groups, outputs, K) whose outputs of quantized inputs are nearest those of the float ones.

    What a range rounds to zero, image after image, is no noise that averages out: a regression takes it back as far
    as other inputs tell it. It is drawn to the weights as they are.
    """
    ridge = _RIDGE * covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    ridge = ridge.reshape(-1, 1, 1) * torch.eye(covariance.shape[1], dtype=covariance.dtype)
    return torch.linalg.solve(covariance + ridge, (weight @ (crossed + ridge)).transpose(1, 2)).transpose(1, 2)


def _covariances(layer: Layer, shape: Sequence[int], inputs: Sequence[np.ndarray], floats: Sequence[np.ndarray],
                 steps: Steps, rng: np.random.Generator) -> tuple[Tensor, Tensor, int]:
    """Of what the kernels of a layer see, over positions drawn from all images.

    Returns:
        tuple[Tensor, Tensor, int]: (groups, K, K) of the quantized inputs, and of the float ones (rows) with those;
        and of how many positions.
    """
    size = int(np.prod(shape[1:]))
    own = torch.zeros(layer.groups, size, size, dtype=torch.float64)
    crossed = torch.zeros_like(own)
    means = [torch.zeros(layer.groups, size, 1, dtype=torch.float64) for _ in range(2)]
    middle: Tensor | float = 0.0
    count = 0
    for value, exact in zip(inputs, floats):
        x = (torch.from_numpy(value).float() - steps.zero_point) * steps.scale
        pair = torch.cat([x, torch.from_numpy(exact).float()])
        columns = _columns(layer, pair, shape, -(-_POSITIONS // len(inputs)), rng).reshape(2, layer.groups, size, -1)
        # About the first image's means: what hardly varies would else be lost in the rounding of its squares.
        middle = middle if count else columns.mean(3, keepdim=True)
        given, wanted = columns - middle
        own += (given @ given.transpose(1, 2)).double()
        crossed += (wanted @ given.transpose(1, 2)).double()
        for mean, shifted in zip(means, (given, wanted)):
            mean += shifted.sum(2, keepdim=True).double()
        count += given.shape[2]
    mean, wanted_mean = (mean / count for mean in means)
    return own / count - mean @ mean.transpose(1, 2), crossed / count - wanted_mean @ mean.transpose(1, 2), count


def _columns(layer: Layer, x: Tensor, shape: Sequence[int], most: int, rng: np.random.Generator) -> Tensor:
    """(N, C x kernel, positions): what the kernels of a layer see of inputs (N, C, H, W) or (N, C), at some places."""
    if x.ndim == 2:
        return x.unsqueeze(2)
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in layer.node.attribute}
    top, left, bottom, right = given.get('pads', (0, 0, 0, 0))
    if any((top, left, bottom, right)):
        x = F.pad(x, (left, right, top, bottom))
    dilation, stride = given.get('dilations', (1, 1)), given.get('strides', (1, 1))
    if tuple(shape[2:]) == (1, 1):
        columns = x[:, :, ::stride[0], ::stride[1]].flatten(2)
    else:
        columns = F.unfold(x, tuple(shape[2:]), dilation=dilation, stride=stride)
    if columns.shape[2] > most:
        columns = columns[:, :, torch.from_numpy(rng.integers(0, columns.shape[2], most))]
    return columns
