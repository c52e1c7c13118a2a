_base_ = 'ssdlite_mobileone-s0_1xb8-20e_bccd-320x320.py'

# From published weights, which have one convolution for each block: a plain network to fine-tune.
model = dict(
    backbone=dict(
        deploy=True,
        init_cfg=dict(
            type='Pretrained', checkpoint='data/mobileone_s0_deploy.pth', prefix='backbone.')))
