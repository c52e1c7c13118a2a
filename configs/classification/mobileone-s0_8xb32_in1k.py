# 71.34 top-1, 89.87 top-5 on ImageNet-1k with mmpretrain's checkpoint, not trained here; paper: 71.4 top-1.
_base_ = [
    '../_base_/models/classifier.py', '../_base_/datasets/imagenet.py',
    '../_base_/schedules/imagenet_300e.py', '../_base_/runtime_cls.py'
]
