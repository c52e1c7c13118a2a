"""``mmone quantize``, and what takes its files."""
import json
import re

import cv2
import numpy as np
import pytest

from mmone.datasets.shapes import make_sample
from mmone.runtime import Runtime
from tests.kit import TASKS, command

pytest.importorskip('onnx')


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    for i in range(16):
        cv2.imwrite(str(folder / f'{i}.png'), make_sample(1, i, 96).image)
    return folder


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.param'])
def test_quantized_evaluated_and_predicted(trained, data, photos, task, suffix, tmp_path, capsys, monkeypatch):
    (path, weights), model = trained(task), tmp_path / f'model{suffix}'
    command('quantize', path, weights, '--out', model, '--images', photos, '--agreement', '0.3',
            '--shape', *dict(mmpretrain=(32, 32)).get(task, (64, 64)))
    out = capsys.readouterr().out
    assert re.search(r'INT8, calibrated on 13 images, all layers', out)
    assert re.search(rf'on 3 images of {photos} that were not calibrated on: [\d.]+% of \d+', out)
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith('model')) == sorted(
        {model.name, model.with_suffix('.bin').name if suffix != '.onnx' else model.name})
    meta = Runtime(model).meta
    assert meta['int8'] == dict(images=13, ranges='min-max', rounding='compensated', equalized=0.5, corrected=True,
                                in_float='', seed=0)
    command('test', path, model, '--work-dir', 'b')
    photo = sorted((data / 'JPEGImages').glob('*.jpg'))[0]
    command('predict', photo, '--model', model, '--out-dir', 'd')
    assert json.loads((tmp_path / 'd' / 'predictions.json').read_text())['predictions']


def test_the_batch_may_be_free(trained, photos, tmp_path, capsys):
    path, weights = trained('mmpretrain')
    for name, options in (('one', []), ('free', ['--dynamic', 'batch'])):
        command('quantize', path, weights, '--out', f'{name}.onnx', '--images', photos, '--agreement', '0', *options)
    images = np.stack([make_sample(2, i, 32).image.transpose(2, 0, 1) for i in range(3)])
    one, free = (Runtime(tmp_path / f'{name}.onnx')(images) for name in ('one', 'free'))
    assert free['scores'] == pytest.approx(one['scores'], abs=0.02)


def test_layers_are_given_back_to_float(trained, photos, tmp_path, capsys):
    """Those named; and where the answers do not agree, the most sensitive ones, up to the number allowed."""
    path, weights = trained('mmpretrain')
    command('quantize', path, weights, '--out', 'kept.onnx', '--images', photos, '--agreement', '0',
            '--keep', 'stage0', 'stage1.0')
    assert re.search('in float: /backbone/stage0.*stage1.0', capsys.readouterr().out.replace('/network', ''))
    command('quantize', path, weights, '--out', 'fast.onnx', '--images', photos, '--agreement', '0',
            '--latency', '1000')
    assert 'in float: ' in capsys.readouterr().out


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        command(*arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    return error


def test_answers_that_do_not_agree_write_nothing(trained, photos, tmp_path, capsys, monkeypatch):
    from mmone.export.quantize import int8
    path, weights = trained('mmseg')
    agreement = int8.agreement
    monkeypatch.setattr(int8, 'agreement', lambda task, expected, given, least: agreement(task, expected, given, 1.01))
    (tmp_path / 'model.onnx').write_text('precious')
    error = fails(capsys, 'quantize', path, weights, '--out', 'model.onnx', '--images', photos, '--most-kept', '2',
                  '--force')
    assert re.search(r'answers otherwise on 3 images .* pixels are equal\), with 2 layers in float, the most sensitive '
                     r'layers first: \S*(Conv|Gemm)', error)
    assert (tmp_path / 'model.onnx').read_text() == 'precious'
    assert not [file for file in tmp_path.iterdir() if 'float' in file.name or file.name.startswith('.')]


def test_what_cannot_be_done_is_one_line_and_status_2(trained, photos, tmp_path, capsys):
    path, weights = trained('mmpretrain')
    few, alike, broken = (tmp_path / name for name in ('few', 'alike', 'broken'))
    for folder in (few, alike, broken):
        folder.mkdir()
    for i in range(10):
        cv2.imwrite(str(alike / f'{i}.png'), np.full((40, 40, 3), 7, np.uint8))
        (broken / f'{i}.jpg').write_text('no image')
    for i in range(3):
        cv2.imwrite(str(few / f'{i}.png'), make_sample(1, i, 96).image)
    command('quantize', path, weights, '--out', 'int8.onnx', '--images', photos, '--agreement', '0')
    capsys.readouterr()
    base = ['quantize', path, weights, '--images', photos, '--out', 'x.onnx']
    before = sorted(file.name for file in tmp_path.iterdir())
    for arguments, words in (
        (['quantize', path, 'int8.onnx', '--images', photos, '--out', 'x.onnx'], 'is an exported model'),
        ([*base[:3], '--out', 'x.onnx', '--images', tmp_path / 'none'], 'no images in'),
        ([*base[:3], '--out', 'x.onnx', '--images', few], 'expected at least 8'),
        ([*base[:3], '--out', 'x.onnx', '--images', alike], 'all alike'),
        ([*base[:-1], 'x.pt'], 'torchscript cannot be written in INT8'),
        ([*base[:-1], 'int8.onnx'], '--force'),
        ([*base, '--count', '2'], '--count'),
        ([*base, '--exponent', '2'], '--exponent'),
        ([*base, '--agreement', '1.5'], '--agreement'),
        ([*base, '--latency', '0'], '--latency'),
        ([*base, '--keep', 'stage9'], "no layer is called 'stage9'"),
        ([*base, '--dynamic', 'hw'], 'of one size'),
    ):
        assert words in fails(capsys, *arguments), words
        assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_images_that_cannot_be_read_are_named_and_left_out(trained, photos, tmp_path, capsys):
    path, weights = trained('mmpretrain')
    folder = tmp_path / 'some'
    folder.mkdir()
    for file in photos.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / 'broken.png').write_text('no image')
    command('quantize', path, weights, '--out', 'model.onnx', '--images', folder, '--agreement', '0')
    captured = capsys.readouterr()
    assert 'broken.png cannot be decoded: skipped' in captured.err and 'calibrated on 13 images' in captured.out
