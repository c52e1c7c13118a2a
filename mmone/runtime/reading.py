"""Image files are read as a model's test pipeline reads them, where that is not in colour and with OpenCV."""
from io import BytesIO
from pathlib import Path

import numpy as np

from mmone.errors import InputError

from .images import check_size, decode_with_pillow, read_image

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue


def read(path: str | Path, color_type: str = 'color', backend: str = 'cv2') -> np.ndarray:
    """Read an image as mmcv's ``LoadImageFromFile`` does.

    Args:
        path (str | Path): The file.
        color_type (str): ``'color'``, ``'grayscale'``, either with ``'_ignore_orientation'`` behind it,
            or ``'unchanged'``. Defaults to ``'color'``.
        backend (str): ``'cv2'``, ``'pillow'``, ``'turbojpeg'`` or ``'tifffile'``. Defaults to ``'cv2'``.
            Of the first three another one reads it where one is not installed.

    Returns:
        np.ndarray: (H, W) or (H, W, C), of three channels in RGB, of more in mmcv's order.

    Raises:
        InputError: If it does not exist, or cannot be read or decoded.
    """
    if (color_type, backend) == ('color', 'cv2'):
        return read_image(path)
    path = Path(path)
    if not path.is_file():
        raise InputError(f'image {path} does not exist')
    content = path.read_bytes()
    check_size(content, path)
    if backend == 'turbojpeg' and color_type != 'unchanged':  # it knows no EXIF data
        color_type = color_type.removesuffix('_ignore_orientation') + '_ignore_orientation'
    try:
        image = _decode(content, color_type, backend)
    except ModuleNotFoundError as error:
        raise InputError(f'the model\'s images are read with {error.name}, which is not installed: pip install '
                         f'{error.name}') from None
    except Exception:  # whatever a decoder raises for what it cannot decode
        image = None
    if image is None or image.ndim not in (2, 3) or not image.size:
        raise InputError(f'image {path} cannot be decoded: replace it')
    if image.shape[2:] == (1, ):
        return image[:, :, 0]
    return image[:, :, ::-1] if image.shape[2:] == (3, ) else image


def _decode(content: bytes, color_type: str, backend: str) -> np.ndarray | None:
    """An image in mmcv's order of channels."""
    if backend == 'tifffile':
        import tifffile
        return tifffile.imread(BytesIO(content))
    readers = [_with_pillow, _with_opencv] if backend == 'pillow' else [_with_opencv, _like_opencv]
    try:
        return readers[0](content, color_type)
    except ModuleNotFoundError:
        return readers[1](content, color_type)


def _with_opencv(content: bytes, color_type: str) -> np.ndarray | None:
    import cv2
    flags = dict(unchanged=cv2.IMREAD_UNCHANGED, color=cv2.IMREAD_COLOR, grayscale=cv2.IMREAD_GRAYSCALE)
    kind = color_type.removesuffix('_ignore_orientation')
    upright = 0 if kind == color_type else cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags[kind] | upright)


def _like_opencv(content: bytes, color_type: str) -> np.ndarray | None:
    """What OpenCV gives, by Pillow, to one of 255 levels."""
    kind = color_type.removesuffix('_ignore_orientation')
    if kind == 'unchanged':
        return _with_pillow(content, color_type)
    image = decode_with_pillow(content, upright=kind == color_type)
    if image is None or kind == 'color':
        return image if image is None else image[:, :, ::-1]
    return np.rint(image @ _GREY).astype(np.uint8)


def _with_pillow(content: bytes, color_type: str) -> np.ndarray:
    from PIL import Image, ImageOps
    with Image.open(BytesIO(content)) as image:
        if color_type == 'unchanged':
            array = np.array(image)
            if array.ndim == 3 and array.shape[2] >= 3:
                array[:, :, :3] = array[:, :, 2::-1]
            return array
        if color_type in ('color', 'grayscale'):
            image = ImageOps.exif_transpose(image)
        if image.mode == 'LA':  # mmcv's canvas under what is transparent
            canvas = Image.new('RGB', image.size, (124, 117, 104))
            canvas.paste(image.convert('RGBA'), mask=image.getchannel('A'))
            image = canvas
        image = image.convert('RGB')
        if color_type.startswith('grayscale'):
            return np.asarray(image.convert('L'))
        return np.asarray(image)[:, :, ::-1]
