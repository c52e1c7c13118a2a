# Mask R-CNN on all four stages: mmdet's, with a narrower FPN and heads, and fewer proposals.
_base_ = ['../_base_/examples/detection.py', 'mmdet::_base_/models/mask-rcnn_r50_fpn.py']

# mmcv's own reads channels_last maps as contiguous ones (open-mmlab/mmcv#2203).
roi_layer = dict(use_torchvision=True)
model = dict(
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3), **_base_.backbone),
    neck=dict(in_channels=_base_.outputs, out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=roi_layer),
        bbox_head=dict(num_classes=5, in_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64, roi_layer=roi_layer),
        mask_head=dict(num_classes=5, num_convs=2, in_channels=64, conv_out_channels=64)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50)))

# As the other detectors', with masks.
train_pipeline = [
    dict(transform, with_mask=True) if transform.type == 'LoadAnnotations' else transform
    for transform in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
