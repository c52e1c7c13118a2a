# Not trained yet; the paper has no figure for it.
_base_ = 'mobileone-s0_1xb64-60e_cifar10-small.py'

model = _base_.variants.s1
