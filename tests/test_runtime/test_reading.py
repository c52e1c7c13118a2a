"""Files are read as mmcv's LoadImageFromFile reads them, whatever it is told."""
import sys
import types

import mmcv
import numpy as np
import pytest
from PIL import Image

from mmone.errors import InputError
from mmone.runtime.reading import read


@pytest.fixture
def files(tmp_path):
    random = np.random.default_rng(0)

    def save(name, *shape, dtype=np.uint8, **options):
        values = random.integers(0, np.iinfo(dtype).max, (24, 36, *shape)).astype(dtype)
        Image.fromarray(values).save(tmp_path / name, **options)

    save('colour.png', 3)
    save('grey.png')
    save('alpha.png', 4)
    save('grey_alpha.png', 2)
    save('deep.png', dtype=np.uint16)
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter
    save('turned.jpg', 3, exif=exif)
    return tmp_path


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('color_type', [
    'color', 'grayscale', 'unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation'])
@pytest.mark.parametrize('name', ['colour.png', 'grey.png', 'alpha.png', 'grey_alpha.png', 'deep.png', 'turned.jpg'])
def test_it_is_as_mmcv_reads_it(files, name, color_type, backend):
    expected = mmcv.imread(str(files / name), color_type, backend=backend)
    expected = expected[:, :, ::-1] if expected.shape[2:] == (3, ) else expected
    given = read(files / name, color_type, backend)
    np.testing.assert_array_equal(given, expected)
    assert given.dtype == expected.dtype


def test_turbojpeg_knows_no_orientation(files):
    for color_type in ('color', 'grayscale'):
        expected = read(files / 'turned.jpg', f'{color_type}_ignore_orientation')
        np.testing.assert_array_equal(read(files / 'turned.jpg', color_type, 'turbojpeg'), expected)
    assert read(files / 'turned.jpg').shape[:2] != expected.shape


def test_tifffile(files, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    with pytest.raises(InputError, match='read with tifffile, which is not installed: pip install tifffile'):
        read(files / 'colour.png', 'unchanged', 'tifffile')
    image = np.arange(24 * 36 * 5, dtype=np.uint16).reshape(24, 36, 5)
    monkeypatch.setitem(sys.modules, 'tifffile', types.SimpleNamespace(imread=lambda file: image))
    np.testing.assert_array_equal(read(files / 'colour.png', 'unchanged', 'tifffile'), image)


def test_what_cannot_be_read(files):
    (files / 'broken.png').write_text('no image')
    for backend in ('cv2', 'pillow'):
        with pytest.raises(InputError, match='broken.png cannot be decoded'):
            read(files / 'broken.png', 'grayscale', backend)
        with pytest.raises(InputError, match='none.png does not exist'):
            read(files / 'none.png', 'grayscale', backend)
