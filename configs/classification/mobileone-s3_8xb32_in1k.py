# 78.06 top-1, 93.83 top-5 on ImageNet-1k with mmpretrain's checkpoint, not trained here; paper: 78.1 top-1.
_base_ = 'mobileone-s2_8xb32_in1k.py'

model = _base_.variants.s3
