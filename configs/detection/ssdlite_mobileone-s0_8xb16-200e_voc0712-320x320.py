# Not trained yet; the paper has no figure for it.
_base_ = [
    '../_base_/models/ssdlite.py', '../_base_/datasets/voc0712_320.py',
    '../_base_/schedules/adamw_200e.py', '../_base_/runtime_det.py'
]

model = dict(bbox_head=dict(num_classes=20))
auto_scale_lr = dict(enable=False, base_batch_size=128)
