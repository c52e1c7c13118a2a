# ImageNet-Sketch, black and white sketches (https://arxiv.org/abs/1905.13549): 50,889 images of
# all classes. https://github.com/HaohanWang/ImageNet-Sketch has the archive: unpacked, a folder
# for each class, named by its WordNet id, in data/sketch.
_base_ = 'imagenet.py'

test_dataloader = dict(dataset=dict(data_root='data/sketch', split=''))
