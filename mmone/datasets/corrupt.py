"""The corruptions of ImageNet-C, as a transform of a test pipeline."""
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

import numpy as np
from mmcv.transforms import BaseTransform

from mmone.errors import InputError
from mmone.registry import TRANSFORMS

# In the order of the paper: noise, blur, weather, digital.
CORRUPTIONS = ('gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur', 'glass_blur', 'motion_blur',
               'zoom_blur', 'snow', 'frost', 'fog', 'brightness', 'contrast', 'elastic_transform', 'pixelate',
               'jpeg_compression')
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32  # pixels of a side, of what imagecorruptions takes
# These do not draw from NumPy's shared random numbers, but from a seed that they are given.
_SEEDED = ('impulse_noise', 'glass_blur')


@TRANSFORMS.register_module()
class Corrupt(BaseTransform):
    """Corrupt the image as ImageNet-C does (arXiv 1903.12261, section 3); boxes and masks stay.

    mmdet's transform of this name gives imagecorruptions the channels in BGR, where its definitions of colour, frost
    and snow take RGB; it draws other corruptions in each worker and run; and it needs mmdet. Here an image is
    corrupted by what is in it: the same image in the same way, whatever its name, the order and the workers. The
    severities of a corruption share their random numbers.

    In a classifier's pipeline it stands behind the crop, as ImageNet-C is made of crops; in a detector's and a
    segmentor's behind the image's loading, as in arXiv 1907.07484.

    Args:
        corruption (str): One of :data:`CORRUPTIONS`. Defaults to ``'gaussian_noise'``.
        severity (int): 1 to 5, or 0, which leaves images as they are. Defaults to 1.

    Raises:
        InputError: If there is no such corruption or severity, or imagecorruptions is the one without seeds; for an
            image that is not of 8 bits and of one or three channels, or has a side of less than 32 pixels.
    """

    def __init__(self, corruption: str = CORRUPTIONS[0], severity: int = 1):
        import imagecorruptions
        if corruption not in CORRUPTIONS:
            raise InputError(f'there is no corruption {corruption!r} among {", ".join(CORRUPTIONS)}')
        if severity not in (0, *SEVERITIES):
            raise InputError(f'severity {severity!r} of {corruption}: expected 1 to 5, or 0 for none')
        if 'seed' not in signature(imagecorruptions.glass_blur).parameters:
            raise InputError('imagecorruptions is the package of that name, which draws at random and is not kept: '
                             'pip uninstall -y imagecorruptions && pip install imagecorruptions-imaug')
        self.corruption, self.severity = corruption, severity
        self._corrupt = imagecorruptions.corrupt

    def transform(self, results: dict) -> dict:
        """Corrupt ``results['img']``: (H, W, 3) in BGR, (H, W) or (H, W, 1), uint8."""
        if self.severity:
            results['img'] = self._corrupted(results['img'], results.get('img_path') or 'in memory')
        return results

    def _corrupted(self, image: np.ndarray, path: str) -> np.ndarray:
        grey = image.ndim == 2 or image.shape[2] == 1
        if image.dtype != np.uint8 or not grey and image.shape[2] != 3 or min(image.shape[:2]) < SMALLEST:
            raise InputError(f'image {path} of shape {image.shape} and type {image.dtype} cannot be corrupted: '
                             f'expected (H, W, 3) or (H, W) of uint8, and {SMALLEST} × {SMALLEST} pixels at least')
        rgb = np.ascontiguousarray(np.repeat(image.reshape(*image.shape[:2], 1), 3, 2) if grey else image[:, :, ::-1])
        seed = zlib.crc32(rgb.data, zlib.crc32(self.corruption.encode()))
        with _drawing_from(seed):
            found = self._corrupt(rgb, self.severity, self.corruption,
                                  **(dict(seed=seed) if self.corruption in _SEEDED else {}))
        return np.ascontiguousarray(found[:, :, 0].reshape(image.shape) if grey else found[:, :, ::-1])

    def __repr__(self) -> str:
        return f'{type(self).__name__}(corruption={self.corruption!r}, severity={self.severity})'


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Let NumPy's shared random numbers be those of a seed, until the block ends."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
