# The average of the weights is evaluated and shipped, and the deployed form of each kept
# checkpoint is written beside it.
custom_hooks = [
    dict(type='EMAHook', momentum=0.0005, update_buffers=True, priority='ABOVE_NORMAL'),
    dict(type='mmone.EpochSeedHook'),
    dict(type='mmone.DeployHook')
]
