"""Images are read as a config's own test pipeline reads them, and shown to people whatever they are."""
import importlib.machinery
import sys
import types

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS

from mmone.config import default_scope
from mmone.errors import InputError
from mmone.pipeline import ImageError, ImagePipeline, image_suffixes, picture

PACK = dict(mmpretrain=dict(type='PackInputs'), mmdet=dict(type='PackDetInputs'), mmseg=dict(type='PackSegInputs'))


class LoadArray(BaseTransform):
    """Somebody's own reader of arrays."""

    def transform(self, results):
        results['img'] = image = np.load(results['img_path'])
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setitem(TRANSFORMS.module_dict, 'LoadArray', LoadArray)
    random = np.random.default_rng(0)
    colour = random.integers(0, 256, (24, 36, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'colour.png'), colour)
    cv2.imwrite(str(tmp_path / 'alpha.png'), random.integers(0, 256, (24, 36, 4), np.uint8))
    cv2.imwrite(str(tmp_path / 'deep.png'), random.integers(0, 2**16, (24, 36), np.uint16))
    np.save(tmp_path / 'bands.npy', random.normal(size=(24, 36, 5)).astype(np.float32))
    (tmp_path / 'broken.png').write_text('no image')
    return tmp_path


def config(scope, *transforms, **dataset):
    pipeline = [*transforms, dict(type='LoadAnnotations'), PACK[scope]]
    return Config(dict(default_scope=scope, test_dataloader=dict(dataset=dict(pipeline=pipeline, **dataset))))


def load(**options):
    return dict(type='LoadImageFromFile', **options)


@pytest.mark.parametrize('scope', PACK)
@pytest.mark.parametrize('name, reader, channels, dtype', [
    ('colour.png', load(), 3, 'uint8'), ('colour.png', load(color_type='grayscale'), 1, 'uint8'),
    ('colour.png', load(to_float32=True), 3, 'float32'), ('colour.png', load(imdecode_backend='pillow'), 3, 'uint8'),
    ('alpha.png', load(color_type='unchanged'), 4, 'uint8'), ('alpha.png', load(), 3, 'uint8'),
    ('deep.png', load(color_type='unchanged', to_float32=True), 1, 'float32'),
    ('bands.npy', dict(type='LoadArray'), 5, 'float32'),
])
def test_every_reader_of_a_config_reads(files, scope, name, reader, channels, dtype):
    """What the pipeline would get from its data set, it gets from a path."""
    cfg = config(scope, reader, dict(type='Resize', scale=(32, 16)))
    given = ImagePipeline(cfg)
    found = given.prepare(given.read(files / name))['inputs']
    with default_scope(cfg):
        pipeline = Compose([reader, dict(type='Resize', scale=(32, 16)), PACK[scope]])
    keys = dict(img_id=0, seg_fields=[])
    assert found.equal(pipeline(dict(img_path=str(files / name), **keys))['inputs'])
    assert found.shape == (channels, 16, 32) and str(found.dtype) == f'torch.{dtype}'


@pytest.mark.parametrize('reader', [load(), dict(type='LoadImageFromNDArray'), None])
def test_images_that_are_given_are_those_that_would_be_read(files, reader):
    """Also where the data set has its images in memory, and nothing reads any."""
    cfg = config('mmdet', *[reader] if reader else [])
    image = cv2.imread(str(files / 'colour.png'))
    pipeline = ImagePipeline(cfg)
    for given in (image, files / 'colour.png'):
        np.testing.assert_array_equal(pipeline.read(given)['img'], image)
    assert pipeline.prepare(pipeline.read(image))['inputs'].shape == (3, 24, 36)


def test_given_images_become_grey_and_floats_where_read_ones_would(files):
    image = cv2.imread(str(files / 'colour.png'))
    cfg = config('mmseg', load(color_type='grayscale', to_float32=True))
    found = ImagePipeline(cfg).read(image)['img']
    expected = mmcv.bgr2gray(image)
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    for given in (expected, expected[:, :, None]):  # what is grey stays as it is
        np.testing.assert_array_equal(ImagePipeline(cfg).read(given)['img'], given)


def test_what_mmsegs_inferencer_reads_with(files):
    cfg = config('mmseg', dict(type='InferencerLoader', color_type='grayscale'))
    expected = cv2.imread(str(files / 'colour.png'), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(ImagePipeline(cfg).read(files / 'colour.png')['img'], expected)


def test_an_image_of_several_files(files):
    cfg = config('mmdet', dict(type='LoadMultiChannelImageFromFiles', color_type='grayscale'))
    found = ImagePipeline(cfg).read([files / 'colour.png', files / 'alpha.png'])
    assert found['img'].shape == (24, 36, 2)


def test_images_that_cannot_be_used(files):
    pipeline = ImagePipeline(config('mmpretrain', load()))
    (files / 'empty.png').write_text('')
    for given, words in ((files / 'broken.png', 'broken.png cannot be decoded$'),
                         (files / 'empty.png', 'empty.png cannot be decoded$'),
                         (files / 'none.png', 'none.png cannot be read: No such file'),
                         (np.zeros((2, 3, 4, 5)), 'image 0 is of shape'), (np.zeros((0, 4, 3)), 'image 0 is of shape')):
        with pytest.raises(ImageError, match=words):
            pipeline.read(given)
    own = ImagePipeline(config('mmpretrain', dict(type='LoadArray')))
    with pytest.raises(ImageError, match='broken.png cannot be decoded'):
        own.read(files / 'broken.png')


def test_an_image_that_a_transform_cannot_take(files):
    """A line of pixels is shrunk to nothing."""
    pipeline = ImagePipeline(config('mmpretrain', load(), dict(type='ResizeEdge', scale=8, edge='long')))
    assert pipeline.prepare(pipeline.read(np.zeros((50, 100, 3), np.uint8)))['inputs'].shape == (3, 4, 8)
    with pytest.raises(ImageError, match=r'image 3 cannot be prepared \(error: .*resize'):
        pipeline.prepare(pipeline.read(np.zeros((1, 100, 3), np.uint8), 3))


def test_a_reader_that_fails_by_itself_says_how(files, monkeypatch):
    monkeypatch.setattr(LoadArray, 'transform', lambda self, results: results['bands'])
    with pytest.raises(ImageError, match=r"cannot be decoded \(KeyError: 'bands'\)"):
        ImagePipeline(config('mmpretrain', dict(type='LoadArray'))).read(files / 'bands.npy')

    def transform(self, results):
        raise ModuleNotFoundError('No module named rasterio', name='rasterio')

    monkeypatch.setattr(LoadArray, 'transform', transform)
    with pytest.raises(InputError, match='by LoadArray, which needs rasterio, not installed') as error:
        ImagePipeline(config('mmpretrain', dict(type='LoadArray'))).read(files / 'bands.npy')
    assert not isinstance(error.value, ImageError)  # it is not the image's fault


def test_tifffile_is_needed_where_the_config_reads_with_it(files, monkeypatch):
    cfg = config('mmseg', load(imdecode_backend='tifffile'))
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    with pytest.raises(InputError, match='pip install tifffile'):
        ImagePipeline(cfg)
    stub = types.ModuleType('tifffile')
    stub.__spec__ = importlib.machinery.ModuleSpec('tifffile', None)
    stub.imread = lambda file: np.full((24, 36, 7), len(file.read()), np.uint16)
    monkeypatch.setitem(sys.modules, 'tifffile', stub)
    monkeypatch.setattr('mmcv.image.io.tifffile', stub)
    assert ImagePipeline(cfg).read(files / 'deep.png')['img'].shape == (24, 36, 7)


def test_names_of_images():
    assert '.npy' not in image_suffixes(config('mmseg'))
    assert '.npy' in image_suffixes(config('mmseg', img_suffix='.npy'))
    assert {'.npy', '.jpg', '.dcm'} <= set(image_suffixes(config('mmpretrain', extensions=('.NPY', '.dcm'))))


@pytest.mark.parametrize('image, expected', [
    (np.full((2, 2), 7, np.uint8), [7, 7, 7]), (np.full((2, 2, 4), [1, 2, 3, 99], np.uint8), [1, 2, 3]),
    (np.full((2, 2, 2), [5, 9], np.uint8), [5, 5, 5]), (np.full((2, 2, 3), 41.6, np.float32), [42, 42, 42]),
    (np.array([[0, 65535]], np.uint16), [0, 0, 0]), (np.array([[0, 1.0]], np.float32), [0, 0, 0]),
    (np.array([[-3.0, np.nan, 3.0]]), [0, 0, 0]),
])
def test_pictures_for_people(image, expected):
    found = picture(image)
    assert found.dtype == np.uint8 and found.shape == (*image.shape[:2], 3) and found.flags.c_contiguous
    assert found[0, 0].tolist() == expected
    if image.shape[0] == 1:  # stretched
        assert found[0, -1].tolist() == [255] * 3
