# YOLOX on stage2 to stage4: PAFPN, a head without anchors, SimOTA.
_base_ = '../_base_/examples/detection.py'

norm_cfg = dict(type='BN', momentum=0.03, eps=0.001)
act_cfg = dict(type='Swish')
sums = dict(reduction='sum', loss_weight=1.0)
model = dict(
    type='YOLOX',
    # mmdet's YOLOX takes images as they are; this backbone's weights are of normalized ones.
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(out_indices=(1, 2, 3), **_base_.backbone),
    neck=dict(
        type='YOLOXPAFPN',
        in_channels=_base_.outputs[1:],
        out_channels=64,
        num_csp_blocks=1,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg),
    bbox_head=dict(
        type='YOLOXHead',
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        strides=(8, 16, 32),
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, **sums),
        loss_bbox=dict(type='IoULoss', mode='square', eps=1e-16, reduction='sum', loss_weight=5.0),
        loss_obj=dict(type='CrossEntropyLoss', use_sigmoid=True, **sums),
        loss_l1=dict(type='L1Loss', **sums)),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)))
