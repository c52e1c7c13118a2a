"""get_model, predict and draw, for all three tasks."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmone import InputError
from mmone.apis import draw, get_config, get_model, predict
from tests.kit import TASKS


def images(data, number):
    return sorted(Path(data, 'JPEGImages').glob('*.jpg'))[:number]


@pytest.mark.parametrize('task', TASKS)
def test_predictions_are_those_of_the_stock_inferencer(trained, task, data):
    path, weights = trained(task)
    files = [str(image) for image in images(data, 5)]
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
    absent, = predict(deployed, ['absent.jpg'])
    with pytest.raises(InputError, match='absent.jpg cannot be decoded'):
        draw(deployed, absent)
