"""The models that a page can compute: exported files and networks, as the page is told of them."""
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mmone.errors import InputError
from mmone.files import sha256
from mmone.runtime import Runtime

from .building import prepare
from .cache import default_cache, folder_of
from .store import Model
from .subjects import find_subject

# A family of several sizes, and networks that the paper sets beside them.
USUAL = ('mobileone-s0', 'mobileone-s1', 'mobileone-s2', 'mobilenetv2_100', 'mobilenetv3_large_100', 'efficientnet_b0')
# What the page prepares a picture by, and reads the answer by.
_TOLD = ('task', 'classes', 'reading', 'pipeline', 'input', 'decision', 'palette')


class Served(NamedTuple):
    """A file that the page can load.

    Attributes:
        model (Model): By which its measurements are kept.
        path (Path): An ``.onnx`` file, which takes ``images``.
        precision (str): ``'float32'`` or ``'float16'``.
        shape (tuple[int, int]): Height and width of the images that it is measured with.
        meta (dict, optional): What the file says of itself; None of a network alone, which can be measured but
            answers nothing that could be shown.
    """
    model: Model
    path: Path
    precision: str
    shape: tuple[int, int]
    meta: dict[str, Any] | None = None

    @property
    def address(self) -> str:
        """Under which it is served: by its content, so that browsers may keep it."""
        return f'models/{sha256(self.path)[:16]}.onnx'

    def told(self) -> dict[str, Any]:
        """What the page is told of it, as JSON takes it."""
        meta = self.meta and {key: self.meta[key] for key in _TOLD if key in self.meta}
        dtype, channels = (meta['input']['dtype'], len(meta['input']['mean'])) if meta else ('float32', 3)
        return dict(name=self.model.name, title=self.path.name if meta else self.model.name, address=self.address,
                    bytes=self.path.stat().st_size, precision=self.precision,
                    input=dict(dtype=dtype, shape=[1, channels, *self.shape]), meta=meta)


def find_served(name: str, cache: Path | None = None) -> Served:
    """An exported file, to be measured and tried, or a network, written as it is measured on this machine.

    Args:
        name (str): As :func:`.subjects.find_subject` takes it.
        cache (Path, optional): Folder for networks that are ready. Defaults to :func:`.cache.default_cache`.

    Raises:
        InputError: If there is none, or it cannot be computed in a browser.
    """
    subject = find_subject(name)
    if subject.path is not None:
        path = Path(subject.path)
        if path.suffix != '.onnx':
            raise InputError(f'{name} cannot be computed in a browser: export the model as .onnx')
        return Served(subject.model, path, subject.precision, subject.shape, Runtime(path, threads=1).meta)
    prepared = prepare(subject, 1, subject.shape, folder_of(subject, 1, subject.shape, cache or default_cache()))
    if prepared.error:
        raise InputError(f'{name} cannot be computed in a browser: {prepared.error}')
    model = replace(subject.model, parameters=prepared.parameters, multiply_adds=prepared.multiply_adds)
    return Served(model, prepared.onnx, 'float32', subject.shape)


def by_name(served: Sequence[Served]) -> dict[str, Served]:
    """The models by the names under which their measurements are kept.

    Raises:
        InputError: If one is there twice.
    """
    found = {each.model.name: each for each in served}
    if len(found) < len(served):
        names = [each.model.name for each in served]
        raise InputError(f'{next(name for name in names if names.count(name) > 1)} is there twice: give it once')
    return found
