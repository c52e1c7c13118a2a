"""Images of one channel and of four, from the config's own reader to the answer of an exported file."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from mmone.errors import InputError
from mmone.runtime import Runtime
from tests.kit import TASKS, command
from tests.test_pipeline import LoadArray

from .test_export import metrics

pytest.importorskip('onnx')

CHANNELS = '''
for pipeline in (train_pipeline, test_pipeline):
    pipeline[0].update(color_type={color_type!r}, imdecode_backend={backend!r})
model['backbone']['in_channels'] = {channels}
model['data_preprocessor'].update(mean=[100.0], std=[50.0])
'''
GREY = CHANNELS.format(color_type='grayscale', backend='cv2', channels=1)
FOUR = CHANNELS.format(color_type='unchanged', backend='pillow', channels=4)


def answer(folder):
    record, = json.loads(Path(folder, 'predictions.json').read_text())['predictions']
    return record


def same(a, b):
    """Whether two records, of ``mmone predict`` or of the runtime, are one answer to rounding."""
    if 'boxes' in a:
        assert len(a['boxes']) == len(b['boxes']) > 0
        return a['boxes'][0]['class'] == b['boxes'][0]['class'] and np.allclose(
            a['boxes'][0]['box'], b['boxes'][0]['box'], atol=1e-2)
    if 'classes' in a:
        return a['classes'] == pytest.approx(b['classes'], abs=1e-3)
    return a['class'] == b['class'] and a['score'] == pytest.approx(b['score'], abs=1e-5)


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('extra, suffix', [(GREY, '.onnx'), (FOUR, '.xml')], ids=['grey', 'four'])
def test_predicted_exported_and_run(trained, data, tmp_path, task, extra, suffix):
    path, weights = trained(task, extra)
    colour = cv2.imread(str(sorted((data / 'JPEGImages').glob('*.jpg'))[0]))
    cv2.imwrite('photo.png', np.dstack([colour, colour[::-1, :, 0]]))
    Path('photos').mkdir()
    Path('photo.png').rename('photos/photo.png')
    model, raw = tmp_path / f'model{suffix}', (task, extra) == ('mmdet', FOUR)
    command('predict', 'photos/photo.png', '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a')
    command('export', path, weights, '--out', model, '--images', 'photos', *(['--raw'] if raw else []))
    exported = Runtime(model)
    assert exported.meta['input']['colour'] == ('grey' if extra == GREY else '4 channels')
    assert same(answer('a'), exported.predict('photos/photo.png'))
    command('predict', 'photos/photo.png', '--model', model, '--out-dir', 'b')
    assert same(answer('a'), answer('b'))
    assert cv2.imread('b/photo.png').shape[2] == 3
    for other in (np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 2), np.uint8)):
        with pytest.raises(InputError, match=f'takes images of {exported.channels} channels, got'):
            exported.predict(other)


def test_the_same_metric(trained, capsys):
    """And without images to compare on, generated ones have as many channels."""
    path, weights = trained('mmdet', GREY)
    expected = metrics(capsys, path, weights, '--deploy', '--work-dir', 'a')
    command('export', path, weights, '--out', 'model.pt', '--dynamic', 'batch', '--cfg-options',
            'test_dataloader.dataset.data_root=none')
    assert 'on 8 generated images' in capsys.readouterr().out
    assert metrics(capsys, path, 'model.pt', '--work-dir', 'b') == expected


def test_values_that_are_not_of_eight_bits(trained, tmp_path, capsys):
    """Are only taken normalized; a float's values between those of 8 bits are kept in resizing."""
    path, weights = trained('mmpretrain', CHANNELS.format(color_type='unchanged', backend='cv2', channels=1)
                            + "test_pipeline[0]['to_float32'] = True\n")
    Path('photos').mkdir()
    random = np.random.default_rng(0)
    cv2.imwrite('photos/a.png', random.integers(0, 1000, (48, 40)).astype(np.uint16))
    with pytest.raises(SystemExit):
        command('export', path, weights, '--out', 'model.onnx', '--images', 'photos')
    error = capsys.readouterr().err
    assert 'a.png has values of float32 that are none of uint8' in error and '(--raw)' in error
    command('export', path, weights, '--out', 'model.onnx', '--images', 'photos', '--raw')
    command('predict', 'photos/a.png', '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a')
    assert same(answer('a'), Runtime('model.onnx').predict('photos/a.png'))


def test_channels_that_do_not_fit(trained, tmp_path, capsys):
    """One image too many channels does not keep others from being predicted."""
    path, weights = trained('mmpretrain', "test_pipeline[0]['color_type'] = 'unchanged'\n")
    Path('photos').mkdir()
    for name, channels in (('a', 3), ('b', 4)):
        cv2.imwrite(f'photos/{name}.png', np.zeros((40, 40, channels), np.uint8))
    assert command('predict', 'photos', '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a') == 1
    assert capsys.readouterr().err == 'has 4 channels, of which the model takes 3: photos/b.png\n'
    first, second = json.loads(Path('a/predictions.json').read_text())['predictions']
    assert 'class' in first and second['error'] == 'has 4 channels, of which the model takes 3'
    for options, words in ((['--images', 'photos'], 'b.png has 4 channels, the model takes 3: set in_channels'),
                           (['--cfg-options', 'model.data_preprocessor.mean=[1.0,2.0]',
                             'model.data_preprocessor.std=[1.0,1.0]'], 'means of 2 channels, the model takes 3')):
        with pytest.raises(SystemExit):
            command('export', path, weights, '--out', 'model.onnx', *options)
        assert words in capsys.readouterr().err


def test_files_that_only_openmmlab_reads(trained, data, monkeypatch, capsys):
    """Are read by it wherever it is; of the exported file, arrays are asked for."""
    monkeypatch.setitem(TRANSFORMS.module_dict, 'LoadArray', LoadArray)
    path, weights = trained('mmseg', GREY + """
test_pipeline[0] = dict(type='LoadArray')
test_dataloader['dataset']['img_suffix'] = '.npy'
""")
    Path('arrays').mkdir()
    grey = cv2.imread(str(sorted((data / 'JPEGImages').glob('*.jpg'))[0]), cv2.IMREAD_GRAYSCALE)
    np.save('arrays/a.npy', grey)
    command('predict', 'arrays', '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a')
    assert cv2.imread('a/a.npy.png').shape == (*grey.shape, 3)
    command('export', path, weights, '--out', 'model.onnx', '--images', 'arrays')
    assert 'on 1 images of arrays' in capsys.readouterr().out
    assert same(answer('a'), Runtime('model.onnx').predict(grey))
    with pytest.raises(InputError, match='a.npy is read by OpenMMLab only'):
        Runtime('model.onnx').predict('arrays/a.npy')
    assert command('predict', 'arrays/a.npy', '--model', 'model.onnx', '--out-dir', 'b') == 1
    assert 'give an array: arrays/a.npy' in capsys.readouterr().err
