# What the example classifiers share: data, schedule, hooks, and a small backbone that starts as the demo's classifier.
_base_ = [
    '../archs.py', '../datasets/shapes_cls.py', '../schedules/adamw_3e.py', '../runtime_cls.py'
]

outputs = _base_.widths.micro68  # channels of stage1 to stage4
backbone = dict(
    type='mmone.MobileOne',
    arch='micro68',
    channels_last=True,  # faster on a CPU
    init_cfg=dict(
        type='Pretrained', checkpoint='work_dirs/demo/classification/last.pth', prefix='backbone.'))

# Some hundred iterations leave no time for a slow average, nor for one of every iteration.
custom_hooks = [
    dict(_base_.custom_hooks[0], momentum=0.1, interval=4),
    *_base_.custom_hooks[1:]
]
