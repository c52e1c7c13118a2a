# LR-ASPP at output stride 8 on the stem, stage1 and stage3.
_base_ = ['../_base_/examples/segmentation.py', 'mmseg::_base_/models/lraspp_m-v3-d8.py']

# mmseg's head averages windows of 49x49 of the last map: at output stride 8 images of at least 392x392. The shapes are
# padded to that: enlarged, they would be three times as large as what the classifier knows.
size = (400, 400)
model = dict(
    data_preprocessor=dict(size=size, test_cfg=dict(size=size)),
    backbone=dict(
        _delete_=True, out_indices=('stem', 0, 2), strides=(2, 2, 1, 1), dilations=(1, 1, 2, 2), **_base_.backbone),
    # mmseg's norms are SyncBN, which does not train on a CPU.
    decode_head=dict(
        # The stem of a small variant is as wide as stage1; of S1 to S4 it has 64 channels.
        in_channels=(_base_.outputs[0], _base_.outputs[0], _base_.outputs[2]),
        channels=64,
        num_classes=6,
        norm_cfg=dict(type='BN')))

train_pipeline = [transform for transform in _base_.train_pipeline if transform.type != 'RandomCrop']
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=10)
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = [_base_.warmup_short, dict(_base_.cosine, end=1)]
