"""Which models an exported file can stand for, told before anything is computed."""
from collections.abc import Iterator

from mmengine.model import BaseModel

from mmone.config import type_name
from mmone.errors import InputError

# A graph stands for these methods of the libraries' models and heads, each as these classes define it; what another
# class does in its own, the graph would not do. Seen in mmpretrain 1.0 to 1.2, mmdet 3.0 to 3.3, mmseg 1.0 to 1.2.
_MODEL_METHODS: dict[str, dict] = {
    'mmpretrain': dict(predict=('ImageClassifier', )),
    'mmdet': dict(predict=('SingleStageDetector', ), _forward=('SingleStageDetector', )),
    'mmseg': dict(predict=('EncoderDecoder', ), _forward=('EncoderDecoder', ), encode_decode=('EncoderDecoder', ),
                  postprocess_result=('BaseSegmentor', )),
}
_HEAD_METHODS: dict[str, dict] = {
    'mmpretrain': dict(predict=('ClsHead', 'MultiLabelClsHead'), _get_predictions=('ClsHead', 'MultiLabelClsHead')),
    'mmdet': dict(predict=('BaseDenseHead', ), predict_by_feat=('BaseDenseHead', ),
                  _predict_by_feat_single=('BaseDenseHead', ), _bbox_post_process=('BaseDenseHead', )),
    # These three predict by the first of their outputs.
    'mmseg': dict(predict=('BaseDecodeHead', 'DAHead', 'EncHead'), predict_by_feat=('BaseDecodeHead', )),
}
# mmdet's heads whose outputs are scores and boxes, and not a centerness or an IoU that the scores are multiplied by.
_TWO_OUTPUTS = ('AnchorHead', 'SSDHead', 'RetinaSepBNHead')
_EXPECTED = {
    'mmpretrain': 'a classifier whose scores are the softmax or the sigmoid of its logits',
    'mmdet': 'a detector of one stage with anchors, DeltaXYWH boxes and plain NMS',
    'mmseg': 'a segmentor of one head whose output is a map of logits',
}
# A model's heads by their attributes: of several, the first is the one that has more to it than a graph.
_HEADS = {
    'mmpretrain': ('head', ),
    'mmdet': ('mask_head', 'roi_head', 'panoptic_head', 'bbox_head', 'rpn_head'),
    'mmseg': ('decode_head', ),
}


def is_multi_label(head: object) -> bool:
    """Whether a classifier's head gives an image any number of classes, as mmpretrain's MultiLabelClsHead does."""
    return hasattr(head, 'thr') and hasattr(head, 'topk')


def check_supported(model: BaseModel) -> None:
    """Raise InputError, which names the head, if no graph stands for what a model predicts.

    Args:
        model (BaseModel): From :func:`mmone.apis.get_model`.
    """
    scope = model.cfg.get('default_scope')
    if scope not in _HEADS:
        raise InputError(f'a model of {scope} cannot be exported: expected one of {", ".join(_HEADS)}')
    head = _head(model, scope)
    if scope == 'mmseg' and model.test_cfg.get('mode', 'whole') != 'whole':
        raise InputError(f"test_cfg.mode={model.test_cfg.mode!r} cannot be exported, it computes an image in pieces: "
                         "set model.test_cfg.mode='whole'")
    for obstacle in _obstacles(model, head, scope):
        raise InputError(f'{obstacle} cannot be exported: expected {_EXPECTED[scope]}')


def _head(model: BaseModel, scope: str):
    heads = [getattr(model, name) for name in _HEADS[scope] if getattr(model, name, None) is not None]
    if not heads:
        raise InputError(f'{type(model).__name__} has no head that can be exported: expected {_EXPECTED[scope]}')
    return heads[0]


def _obstacles(model: BaseModel, head, scope: str) -> Iterator[str]:
    """What a graph does not stand for, in words."""
    kind = type(head[-1] if hasattr(head, '__getitem__') else head).__name__  # of a cascade the last
    described = f'the head {kind} of {type(model).__name__}'
    if any(_owner(model, name) not in owners for name, owners in _MODEL_METHODS[scope].items()):
        yield described
    if any(_owner(head, name) not in owners for name, owners in _HEAD_METHODS[scope].items()):
        yield described
    if scope == 'mmdet':
        yield from _detector_obstacles(head, described)


def _owner(thing: object, method: str) -> str:
    """The class that defines a method of an object; ``''`` if it has none."""
    return next((kind.__name__ for kind in type(thing).__mro__ if method in vars(kind)), '')


def _detector_obstacles(head, described: str) -> Iterator[str]:
    """What :class:`mmone.export.graph.Detection` does not compute of a head, its box coder and its NMS."""
    forward = next(kind for kind in type(head).__mro__ if 'forward' in vars(kind))
    if forward.__module__.startswith('mmdet.') and forward.__name__ not in _TWO_OUTPUTS:
        yield described
    coder, cfg = getattr(head, 'bbox_coder', None), getattr(head, 'test_cfg', None) or {}
    nms = cfg.get('nms') or {}
    obstacles = [
        (not hasattr(head, 'prior_generator'), 'no anchors'),
        (type(coder).__name__ != 'DeltaXYWHBBoxCoder', f'the box coder {type(coder).__name__}'),
        (getattr(coder, 'add_ctr_clamp', False), 'add_ctr_clamp in its box coder'),
        (not getattr(coder, 'clip_border', True), 'clip_border=False in its box coder'),
        (getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False), 'scores of its loss\'s own'),
        (type_name(nms) not in ('nms', ''), f'test_cfg.nms of type {type_name(nms)!r}'),
        ('nms' not in cfg, 'no nms in its test_cfg'),
    ]
    yield from (f'{described} with {obstacle}' for found, obstacle in obstacles if found)
