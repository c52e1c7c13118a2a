_base_ = '../archs.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmone.MobileOne', arch='s0'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=_base_.channels.s0[-1],
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)))

# What differs in the other variants' models.
variants = {
    arch: dict(backbone=dict(arch=arch), head=dict(in_channels=channels[-1]))
    for arch, channels in _base_.channels.items()
}
