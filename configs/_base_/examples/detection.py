# What the example detectors share: data, schedule, hooks, backbone.
_base_ = [
    'backbone.py', '../datasets/shapes_det.py', '../schedules/adamw_3e.py', '../runtime_det.py'
]

data_preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32)
optim_wrapper = dict(optimizer=dict(lr=0.002), clip_grad=dict(max_norm=10))

# Some hundred iterations leave no time for a slow average, nor for one of every iteration.
custom_hooks = [
    dict(_base_.custom_hooks[0], momentum=0.1, interval=4),
    *_base_.custom_hooks[1:]
]
