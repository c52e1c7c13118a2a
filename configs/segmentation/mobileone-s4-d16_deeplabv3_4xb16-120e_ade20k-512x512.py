# Not trained yet; paper: 38.2 mIoU, without squeeze-excite.
_base_ = 'mobileone-s0-d16_deeplabv3_4xb16-120e_ade20k-512x512.py'

model = _base_.variants.s4_no_se
