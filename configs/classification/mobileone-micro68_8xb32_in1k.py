# Not trained yet; our shape with the counts of the paper's μ0; the paper has no figure for it.
_base_ = 'mobileone-s0_8xb32_in1k.py'

model = _base_.variants.micro68
