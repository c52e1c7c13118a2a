"""A classifier that gives an image several classes, or none: a sigmoid, and all labels above a threshold."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmone.runtime import Runtime
from tests.kit import command

from .test_export import metrics

pytest.importorskip('onnx')

MULTI_LABEL = '''
model['head'] = dict(type='MultiLabelLinearClsHead', num_classes=5, in_channels=64, {decision},
                     loss=dict(type='CrossEntropyLoss', use_sigmoid=True))
test_evaluator = [dict(type='MultiLabelMetric', average=None), dict(type='AveragePrecision')]
'''


@pytest.mark.parametrize('suffix, decision, options', [
    ('.onnx', 'thr=0.5', []), ('.xml', 'topk=2', ['--logits'])])
def test_predicted_exported_and_tested(trained, data, capsys, suffix, decision, options):
    path, weights = trained('mmpretrain', MULTI_LABEL.format(decision=decision))
    photos = [str(photo) for photo in sorted((data / 'JPEGImages').glob('*.jpg'))[:3]]
    command('predict', *photos, '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a')
    records = json.loads(Path('a/predictions.json').read_text())['predictions']
    for record in records:
        assert set(record) == {'input', 'labels', 'top5'}
        scores = [found['score'] for found in record['labels']]
        assert scores == sorted(scores, reverse=True)
        above = [score for _, score in record['top5'] if score >= 0.5] if 'thr' in decision else record['top5'][:2]
        assert len(scores) == len(above)
        assert sum(score for _, score in record['top5']) != pytest.approx(1)
        assert cv2.imread(f'a/{Path(record["input"]).name}') is not None
    assert 'topk' in decision or 0 < sum(len(record['labels']) for record in records) < 15

    model = f'model{suffix}'
    command('export', path, weights, '--out', model, '--dynamic', 'batch', *options)
    assert ('Sigmoid 3' if suffix == '.onnx' else 'Sigmoid') in capsys.readouterr().out  # two are of the SE block
    command('predict', *photos, '--model', model, '--out-dir', 'b')
    others = json.loads(Path('b/predictions.json').read_text())['predictions']
    for record, other, run in zip(records, others, Runtime(model).predict(photos)):
        for given in (other, run):
            assert [found['class'] for found in given['labels']] == [found['class'] for found in record['labels']]
            assert [found['score'] for found in given['labels']] == pytest.approx(
                [found['score'] for found in record['labels']], abs=1e-5)
    capsys.readouterr()
    expected = metrics(capsys, path, weights, '--deploy', '--work-dir', 'c')
    assert expected and metrics(capsys, path, model, '--work-dir', 'd') == expected


def test_no_label_at_all(trained, data):
    path, weights = trained('mmpretrain', MULTI_LABEL.format(decision='thr=1.0'))
    photo = sorted((data / 'JPEGImages').glob('*.jpg'))[0]
    command('predict', photo, '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a')
    assert json.loads(Path('a/predictions.json').read_text())['predictions'][0]['labels'] == []
    command('export', path, weights, '--out', 'model.onnx')
    assert Runtime('model.onnx').predict(np.zeros((32, 32, 3), np.uint8))['labels'] == []


def test_several_tasks(trained, data):
    """Each has its own answer; they are no exported model's."""
    path, weights = trained('mmpretrain', '''
model['head'] = dict(type='MultiTaskHead', in_channels=64, task_heads=dict(
    shape=dict(type='LinearClsHead', num_classes=5), size=dict(type='LinearClsHead', num_classes=3)))
test_pipeline[-1] = dict(type='PackMultiTaskInputs', multi_task_fields=('gt_label', ))
''')
    photo = sorted((data / 'JPEGImages').glob('*.jpg'))[0]
    command('predict', photo, '--model', path, '--weights', weights, '--device', 'cpu', '--out-dir', 'a')
    tasks = json.loads(Path('a/predictions.json').read_text())['predictions'][0]['tasks']
    assert {task: len(found['top5']) for task, found in tasks.items()} == dict(shape=5, size=3)
    assert tasks['shape']['class'] == str(tasks['shape']['label'])
