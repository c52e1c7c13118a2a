# What the example segmentors share: data, schedule, hooks, backbone.
_base_ = [
    'backbone.py', '../datasets/shapes_seg.py', '../schedules/adamw_3e.py', '../runtime_seg.py'
]

# Some hundred iterations leave no time for a slow average, nor for one of every iteration.
custom_hooks = [
    dict(_base_.custom_hooks[0], momentum=0.1, interval=4),
    *_base_.custom_hooks[1:]
]
