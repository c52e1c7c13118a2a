"""The size of an exported model's input, and what brings images to it."""
import pytest

from mmone.apis import get_config
from mmone.errors import InputError
from mmone.export.inputs import prepare

from .conftest import NAMES


@pytest.mark.parametrize('pipeline, shape, free, size, transforms', [
    ([dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)], None, False, (224, 224),
     [dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=[224, 224])]),
    ([dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)], (112, 128), False,
     (112, 128), [dict(type='ResizeEdge', scale=146), dict(type='CenterCrop', crop_size=[128, 112])]),
    ([dict(type='Resize', scale=(320, 240))], None, False, (240, 320), [dict(type='Resize', scale=[320, 240])]),
    ([dict(type='Resize', scale=(2048, 512), keep_ratio=True)], None, False, (512, 512),
     [dict(type='Resize', scale=[512, 512], keep_ratio=False)]),
    ([dict(type='Resize', scale=(2048, 512), keep_ratio=True)], None, True, (512, 512),
     [dict(type='Resize', scale=[2048, 512], keep_ratio=True)]),
    ([], None, False, (512, 512), [dict(type='Resize', scale=[512, 512], keep_ratio=False)]),
    ([], (64, 96), True, (64, 96), []),
])
def test_sizes_and_what_brings_images_to_them(pipeline, shape, free, size, transforms):
    cfg = get_config(NAMES['segmentation'])
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'), *pipeline, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    assert prepare(cfg, shape, free) == (size, transforms)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='Rotate'))
    with pytest.raises(InputError, match='Rotate, which runs in OpenMMLab only'):
        prepare(cfg, shape, free)
