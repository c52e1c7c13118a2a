_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256_coslr_coswd_300e.py'

optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))

# To a tenth of each group's own decay. The base's eta_min=1e-5 would anneal the groups that have
# none up to 1e-5.
param_scheduler = [
    *_base_.param_scheduler[:2],
    dict(
        type='CosineAnnealingParamScheduler',
        param_name='weight_decay',
        eta_min_ratio=0.1,
        by_epoch=True,
        begin=0,
        end=300)
]
