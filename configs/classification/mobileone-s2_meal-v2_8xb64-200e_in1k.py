# Not trained yet; paper: 79.1 top-1.
_base_ = 'mobileone-s0_meal-v2_8xb64-200e_in1k.py'

model = _base_.variants.s2
load_from = 'https://download.openmmlab.com/mmclassification/v0/mobileone/mobileone-s2_8xb32_in1k_20221110-9c7ecb97.pth'
