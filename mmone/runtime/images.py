"""Reading and preparing images: with OpenCV, or Pillow where there is no OpenCV."""
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np

from mmone.errors import InputError

from . import resampling
from .headers import MAX_PIXELS, image_size

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.gif')
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 in RGB, upright; of an animation the first picture.

    ``read_image(path)[:, :, ::-1]`` is the image in BGR, as OpenMMLab's transforms take it. With Pillow it
    is what OpenCV gives: transparency is left out, and of 16 bits the upper eight are kept. They may
    differ by 2 of 255 where OpenCV rounds otherwise (CMYK, 16 bits in TIFF and PPM).

    Raises:
        InputError: If it does not exist, cannot be read or decoded, or has more pixels than
            :data:`mmone.runtime.headers.MAX_PIXELS`; or if neither library is installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'image {path} does not exist')
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f'image {path} cannot be read: {error.strerror}') from None
    check_size(content, path)
    image = _decode(content)
    if image is None:
        raise InputError(f'image {path} cannot be decoded: replace it')
    return image


def check_size(content: bytes, name: str | Path) -> None:
    """Raise InputError if an image's file states a size that would take too much memory to decode."""
    width, height = image_size(content) or (0, 0)
    if width * height > MAX_PIXELS:
        raise InputError(f'image {name} states {width}x{height} pixels: expected at most {MAX_PIXELS:,}, to be '
                         'decoded in memory; cut it into pieces, or shrink it')


def _decode(content: bytes) -> np.ndarray | None:
    cv2 = _opencv()
    if cv2 is None:
        return decode_with_pillow(content)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # for an empty file and for sizes beyond its limits
        return None
    return None if image is None else image[:, :, ::-1]


def _opencv() -> ModuleType | None:
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _pillow(message: str) -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(f'{message} ({error})') from None
    return Image


def decode_with_pillow(content: bytes, upright: bool = True) -> np.ndarray | None:
    """(H, W, 3) uint8 in RGB of a file, as OpenCV decodes it; None if it cannot be decoded."""
    Image = _pillow('reading images needs OpenCV or Pillow: pip install opencv-python-headless, or pillow')
    try:
        with Image.open(BytesIO(content)) as image:
            if getattr(image, 'default_image', False):  # is shown where animations are not, and is none of the frames
                image.seek(1)
            image.load()
            return _upright(_to_rgb(image), _orientation(image) if upright else 1)
    except Exception:  # whatever a decoder raises for a broken file
        return None


def _orientation(image) -> int:
    """How a Pillow image is to be turned by its EXIF data, which OpenCV looks for in these places only."""
    for key in ('xmp', 'XML:com.adobe.xmp', 'Raw profile type exif'):
        image.info.pop(key, None)
    try:
        return image.getexif().get(0x112, 1)
    except Exception:  # broken EXIF data keep no image from being shown
        return 1


def _upright(image: np.ndarray | None, orientation: int) -> np.ndarray | None:
    """The image whose rows and columns EXIF says are in another order (Exif 2.3, 4.6.4, orientation)."""
    if image is None or orientation not in range(2, 9):
        return image
    if orientation > 4:
        image = image.transpose(1, 0, 2)
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return image[::-1 if vertical else 1, ::-1 if horizontal else 1]


def _to_rgb(image) -> np.ndarray | None:
    """(H, W, 3) uint8 of a Pillow image, as OpenCV converts it; None where OpenCV does not."""
    if image.mode == 'F' or (image.mode == 'I' and image.format == 'TIFF'):  # 32 bits
        return None
    if image.mode.startswith('I'):  # 16 bits
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == 'RGBA' and image.format == 'TIFF' and image.tag_v2.get(258) == (8, 8, 8, 8):
        return np.asarray(image.convert('RGBa'))[..., :3]  # libtiff multiplies the colours by the opacity
    if image.mode != 'P':
        return np.asarray(image.convert('RGB'))
    rgb = np.array(image.convert('RGBA'))[..., :3]  # straight to RGB, Pillow warns of transparency
    if image.format == 'GIF' and 'transparency' in image.info:
        background = 3 * image.info.get('background', 0)
        rgb[np.asarray(image) == image.info['transparency']] = image.getpalette()[background:background + 3]
    return rgb


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str = 'bilinear',
           backend: str = 'cv2') -> np.ndarray:
    """Resize an image (H, W) or (H, W, 3) to ``size``, height and width.

    Without OpenCV, NumPy does what it would do, to one of 255 levels.

    Raises:
        InputError: If ``backend`` is ``'pillow'``, which is not there.
    """
    if image.shape[:2] == tuple(size):
        return image
    if backend == 'pillow':
        Image = _pillow("the model's images are resized by Pillow: pip install pillow")
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(
            size[::-1], getattr(Image, dict(area='BOX').get(interpolation, interpolation.upper()))))
    cv2 = _opencv()
    if cv2 is None:
        return resampling.resize(image, size, interpolation)
    names = dict(nearest='NEAREST', bilinear='LINEAR', bicubic='CUBIC', area='AREA', lanczos='LANCZOS4')
    return cv2.resize(np.ascontiguousarray(image), size[::-1],
                      interpolation=getattr(cv2, f'INTER_{names[interpolation]}'))


def _resize(image: np.ndarray, cfg: dict) -> np.ndarray:
    size = cfg['scale'][::-1]
    if cfg.get('keep_ratio'):
        ratio = min(max(size) / max(image.shape[:2]), min(size) / min(image.shape[:2]))
        size = [int(edge * ratio + 0.5) for edge in image.shape[:2]]
    return resize(image, tuple(size), cfg.get('interpolation', 'bilinear'), cfg.get('backend', 'cv2'))


def _resize_edge(image: np.ndarray, cfg: dict) -> np.ndarray:
    height, width = image.shape[:2]
    edge = cfg.get('edge', 'short')
    by_width = edge == 'width' or (edge == 'short' and width < height) or (
        edge == 'long' and width > height)
    scale = cfg['scale']
    size = (int(scale * height / width), scale) if by_width else (scale, int(scale * width / height))
    return resize(image, size, cfg.get('interpolation', 'bilinear'), cfg.get('backend', 'cv2'))


def _center_crop(image: np.ndarray, cfg: dict) -> np.ndarray:
    size = cfg['crop_size'][::-1]  # width first, as in mmcv
    top, left = (max(0, round((have - want) / 2)) for have, want in zip(image.shape, size))
    return image[top:top + size[0], left:left + size[1]]


# OpenMMLab's transforms that the images of exported models go through, by their names there.
TRANSFORMS = dict(Resize=_resize, ResizeEdge=_resize_edge, CenterCrop=_center_crop)
