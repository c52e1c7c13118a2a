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
        from PIL import Image
        given = images
        if images.dtype == np.uint8:
            given = Image.fromarray(np.ascontiguousarray(images[0].transpose(1, 2, 0)))
        return model.predict({'images': given})

    return model.user_defined_metadata.get(KEY), compute
