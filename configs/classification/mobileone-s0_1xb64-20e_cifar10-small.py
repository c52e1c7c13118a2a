_base_ = 'mobileone-s0_1xb64-60e_cifar10-small.py'

# The schedule of the two that start from ImageNet's weights, to compare with: without norms a fused
# network takes no more than a fifth of the learning rate.
train_cfg = dict(max_epochs=20)
optim_wrapper = dict(optimizer=dict(lr=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0, begin=2, end=20, convert_to_iter_based=True)
]
