# Not trained yet; the paper has no figure for it.
_base_ = 'mobileone-s0-d16_deeplabv3_1xb8-20e_camvid-360x480.py'

# From scratch, taught by the network that was fine-tuned from ImageNet's weights: train that one first.
model = dict(
    type='mmone.DistilledSegmentor',
    teachers=[dict(
        model='mobileone-s0-deploy-d16_deeplabv3_in1k-pre_1xb8-20e_camvid-360x480',
        checkpoint='work_dirs/mobileone-s0-deploy-d16_deeplabv3_in1k-pre_1xb8-20e_camvid-360x480/epoch_20.pth')])
