# 80.3 mAP@50 on shapes in 220 s on two shared cores, from the demo's classifier.
_base_ = [
    '../_base_/models/ssdlite.py', '../_base_/datasets/shapes_det.py',
    '../_base_/schedules/adamw_5e.py', '../_base_/runtime_det.py'
]

# Shapes are 25 to 95 pixels long: four levels will do.
variant = _base_.variants.micro68
channels = (*variant.neck.in_channels, 256, 128)
model = dict(
    backbone=dict(
        channels_last=True,  # faster on a CPU
        **variant.backbone,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/demo/classification/last.pth',
            prefix='backbone.')),
    neck=dict(in_channels=variant.neck.in_channels, out_channels=channels, level_strides=(2, 2), level_paddings=(1, 1)),
    bbox_head=dict(
        num_classes=5,
        in_channels=channels,
        anchor_generator=dict(
            strides=[16, 32, 53, 80],
            ratios=[[2]] * 4,
            min_sizes=[24, 44, 66, 90],
            max_sizes=[44, 66, 90, 120])))

# Some hundred iterations leave no time for a slow average, nor for one of every iteration.
custom_hooks = [
    dict(_base_.custom_hooks[0], momentum=0.1, interval=4),
    *_base_.custom_hooks[1:]
]
