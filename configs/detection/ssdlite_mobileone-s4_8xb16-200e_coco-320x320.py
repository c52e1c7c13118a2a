# Not trained yet; paper: 29.4 mAP.
_base_ = 'ssdlite_mobileone-s0_8xb16-200e_coco-320x320.py'

model = _base_.variants.s4
