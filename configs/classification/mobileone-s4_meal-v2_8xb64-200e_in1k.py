# Not trained yet; paper: 81.4 top-1.
_base_ = 'mobileone-s0_meal-v2_8xb64-200e_in1k.py'

model = _base_.variants.s4
load_from = 'https://download.openmmlab.com/mmclassification/v0/mobileone/mobileone-s4_8xb32_in1k_20221110-28d888cb.pth'
