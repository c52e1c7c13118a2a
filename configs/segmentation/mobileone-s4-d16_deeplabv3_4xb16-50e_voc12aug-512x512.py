# Not trained yet; paper: 80.1 mIoU, without squeeze-excite.
_base_ = 'mobileone-s0-d16_deeplabv3_4xb16-50e_voc12aug-512x512.py'

model = _base_.variants.s4_no_se
