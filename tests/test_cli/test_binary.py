"""A segmentor of one output channel for two classes, as mmsegmentation advises: a sigmoid and a threshold."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmone.runtime import Runtime
from tests.kit import command

from .test_export import metrics

pytest.importorskip('onnx')

# The masks' five kinds of shapes are one class: the classes beyond the first are told apart by nobody.
BINARY = '''
for head in ('decode_head', 'auxiliary_head'):
    model[head].update(num_classes=2, out_channels=1, threshold={threshold},
                       loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
metainfo.update(classes=('background', 'shape'), palette=[[0, 0, 0], [255, 0, 0]])
for loader in (train_dataloader, test_dataloader):
    loader['dataset']['metainfo'] = metainfo
test_pipeline[1:1] = [{resize}]
'''


def answer(folder):
    record, = json.loads(Path(folder, 'predictions.json').read_text())['predictions']
    return record['classes']


@pytest.mark.parametrize('suffix, resize, options, draw', [
    ('.onnx', '', [], 'stock'), ('.xml', "dict(type='Resize', scale=(96, 80))", ['--logits'], 'exported')])
def test_predicted_drawn_exported_and_tested(trained, data, capsys, suffix, resize, options, draw):
    path, weights = trained('mmseg', BINARY.format(threshold=0.5, resize=resize))
    photo = sorted((data / 'JPEGImages').glob('*.jpg'))[0]
    command('predict', photo, '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a')
    expected = answer('a')
    assert set(expected) == {'background', 'shape'} and sum(expected.values()) == pytest.approx(1)
    assert cv2.imread(f'a/{photo.name}').shape == cv2.imread(str(photo)).shape

    model = Path(f'model{suffix}')
    command('export', path, weights, '--out', model, *options)
    assert Runtime(model).predict(photo)['classes'] == pytest.approx(expected, abs=0.02)
    command('predict', photo, '--model', model, '--out-dir', 'c')
    assert answer('c') == pytest.approx(expected, abs=1e-3)
    capsys.readouterr()
    # A process has one visualizer, which draws the pictures of the first run.
    runs = [('stock', (weights, '--deploy')), ('exported', (model, ))]
    found = [metrics(capsys, path, *what, '--work-dir', name, *(['--show-dir', 'drawn'] if name == draw else []))
             for name, what in sorted(runs, key=lambda run: run[0] != draw)]
    assert found[0] == found[1] and list(Path('drawn').rglob('*.png'))


def test_one_class_beside_the_background(trained, data):
    """With num_classes=1 mmsegmentation predicts a label that has no name."""
    path, weights = trained('mmseg', BINARY.format(threshold=0.5, resize='') + '''
for head in ('decode_head', 'auxiliary_head'):
    model[head].update(num_classes=1)
metainfo.update(classes=('shape', ), palette=[[255, 0, 0]])
''')
    photo = sorted((data / 'JPEGImages').glob('*.jpg'))[0]
    command('predict', photo, '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a')
    assert set(answer('a')) == {'shape', '1'}
    command('export', path, weights, '--out', 'model.onnx')
    found = Runtime('model.onnx').predict(photo)
    assert set(found['classes']) == {'shape', '1'} and set(np.unique(found['labels'])) == {0, 1}


def test_a_threshold_of_zero_is_one(trained, data):
    """And not the default, 0.3."""
    path, weights = trained('mmseg', BINARY.format(threshold=0.0, resize=''))
    for options in ((), ('--logits', )):
        command('export', path, weights, '--out', 'model.onnx', '--force', *options, '--cfg-options',
                'model.decode_head.threshold=0.0')
        found = Runtime('model.onnx').predict(np.zeros((64, 64, 3), np.uint8))
        assert found['classes'] == {'shape': 1}
