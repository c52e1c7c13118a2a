"""Images are read and prepared as OpenMMLab does it, also with Pillow and NumPy in OpenCV's place."""
import struct
import sys
import zlib
from io import BytesIO

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mmone.datasets.shapes import make_sample
from mmone.errors import InputError
from mmone.runtime import images
from mmone.runtime.images import read_image, resize
from mmone.runtime.reading import read


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


def encoded(kind, *pictures, **options):
    file = BytesIO()
    if len(pictures) > 1:
        options.update(save_all=True, append_images=pictures[1:])
    pictures[0].save(file, kind, **options)
    return file.getvalue()


def by_opencv(suffix, array):
    return cv2.imencode(suffix, array)[1].tobytes()


def turned(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return dict(exif=exif)


RANDOM = np.random.default_rng(0)
PHOTO = Image.fromarray(make_sample(0, 0, 64).image[:40])
FRAMES = [Image.fromarray(RANDOM.integers(0, 256, (20, 30, 3), np.uint8)) for _ in range(3)]
CLEAR = Image.fromarray(RANDOM.integers(0, 256, (20, 30, 4), np.uint8))
PALETTE = PHOTO.quantize(16)
DEEP = RANDOM.integers(0, 1 << 16, (20, 30, 4)).astype(np.uint16)
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
XMP_TEXT = PngInfo()
XMP_TEXT.add_itxt('XML:com.adobe.xmp', XMP.decode())

# name: (file, largest difference). Exact but where one of the decoders rounds and the other does not.
FILES = {
    **{f'16 bits gray {suffix}': (by_opencv(suffix, DEEP[..., 0]), 0) for suffix in ('.png', '.tiff', '.pgm')},
    **{f'16 bits {suffix}': (by_opencv(suffix, DEEP[..., :3]), most) for suffix, most in (
        ('.png', 0), ('.tiff', 1), ('.ppm', 1))},
    '16 bits, big-endian TIFF': (encoded('TIFF', Image.frombytes(
        'I;16B', (30, 20), DEEP[..., 0].astype('>u2').tobytes())), 0),
    **{f'16 bits with alpha {suffix}': (by_opencv(suffix, DEEP), most) for suffix, most in (('.png', 0), ('.tiff', 1))},
    **{f'palette {kind}': (encoded(kind, PALETTE), 0) for kind in ('PNG', 'GIF', 'BMP', 'TIFF')},
    'palette of 2': (encoded('PNG', PHOTO.quantize(2), bits=1), 0),
    'palette with a transparent colour': (encoded('PNG', PALETTE, transparency=3), 0),
    'palette with opacities': (encoded('PNG', PALETTE, transparency=bytes(range(0, 160, 10))), 0),
    'GIF with a transparent colour': (encoded('GIF', PALETTE, transparency=3, background=5), 0),
    **{f'alpha {kind}': (encoded(kind, CLEAR, **options), most) for kind, options, most in (
        ('PNG', {}, 0), ('WEBP', dict(lossless=True, exact=True), 0), ('BMP', {}, 0), ('TIFF', {}, 1))},
    **{f'LA {kind}': (encoded(kind, CLEAR.convert('LA')), 0) for kind in ('PNG', 'TIFF')},
    **{f'L {kind}': (encoded(kind, PHOTO.convert('L')), 0) for kind in ('PNG', 'TIFF', 'BMP', 'PPM', 'JPEG', 'GIF')},
    **{f'1 {kind}': (encoded(kind, PHOTO.convert('1')), 0) for kind in ('PNG', 'TIFF', 'BMP', 'PPM', 'GIF')},
    **{f'CMYK {kind}': (encoded(kind, PHOTO.convert('CMYK')), 2) for kind in ('JPEG', 'TIFF')},
    **{f'JPEG {options}': (encoded('JPEG', PHOTO, **options), 3) for options in (
        {}, dict(progressive=True), dict(subsampling=0), dict(subsampling=1, quality=50))},
    **{f'turned by {orientation} {kind}': (encoded(kind, PHOTO, **turned(orientation)), most)
       for orientation in range(1, 9) for kind, most in (('JPEG', 3), ('PNG', 0), ('TIFF', 0))},
    'turned WebP': (encoded('WEBP', PHOTO, lossless=True, **turned(6)), 0),
    'turned by XMP, JPEG': (encoded('JPEG', PHOTO, xmp=XMP), 3),
    'turned by XMP, PNG': (encoded('PNG', PHOTO, pnginfo=XMP_TEXT), 0),
    'broken EXIF data': (encoded('PNG', PHOTO, exif=b'garbage'), 0),
    'animated GIF': (encoded('GIF', *(frame.quantize(8) for frame in FRAMES)), 0),
    'animated WebP': (encoded('WEBP', *FRAMES, lossless=True), 0),
    'animated PNG': (encoded('PNG', *FRAMES), 0),
    'animated PNG with alpha': (encoded('PNG', CLEAR, CLEAR.rotate(180)), 0),
    'animated PNG whose default is no frame': (encoded('PNG', *FRAMES, default_image=True), 0),
    'TIFF of pages': (encoded('TIFF', *FRAMES), 0),
    '32 bits': (encoded('TIFF', Image.fromarray(DEEP[..., 0].astype(np.float32))), None),
    '32 bits, integers': (encoded('TIFF', Image.fromarray(DEEP[..., 0].astype(np.int32))), None),
}


@pytest.mark.skipif(int(cv2.__version__.partition('.')[0]) < 5, reason='OpenCV 5 reads more, and some of it otherwise')
@pytest.mark.parametrize('name', FILES)
def test_pillow_reads_as_opencv_does(tmp_path, monkeypatch, name):
    content, most = FILES[name]
    path = tmp_path / 'image'
    path.write_bytes(content)
    if most is None:  # what OpenCV cannot decode
        monkeypatch.setitem(sys.modules, 'cv2', None)
        with pytest.raises(InputError, match='cannot be decoded'):
            read_image(path)
        return
    expected = read_image(path)
    monkeypatch.setitem(sys.modules, 'cv2', None)
    given = read_image(path)
    assert given.shape == expected.shape and given.dtype == np.uint8
    assert np.abs(given.astype(int) - expected).max() <= most


@pytest.mark.parametrize('color_type', ['grayscale', 'grayscale_ignore_orientation', 'color_ignore_orientation'])
@pytest.mark.parametrize('name', [
    '16 bits gray .png', 'L PNG', 'L JPEG', 'LA PNG', 'palette PNG', 'JPEG {}', 'CMYK JPEG', 'turned by 6 JPEG',
    'turned by 6 PNG', '32 bits'])
def test_pillow_reads_other_images_as_opencv_does(tmp_path, monkeypatch, name, color_type):
    path = tmp_path / 'image'
    path.write_bytes(FILES[name][0])
    if FILES[name][1] is None:
        monkeypatch.setitem(sys.modules, 'cv2', None)
        with pytest.raises(InputError, match='cannot be decoded'):
            read(path, color_type)
        return
    expected = read(path, color_type)
    monkeypatch.setitem(sys.modules, 'cv2', None)
    given = read(path, color_type)
    assert given.shape == expected.shape and given.dtype == np.uint8
    assert np.abs(given.astype(int) - expected).max() <= FILES[name][1] + 1


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(width, height, data=b'', bits=8, colour=2):
    header = struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(data)) + chunk(b'IEND', b'')


def larger(kind, place, order, width, height):
    """A file of a kind whose header says another size, at a place."""
    content = encoded(kind, PHOTO)
    return content[:place] + struct.pack(order, width, height) + content[place + struct.calcsize(order):]


JPEG_SIZE = encoded('JPEG', PHOTO).index(b'\xff\xc0') + 5
BOMBS = {
    'png': png(40000, 40000), 'whole.png': png(14000, 14000, bytes(14000 * 1751), bits=1, colour=0),
    'jpg': larger('JPEG', JPEG_SIZE, '>HH', 30000, 30000), 'bmp': larger('BMP', 18, '<ii', 40000, 40000),
    'gif': larger('GIF', 6, '<HH', 60000, 60000), 'webp': larger('WEBP', 26, '<HH', 16383, 16383),
    'ppm': b'P6 40000 40000 255\n' + bytes(100)}


@pytest.mark.parametrize('missing', [None, 'cv2'])
@pytest.mark.parametrize('kind', BOMBS)
def test_images_too_large_are_refused_before_they_are_decoded(tmp_path, monkeypatch, kind, missing):
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    path = tmp_path / f'bomb.{kind}'
    path.write_bytes(BOMBS[kind])
    with pytest.raises(InputError, match=rf'bomb\.{kind} states \d+x\d+ pixels: expected at most 178,956,970'):
        read_image(path)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM'])
def test_images_cut_off_are_not_decoded(tmp_path, monkeypatch, kind):
    content = encoded(kind, PHOTO)
    monkeypatch.setitem(sys.modules, 'cv2', None)
    for part in (0.3, 0.9):
        (tmp_path / 'image').write_bytes(content[:int(len(content) * part)])
        with pytest.raises(InputError, match='cannot be decoded'):
            read_image(tmp_path / 'image')


def test_without_either_library(tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(encoded('PNG', PHOTO))
    monkeypatch.setitem(sys.modules, 'PIL', None)
    read_image(tmp_path / 'a.png')
    with pytest.raises(InputError, match='resized by Pillow: pip install pillow'):
        resize(np.zeros((20, 20), np.uint8), (10, 10), backend='pillow')
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(InputError, match='needs OpenCV or Pillow: pip install opencv-python-headless, or pillow'):
        read_image(tmp_path / 'a.png')


@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic', 'area', 'lanczos'])
@pytest.mark.parametrize('size', [(50, 30), (20, 32), (17, 15), (96, 80), (120, 30), (1, 1), (200, 3)])
def test_numpy_resizes_as_opencv_does(monkeypatch, interpolation, size):
    picture = make_sample(3, 5, 64).image[:40]
    pictures = [(picture, 1), (picture[:, :, 0], 1), (picture.astype(np.float32), 0.01),
                (np.dstack([picture, picture[:, :, :1]]).astype(np.uint16) * 200, 1)]
    expected = [resize(image, size, interpolation) for image, _ in pictures]
    monkeypatch.setitem(sys.modules, 'cv2', None)
    for (image, most), answer in zip(pictures, expected):
        given = resize(image, size, interpolation)
        assert given.shape == answer.shape and given.dtype == answer.dtype
        assert np.abs(given.astype(float) - answer).max() <= (0 if interpolation == 'nearest' else most)
    labels = np.arange(4000, dtype=np.int32).reshape(40, 100) * 1000
    monkeypatch.undo()
    nearest = resize(labels, size, 'nearest')
    monkeypatch.setitem(sys.modules, 'cv2', None)
    np.testing.assert_array_equal(resize(labels, size, 'nearest'), nearest)


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
