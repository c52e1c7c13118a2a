# A classifier by the angle between features and classes, with ArcFace's margin.
_base_ = '../_base_/examples/classification.py'

model = dict(
    type='ImageClassifier',
    backbone=_base_.backbone,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='ArcFaceClsHead',
        num_classes=5,
        in_channels=_base_.outputs[3],
        scale=16.0,
        margins=0.2,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        init_cfg=None))
