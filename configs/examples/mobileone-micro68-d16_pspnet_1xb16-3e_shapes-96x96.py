# PSPNet at output stride 16, with mmseg's auxiliary head on stage3.
_base_ = ['../_base_/examples/segmentation.py', 'mmseg::_base_/models/pspnet_r50-d8.py']

norm_cfg = dict(type='BN')  # mmseg's is SyncBN, which does not train on a CPU
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(
        _delete_=True, out_indices=(2, 3), strides=(2, 2, 2, 1), dilations=(1, 1, 1, 2), **_base_.backbone),
    decode_head=dict(
        in_channels=_base_.outputs[3],
        in_index=1,
        # They divide the 8x8 pixels of the last map of a 128x128 image: ONNX has no averages of unequal windows.
        pool_scales=(1, 2, 4, 8),
        channels=64,
        num_classes=6,
        norm_cfg=norm_cfg),
    auxiliary_head=dict(
        in_channels=_base_.outputs[2], in_index=0, channels=64, num_classes=6, norm_cfg=norm_cfg))
