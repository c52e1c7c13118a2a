# The data set of mmseg's ade20k.
_base_ = 'seg_512.py'

dataset_type = 'ADE20KDataset'
data_root = 'data/ade/ADEChallengeData2016'
labels = dict(type='LoadAnnotations', reduce_zero_label=True)
train_pipeline = [dict(type='LoadImageFromFile'), labels, *_base_.augmentation]
test_pipeline = [dict(type='LoadImageFromFile'), _base_.resize, labels, dict(type='PackSegInputs')]
train_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline))
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
