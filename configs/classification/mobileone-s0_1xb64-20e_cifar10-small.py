# 53.30 top-1, 94.30 top-5 on CIFAR-10 small in 7 min on one AMD EPYC thread, from scratch.
_base_ = 'mobileone-s0_1xb64-60e_cifar10-small.py'

# The schedule of the two that start from ImageNet's weights, to compare with: one that a fused
# network, which has no norms, learns by too.
train_cfg = dict(max_epochs=20)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.0009, weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=2, end=20, convert_to_iter_based=True)
]

# A thousand iterations leave even less time for it.
custom_hooks = [dict(_base_.custom_hooks[0], momentum=0.02), *_base_.custom_hooks[1:]]
