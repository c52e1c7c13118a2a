"""Heads that no graph stands for are named before anything is computed; those that one does are let through."""
import pytest

from mmone.config import build_model
from mmone.errors import InputError
from mmone.export import export, export_model
from mmone.export.heads import check_supported
from mmone.runtime import Runtime
from tests.models import with_small_backbone

from .conftest import NAMES, assert_same, photographs, small

pytest.importorskip('onnx')


def built(cfg):
    model = build_model(cfg)
    model.cfg, model.dataset_meta = cfg, {}
    return model


def classifier(**head):
    cfg = small(NAMES['classification'])
    cfg.model.head = dict(dict(in_channels=64), **head)
    return cfg


def segmentor(**model):
    cfg = small(NAMES['segmentation'])
    for key, value in dict(auxiliary_head=None, **model).items():  # update() would merge
        cfg.model[key] = value
    return cfg


HEAD = dict(type='FCNHead', in_channels=64, in_index=1, channels=16, num_classes=3, norm_cfg=dict(type='BN'))
REFUSED = [
    ('mmdet::yolox/yolox_s_8xb8-300e_coco.py', 'YOLOXHead of YOLOX'),
    ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'StandardRoIHead of FasterRCNN'),
    ('mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', 'CascadeRoIHead of CascadeRCNN'),
    ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'StandardRoIHead of MaskRCNN'),
    ('mmdet::detr/detr_r50_8xb2-150e_coco.py', 'DETRHead of DETR'),
    ('mmdet::atss/atss_r50_fpn_1x_coco.py', 'ATSSHead of ATSS'),
    ('mmdet::paa/paa_r50_fpn_1x_coco.py', 'PAAHead of PAA'),
    ('mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', 'FCOSHead of FCOS'),
    ('mmdet::gfl/gfl_r50_fpn_1x_coco.py', 'GFLHead of GFL'),
    ('mmdet::fsaf/fsaf_r50_fpn_1x_coco.py', 'FSAFHead of FSAF with the box coder TBLRBBoxCoder'),
    ('mmdet::yolact/yolact_r50_1xb8-55e_coco.py', 'YOLACTProtonet of YOLACT'),
    ('mmdet::solo/solo_r50_fpn_1x_coco.py', 'SOLOHead of SOLO'),
    ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'RTMDetSepBNHead of RTMDet'),
    (classifier(type='MultiTaskHead', task_heads=dict(a=dict(type='LinearClsHead', num_classes=3))), 'MultiTaskHead'),
    (classifier(type='ConformerHead', num_classes=3, in_channels=[64, 64]), 'ConformerHead'),
    (segmentor(type='CascadeEncoderDecoder', num_stages=2, decode_head=[
        HEAD, dict(HEAD, type='OCRHead', ocr_channels=8)]), 'OCRHead of CascadeEncoderDecoder'),
    (segmentor(type='DepthEstimator', decode_head=HEAD), 'FCNHead of DepthEstimator'),
]


@pytest.mark.parametrize('name, words', REFUSED, ids=lambda given: given if ' ' in str(given) else '')
def test_the_head_is_named_before_anything_is_computed(name, words, tmp_path, monkeypatch):
    model = built(with_small_backbone(name) if isinstance(name, str) else name)
    monkeypatch.setattr(export, 'deployed_copy', lambda model: pytest.fail('computed'))
    with pytest.raises(InputError, match=f'the head .*{words}.*cannot be exported: expected a ') as error:
        export_model(model, tmp_path / 'model.onnx')
    assert '\n' not in str(error.value) and not list(tmp_path.iterdir())


def test_models_without_heads(tmp_path):
    cfg = classifier(type='LinearClsHead', num_classes=3)
    cfg.model.head = None
    with pytest.raises(InputError, match='ImageClassifier has no head that can be exported'):
        check_supported(built(cfg))


@pytest.mark.parametrize('name', [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'mmdet::free_anchor/freeanchor_r50_fpn_1x_coco.py',
    'mmdet::nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py', 'mmdet::ghm/retinanet_r50_fpn_ghm-1x_coco.py'])
def test_heads_that_predict_as_anchor_heads_do(name):
    check_supported(built(with_small_backbone(name)))


@pytest.mark.parametrize('head', [dict(type='EncHead', num_codes=4, in_channels=[32, 64], in_index=[0, 1]),
                                  dict(type='DAHead', pam_channels=8)], ids=lambda head: head['type'])
def test_segmentors_that_predict_by_the_first_of_their_outputs(build, tmp_path, head):
    model = build(segmentor(decode_head={**HEAD, **head}))
    export_model(model, tmp_path / 'model.onnx', shape=(64, 64))
    assert_same(model, Runtime(tmp_path / 'model.onnx'), photographs((64, 64), 2))
