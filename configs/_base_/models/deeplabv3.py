_base_ = '../archs.py'

norm_cfg = dict(type='BN')

# What differs in the variants' models.
variants = {
    arch: dict(
        backbone=dict(arch=arch),
        auxiliary_head=dict(in_channels=channels[0]),
        decode_head=dict(in_channels=channels[1]))
    for arch, channels in _base_.channels.items()
}
output_stride_16 = dict(
    backbone=dict(strides=(2, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(dilations=(1, 6, 12, 18)))
output_stride_8 = dict(
    backbone=dict(strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(dilations=(1, 12, 24, 36)))
# The usual dilations reach beyond the maps of images of less than 200 pixels.
small_images = dict(
    backbone=output_stride_8['backbone'], decode_head=dict(dilations=(1, 3, 6, 9)))

# To start from a classifier, give its checkpoint as load_from; or the backbone alone, with
# model.backbone.init_cfg=dict(type='Pretrained', checkpoint=…, prefix='backbone.').
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512)),
    backbone=dict(
        type='mmone.MobileOne',
        out_indices=(2, 3),
        **variants['s0']['backbone'],
        **output_stride_16['backbone']),
    decode_head=dict(
        type='ASPPHead',
        in_index=1,
        channels=512,
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        **variants['s0']['decode_head'],
        **output_stride_16['decode_head']),
    auxiliary_head=dict(
        type='FCNHead',
        in_index=0,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
        **variants['s0']['auxiliary_head']),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
