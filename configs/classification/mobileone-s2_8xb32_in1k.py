# 77.37 top-1, 93.34 top-5 on ImageNet-1k with mmpretrain's checkpoint, not trained here; paper: 77.4 top-1.
_base_ = [
    '../_base_/models/classifier.py', '../_base_/datasets/imagenet_progressive.py',
    '../_base_/schedules/imagenet_300e.py', '../_base_/runtime_cls.py'
]

model = _base_.variants.s2
custom_hooks = [_base_.switch_recipe, *_base_.custom_hooks]
