# 79.40 top-1, 92.80 top-5 on ImageNet sample with Apple's fused weights, without training.
_base_ = 'mobileone-s0_8xb32_in1k.py'

# 500 photographs of ImageNet in folders named by their WordNet ids, to test released weights.
# classes.txt has the ids of all 1000 classes; mmpretrain reads labels from a list made of it:
#
#   cd data/imagenet_sample && for image in */*.jpg; do
#       echo "$image $(($(grep -n "^${image%/*}$" classes.txt | cut -d: -f1) - 1))"
#   done > ../imagenet_sample.txt
test_dataloader = dict(
    batch_size=50,
    num_workers=2,
    dataset=dict(
        data_root='data',
        split='',
        data_prefix='imagenet_sample',
        ann_file='imagenet_sample.txt'))
