"""The steps of quantizing, each by itself: exact where they must be, and by values computed by hand."""
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from mmone.errors import InputError
from mmone.export.export import export_model
from mmone.export.quantize import qdq, weights
from mmone.export.quantize.equalize import equalize
from mmone.export.quantize.network import Network, session
from mmone.export.quantize.quantize import prepare, quantize
from mmone.export.quantize.ranges import Observed, Steps, observe, rounded, steps
from mmone.export.quantize.sensitivity import rank

from ..conftest import photographs


@pytest.fixture(scope='module')
def exported(model_of, tmp_path_factory):
    """The float graph of a task's small model, of images of 64x64."""
    def export(task):
        path = tmp_path_factory.mktemp('float') / 'model.onnx'
        export_model(model_of(task), path, shape=(64, 64), logits=task != 'detection')
        return onnx.load(path)
    return export


IMAGES = photographs((64, 64), 10)


def in_float64(network):
    """The graph with the weights as they are in float64, which ONNX's own evaluator computes."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        if tensor.name in network.tensors:
            value = network.tensors[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(
                value.astype(np.float64) if value.dtype == np.float32 else value, tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == 'Cast' and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
    for output in model.graph.output:
        if output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            output.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return ReferenceEvaluator(model)


@pytest.mark.parametrize('task', ['classification', 'segmentation'])
def test_an_equalized_network_computes_what_it_did(exported, task):
    """In float64, SE blocks with it; and the ranges of what a depthwise layer reads are one."""
    network = Network(exported(task))
    network.tensors = {name: value.astype(np.float64) if value.dtype == np.float32 else value
                       for name, value in network.tensors.items()}
    network.store()
    expected = in_float64(network).run(['logits'], {'images': IMAGES[:1]})[0]
    tensors = qdq.tensors_of(network, qdq.quantized_nodes(network))
    plain = Network(exported(task))
    seen = observe(plain, tensors, IMAGES)
    before = {name: value.copy() for name, value in network.tensors.items()}
    changed = equalize(network, {name: each.largest for name, each in seen.items()})
    assert changed >= 8 and any((before[name] != value).any() for name, value in network.tensors.items())
    found = in_float64(network).run(['logits'], {'images': IMAGES[:1]})[0]
    assert found.dtype == np.float64 and np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()

    single = equalized = Network(exported(task))
    equalize(equalized, {name: each.largest for name, each in seen.items()})
    again = observe(single, tensors, IMAGES)
    depthwise = [layer for layer in single.layers if layer.groups > 1]
    assert depthwise
    for layer in depthwise:
        high = again[layer.input].high
        used = high[high > 0]
        assert used.max() < 1.01 * used.min()


def test_a_network_whose_channels_are_read_by_something_else_is_left_alone():
    """An Add of two layers' outputs: neither may be scaled."""
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, images):
            return self.c(torch.relu(self.a(images.float()) + self.b(images.float())))

    network = Network(traced(Block(), IMAGES[:1]))
    before = {name: value.copy() for name, value in network.tensors.items()}
    ranges = {layer.output: np.array([1.0, 10, 100]) for layer in network.layers}
    assert equalize(network, ranges) == 0
    assert all((before[name] == value).all() for name, value in network.tensors.items())


def traced(module, images):
    import io
    file = io.BytesIO()
    torch.onnx.utils.export(module, (torch.from_numpy(images), ), file, input_names=['images'],
                            output_names=['logits'], opset_version=17)
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize('low, high, expected', [
    (0, 2.55, Steps(0.01, 0)), (-1.27, 1.28, Steps(0.01, 127)), (0.5, 2.55, Steps(0.01, 0)),
    (-2.55, -1, Steps(0.01, 255)), (0, 0, Steps(1.0, 0))])
def test_steps_by_hand(low, high, expected):
    """0 is always one of them; a tensor that is 0 throughout has steps too."""
    found = steps(Observed(np.array([low], np.float32), np.array([high], np.float32), np.zeros(1)))
    assert found.zero_point == expected.zero_point and found.scale == pytest.approx(expected.scale, rel=1e-6)


def test_rules_of_ranges():
    values = np.concatenate([np.linspace(0, 1, 100_000), [100]]).astype(np.float32)
    seen = Observed(np.zeros(1), np.array([100.0]), np.zeros(1), [values])
    assert steps(seen, 'min-max').scale == pytest.approx(100 / 255)
    assert steps(seen, 'percentile').scale == pytest.approx(1 / 255, rel=0.01)
    errors = {rule: np.square(values - rounded(values, steps(seen, rule))).mean() for rule in ('mse', 'min-max')}
    assert errors['mse'] < errors['min-max']


def test_what_is_observed():
    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 1, bias=False)
            self.layer.weight.data = torch.eye(3).reshape(3, 3, 1, 1)

        def forward(self, images):
            return self.layer(images.float())

    network = Network(traced(Same(), IMAGES[:1]))
    found = observe(network, ['logits'], IMAGES, ['logits'])['logits']
    assert (found.low == IMAGES.min((0, 2, 3))).all() and (found.high == IMAGES.max((0, 2, 3))).all()
    assert found.mean == pytest.approx(IMAGES.mean((0, 2, 3)), rel=1e-6)
    assert set(np.concatenate(found.samples)) <= set(IMAGES.reshape(-1).astype(np.float32))


# Weights

def kernels(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def correlated(groups, size):
    mixed = kernels(groups, size, size)
    return mixed @ mixed.transpose(1, 2)


def test_no_two_weights_add_up_to_more_than_128():
    """Whatever they are: with 255, the largest input, their sum stays below what 16 bits hold."""
    weight = kernels(1, 40, 64)
    weight[0, :10, 3] *= 20  # a folded skip
    weight[0, 10:20, 5:7] *= 20
    weight[0, 20] = 0
    covariance = correlated(1, 64)
    for scale in (weights.scales(weight), weights.scales(weight, covariance)):
        for integers in (weights.nearest(weight, scale), weights.compensated(weight, scale, covariance)):
            assert (integers == integers.round()).all()
            most = integers[0].abs().topk(2, dim=1).values
            assert most.sum(1).max() <= 128 and most.max() <= 127
            assert weights.largest_pair(integers[0].numpy()) <= 255 * 128 < 2**15
    assert integers[0, :10].abs().max() > 100  # more than seven bits for one that is alone


def test_compensated_weights_disturb_the_outputs_less():
    weight, covariance = kernels(1, 32, 64), correlated(1, 64)
    scale = weights.scales(weight, covariance)
    near, other = (weights.output_error(weight - integers * scale, covariance) for integers in (
        weights.nearest(weight, scale), weights.compensated(weight, scale, covariance)))
    assert other.sum() < 0.7 * near.sum()


def test_compensation_of_groups_is_that_of_each():
    weight, covariance = kernels(6, 2, 9), correlated(6, 9)
    scale = weights.scales(weight, covariance)
    found = weights.compensated(weight, scale, covariance)
    for i in range(6):
        alone = weights.compensated(weight[i:i + 1], scale[i:i + 1], covariance[i:i + 1])
        assert (alone == found[i:i + 1]).all()


def test_independent_inputs_leave_nothing_to_make_up_for():
    weight, covariance = kernels(1, 8, 16), torch.eye(16, dtype=torch.float64).unsqueeze(0)
    scale = weights.scales(weight, covariance)
    assert (weights.compensated(weight, scale, covariance) == weights.nearest(weight, scale)).all()


# The whole

@pytest.fixture(scope='module')
def quantized(exported):
    def make(task='classification', **options):
        network, seen = prepare(exported(task), IMAGES)
        return quantize(network, seen, IMAGES, **options)
    return make


def constants(made):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in made.model.graph.initializer}


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_nothing_saturates(quantized, task):
    """The integer kernels of this processor give what exact sums give: with the largest inputs too."""
    made = quantized(task)
    stored = constants(made)
    for layer in made.layers:
        assert weights.largest_pair(stored[qdq.names_of(layer)['weight']]) < 2**15
    plain, fast = session(made.model), session(made.model, plain=False)
    name = 'boxes' if task == 'detection' else 'logits'
    for image in (*IMAGES[:3], np.full_like(IMAGES[0], 255), np.zeros_like(IMAGES[0])):
        a, b = (each.run([name], {'images': image[None]})[0] for each in (plain, fast))
        assert np.abs(a - b).max() <= 0.03 * np.abs(a).max()  # a step, where rounding fell on the other side


def test_the_same_seed_gives_the_same_file(quantized):
    first, second = (quantized().model.SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_better_than_rounding_to_the_nearest(quantized, exported):
    model = exported('classification')
    expected = np.concatenate([session(model).run(['logits'], {'images': image[None]})[0] for image in IMAGES])

    def error(made):
        computed = session(made.model)
        found = np.concatenate([computed.run(['logits'], {'images': image[None]})[0] for image in IMAGES])
        return np.square(found - expected).mean()

    errors = [error(quantized(**options)) for options in (
        dict(), dict(rounding='nearest'), dict(rounding='nearest', correct=False))]
    assert errors[0] < errors[1] < errors[2]


def test_biases_take_back_what_the_means_have_lost(quantized):
    """The mean of each layer's outputs is the float network's, within a step of the bias."""
    made = quantized()
    names = {layer.name: layer.output for layer in made.layers}
    outputs = {node.name: node.output[0] for node in made.model.graph.node if node.name in names}
    floats = observe(made.network, list(names.values()), IMAGES)
    computed = session(made.model, list(outputs.values()))
    sums = [np.mean([value.reshape(value.shape[1], -1).mean(1, dtype=np.float64) for value in values], axis=0)
            for values in zip(*(computed.run(list(outputs.values()), {'images': image[None]}) for image in IMAGES))]
    for name, mean in zip(outputs, sums):
        expected = floats[names[name]]
        assert np.abs(mean - expected.mean).max() < 1e-3 * max(1, expected.largest.max()), name


def test_layers_stay_in_float_and_onnxruntime_leaves_them_so(quantized, tmp_path):
    import onnxruntime
    keep = [layer.name for layer in quantized().layers][2:4]
    made = quantized(keep=keep)
    assert not set(keep) & {layer.name for layer in made.layers}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimized.onnx')
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(made.model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    kinds = [node.op_type for node in onnx.load(tmp_path / 'optimized.onnx').graph.node]
    floats = sum(kind in ('Conv', 'FusedConv') for kind in kinds)
    assert floats == len(keep) and kinds.count('QLinearConv') + kinds.count('QGemm') == len(made.layers)


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_onnxruntime_computes_all_layers_on_integers(quantized, task, tmp_path):
    """And no Q or DQ is left between them."""
    import onnxruntime
    made = quantized(task)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimized.onnx')
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(made.model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    graph = onnx.load(tmp_path / 'optimized.onnx').graph
    kinds = [node.op_type for node in graph.node]
    assert not any(kind in ('Conv', 'FusedConv', 'Gemm') for kind in kinds)
    last = {node.input[0] for node in graph.node if node.op_type == 'DequantizeLinear'}
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    read_by = {}
    for node in graph.node:
        for name in node.input:
            read_by.setdefault(name, []).append(node.op_type)
    for node in graph.node:
        if node.op_type == 'DequantizeLinear':  # only to leave the network
            assert not set(read_by[node.output[0]]) & {'QuantizeLinear', 'QLinearConv'}, made_by[node.input[0]]
    assert last or task == 'classification'


def test_the_most_sensitive_layer_is_the_one_that_was_made_so(exported):
    model = exported('classification')
    network = Network(model)
    target = network.layers[3]
    weight = network.tensors[target.weight]
    network.tensors[target.weight] = np.where(np.arange(weight.size).reshape(weight.shape) % weight[0].size == 0,
                                              weight * 1000, weight * 0.001).astype(np.float32)
    # Without equalization nothing helps it: its large weights leave one step to the others.
    prepared, seen = prepare(network.store(), IMAGES, exponent=None)
    found = rank(prepared, seen, IMAGES)
    assert sorted(found) == sorted(layer.name for layer in network.layers)
    assert found.index(target.name) < len(found) // 2


def test_what_cannot_be_quantized(exported, quantized):
    with pytest.raises(InputError, match='is quantized already'):
        prepare(quantized().model, IMAGES)
    model = exported('classification')
    network = Network(model)
    network.tensors[network.layers[1].weight][0] = np.nan
    with pytest.raises(InputError, match='are not all numbers'):
        prepare(network.store(), IMAGES)
    with pytest.raises(InputError, match='expected one of min-max'):
        quantized(ranges='all')


def test_dead_channels_and_dead_layers_are_zero(exported):
    """A channel that is never more than zero has steps, and stays zero."""
    network = Network(exported('classification'))
    layer = network.layers[1]
    network.tensors[layer.weight][:] = 0
    network.tensors[layer.bias][:] = -1
    prepared, seen = prepare(network.store(), IMAGES)
    made = quantize(prepared, seen, IMAGES)
    expected, found = (session(model).run(['logits'], {'images': IMAGES[:1]})[0]
                       for model in (network.model, made.model))
    assert np.isfinite(found).all() and np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
