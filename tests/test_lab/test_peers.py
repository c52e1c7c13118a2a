"""The networks of the study: what they are, how they are found, and that branches are folded."""
import json
import sqlite3

import numpy as np
import onnxruntime
import pytest
import torch

from mmone.complexity import network_complexity
from mmone.errors import InputError
from mmone.lab import paper
from mmone.lab.building import Network, answers, build, fused, prepare
from mmone.lab.cache import difference, folder_of
from mmone.lab.peers import PEERS, mobileone, published
from mmone.lab.subjects import find_subject

timm = pytest.importorskip('timm')
SIZE = (64, 64)
# Of the paper's Table 13, which is published in millions: parameters, multiply-adds.
MICRO = dict(micro214=(1_262_632, 214), micro139=(979_880, 139), micro68=(573_416, 68))
PUBLISHED_MICRO = dict(micro214=(1.3, 214), micro139=(0.98, 139), micro68=(0.57, 68))


def small(name):
    """A network as it is measured, but of small images."""
    return build(find_subject(name), SIZE)


def test_every_peer_is_in_its_package():
    torchvision = pytest.importorskip('torchvision')
    known = dict(timm=timm.list_models(), torchvision=torchvision.models.list_models(),
                 mmone=['s0', 's1', 's2', 's3', 's4', *MICRO])
    assert [name for name, peer in PEERS.items() if peer.model not in known[peer.package]] == []
    assert len(PEERS) >= 33


def test_published_accuracies_have_a_source_and_the_papers_networks_are_there():
    for name in PEERS:
        top1, source = published(name)
        assert (top1 is None) == (source is None), name
    left_out = {'mobileformer-96', 'mobileformer-52', 'mobilenext-1.0', 'mobilenext-1.4'}
    assert set(paper.LATENCIES) - set(PEERS) == left_out
    assert published('mobileone-s0') == (71.4, f'{paper.SOURCE}, Table 9')
    assert published('mobileone-micro214') == (None, None)  # its shape is not the paper's


@pytest.mark.parametrize('arch', MICRO)
def test_micro_variants_have_the_published_counts(arch):
    network = fused(Network(mobileone(arch)).eval())
    found = network_complexity(network, torch.zeros(1, 3, 224, 224))
    assert (found.parameters, round(found.multiply_adds / 1e6)) == MICRO[arch]
    millions, multiply_adds = PUBLISHED_MICRO[arch]
    assert float(f'{found.parameters / 1e6:.2g}') == millions and round(found.multiply_adds / 1e6) == multiply_adds


def test_multiply_adds_by_hand():
    """All that multiplies and nothing else: a convolution, a norm, attention, and the last layer."""

    class Layers(torch.nn.Module):

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.norm = torch.nn.BatchNorm2d(8)
            self.linear = torch.nn.Linear(8, 5)

        def forward(self, images):
            x = self.norm(self.conv(images)).flatten(2).transpose(1, 2)  # (1, 16, 8)
            x = torch.nn.functional.scaled_dot_product_attention(x, x[:, :4], x[:, :4])
            return self.linear(x.mean(1))

    found = network_complexity(Layers(), torch.zeros(1, 3, 8, 8))
    assert found.parameters == 8 * 27 + 8 + 16 + 45
    assert found.multiply_adds == 16 * 8 * 27 + 16 * 4 * (8 + 8) + 8 * 5


@pytest.mark.parametrize('name', ['mobileone-micro68', 'repvgg_a0', 'ghostnetv3_100', 'repvit_m0_9', 'fastvit_t8'])
def test_branches_are_folded(name):
    network = small(name)
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    folded = fused(network)
    assert difference(answers(folded, images), answers(network, images)) < 1e-3
    counts = [sum(parameter.numel() for parameter in one.parameters()) for one in (network, folded)]
    assert counts[1] < counts[0]
    norms = [sum(isinstance(module, torch.nn.BatchNorm2d) for module in one.modules()) for one in (network, folded)]
    assert norms[1] < norms[0]


def test_activations_have_the_size_of_a_trained_networks():
    # S4's squeeze-excite layers, and RepVGG's sums of branches, would let them grow or vanish.
    for name in ('mobileone-s4', 'repvgg_a0'):
        output, = answers(small(name), torch.rand(1, 3, *SIZE) * 2 - 1)
        assert 1e-4 < np.abs(output).max() < 1e3


def test_what_is_written_answers_as_pytorch_does(tmp_path):
    subject = find_subject('mobileone-micro68')
    prepared = prepare(subject, 2, SIZE, folder_of(subject, 2, SIZE, tmp_path))
    assert prepared.branches and prepared.error is None and prepared.parameters == MICRO['micro68'][0]
    session = onnxruntime.InferenceSession(str(prepared.onnx), providers=['CPUExecutionProvider'])
    given, = session.get_inputs()
    assert given.shape == [2, 3, *SIZE]
    assert difference(session.run(None, {'images': prepared.images()}), prepared.expected()) < 1e-4
    written = prepared.onnx.stat().st_mtime_ns
    assert prepare(subject, 2, SIZE, prepared.folder) == prepared
    assert prepared.onnx.stat().st_mtime_ns == written  # it was there
    assert [path.name for path in tmp_path.iterdir()] == [prepared.folder.name]  # and nothing else is


@pytest.mark.parametrize('name, family, source, shape', [
    ('mobileone-s1', 'mobileone', 'mmone', (224, 224)),
    ('mobilenetv2_100', 'mobilenet', 'timm', (224, 224)),
    ('vit_tiny_patch16_384', 'vit', 'timm', (384, 384)),  # which takes no other size
    ('mobileone-s0_8xb32_in1k', 'mobileone', 'mmone', (224, 224)),
    ('ssdlite_mobileone-s0_8xb16-200e_coco-320x320', 'detection', 'mmone', (320, 320)),
    ('ablation-se-relu', 'ablation', 'mmone', (224, 224)),
])
def test_models_are_found_by_name(name, family, source, shape):
    found = find_subject(name)
    assert (found.model.name, found.model.family, found.model.source, found.shape) == (name, family, source, shape)
    assert json.loads(json.dumps(found.arguments)) == found.arguments  # it goes to another process
    assert sqlite3.connect(':memory:').execute('SELECT ?', (found.model.name, )).fetchone()


@pytest.mark.parametrize('name, nearest', [
    ('mobilenet_v2_100', 'mobilenetv2_100'), ('mobileone-s5', 'mobileone-s'), ('resnet-18', 'resnet18'), ('s0', '')])
def test_an_unknown_name_is_told_the_nearest(name, nearest):
    with pytest.raises(InputError, match=f'no model {name!r}: .*the nearest names are .*{nearest}'):
        find_subject(name)


@pytest.mark.parametrize('name, message', [
    ('missing.onnx', 'missing.onnx does not exist'), ('missing.py', 'config missing.py does not exist'),
    ('mobileone-s0_8xb32_in1k=missing.pth', 'checkpoint missing.pth does not exist')])
def test_files_that_are_not_there(name, message):
    with pytest.raises(InputError, match=message):
        find_subject(name)


@pytest.mark.parametrize('task, outputs', [('mmpretrain', 1), ('mmdet', 4), ('mmseg', 1)])
def test_a_configs_model_is_measured_raw(config, task, outputs):
    subject = find_subject(str(config(task)))
    network = build(subject, SIZE)
    found = answers(fused(network), torch.rand(1, 3, *SIZE))
    assert len(found) == outputs and all(len(array) == 1 for array in found)
