"""Images as exported models take them: with OpenCV, or Pillow where there is no OpenCV."""
from pathlib import Path

import numpy as np

from mmone.errors import InputError

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm')


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 in RGB, upright.

    Raises:
        InputError: If it does not exist or cannot be decoded.
    """
    if not Path(path).is_file():
        raise InputError(f'image {path} does not exist')
    try:
        import cv2
    except ImportError:
        from PIL import Image, ImageOps
        try:
            with Image.open(path) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
        except (OSError, SyntaxError):  # Pillow's, for what it cannot decode
            image = None
    else:
        content = np.fromfile(path, np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if image is None:
        raise InputError(f'image {path} cannot be decoded: replace it')
    return image[:, :, ::-1]


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


# The OpenMMLab transforms that exported models are prepared with, by their names there


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


TRANSFORMS = dict(Resize=_resize, ResizeEdge=_resize_edge, CenterCrop=_center_crop)
