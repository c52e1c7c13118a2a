"""A detector's boxes in numpy: mmdet's own answer."""
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from mmone.errors import InputError
from mmone.export.compare import compare
from mmone.runtime.boxes import Decoder, sigmoid, softmax, suppress
from mmone.runtime.guard import check_metadata

from .test_model import META

SHAPE, SIZES, CLASSES = (96, 128), ((12, 16), (6, 8), (3, 4)), 5
PLAIN = dict(nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=40)
CHOICES = {
    'plain': {},
    'sigmoid': dict(sigmoid=True),
    'all at once': dict(cfg=dict(nms_pre=-1, max_per_img=1000)),
    'class agnostic': dict(cfg=dict(nms=dict(type='nms', iou_threshold=0.3, class_agnostic=True))),
    'large boxes': dict(cfg=dict(min_bbox_size=24)),
    'shifted': dict(means=(0.1, -0.1, 0.2, -0.2), stds=(0.1, 0.2, 0.3, 0.4)),
    'extreme deltas': dict(scale=20),
}


def levels(generator):
    return [dict(size=size, stride=stride, anchors=anchors.tolist())
            for size, stride, anchors in zip(SIZES, generator.strides, generator.base_anchors)]


def made(sigmoid=False, cfg=None, means=(0., 0, 0, 0), stds=(0.1, 0.1, 0.2, 0.2), scale=2):
    """A head of mmdet's with random outputs: its answer, a decoder, and what that is given, for two images."""
    heads = pytest.importorskip('mmdet.models.dense_heads')
    cfg = ConfigDict(PLAIN, **(cfg or {}))
    torch.manual_seed(0)
    head = heads.AnchorHead(
        CLASSES, 8, loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=sigmoid), test_cfg=cfg,
        anchor_generator=dict(type='AnchorGenerator', scales=[2, 3], ratios=[0.5, 1.0], strides=[8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=means, target_stds=stds))
    columns = CLASSES + (not sigmoid)
    scores = [torch.randn(2, 4 * columns, *size) * 2 for size in SIZES]
    deltas = [torch.randn(2, 4 * 4, *size) * scale for size in SIZES]
    found = head.predict_by_feat(scores, deltas, batch_img_metas=[dict(img_shape=SHAPE)] * 2, rescale=False)
    expected = [dict(boxes=np.column_stack([one.bboxes, one.scores])[None], labels=one.labels.numpy()[None])
                for one in found]
    how = dict(
        levels=levels(head.prior_generator), means=means, stds=stds, classes=CLASSES, sigmoid=sigmoid,
        nms_pre=cfg.nms_pre, min_size=cfg.min_bbox_size, score_thr=cfg.score_thr, iou_threshold=cfg.nms.iou_threshold,
        class_agnostic=cfg.nms.get('class_agnostic', False), max_per_img=cfg.max_per_img)
    rows = [torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, count) for level in part], 1).numpy()
            for part, count in ((scores, columns), (deltas, 4))]
    return expected, Decoder(how, SHAPE), list(zip(*rows))


@pytest.mark.parametrize('name', CHOICES)
def test_boxes_are_mmdets(name):
    expected, decoder, given = made(**CHOICES[name])
    answers = [{key: value[None] for key, value in decoder(*one).items()} for one in given]
    found = compare('detection', expected, answers)
    assert found.within and found.measures['unmatched'] == 0 and found.measures['box'] < 1e-3, found.text
    for ours, theirs in zip(answers, expected):
        count = theirs['boxes'].shape[1]
        assert (ours['labels'][0] >= 0).sum() == count > 10
        np.testing.assert_allclose(ours['boxes'][0, :count, 4], theirs['boxes'][0, :, 4], atol=1e-5)
        assert not ours['boxes'][0, count:].any() and (ours['labels'][0, count:] == -1).all()
        assert len(ours['labels'][0]) == decoder.places


def test_anchors_are_mmdets():
    mmdet = pytest.importorskip('mmdet.models.task_modules')
    for generator in (
            mmdet.SSDAnchorGenerator(strides=[8, 16, 30], ratios=[[2], [2, 3], [2]], min_sizes=[10, 30, 60],
                                     max_sizes=[30, 60, 90], scale_major=False),
            mmdet.AnchorGenerator(strides=[(8, 4), (16, 8), (32, 16)], scales=[1, 2], ratios=[1.0])):
        decoder = Decoder(dict(levels=levels(generator), means=[0] * 4, stds=[1] * 4, classes=1, nms_pre=-1,
                               max_per_img=1), SHAPE)
        anchors = torch.cat(generator.grid_priors(SIZES, device='cpu')).numpy()
        np.testing.assert_array_equal(decoder.centres, (anchors[:, :2] + anchors[:, 2:]) * np.float32(0.5))
        np.testing.assert_array_equal(decoder.steps, anchors[:, 2:] - anchors[:, :2])


def test_nothing_above_the_threshold():
    _, decoder, given = made()
    logits = np.zeros_like(given[0][0])
    logits[:, -1] = 50  # the background
    answer = decoder(logits, given[0][1])
    assert answer['boxes'].shape == (40, 5) and not answer['boxes'].any() and (answer['labels'] == -1).all()


def test_of_equals_the_first_and_of_boxes_without_area_all():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5], [5, 5, 5, 5]])
    scores, labels = np.float32([0.5, 0.9, 0.9, 0.2, 0.2]), np.array([0, 0, 0, 1, 1])
    assert suppress(boxes, scores, labels, 0.5, 9).tolist() == [1, 3, 4]
    assert suppress(boxes, scores, np.arange(5), 0.5, 9).tolist() == [1, 2, 0, 3, 4]
    assert suppress(boxes, scores, np.arange(5), 0.5, 2).tolist() == [1, 2]
    assert suppress(boxes[:0], scores[:0], labels[:0], 0.5, 9).tolist() == []


def test_scores_of_any_logits():
    logits = np.float32([[-2000, 0, 2000], [1, 2, 3]])
    with np.errstate(all='raise', under='ignore'):
        np.testing.assert_allclose(softmax(logits), torch.tensor(logits).softmax(1).numpy(), atol=1e-7)
        np.testing.assert_allclose(sigmoid(logits), torch.tensor(logits).sigmoid().numpy(), atol=1e-7)


@pytest.mark.parametrize('change', [
    dict(levels=[]), dict(levels=[dict(size=[4096, 4096], stride=[8, 8], anchors=[[0, 0, 1, 1]])]),
    dict(levels=[dict(size=[4, 4], stride=[8, 8], anchors=[[0, 0, 1]])]), dict(means=[0, 0]), dict(classes=0),
    dict(max_per_img=-1), dict(sigmoid=1), dict(score_thr='0')])
def test_metadata_that_no_export_writes(change, tmp_path):
    how = dict(levels=[dict(size=[4, 4], stride=[8, 8], anchors=[[0, 0, 1, 1]])], means=[0] * 4, stds=[1] * 4,
               classes=1, sigmoid=False, nms_pre=100, min_size=0, score_thr=0.5, iou_threshold=0.5,
               class_agnostic=False, max_per_img=10)
    check_metadata(dict(META, boxes=how), tmp_path)
    with pytest.raises(InputError, match=r'metadata that no export writes \(boxes\)'):
        check_metadata(dict(META, boxes=how | change), tmp_path)
