# What segmentors of 512x512 are trained and tested with, for any data set.
crop_size = (512, 512)
augmentation = [
    # Short side between 256 and 768.
    dict(type='RandomResize', scale=[(2048, 256), (2048, 768)], keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]
resize = dict(type='Resize', scale=(2048, 512), keep_ratio=True)
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[dict(type='Resize', scale_factor=factor, keep_ratio=True)
                     for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
                    [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
                    [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=False,  # see EpochSeedHook
    drop_last=True,  # the image pooling's BatchNorm cannot train on one image
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
