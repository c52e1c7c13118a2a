"""Which layers a network can least do with in integers, found by measuring."""
from collections.abc import Sequence

import numpy as np

from . import Progress
from .network import Layer, Network, session
from .quantize import quantize
from .ranges import Observed

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
    names = [layer.name for layer in network.layers]
    errors = {}
    for name in progress(names, 'sensitivity of layers'):
        made = quantize(network, seen, images, [other for other in names if other != name], ranges, 'nearest')
        # A writer that removes a ReLU has given its name to what was before it.
        outputs = {node.name: node.output[0] for node in made.model.graph.node}
        found = _computed(made.model, [outputs[layer.name] for layer in _last(network)], images)
        errors[name] = sum(float(np.square(a - b).sum() / max(np.square(a).sum(), 1e-12))
                           for a, b in zip(expected, found))
    return sorted(names, key=lambda name: -errors[name])


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
