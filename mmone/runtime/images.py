"""Reading and preparing images: with OpenCV, or Pillow where there is no OpenCV."""
from io import BytesIO
from pathlib import Path

import numpy as np

from mmone.errors import InputError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')
VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 in RGB, upright.

    ``read_image(path)[:, :, ::-1]`` is the image in BGR, as OpenMMLab's transforms take it.

    Raises:
        InputError: If it does not exist or cannot be read or decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'image {path} does not exist')
    try:
        image = _decode(path.read_bytes())
    except OSError as error:
        raise InputError(f'image {path} cannot be read: {error.strerror}') from None
    if image is None:
        raise InputError(f'image {path} cannot be decoded: replace it')
    return image


def _decode(content: bytes) -> np.ndarray | None:
    try:
        import cv2
    except ImportError:
        from PIL import Image, ImageOps
        try:
            with Image.open(BytesIO(content)) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
        except (OSError, SyntaxError):  # Pillow's, for what it cannot decode
            return None
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # for an empty file and for sizes beyond its limits
        return None
    return None if image is None else image[:, :, ::-1]


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str = 'bilinear',
           backend: str = 'cv2') -> np.ndarray:
    """Resize an image (H, W) or (H, W, 3) to ``size``, height and width."""
    if image.shape[:2] == tuple(size):
        return image
    try:
        import cv2
    except ImportError:
        backend = 'pillow'
    if backend == 'cv2':
        names = dict(nearest='NEAREST', bilinear='LINEAR', bicubic='CUBIC', area='AREA',
                     lanczos='LANCZOS4')
        return cv2.resize(np.ascontiguousarray(image), size[::-1],
                          interpolation=getattr(cv2, f'INTER_{names[interpolation]}'))
    from PIL import Image
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(
        size[::-1], getattr(Image, dict(area='BOX').get(interpolation, interpolation.upper()))))


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
