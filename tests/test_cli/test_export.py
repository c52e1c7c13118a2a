"""``mmone export``, and what takes the exported files: ``mmone test`` and ``mmone predict``."""
import json
import re
from itertools import product

import pytest

from tests.kit import TASKS, command

pytest.importorskip('onnx')


def metrics(capsys, *arguments):
    """What ``mmone test`` logs last."""
    command('test', *arguments)
    line = [line for line in capsys.readouterr().out.splitlines() if 'Epoch(test)' in line][-1]
    return line.partition(']')[2].partition('data_time')[0].split()


@pytest.mark.parametrize('suffix, task', [*product(['.onnx', '.xml', '.pt'], TASKS), ('.param', 'mmdet')])
def test_exported_evaluated_and_predicted(trained, data, task, suffix, tmp_path, capsys, monkeypatch):
    (path, weights), model = trained(task), tmp_path / f'model{suffix}'
    command('export', path, weights, '--out', model, *([] if suffix == '.param' else ['--dynamic', 'batch']))
    out = capsys.readouterr().out
    assert f'{model}: ' in out and re.search(f'against PyTorch on [1-8] images of {data}', out)
    expected = metrics(capsys, path, weights, '--deploy', '--work-dir', 'a')
    assert expected and metrics(capsys, path, model, '--work-dir', 'b') == expected

    photo = sorted((data / 'JPEGImages').glob('*.jpg'))[0]
    command('predict', photo, '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'c')
    command('predict', photo, '--model', model, '--out-dir', 'd')
    assert (tmp_path / 'd' / photo.name).is_file()
    ours, theirs = (json.loads((tmp_path / folder / 'predictions.json').read_text())['predictions'][0]
                    for folder in 'cd')
    assert ours.keys() == theirs.keys()
    if task == 'mmpretrain':
        assert ours['top5'] == [[name, pytest.approx(score, abs=1e-5)] for name, score in theirs['top5']]
    elif task == 'mmdet':
        assert len(ours['boxes']) == len(theirs['boxes']) > 0
        assert ours['boxes'][0]['box'] == pytest.approx(theirs['boxes'][0]['box'], abs=1e-2)
    else:
        assert ours['classes'] == pytest.approx(theirs['classes'], abs=1e-3)


def test_what_cannot_be_done_is_one_line_and_status_2(trained, tmp_path, capsys):
    (path, _), (other, weights) = trained('mmseg'), trained('mmpretrain')  # one file: the latter's
    (tmp_path / 'there.onnx').write_text('precious')
    (tmp_path / 'text.onnx').write_text('no model')
    command('export', other, weights, '--out', 'model.onnx')
    capsys.readouterr()
    before = sorted(file.name for file in tmp_path.iterdir())
    for arguments, words in (
        (['export', other, weights, '--out', 'there.onnx'], '--force'),
        (['export', other, 'missing.pth', '--out', 'x.onnx'], 'missing.pth does not exist'),
        (['export', path, weights, '--out', 'x.onnx'], weights),
        (['export', other, weights, '--out', 'x.onnx', '--dynamic', 'all'], 'expected batch or hw'),
        (['export', other, weights, '--out', 'x.onnx', '--shape', '0', '32'], '--shape'),
        (['export', other, weights, '--out', 'x.onnx', '--images', str(tmp_path / 'none')], 'no images'),
        (['test', other, 'text.onnx', '--work-dir', 'w'], 'cannot be read'),
        (['test', other, 'missing.onnx', '--work-dir', 'w'], 'does not exist'),
        (['test', path, 'model.onnx', '--work-dir', 'w'], 'a model of classification'),
        (['test', other, 'model.onnx', '--deploy', '--work-dir', 'w'], '(--deploy)'),
        (['test', other, 'model.onnx', '--work-dir', 'w', '--cfg-options',
                'test_dataloader.dataset.pipeline.1.scale=48'], 'takes uint8 images (N, 3, 32, 32)'),
        (['predict', 'x.jpg', '--model', 'model.onnx'], 'x.jpg does not exist'),
        (['predict', 'there.onnx', '--model', 'model.onnx', '--weights', weights], 'has its weights in it'),
    ):
        with pytest.raises(SystemExit) as stop:
            command(*arguments)
        error = capsys.readouterr().err.strip()
        assert stop.value.code == 2, arguments
        assert words in error and len(error.splitlines()) == 1, error
    assert set(sorted(file.name for file in tmp_path.iterdir())) - {'w'} == set(before)
    assert (tmp_path / 'there.onnx').read_text() == 'precious'


def test_other_classes_than_the_data_sets_are_an_error(trained, capsys):
    path, weights = trained('mmdet')
    command('export', path, weights, '--out', 'model.onnx')
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command('test', path, 'model.onnx', '--cfg-options',
                "test_dataloader.dataset.metainfo.classes=('circle','star')")
    assert 'model.num_classes is 5 but the data set of test_dataloader has 2' in capsys.readouterr().err


def test_with_its_logits_a_segmentor_is_resized_as_the_library_does(trained, capsys):
    """Labels of another size than the image can be repeated only; logits are interpolated first."""
    path, weights = trained('mmseg', "test_pipeline.insert(1, dict(type='Resize', scale=(96, 80)))\n")
    expected = metrics(capsys, path, weights, '--deploy', '--work-dir', 'a')
    command('export', path, weights, '--out', 'logits.onnx', '--logits')
    assert metrics(capsys, path, 'logits.onnx', '--work-dir', 'b') == expected
    command('export', path, weights, '--out', 'labels.onnx')
    accuracy, = (float(found[1]) for found in [metrics(capsys, path, 'labels.onnx', '--work-dir', 'c')])
    assert accuracy == pytest.approx(float(expected[1]), abs=3)
