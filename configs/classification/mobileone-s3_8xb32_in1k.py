_base_ = 'mobileone-s2_8xb32_in1k.py'

model = _base_.variants.s3
