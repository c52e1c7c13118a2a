# RTMDet on stage2 to stage4: CSPNeXt's PAFPN, a head with separate norms, soft labels.
_base_ = '../_base_/examples/detection.py'

norm_cfg = dict(type='BN')  # mmdet's is SyncBN, which does not train on a CPU
act_cfg = dict(type='SiLU', inplace=True)
model = dict(
    type='RTMDet',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(out_indices=(1, 2, 3), **_base_.backbone),
    neck=dict(
        type='CSPNeXtPAFPN',
        in_channels=_base_.outputs[1:],
        out_channels=64,
        num_csp_blocks=1,
        expand_ratio=0.5,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg),
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=False,
        share_conv=True,
        pred_kernel_size=1,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65), max_per_img=100))

# The levels of the head share their convolutions, which the optimizer is to be given once.
optim_wrapper = dict(paramwise_cfg=dict(bypass_duplicate=True))
