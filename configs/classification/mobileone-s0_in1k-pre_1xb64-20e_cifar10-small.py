# 75.40 top-1, 98.20 top-5 on CIFAR-10 small in 7 min on one AMD EPYC thread, from fused ImageNet weights, expanded.
_base_ = 'mobileone-s0_1xb64-20e_cifar10-small.py'

# From published weights with their branches given back:
#   mmone convert data/mobileone_s0.pth.tar data/mobileone_s0_expanded.pth --drop-head \
#       --expand configs/classification/mobileone-s0_1xb64-20e_cifar10-small.py --batches 46
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained', checkpoint='data/mobileone_s0_expanded.pth', prefix='backbone.')))
