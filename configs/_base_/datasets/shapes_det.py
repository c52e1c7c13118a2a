# Made by mmone shapes. For another place, set data_root of the three loaders' datasets.
dataset_type = 'CocoDataset'
data_root = 'data/shapes'
input_size = (160, 160)
common = dict(
    type=dataset_type,
    data_root=data_root,
    data_prefix=dict(img='JPEGImages/'),
    metainfo=dict(
        classes=('circle', 'cross', 'square', 'star', 'triangle'),
        palette=[(230, 75, 60), (180, 90, 210), (60, 130, 230), (245, 190, 40), (60, 190, 90)]))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='MinIoURandomCrop', min_ious=(0.5, 0.7, 0.9), min_crop_size=0.6),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    # One box without an area makes the loss of SSD infinite.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        # CocoMetric takes the annotations from the samples where it has no ann_file.
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'))
]

train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=False,  # see EpochSeedHook
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(ann_file='coco/train.json', pipeline=train_pipeline, **common))
val_dataloader = dict(
    batch_size=50,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file='coco/val.json', test_mode=True, pipeline=test_pipeline, **common))
test_dataloader = val_dataloader

val_evaluator = dict(type='CocoMetric', metric='bbox')
test_evaluator = val_evaluator
