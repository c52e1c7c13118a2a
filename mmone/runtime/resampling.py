"""OpenCV's resizing in NumPy, for where there is no OpenCV: the same pixels to one of 255 levels.

Pillow's own averages over what it leaves out, which OpenCV does not: a model that was trained on OpenCV's
images would see other ones.
"""
import math

import numpy as np


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resize an image (H, W) or (H, W, 3) to ``size``, height and width, as ``cv2.resize`` does.

    Args:
        image (np.ndarray): Of integers, or float32.
        size (tuple[int, int]): Height and width.
        interpolation (str): ``'nearest'``, ``'bilinear'``, ``'bicubic'``, ``'area'`` or ``'lanczos'``.
    """
    if interpolation == 'nearest':
        rows, columns = (np.minimum(np.arange(after) * (before / after), before - 1).astype(int)
                         for before, after in zip(image.shape, size))
        return image[rows][:, columns]
    if interpolation == 'area' and any(after > before for before, after in zip(image.shape, size)):
        interpolation = 'area enlarged'
    result = image.astype(np.float32)
    for axis in (1, 0):
        places, weights = _TAPS[interpolation](image.shape[axis], size[axis])
        along = [1] * image.ndim
        along[axis] = -1
        result = sum(result.take(place, axis) * weight.reshape(along).astype(np.float32)
                     for place, weight in zip(places.T, weights.T))
    if image.dtype.kind == 'f':
        return result.astype(image.dtype)
    limits = np.iinfo(image.dtype)
    return np.clip(np.rint(result), limits.min, limits.max).astype(image.dtype)


def _convolved(before: int, after: int, kernel, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of a line each pixel of the new line is made of, and how much of each: (after, 2 * reach)."""
    return _around((np.arange(after) + 0.5) * before / after - 0.5, before, kernel, reach)


def _around(positions: np.ndarray, before: int, kernel, reach: int) -> tuple[np.ndarray, np.ndarray]:
    places = np.floor(positions)[:, None] + np.arange(1 - reach, 1 + reach)
    weights = kernel(np.abs(positions[:, None] - places))
    return np.clip(places, 0, before - 1).astype(int), weights / weights.sum(axis=1, keepdims=True)


def _linear(distance: np.ndarray) -> np.ndarray:
    return 1 - distance


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys's kernel with OpenCV's parameter; Pillow's is -0.5."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def _lanczos(distance: np.ndarray) -> np.ndarray:
    return np.sinc(distance) * np.sinc(distance / 4)


def _area(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of each old pixel that a new one covers."""
    edges = np.arange(after + 1) * (before / after)
    places = np.floor(edges[:-1, None]) + np.arange(math.ceil(before / after) + 1)
    covered = np.minimum(places + 1, edges[1:, None]) - np.maximum(places, edges[:-1, None])
    weights = covered.clip(0)
    return np.minimum(places, before - 1).astype(int), weights / weights.sum(axis=1, keepdims=True)


def _area_enlarged(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """Where an edge grows, OpenCV interpolates only in the new pixels that two old ones share."""
    numbers = np.arange(after)
    first = np.floor(numbers * (before / after))
    shared = numbers + 1 - (first + 1) * (after / before)
    return _around(first + np.where(shared > 0, shared % 1, 0), before, _linear, 1)


_TAPS = {
    'bilinear': lambda before, after: _convolved(before, after, _linear, 1),
    'bicubic': lambda before, after: _convolved(before, after, _cubic, 2),
    'lanczos': lambda before, after: _convolved(before, after, _lanczos, 4),
    'area': _area,
    'area enlarged': _area_enlarged,
}
