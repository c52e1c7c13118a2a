"""Images are read and prepared as OpenMMLab does it."""
import sys

import cv2
import mmcv
import numpy as np
import pytest

from mmone.datasets.shapes import make_sample
from mmone.errors import InputError
from mmone.runtime import images
from mmone.runtime.images import read_image


def test_images_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    (tmp_path / 'no.png').write_text('no image')
    (tmp_path / 'empty.png').write_text('')
    for missing in (None, 'cv2'):
        if missing:
            monkeypatch.setitem(sys.modules, missing, None)
        for name in ('no.png', 'empty.png'):
            with pytest.raises(InputError, match=f'{name} cannot be decoded'):
                read_image(tmp_path / name)
        for name in ('none.png', ''):
            with pytest.raises(InputError, match=f'{name} does not exist'):
                read_image(tmp_path / name)


@pytest.mark.parametrize('grey', [False, True])
def test_images_are_those_of_mmcv(tmp_path, monkeypatch, grey):
    """Also with Pillow in OpenCV's place."""
    image = make_sample(0, 0, 64).image
    cv2.imwrite(str(tmp_path / 'a.png'), image[:, :, 0] if grey else image)
    expected = mmcv.imread(str(tmp_path / 'a.png'), channel_order='bgr')
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png')[:, :, ::-1], expected)
    assert read_image(tmp_path / 'a.png')[:, :, ::-1].flags.c_contiguous
    monkeypatch.setitem(sys.modules, 'cv2', None)
    np.testing.assert_array_equal(read_image(str(tmp_path / 'a.png'))[:, :, ::-1], expected)


@pytest.mark.parametrize('transform', [
    dict(type='Resize', scale=(50, 30)), dict(type='Resize', scale=(50, 30), interpolation='bicubic'),
    dict(type='Resize', scale=(100, 60), keep_ratio=True), dict(type='Resize', scale=(40, 40), backend='pillow'),
    dict(type='ResizeEdge', scale=48), dict(type='ResizeEdge', scale=48, edge='long'),
    dict(type='ResizeEdge', scale=48, edge='width', backend='pillow', interpolation='bicubic'),
    dict(type='ResizeEdge', scale=48, edge='height', interpolation='area'),
    dict(type='CenterCrop', crop_size=(32, 40)), dict(type='CenterCrop', crop_size=(200, 41))])
@pytest.mark.parametrize('shape', [(64, 97), (97, 64), (80, 80)])
def test_transforms_are_those_of_openmmlab(transform, shape):
    from mmcv.transforms import TRANSFORMS
    from mmpretrain.registry import TRANSFORMS as OTHERS
    image = np.ascontiguousarray(make_sample(3, 5, 100).image[:shape[0], :shape[1]])
    registry = OTHERS if transform['type'] == 'ResizeEdge' else TRANSFORMS
    expected = registry.build(transform)(dict(img=image, img_shape=image.shape[:2]))['img']
    given = images.TRANSFORMS[transform['type']](image, transform)
    np.testing.assert_array_equal(given, expected)
