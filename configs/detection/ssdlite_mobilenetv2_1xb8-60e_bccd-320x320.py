# 49.5 mAP, 80.1 mAP@50, 81.0 VOC mAP on BCCD test in 29 min on one AMD EPYC thread, from scratch.
_base_ = 'ssdlite_mobileone-s0_1xb8-60e_bccd-320x320.py'

# mmdet's own backbone of its SSDLite, to compare with; it has nothing to deploy.
channels = (96, 1280, 512, 256, 256, 128)
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(4, 7),
        norm_cfg=_base_.norm_cfg,
        init_cfg=dict(type='TruncNormal', layer='Conv2d', std=0.03)),
    neck=dict(in_channels=channels[:2], out_channels=channels),
    bbox_head=dict(in_channels=channels))
custom_hooks = _base_.custom_hooks[:-1]
