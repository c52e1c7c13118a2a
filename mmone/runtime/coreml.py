"""Core ML: computes ``.mlpackage``, on macOS only; elsewhere a file can be opened and looked at."""
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mmone.errors import InputError

from .metadata import KEY

COMPUTES_HERE = sys.platform == 'darwin'


def open_model(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str | None, Callable]:
    """The text of a file's metadata, and a function from images to named outputs."""
    import coremltools
    model = coremltools.models.MLModel(str(path), skip_model_load=not COMPUTES_HERE)

    def compute(images):
        if not COMPUTES_HERE:
            raise InputError(f'{path}: Core ML computes on macOS only; here its structure can be looked at, '
                             'and the same model be exported to ONNX')
        return model.predict({'images': _given(images)})

    return model.user_defined_metadata.get(KEY), compute


def _given(images: np.ndarray):
    """One image (1, C, H, W) as the model takes it: in grey or colour an image, else floats."""
    if images.dtype != np.uint8 or images.shape[1] not in (1, 3):
        return images.astype(np.float32)
    from PIL import Image
    image = images[0, 0] if images.shape[1] == 1 else images[0].transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(image))
