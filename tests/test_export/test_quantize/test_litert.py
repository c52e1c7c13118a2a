"""INT8 as LiteRT computes it: the file has the integers that were simulated."""
import numpy as np
import onnx
import pytest
import torch

from mmone.convert.reparameterize import deployed_copy
from mmone.export.formats import litert
from mmone.export.formats import onnx as onnx_format
from mmone.export.graph import GRAPHS
from mmone.export.quantize.network import session
from mmone.export.quantize.quantize import prepare, quantize
from mmone.runtime.litert import to_objects

from ..conftest import photographs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(torch.export, 'Dim') or not hasattr(torch.export.Dim, 'AUTO'),
                       reason='its programs are written by torch 2.6 or newer'),
    pytest.mark.skipif(not litert.environment().is_dir(), reason="LiteRT's converter is not made here")]
IMAGES = photographs((64, 64), 10)
EXAMPLE = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)


@pytest.fixture
def made(model_of, tmp_path):
    def make(task, keep=()):
        model = deployed_copy(model_of(task))[0]
        graph = litert.as_computed(GRAPHS[model.cfg.default_scope][1](model, (64, 64), logits=task != 'detection')
                                   .eval())
        with torch.no_grad():
            onnx_format.write(graph, EXAMPLE, (), False, '', tmp_path / 'float.onnx')
            network, seen = prepare(onnx.load(tmp_path / 'float.onnx'), IMAGES)
            quantized = quantize(network, seen, IMAGES, [layer.name for layer in network.layers if layer.name
                                                         .endswith(tuple(keep))], scheme=litert.SCHEME)
            litert.write_int8(quantized, graph, EXAMPLE, '{}', tmp_path / 'model.tflite')
        return quantized, (tmp_path / 'model.tflite').read_bytes()
    return make


def computed(content, image):
    from ai_edge_litert.interpreter import Interpreter
    runner = Interpreter(model_content=content).get_signature_runner()
    given, = runner.get_input_details()
    found = runner(**{given: image[None]})
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_litert_computes_what_was_simulated(made, task):
    quantized, content = made(task)
    plain, errors = session(quantized.model), []
    for image in (*IMAGES[:3], np.full_like(IMAGES[0], 255)):
        expected, found = plain.run(None, {'images': image[None]}), computed(content, image)
        errors += [np.abs(a - b).mean() / np.abs(a).max() for a, b in zip(expected, found) if a.dtype == np.float32]
    assert errors and max(errors) < 0.02
    tensors = to_objects(content).subgraphs[0].tensors
    integers = [tensor for tensor in tensors if tensor.type == 9 and tensor.quantization.scale is not None
                and len(tensor.quantization.scale) > 1]
    assert len(integers) == len(quantized.layers)  # all weights, a scale for each output


def test_layers_kept_in_float_are_so(made):
    quantized, content = made('classification', keep=['stage1/stage1.0/branch_reparam/Conv', 'fc/Gemm'])
    assert len(quantized.layers) == len(quantized.network.layers) - 2
    expected, found = session(quantized.model).run(None, {'images': IMAGES[:1]}), computed(content, IMAGES[0])
    assert np.abs(expected[0] - found[0]).max() < 0.02
