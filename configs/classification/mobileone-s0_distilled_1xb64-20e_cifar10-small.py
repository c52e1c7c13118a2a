# 53.40 top-1, 95.30 top-5 on CIFAR-10 small on one AMD EPYC thread, from scratch, taught.
_base_ = 'mobileone-s0_1xb64-20e_cifar10-small.py'

# From scratch, taught by the network that was fine-tuned from ImageNet's weights: train that one first.
model = dict(
    type='mmone.DistilledClassifier',
    teachers=[dict(
        model='mobileone-s0-deploy_in1k-pre_1xb64-20e_cifar10-small',
        checkpoint='work_dirs/mobileone-s0-deploy_in1k-pre_1xb64-20e_cifar10-small/epoch_20.pth')],
    temperature=4.,
    hard_weight=1.)
