_base_ = ['mmseg::_base_/default_runtime.py', 'hooks.py']

# Not less than 2: the oldest checkpoint is deleted before the new one is written.
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', max_keep_ckpts=3, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
log_processor = dict(by_epoch=True)
# Where training is distributed on GPUs, and only there.
sync_bn = 'torch'
