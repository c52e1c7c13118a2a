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
    corrected = {layer.name: made.integers(layer)[2] for layer in made.layers}
    for layer in made.network.layers:
        module = modules.get(layer.weight.rpartition('.')[0])
        values = [made.network.tensors[layer.weight],
                  corrected.get(layer.name, made.network.tensors[layer.bias]).astype(np.float32)]
        if module is None or tuple(module.weight.shape) != values[0].shape:
            raise InputError(f'{layer.name} has weights that are computed: such a layer can be written in INT8 as '
                             'onnx and openvino only')
        module.weight, module.bias = (nn.Parameter(torch.from_numpy(value.copy()), False) for value in values)
    return graph
