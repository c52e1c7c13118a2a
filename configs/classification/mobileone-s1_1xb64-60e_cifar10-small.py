_base_ = 'mobileone-s0_1xb64-60e_cifar10-small.py'

model = _base_.variants.s1
