"""An ONNX graph as quantizing takes it: layers with weights, what lies between them, and how it is computed."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper


@dataclass
class Layer:
    """A convolution or a fully connected layer.

    Attributes:
        node (onnx.NodeProto): Its operator, ``Conv`` or ``Gemm``.
        weight (str): The tensor of its weights, (outputs, inputs / groups, ...).
        bias (str): That of its bias, (outputs, ).
        groups (int): Of a convolution; 1 of a fully connected layer.
    """
    node: onnx.NodeProto
    weight: str
    bias: str
    groups: int

    @property
    def name(self) -> str:
        """The operator's name, which is its module's place in the model."""
        return self.node.name

    @property
    def input(self) -> str:
        return self.node.input[0]

    @property
    def output(self) -> str:
        return self.node.output[0]


class Network:
    """A float ONNX graph whose weights can be changed.

    Args:
        model (onnx.ModelProto): Of fixed sizes. It is changed: its shapes are filled in, layers get a bias where
            they have none, and one of their own where they share it.

    Attributes:
        tensors (dict[str, np.ndarray]): The constant tensors by name; :meth:`store` writes them back.
        layers (list[Layer]): In the order in which they are computed.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = onnx.shape_inference.infer_shapes(model)
        graph = self.model.graph
        self.tensors = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in graph.initializer}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)
        values = [*graph.input, *graph.value_info, *graph.output]
        self.shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
        self.layers = [layer for layer in map(self._layer, graph.node) if layer]

    def _layer(self, node: onnx.NodeProto) -> Layer | None:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type not in ('Conv', 'Gemm') or node.input[1] not in self.tensors:
            return None
        if node.op_type == 'Gemm' and (attributes.get('transB') != 1 or attributes.get('transA')):
            return None
        outputs = len(self.tensors[node.input[1]])
        given = list(node.input)[2:]
        values = self.tensors[given[0]] if given else np.zeros(outputs, np.float32)
        bias = f'{node.name}.bias'
        self.tensors[bias] = np.broadcast_to(values, (outputs, )).copy()
        node.input[:] = [*node.input[:2], bias]
        return Layer(node, node.input[1], bias, attributes.get('group', 1))

    def shared(self, layer: Layer) -> bool:
        """Whether other layers have the same weights, as heads of several levels have."""
        return len(self.consumers[layer.weight]) > 1

    def store(self) -> onnx.ModelProto:
        """Write :attr:`tensors` into the model, and return it."""
        used = {name for node in self.model.graph.node for name in node.input}
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.tensors.items() if name in used)
        return self.model

    def inside(self) -> Iterator[onnx.NodeProto]:
        """The nodes with a layer before them and one after them, and the layers."""
        before, after = set(), set()
        layers = {layer.name for layer in self.layers}
        for node in self.model.graph.node:
            if node.name in layers or any(name in before for name in node.input):
                before.update(node.output)
        for node in reversed(self.model.graph.node):
            if node.name in layers or any(name in after for name in node.output):
                after.update(node.input)
        for node in self.model.graph.node:
            if node.name in layers or (before.intersection(node.input) and after.intersection(node.output)):
                yield node


def session(model: onnx.ModelProto, outputs: Sequence[str] = (), plain: bool = True) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on one thread a core.

    Args:
        model (onnx.ModelProto): It is left as it is.
        outputs (Sequence[str]): Tensors within it to compute as well.
        plain (bool): Compute each operator as it stands, quantizing and dequantizing in float32, and not by
            integer kernels. Defaults to True.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with_outputs = onnx.ModelProto()
    with_outputs.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    with_outputs.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    return onnxruntime.InferenceSession(with_outputs.SerializeToString(), options, providers=['CPUExecutionProvider'])
