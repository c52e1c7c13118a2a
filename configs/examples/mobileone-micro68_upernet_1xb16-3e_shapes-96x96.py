# UPerNet on all four stages, with mmseg's auxiliary head on stage3.
_base_ = ['../_base_/examples/segmentation.py', 'mmseg::_base_/models/upernet_r50.py']

norm_cfg = dict(type='BN')  # mmseg's is SyncBN, which does not train on a CPU
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3), **_base_.backbone),
    decode_head=dict(
        in_channels=_base_.outputs,
        # They divide the 4x4 pixels of the last map of a 128x128 image: ONNX has no averages of unequal windows.
        pool_scales=(1, 2, 4),
        channels=64,
        num_classes=6,
        norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=_base_.outputs[2], channels=64, num_classes=6, norm_cfg=norm_cfg))
