_base_ = 'coco_320.py'

# Pascal-VOC layout. For another place, set data_root of the three data loaders' datasets.
dataset_type = 'XMLDataset'
data_root = 'data/BCCD'
common = dict(
    type=dataset_type,
    data_root=data_root,
    data_prefix=dict(sub_data_root=''),
    metainfo=dict(
        classes=('RBC', 'WBC', 'Platelets'),
        palette=[(220, 20, 60), (60, 130, 230), (245, 190, 40)]))

train_pipeline = [
    *_base_.train_pipeline[:2],
    # Cells are of about one size in all images: less zoom than for COCO.
    dict(type='Expand', mean=[123.675, 116.28, 103.53], to_rgb=True, ratio_range=(1, 1.5)),
    dict(type='MinIoURandomCrop', min_ious=(0.5, 0.7, 0.9), min_crop_size=0.6),
    *_base_.train_pipeline[4:]
]
test_pipeline = [
    *_base_.test_pipeline[:-1],
    dict(
        type='PackDetInputs',
        # CocoMetric takes the annotations from the samples where it has no ann_file.
        meta_keys=(*_base_.test_pipeline[-1].meta_keys, 'instances'))
]

train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    dataset=dict(
        _delete_=True, ann_file='ImageSets/Main/train.txt', pipeline=train_pipeline, **common))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        ann_file='ImageSets/Main/val.txt',
        test_mode=True,
        pipeline=test_pipeline,
        **common))
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        ann_file='ImageSets/Main/test.txt',
        test_mode=True,
        pipeline=test_pipeline,
        **common))

val_evaluator = [
    dict(type='CocoMetric', metric='bbox'),
    dict(type='VOCMetric', metric='mAP', eval_mode='area')
]
test_evaluator = val_evaluator
