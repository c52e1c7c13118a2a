# Not trained yet; paper: 77.4 top-1.
_base_ = 'mobileone-s0_meal-v2_8xb64-200e_in1k.py'

model = _base_.variants.s1
load_from = 'https://download.openmmlab.com/mmclassification/v0/mobileone/mobileone-s1_8xb32_in1k_20221110-ceeef467.pth'
