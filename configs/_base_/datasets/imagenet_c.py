# ImageNet-C (https://arxiv.org/abs/1903.12261): the 50,000 images of ImageNet's validation under
# each of 15 corruptions of 5 severities. https://github.com/hendrycks/robustness has the
# archives: unpacked, CORRUPTION/SEVERITY/CLASS/*.JPEG in data/imagenet-c, classes by their
# WordNet ids. `mmone robustness … --sets imagenet_c` fills the prefix in.
_base_ = 'imagenet.py'

test_dataloader = dict(
    dataset=dict(
        data_root='data/imagenet-c',
        split='',
        data_prefix='{corruption}/{severity}',
        # The images are crops of 224 × 224.
        pipeline=[_base_.test_pipeline[0], *_base_.test_pipeline[2:]]))
