# ImageNetV2, new photographs found as ImageNet's were (https://arxiv.org/abs/1902.10811), of
# which this is the set that is compared by, matched-frequency: 10,000 images.
# https://github.com/modestyachts/ImageNetV2 has the archive: unpacked, a folder for each of the
# 1000 classes, named by its number, in data/imagenetv2-matched-frequency-format-val.
_base_ = 'imagenet_a.py'

test_dataloader = dict(
    dataset=dict(
        data_root='data/imagenetv2-matched-frequency-format-val',
        # Folders are read in the order of their names: 0, 1, 10, 100, …
        metainfo=dict(model_classes=tuple(sorted(range(1000), key=str)))))
