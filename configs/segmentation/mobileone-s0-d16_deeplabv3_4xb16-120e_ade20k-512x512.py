# Not trained yet; paper: 33.1 mIoU.
_base_ = [
    '../_base_/models/deeplabv3.py', '../_base_/datasets/ade20k_512.py',
    '../_base_/schedules/adamw_120e.py', '../_base_/runtime_seg.py'
]

model = dict(decode_head=dict(num_classes=150), auxiliary_head=dict(num_classes=150))
auto_scale_lr = dict(enable=False, base_batch_size=64)
