"""INT8 as ncnn computes it: what its file holds is what was simulated."""
import json

import numpy as np
import onnx
import pytest
import torch

from mmone.convert.reparameterize import deployed_copy
from mmone.errors import InputError
from mmone.export.formats import ncnn as format
from mmone.export.formats import onnx as onnx_format
from mmone.export.graph import GRAPHS
from mmone.export.quantize import weights
from mmone.export.quantize.network import session
from mmone.export.quantize.quantize import prepare, quantize
from mmone.export.quantize.ranges import Observed, Steps, steps
from mmone.export.quantize.schemes import NCNN
from mmone.formats import weights_of
from mmone.runtime.ncnn import open_net, raw_outputs, read_param, run

from ..conftest import photographs

pytest.importorskip('ncnn')
pytest.importorskip('pnnx')
IMAGES = photographs((64, 64), 10)
EXAMPLE = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
TASKS = ('classification', 'detection', 'segmentation')


@pytest.fixture(scope='module')
def made(model_of, tmp_path_factory):
    """What was quantized of a task's small model, its graph, and a folder for its files."""
    def make(task, **options):
        folder = tmp_path_factory.mktemp('ncnn')
        model = deployed_copy(model_of(task))[0]
        kind = GRAPHS[model.cfg.default_scope][1]
        graph = format.as_computed(kind(model, (64, 64)).eval())
        with torch.no_grad():
            onnx_format.write(graph, EXAMPLE, (), False, '', folder / 'float.onnx')
        network, seen = prepare(onnx.load(folder / 'float.onnx'), IMAGES)
        return quantize(network, seen, IMAGES, scheme=NCNN, **options), graph, folder
    return make


def write(quantized, graph, folder, task):
    path = folder / 'model.param'
    meta = json.dumps(dict(task=task, outputs=['scores'] if task == 'classification' else []))
    with torch.no_grad():
        format.write_int8(quantized, graph, EXAMPLE, meta, path)
    return path


@pytest.mark.parametrize('task', TASKS)
def test_ncnn_computes_what_was_simulated(made, task):
    """All layers on integers, with the largest inputs too; where a value lies between two steps, either is right."""
    quantized, graph, folder = made(task)
    path = write(quantized, graph, folder, task)
    layers, _ = read_param(path.read_text())
    assert {('8=1' in layer.parameters) for layer in layers
            if layer.kind in ('Convolution', 'ConvolutionDepthWise', 'InnerProduct')} == {True}
    net, names = open_net(path, layers, 1), raw_outputs(task, ['scores'])
    computed, errors = session(quantized.model), []
    for image in (*IMAGES[:4], np.full_like(IMAGES[0], 255)):
        expected = computed.run(None, {'images': image[None]})
        found = run(net, image, names)
        for a, b in zip(expected, found):
            assert a[0].shape == b.shape
            errors.append(np.abs(a[0] - b).mean() / np.abs(a).max())
    assert max(errors) < 0.01


def test_layers_kept_in_float_are_so(made):
    quantized, graph, folder = made('classification')
    keep = [layer.name for layer in quantized.layers][1:3]
    quantized, graph, folder = made('classification', keep=keep)
    path = write(quantized, graph, folder, 'classification')
    layers, _ = read_param(path.read_text())
    kinds = [layer for layer in layers if layer.kind in ('Convolution', 'ConvolutionDepthWise', 'InnerProduct')]
    assert ['8=1' in layer.parameters for layer in kinds] == [layer.name not in keep
                                                              for layer in quantized.network.layers]
    found, = run(open_net(path, layers, 1), IMAGES[0], ['scores'])
    expected = session(quantized.model).run(None, {'images': IMAGES[:1]})[0][0]
    assert np.abs(found - expected).max() < 0.02


def test_the_weights_of_the_file_are_integers(made):
    """A byte each: what is left is of floats, a scale and a bias for each output and a scale for each input."""
    quantized, graph, folder = made('classification')
    layers = quantized.layers
    shapes = [quantized.network.tensors[layer.weight].shape for layer in layers]
    expected = sum(4 + -(-int(np.prod(shape)) // 4) * 4 + 8 * shape[0] + 4 for shape in shapes)
    size = weights_of(write(quantized, graph, folder, 'classification')).stat().st_size
    assert 0 <= size - expected <= 32  # the mean that is subtracted


def test_steps_about_zero_by_hand():
    def found(low, high):
        return steps(Observed(np.array([low], np.float32), np.array([high], np.float32), np.zeros(1)), symmetric=True)
    assert found(-1.27, 0.5) == Steps(float(np.float32(0.01)), 128)
    assert found(0, 2.54).scale == pytest.approx(0.02) and found(0, 0) == Steps(1.0, 128)


def test_any_two_weights_may_be_the_largest():
    weight = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    free, bound = (weights.scales(weight, pair=pair) for pair in (NCNN.largest_pair, 128))
    integers = weights.nearest(weight, free, NCNN.largest_pair)
    assert integers.abs().max() == 127 and integers[0].abs().topk(2, dim=1).values.sum(1).max() > 200
    errors = [weights.output_error(weight - weights.nearest(weight, scale, pair) * scale, None).sum()
              for scale, pair in ((free, NCNN.largest_pair), (bound, 128))]
    assert errors[0] < 0.5 * errors[1]


def test_a_layer_of_computed_weights_is_named(made):
    quantized, graph, folder = made('classification')
    quantized.network.layers[0].weight = 'elsewhere.weight'
    quantized.network.tensors['elsewhere.weight'] = np.zeros((1, 1, 1, 1), np.float32)
    with pytest.raises(InputError, match='has weights that are computed'):
        write(quantized, graph, folder, 'classification')
