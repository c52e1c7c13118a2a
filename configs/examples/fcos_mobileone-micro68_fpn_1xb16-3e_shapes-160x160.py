# FCOS on stage2 to stage4: no anchors, a centerness beside scores and boxes.
_base_ = '../_base_/examples/detection.py'

model = dict(
    type='FCOS',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(out_indices=(1, 2, 3), **_base_.backbone),
    neck=dict(type='FPN', in_channels=_base_.outputs[1:], out_channels=64, num_outs=3),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        strides=[8, 16, 32],
        # How long the objects of each level are, in pixels.
        regress_ranges=((-1, 48), (48, 96), (96, 1e8)),
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
