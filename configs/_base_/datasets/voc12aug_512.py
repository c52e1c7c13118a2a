# The data set of mmseg's pascal_voc12_aug.
_base_ = 'seg_512.py'

dataset_type = 'PascalVOCDataset'
data_root = 'data/VOCdevkit/VOC2012'
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), *_base_.augmentation]
test_pipeline = [
    dict(type='LoadImageFromFile'), _base_.resize, dict(type='LoadAnnotations'), dict(type='PackSegInputs')
]
dataset_train = dict(
    type=dataset_type,
    data_root=data_root,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    ann_file='ImageSets/Segmentation/train.txt',
    pipeline=train_pipeline)
dataset_aug = dict(
    dataset_train,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
    ann_file='ImageSets/Segmentation/aug.txt')
train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[dataset_train, dataset_aug]))
val_dataloader = dict(
    dataset=dict(dataset_train, ann_file='ImageSets/Segmentation/val.txt', pipeline=test_pipeline))
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
