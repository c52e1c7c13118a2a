# Not trained yet; paper: 72.5 top-1.
_base_ = [
    '../_base_/models/meal-v2.py', '../_base_/datasets/imagenet.py',
    '../_base_/schedules/meal-v2_200e.py', '../_base_/runtime_cls.py'
]

train_dataloader = dict(batch_size=64)
load_from = 'https://download.openmmlab.com/mmclassification/v0/mobileone/mobileone-s0_8xb32_in1k_20221110-0bc94952.pth'
