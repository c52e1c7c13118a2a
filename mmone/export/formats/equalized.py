"""The PyTorch graph of what was quantized: for formats that are not made from ONNX."""
import copy

import numpy as np
import torch
from torch import nn

from mmone.errors import InputError
from mmone.export.graph import Graph


def equalized(graph: Graph, made) -> Graph:
    """A graph with the weights that were rounded, in float, and the corrected biases.

    Args:
        graph (Graph): That was quantized; it is left as it is.
        made (Quantized): From :func:`mmone.export.quantize.quantize.quantize`.

    Raises:
        InputError: If the network has weights that no module has.
    """
    graph = copy.deepcopy(graph)
    modules = dict(graph.named_modules())
    quantized = {layer.name for layer in made.layers}
    for layer in made.network.layers:
        module, weight = modules.get(layer.weight.rpartition('.')[0]), made.network.tensors[layer.weight]
        if module is None or tuple(module.weight.shape) != weight.shape:
            raise InputError(f'{layer.name} has weights that are computed: such a layer can be written in INT8 as '
                             'onnx and openvino only')
        bias = made.integers(layer)[2] if layer.name in quantized else made.network.tensors[layer.bias]
        module.weight, module.bias = (nn.Parameter(torch.from_numpy(value.astype(np.float32)), False)
                                      for value in (weight, bias))
    return graph
