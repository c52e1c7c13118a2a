# Not trained yet; paper: 73.7 mIoU.
_base_ = [
    '../_base_/models/deeplabv3.py', '../_base_/datasets/voc12aug_512.py',
    '../_base_/schedules/adamw_50e.py', '../_base_/runtime_seg.py'
]

auto_scale_lr = dict(enable=False, base_batch_size=64)
