# RetinaNet on stage2 to stage4: mmdet's, with a narrower FPN and head.
_base_ = ['../_base_/examples/detection.py', 'mmdet::_base_/models/retinanet_r50_fpn.py']

model = dict(
    backbone=dict(_delete_=True, out_indices=(1, 2, 3), **_base_.backbone),
    neck=dict(in_channels=_base_.outputs[1:], out_channels=64, start_level=0, add_extra_convs=False, num_outs=3),
    bbox_head=dict(
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        # Shapes are 30 to 120 pixels long: the levels of strides 64 and 128 would have none.
        anchor_generator=dict(strides=[8, 16, 32])))
