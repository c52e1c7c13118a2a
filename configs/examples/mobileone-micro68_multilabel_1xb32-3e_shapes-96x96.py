# A classifier of images that show several classes: a sigmoid for each, from Pascal VOC's layout.
_base_ = '../_base_/examples/classification.py'

model = dict(
    type='ImageClassifier',
    backbone=_base_.backbone,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='MultiLabelLinearClsHead',
        num_classes=5,
        in_channels=_base_.outputs[3],
        thr=0.5,
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True)))
data_preprocessor = dict(to_onehot=True)

# Each image's labels are the classes of the boxes in its XML file.
common = dict(
    type='VOC',
    data_root=_base_.data_root,
    metainfo=dict(classes=('circle', 'cross', 'square', 'star', 'triangle')))
train_dataloader = dict(dataset=dict(_delete_=True, split='train', pipeline=_base_.train_pipeline, **common))
val_dataloader = dict(dataset=dict(_delete_=True, split='val', pipeline=_base_.test_pipeline, **common))
test_dataloader = val_dataloader

val_evaluator = [
    dict(type='AveragePrecision'),
    dict(type='MultiLabelMetric', thr=0.5, average='macro')
]
test_evaluator = val_evaluator
