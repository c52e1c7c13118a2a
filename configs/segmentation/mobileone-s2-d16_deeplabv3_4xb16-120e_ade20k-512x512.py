# Not trained yet; paper: 35.7 mIoU.
_base_ = 'mobileone-s0-d16_deeplabv3_4xb16-120e_ade20k-512x512.py'

model = _base_.variants.s2
