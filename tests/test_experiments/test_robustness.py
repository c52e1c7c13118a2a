"""``mmone robustness``: models under corruptions, and on other test sets."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmone.engine.test import test as evaluate_without
from mmone.errors import InputError
from mmone.experiments import robustness, robustness_report
from mmone.experiments.robustness import Results, evaluate
from mmone.experiments.robustness_report import summary, write_report
from tests.kit import TASKS, command

pytest.importorskip('imagecorruptions')

FIGURES = dict(mmpretrain='accuracy/top1', mmdet='coco/bbox_mAP', mmseg='mIoU')


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('task', TASKS)
def test_every_task(task, trained, capsys):
    """It says of a corruption what mmone test says with the transform in the pipeline, without tables of its own."""
    config, weights = trained(task)
    cells = evaluate(config, [weights], 'out', ('contrast', ), (5, )).cells[weights]
    assert list(cells) == ['clean', 'contrast/5'] and '|' not in capsys.readouterr().out
    pipeline = Config.fromfile(config).test_dataloader.dataset.pipeline
    pipeline.insert(len(pipeline) - 1 if task == 'mmpretrain' else 1,
                    dict(type='mmone.Corrupt', corruption='contrast', severity=5))
    Path('other.py').write_text(f'_base_ = {config!r}\ntest_dataloader = dict(dataset=dict(pipeline={pipeline}))\n')
    expected = evaluate_without('other.py', weights, work_dir='work', deploy=True)
    assert cells['contrast/5'][FIGURES[task]] == pytest.approx(expected[FIGURES[task]], abs=1e-4)


def test_report(trained, capsys, monkeypatch):
    monkeypatch.setattr(robustness_report, 'CORRUPTIONS', ('contrast', 'snow', 'fog'))  # less to draw
    config, weights = trained('mmpretrain')
    command('robustness', config, weights, '--corruptions', 'contrast', 'fog', '--severities', '5')
    captured = capsys.readouterr()
    assert 'report in robustness/report.md' in captured.out and '3/3 fog/5: ' in captured.err
    report = Path('robustness/report.md').read_text()
    assert '5 images' in report and '| fog |' in report and '| snow |' not in report and 'mCE' not in report
    for picture in ('severities.png', 'corruptions.png'):
        assert picture in report and Image.open(f'robustness/{picture}').width > 300


def test_goes_on_and_takes_more_models(trained, monkeypatch):
    """What was evaluated before an interruption stays; a further model is evaluated alone."""
    config, weights = trained('mmpretrain')
    options = dict(folder='out', corruptions=('contrast', 'pixelate'), severities=(1, ))

    def interrupt(progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(config, [weights], **options, listen=interrupt)
    assert list(Results.read(Path('out')).cells[weights]) == ['clean', 'contrast/1']
    seen = []
    evaluate(config, [weights], **options, listen=seen.append)
    assert [(progress.done, progress.total) for progress in seen] == [(2, 3), (3, 3)]
    evaluate(config, [weights], **options, listen=seen.append)
    assert [progress.text for progress in seen[::2]] == ['models loaded: 1', 'everything was evaluated before']

    shutil.copy(weights, 'more.pth')
    nets = []
    load = robustness._load
    monkeypatch.setattr(robustness, '_load', lambda cfg, model, trust: nets.append(model) or load(cfg, model, trust))
    results = evaluate(config, [weights, 'more.pth'], **options)
    assert nets == ['more.pth'] and results.cells['more.pth'] == results.cells[weights]
    assert len(summary(results)) == 3


def test_exported_files(trained):
    """All models of a command see the same images."""
    pytest.importorskip('onnx')
    config, weights = trained('mmpretrain')
    command('export', config, weights, '--out', 'model.onnx')
    results = evaluate(config, [weights, 'model.onnx'], 'out', ('gaussian_noise', ), (3, ))
    assert results.cells['model.onnx'] == results.cells[weights]


def test_other_test_sets(trained, data):
    """Corrupted images in files stand in for those that are made; others are evaluated once."""
    config, weights = trained('mmpretrain')
    shutil.copytree(data / 'classes' / 'val', 'files/fog/1')
    own = Config.fromfile(config).test_dataloader
    for name, prefix in (('stored', '{corruption}/{severity}'), ('plain', 'fog/1')):
        own.dataset.update(data_root='files', data_prefix=prefix)
        Config(dict(test_dataloader=own, test_evaluator=dict(type='Accuracy'))).dump(f'{name}.py')
    results = evaluate(config, [weights], 'out', ('fog', ), (1, ), ['stored.py', 'plain.py'])
    cells = results.cells[weights]
    assert list(cells) == ['clean', 'plain', 'fog/1']
    assert cells['clean']['accuracy/top1'] == cells['plain']['accuracy/top1'] == cells['fog/1']['accuracy/top1']
    assert summary(results)[0][-1] == 'plain %' and not Path('out/example.png').exists()
    with pytest.raises(InputError, match='or of other corruptions'):
        evaluate(config, [weights], 'out', ('fog', ), (1, ))
    with pytest.raises(InputError, match='no test set imagenet_b: .*imagenet_a, imagenet_c, .*imagenet_v2'):
        evaluate(config, [weights], 'new', sets=['imagenet_b'])
    with pytest.raises(InputError, match='test set imagenet_a has no folder data/imagenet-a: unpack its archive there'):
        evaluate(config, [weights], 'new', sets=['imagenet_a'])
    with pytest.raises(InputError, match='expected accuracy/top1'):
        Path('odd.py').write_text("_base_ = 'plain.py'\ntest_evaluator = dict(_delete_=True, type='ConfusionMatrix')\n")
        evaluate(config, [weights], 'new', (), sets=['odd.py'])


def test_results_of_something_else(trained):
    config, weights = trained('mmpretrain')
    evaluate(config, [weights], 'out', ('contrast', ), (1, ))
    before = Path('out/results.json').read_text()
    torch.save(dict(state_dict={}), 'other.pth')
    with pytest.raises(InputError, match='out has results of another test set, or of other corruptions'):
        evaluate(config, [weights], 'out', cfg_options=['test_dataloader.dataset.indices=3'])
    with pytest.raises(InputError, match='results of another .*w.pth, or of one whose images'):
        evaluate(config, [weights], 'out', cfg_options=['test_dataloader.dataset.pipeline.1.scale=48'])
    shutil.copy('other.pth', weights)
    with pytest.raises(InputError, match='results of another .*w.pth'):
        evaluate(config, [weights], 'out')
    assert Path('out/results.json').read_text() == before
    Path('out/results.json').write_text('[]')
    with pytest.raises(InputError, match='no results of mmone robustness'):
        evaluate(config, [weights], 'out')


@pytest.mark.parametrize('options, message', [
    (['--corruptions', 'rain'], "there is no corruption 'rain'"),
    (['--severities', '0'], 'argument --severities: invalid choice'),
    (['--cfg-options', 'test_evaluator='], 'has no test_evaluator to test by'),
])
def test_bad_input(options, message, trained, capsys):
    config, weights = trained('mmpretrain')
    with pytest.raises(SystemExit) as stop:
        command('robustness', config, weights, *options)
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not Path('robustness').exists()


def test_no_such_model(trained):
    config, _ = trained('mmpretrain')
    with pytest.raises(InputError, match='gone.pth does not exist: expected a checkpoint or an exported model'):
        evaluate(config, ['gone.pth'], 'out')
    assert not Path('out').exists()


def test_mce_is_of_imagenet(tmp_path):
    """Its report has mCE where all is there, and the files say what they are of."""
    cells = {'clean': {'accuracy/top1': 70.0}}
    cells |= {f'{corruption}/{severity}': {'accuracy/top1': 50.0}
              for corruption in robustness.CORRUPTIONS for severity in robustness.SEVERITIES}
    results = Results(tmp_path, 'x', 500, 1000, 'accuracy/top1', {'s0': ''}, {'s0': cells})
    assert summary(results) == [['model', 'top-1 %', 'corrupted %', 'of clean %', 'mCE %', 'relative mCE %'],
                                ['s0', '70.0', '50.0', '71.4', '64.7', '65.1']]
    part = replace(results, weights={}, cells={'s0': cells, 's1': {'clean': cells['clean'], 'fog/1': cells['fog/1']}})
    assert [row[1:4] for row in summary(part)[1:]] == [['70.0', '50.0', '71.4'], ['70.0', '', '']]
    assert '| fog | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 61.0 |' in write_report(results).read_text()
    results.save()
    assert json.loads((tmp_path / 'results.json').read_text())['images'] == 500
    assert Results.read(tmp_path) == results
