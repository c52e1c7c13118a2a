# 75.72 top-1, 92.54 top-5 on ImageNet-1k with mmpretrain's checkpoint, not trained here; paper: 75.9 top-1.
_base_ = 'mobileone-s0_8xb32_in1k.py'

model = _base_.variants.s1
