# Not trained yet; the paper has no figure for it.
_base_ = 'ssdlite_mobileone-s0_8xb16-200e_voc0712-320x320.py'

model = _base_.variants.s1
