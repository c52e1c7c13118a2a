# 39.3 mAP, 72.5 mAP@50, 73.7 VOC mAP on BCCD test in 7 min on one AMD EPYC thread, from fused ImageNet weights.
_base_ = 'ssdlite_mobileone-s0_1xb8-60e_bccd-320x320.py'

# From published weights, which have one convolution for each block: a plain network to fine-tune,
# in a third of the epochs.
model = dict(
    backbone=dict(
        deploy=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='data/mobileone_s0.pth.tar', prefix='backbone.')))
train_cfg = dict(max_epochs=20, val_interval=5)
param_scheduler = [dict(_base_.warmup, end=100), dict(_base_.cosine, end=20)]
