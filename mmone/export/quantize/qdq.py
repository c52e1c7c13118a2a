"""A network with the steps of its tensors, as an ONNX graph of Q and DQ operators: ONNX Runtime's own writer."""
import logging
import warnings
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from .network import Layer, Network
from .ranges import STEPS, Steps

# Operators that ONNX Runtime and OpenVINO compute on integers, between layers.
KINDS = ('Conv', 'Gemm', 'Relu', 'Clip', 'MaxPool', 'GlobalAveragePool', 'Concat', 'Resize', 'Mul', 'Add')


def quantized_nodes(network: Network, keep: Collection[str] = (), between: bool = True) -> list[onnx.NodeProto]:
    """The nodes that are computed on integers.

    Args:
        network (Network): The network.
        keep (Collection[str]): The names of layers that stay in float. Defaults to none.
        between (bool): With what lies between layers. Defaults to True.
    """
    if not between:
        return [layer.node for layer in network.layers if layer.name not in keep]
    return [node for node in network.inside() if node.op_type in KINDS and node.name not in keep]


def tensors_of(network: Network, nodes: Collection[onnx.NodeProto], outputs: bool = True) -> list[str]:
    """The tensors that nodes read, and write, without constants."""
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *(node.output if outputs else ()))
                          if name and name not in network.tensors)
    return [name for name in names if name in network.shapes]


def write(network: Network, nodes: Collection[onnx.NodeProto], tensors: Mapping[str, Steps],
          scales: Mapping[str, np.ndarray], between: bool = True) -> onnx.ModelProto:
    """The graph.

    Args:
        network (Network): In float; it is left as it is.
        nodes (Collection[onnx.NodeProto]): Those to compute on integers.
        tensors (Mapping[str, Steps]): By the names of the tensors that they read and write.
        scales (Mapping[str, np.ndarray]): Of kernels (outputs, ), by the names of the weights.
        between (bool): The outputs of layers are integers too. Defaults to True.
    """
    overrides: dict[str, list[dict]] = {
        name: [dict(quant_type=QuantType.QUInt8, scale=np.array(each.scale, np.float32),
                    zero_point=np.array(each.zero_point, np.uint8))]
        for name, each in tensors.items()}
    for name, values in scales.items():
        overrides[name] = [dict(quant_type=QuantType.QInt8, axis=0, scale=np.array(value, np.float32),
                                zero_point=np.array(0, np.int8))
                           for value in values]
    # The writer goes through these, and takes the steps from the others.
    ranges = TensorsData(CalibrationMethod.MinMax, {
        name: TensorData(lowest=np.float32(-each.zero_point * each.scale),
                         highest=np.float32((STEPS - each.zero_point) * each.scale))
        for name, each in tensors.items()})
    model = onnx.ModelProto()
    model.CopyFrom(network.store())
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            writer = QDQQuantizer(
                model, per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8, tensors_range=ranges,
                nodes_to_quantize=[node.name for node in nodes], nodes_to_exclude=[],
                op_types_to_quantize=sorted({node.op_type for node in nodes}),
                extra_options=dict(TensorQuantOverrides=overrides, QDQDisableWeightAdjustForInt32Bias=True,
                                   OpTypesToExcludeOutputQuantization=['Gemm'] if between else ['Conv', 'Gemm']))
            writer.quantize_model()
            writer.model.topological_sort()
    finally:
        logging.root.setLevel(level)
    made = writer.model.model
    _keep_in_float(made, [layer for layer in network.layers if layer.node not in nodes])
    return onnx.shape_inference.infer_shapes(made)


def _keep_in_float(model: onnx.ModelProto, layers: Sequence[Layer]) -> None:
    """Put a Max between layers and the Q after them.

    Between a DQ and a Q, with or without a ReLU, ONNX Runtime quantizes the weights of a layer unasked, with one scale
    for all of them: that cost a classifier all it knew (seen in ONNX Runtime 1.31).
    """
    nodes = {node.name: node for node in model.graph.node}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for layer in layers:
        node = nodes[layer.name]
        after = readers.get(node.output[0], [])
        bound = f'{layer.name}.least'
        if len(after) == 1 and after[0].op_type == 'Relu':
            after[0].op_type = 'Max'
            after[0].input.append(bound)
            least = 0.0
        else:
            limited = f'{node.output[0]}.float'
            for reader in after:
                reader.input[:] = [limited if name == node.output[0] else name for name in reader.input]
            place = list(model.graph.node).index(node) + 1
            model.graph.node.insert(place, onnx.helper.make_node('Max', [node.output[0], bound], [limited], bound))
            least = float(np.finfo(np.float32).min)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(least, np.float32), bound))


def tensor_of(node: onnx.NodeProto) -> str:
    """The tensor whose bytes a node gives; ``''`` where it does something else."""
    end = '_QuantizeLinear_Output'
    return node.output[0][:-len(end)] if node.op_type == 'QuantizeLinear' and node.output[0].endswith(end) else ''


def names_of(layer: Layer) -> dict[str, str]:
    """How the writer calls a layer's constants."""
    return dict(weight=f'{layer.weight}_quantized', weight_scale=f'{layer.weight}_scale',
                bias=f'{layer.bias}_quantized', bias_scale=f'{layer.bias}_quantized_scale')
