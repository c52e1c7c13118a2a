# 40.08 mIoU, 85.16 pixel accuracy on CamVid val in 19 min on one AMD EPYC thread, from scratch.
_base_ = 'mobileone-s0-d16_deeplabv3_1xb8-20e_camvid-360x480.py'

# mmseg's own backbone, to compare with; it has nothing to deploy.
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(4, 6),
        strides=(1, 2, 2, 2, 1, 1, 1),
        dilations=(1, 1, 1, 1, 1, 2, 2),
        norm_cfg=_base_.norm_cfg),
    decode_head=dict(in_channels=320),
    auxiliary_head=dict(in_channels=96))
custom_hooks = _base_.custom_hooks[:-1]
