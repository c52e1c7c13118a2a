"""get_model, predict and draw, for all three tasks."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

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
    for one in (arrays[0], str(images(data, 1)[0])):  # whose rows and letters are no images
        assert len(list(predict(deployed, one))) == 1
    absent, = predict(deployed, ['absent.jpg'])
    with pytest.raises(InputError, match='absent.jpg cannot be decoded'):
        draw(deployed, absent)


def crops(data, number):
    """Images of several sizes, one of them twice."""
    sizes = [(64, 64), (40, 64), (64, 48), (33, 57), (64, 64)]
    whole = [cv2.imread(str(image)) for image in images(data, number)]
    return [np.ascontiguousarray(image[:height, :width]) for image, (height, width) in zip(whole, sizes)]


def tensors(sample):
    """All that a library says of an image, by its names."""
    if 'pred_label' in sample:
        return dict(scores=sample.pred_score, labels=sample.pred_label)
    if 'pred_instances' in sample:
        return {name: sample.pred_instances[name] for name in ('scores', 'labels', 'bboxes')}
    return dict(labels=sample.pred_sem_seg.data, logits=sample.seg_logits.data)


LETTERBOX = "dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='Pad', size=(64, 64), pad_val=114)"
KEEP_RATIO = "dict(type='Resize', scale=(96, 64), keep_ratio=True)"


@pytest.mark.parametrize('task, transforms, extra', [
    ('mmpretrain', '', ''), ('mmpretrain', KEEP_RATIO, "model['data_preprocessor']['pad_size_divisor'] = 32\n"),
    ('mmdet', KEEP_RATIO, ''), ('mmdet', KEEP_RATIO, "model['data_preprocessor']['pad_size_divisor'] = 32\n"),
    ('mmdet', LETTERBOX, ''), ('mmseg', '', ''), ('mmseg', LETTERBOX, ''),
    ('mmseg', KEEP_RATIO, "model['data_preprocessor']['test_cfg'] = dict(size_divisor=32)\n"),
    ('mmseg', '', "model['test_cfg'] = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))\n"),
])
def test_no_answer_depends_on_what_else_is_in_the_batch(trained, task, transforms, extra, data):
    model = get_model(*trained(task, f'test_pipeline[1:-1] = [{transforms}]\n' + extra), 'cpu')
    assert_independent(model, crops(data, 5))


def test_norms_without_running_statistics_take_those_of_each_image(trained, data):
    model = get_model(*trained('mmseg'), 'cpu')
    for module in model.decode_head.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    assert_independent(model, [image[:32, :48] for image in crops(data, 5)])


def assert_independent(model, given):
    """The answers to images are the same alone, together, and in another order."""
    alone = [next(predict(model, [image])) for image in given]
    for together in (predict(model, given, 5), predict(model, given[::-1], 2)):
        for a, b in zip(alone, sorted(together, key=lambda prediction: place(prediction, given))):
            np.testing.assert_array_equal(a.image, b.image)
            ours, theirs = tensors(a.sample), tensors(b.sample)
            for name, value in ours.items():
                torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


def place(prediction, given):
    return next(i for i, image in enumerate(given) if np.array_equal(image, prediction.image))


def test_a_model_in_training_predicts_as_afterwards(trained, data):
    """And goes on training as it was."""
    model = get_model(*trained('mmseg'), 'cpu', deploy=False)
    given = crops(data, 2)
    expected = [prediction.sample.seg_logits.data for prediction in predict(model, given, 2)]
    model.train()
    model.auxiliary_head.eval()
    before = {name: module.training for name, module in model.named_modules()}
    found = [prediction.sample.seg_logits.data for prediction in predict(model, given, 2)]
    assert before == {name: module.training for name, module in model.named_modules()}
    for a, b in zip(expected, found):
        assert torch.equal(a, b)
