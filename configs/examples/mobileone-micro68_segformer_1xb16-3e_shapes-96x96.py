# SegFormer's head of 1x1 convolutions on all four stages.
_base_ = ['../_base_/examples/segmentation.py', 'mmseg::_base_/models/segformer_mit-b0.py']

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3), **_base_.backbone),
    # mmseg's norms are SyncBN, which does not train on a CPU.
    decode_head=dict(in_channels=_base_.outputs, channels=64, num_classes=6, norm_cfg=dict(type='BN')))
