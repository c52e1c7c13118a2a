"""Which layers a network can least do with in integers, found by measuring."""
from collections.abc import Sequence

import numpy as np
import onnx
import torch

from . import Progress, qdq, weights
from .network import Layer, Network, session
from .ranges import Observed, steps

IMAGES = 12


def rank(network: Network, seen: dict[str, Observed], images: Sequence[np.ndarray], ranges: str = 'min-max',
         progress: Progress = lambda each, _: each) -> list[str]:
    """The names of the layers, the most sensitive first: that which alone in integers disturbs the last layers most.

    Args:
        network (Network): From :func:`mmone.export.quantize.quantize.prepare`.
        seen (dict[str, Observed]): What its tensors take.
        images (Sequence[np.ndarray]): The first twelve are used.
        ranges (str): How the steps of tensors are chosen. Defaults to ``'min-max'``.
        progress (Callable): Defaults to silence.
    """
    images = images[:IMAGES]
    last = [layer.output for layer in _last(network)]
    expected = _computed(network.store(), last, images)
    errors = {}
    for layer in progress(network.layers, 'sensitivity of layers'):
        made = _alone(network, layer, seen, ranges)
        # A writer that removes a ReLU has given its name to what was before it.
        outputs = {node.name: node.output[0] for node in made.graph.node}
        found = _computed(made, [outputs[other.name] for other in _last(network)], images)
        errors[layer.name] = sum(float(np.square(a - b).sum() / max(np.square(a).sum(), 1e-12))
                                 for a, b in zip(expected, found))
    return sorted(errors, key=lambda name: -errors[name])


def _alone(network: Network, layer: Layer, seen: dict[str, Observed], ranges: str) -> onnx.ModelProto:
    """The network with one layer in integers, rounded to the nearest."""
    after = network.consumers.get(layer.output, [])
    nodes = [layer.node, *(node for node in after if len(after) == 1 and node.op_type in ('Relu', 'Clip'))]
    value = network.tensors[layer.weight]
    kernels = torch.from_numpy(value).double().reshape(layer.groups, len(value) // layer.groups, -1)
    return qdq.write(network, nodes, {name: steps(seen[name], ranges) for name in qdq.tensors_of(network, nodes)},
                     {layer.weight: weights.scales(kernels).reshape(-1).numpy()})


def _last(network: Network) -> list[Layer]:
    """The layers after which there is none."""
    waiting, reached = [layer.input for layer in network.layers], set()
    while waiting:
        name = waiting.pop()
        if name in network.producers and name not in reached:
            reached.add(name)
            waiting += network.producers[name].input
    return [layer for layer in network.layers if layer.output not in reached]


def _computed(model, tensors: Sequence[str], images: Sequence[np.ndarray]) -> list[np.ndarray]:
    computed = session(model, tensors)
    return [np.concatenate(values) for values in zip(
        *(computed.run(tensors, {'images': image[None]}) for image in images))]
