"""What a file's first bytes say of its image."""
import struct
from io import BytesIO

import pytest
from PIL import Image

from mmone.runtime.headers import image_size


def encoded(kind, mode='RGB', size=(37, 21), **options):
    file = BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


FILES = {
    'PNG': encoded('PNG'),
    'JPEG': encoded('JPEG'),
    'progressive JPEG with EXIF and a profile': encoded('JPEG', progressive=True, exif=Image.Exif().tobytes(),
                                                        icc_profile=bytes(70000)),
    'GIF': encoded('GIF'),
    'BMP': encoded('BMP'),
    'BMP from above': encoded('BMP').replace(struct.pack('<i', 21), struct.pack('<i', -21), 1),
    'BMP of OS/2': b'BM' + bytes(12) + struct.pack('<IHHHH', 12, 37, 21, 1, 24),
    'WebP': encoded('WEBP'),
    'lossless WebP': encoded('WEBP', lossless=True),
    'WebP with transparency': encoded('WEBP', 'RGBA'),
    'animated WebP': encoded('WEBP', save_all=True, append_images=[Image.new('RGB', (37, 21), 'red')]),
    'TIFF': encoded('TIFF'),
    'compressed TIFF': encoded('TIFF', compression='tiff_lzw'),
    'TIFF of large numbers first': b'MM\0*' + struct.pack('>IHHHIHHHHIHH', 8, 2, 256, 3, 1, 37, 0, 257, 3, 1, 21, 0),
    'BigTIFF': encoded('TIFF', big_tiff=True),
    'PPM': encoded('PPM'),
    'PBM': encoded('PPM', '1'),
    'PPM with comments': b'P6\n# a comment\n#another\n37\n# between\n21\n255\n',
}


@pytest.mark.parametrize('name', FILES)
def test_size(name):
    assert image_size(FILES[name]) == (37, 21)


@pytest.mark.parametrize('name', FILES)
def test_what_is_cut_off_says_nothing_or_the_same(name):
    content = FILES[name]
    assert {image_size(content[:end]) for end in range(0, min(len(content), 400))} <= {None, (37, 21)}


def test_what_is_none_of_them_says_nothing():
    for content in (b'', b'P', b'hello', b'\xff\xd8' + b'\xff\xda' + bytes(9), b'\xff\xd8' + b'x' * (1 << 20),
                    b'\xff\xd8' + b'\xff' * (1 << 16), b'P6 ' + b'9' * 10000 + b' 1 255\n', b'RIFF' + bytes(40),
                    b'II*\0' + b'\xff' * 60, b'BM' + bytes(8)):
        assert image_size(content) is None


def test_sizes_of_bombs_are_read_whole():
    size = struct.pack('>II', 2**31 - 1, 2**31 - 1)
    assert image_size(FILES['PNG'][:16] + size + FILES['PNG'][24:]) == (2**31 - 1, 2**31 - 1)
    assert image_size(FILES['WebP with transparency'][:24] + b'\xff' * 6) == (1 << 24, 1 << 24)
