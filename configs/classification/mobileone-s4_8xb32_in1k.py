# 79.69 top-1, 94.46 top-5 on ImageNet-1k with mmpretrain's checkpoint, not trained here; paper: 79.4 top-1.
_base_ = 'mobileone-s2_8xb32_in1k.py'

model = _base_.variants.s4
