"""``mmone predict``, and the three functions behind it, for all three tasks."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmone.apis import draw, get_config, get_model, predict
from tests.kit import TASKS, command

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


def images(data, number=5):
    return sorted(Path(data, 'JPEGImages').glob('*.jpg'))[:number]


@pytest.mark.parametrize('task', TASKS)
def test_folder_with_an_undecodable_file(trained, task, data, tmp_path, capsys):
    path, weights = trained(task)
    folder = tmp_path / 'photos' / 'deep'
    folder.mkdir(parents=True)
    for image in images(data):
        (folder / image.name).write_bytes(image.read_bytes())
    (folder / '000.jpg').write_text('no image')
    status = command('predict', folder.parent, '--model', path, '--weights', weights,
                     '--out-dir', 'out', '--batch-size', 4, '--device', 'cpu')
    assert status == 1
    assert capsys.readouterr().err == f'cannot be decoded: {folder / "000.jpg"}\n'
    content = json.loads(Path('out/predictions.json').read_text())
    assert content['model'] == str(path) and content['weights'] == str(weights)
    broken, *records = content['predictions']
    assert broken == dict(input=str(folder / '000.jpg'), error='cannot be decoded')
    assert [Path(record['input']).name for record in records] == [image.name for image in images(data)]
    for record in records:
        if task == 'mmpretrain':
            assert record['class'] == CLASSES[record['label']] == record['top5'][0][0]
            assert sum(score for _, score in record['top5']) == pytest.approx(1, abs=1e-5)
        elif task == 'mmdet':
            scores = [box['score'] for box in record['boxes']]
            assert scores == sorted(scores, reverse=True) and 0 < len(scores) <= 20
            assert all(0 <= value <= 64 for box in record['boxes'] for value in box['box'])
        else:
            assert sum(record['classes'].values()) == pytest.approx(1)
            assert set(record['classes']) <= {'background', *CLASSES}
    drawn = sorted(Path('out').rglob('*.jpg'))
    assert [picture.name for picture in drawn] == [image.name for image in images(data)]
    for picture, image in zip(drawn, images(data)):
        assert cv2.imread(str(picture)).shape[2] == 3
        original = cv2.imread(str(image))
        if task != 'mmpretrain':  # whose small pictures are enlarged for the label
            assert cv2.imread(str(picture)).shape == original.shape


@pytest.fixture
def scope_put_back(task):
    with DefaultScope.overwrite_default_scope(task):
        yield


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.usefixtures('scope_put_back')  # the stock inferencers leave theirs set
def test_predictions_are_those_of_the_stock_inferencer(trained, task, data):
    path, weights = trained(task)
    files = [str(image) for image in images(data)]
    model = get_model(str(path), str(weights), device='cpu')
    assert model.backbone.deploy
    ours = list(predict(model, files, batch_size=2))
    assert [prediction.name for prediction in ours] == files
    cfg = get_config(path)
    if task == 'mmpretrain':
        from mmpretrain import ImageClassificationInferencer
        theirs = ImageClassificationInferencer(model)(files, return_datasamples=True)
        pairs = [(a.sample.pred_score, b.pred_score) for a, b in zip(ours, theirs)]
    elif task == 'mmdet':
        from mmdet.apis import DetInferencer
        theirs = DetInferencer(cfg, str(weights), device='cpu')(files, return_datasamples=True)['predictions']
        pairs = [(a.sample.pred_instances.scores, b.pred_instances.scores) for a, b in zip(ours, theirs)]
    else:
        from mmseg.apis import MMSegInferencer, inference_model
        inferencer = MMSegInferencer(cfg, str(weights), device='cpu')
        theirs = [inferencer(file, return_datasamples=True) for file in files]
        pairs = [(a.sample.pred_sem_seg.data, b.pred_sem_seg.data)
                 for found in (theirs, [inference_model(model, file) for file in files])
                 for a, b in zip(ours, found)]
    for a, b in pairs:
        if a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        else:
            assert (a == b).float().mean() > 0.999


@pytest.mark.parametrize('task', TASKS)
def test_arrays_branches_and_drawing(trained, task, data):
    path, weights = trained(task)
    arrays = [cv2.imread(str(image)) for image in images(data, 3)]
    deployed, branches = (get_model(str(path), str(weights), 'cpu', deploy=deploy) for deploy in (True, False))
    assert not branches.backbone.deploy
    for a, b in zip(predict(deployed, arrays, 2), predict(branches, arrays, 3)):
        assert a.name == b.name
        assert a.record(deployed).keys() == b.record(branches).keys()
        picture = draw(deployed, a, score_thr=0)
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        if task != 'mmpretrain':
            # RGB: more like the image with its channels swapped than like the BGR given.
            assert picture.shape == a.image.shape
            distance = [np.abs(picture.astype(int) - image).mean() for image in (a.image[..., ::-1], a.image)]
            assert distance[0] < distance[1]
    assert list(predict(deployed, [], 2)) == []


def test_video(trained, data, tmp_path):
    path, weights = trained('mmpretrain')
    writer = cv2.VideoWriter(str(tmp_path / 'clip.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 64))
    for image in images(data, 4):
        writer.write(cv2.resize(cv2.imread(str(image)), (64, 64)))
    writer.release()
    status = command('predict', 'clip.avi', images(data)[0], '--model', path, '--weights', weights,
                     '--out-dir', 'out', '--batch-size', 3)
    assert status == 0
    records = json.loads(Path('out/predictions.json').read_text())['predictions']
    assert [record.get('frame') for record in records] == [0, 1, 2, 3, None]
    assert len(list(Path('out').rglob('00000?.jpg'))) >= 4
