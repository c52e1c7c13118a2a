"""The folder of a model that was made ready to be measured: where it is, what is in it, and how answers compare.

Imports no library of the models': processes that measure read it, and have nothing but their own runtime.
"""
import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmone.errors import InputError
from mmone.files import sha256, user_cache

from .subject import Subject

# Which change what is written.
_WRITERS = ('mmone', 'torch', 'torchvision', 'timm', 'onnx')
_ARCHS = Path(__file__).parents[1] / 'models' / 'backbones' / 'archs.py'  # what the names of our variants stand for


class Prepared(NamedTuple):
    """A model that is ready to be measured.

    Attributes:
        folder (Path): Has :attr:`onnx` and :attr:`example`.
        parameters (int): Of the network as it is measured, with branches folded.
        multiply_adds (int): For one image, by :func:`mmone.complexity.network_complexity`.
        branches (bool): Whether there were any to fold.
        error (str, optional): Why there is no ONNX file.
    """
    folder: Path
    parameters: int
    multiply_adds: int
    branches: bool
    error: str | None = None

    @property
    def onnx(self) -> Path:
        return self.folder / 'model.onnx'

    @property
    def example(self) -> Path:
        """NumPy's archive with ``images`` and what PyTorch answers, ``output0`` and so on."""
        return self.folder / 'example.npz'

    def images(self) -> np.ndarray:
        """The example, (N, 3, H, W) float32."""
        with np.load(self.example) as arrays:
            return arrays['images']

    def expected(self) -> list[np.ndarray]:
        """What PyTorch answers to it."""
        with np.load(self.example) as arrays:
            return [arrays[f'output{number}'] for number in range(len(arrays.files) - 1)]

    def write(self) -> None:
        """Note the counts in the folder, for :func:`read`."""
        facts = self._asdict()
        del facts['folder']
        (self.folder / 'facts.json').write_text(json.dumps(facts), encoding='utf-8')


def read(folder: Path) -> Prepared | None:
    """A model that was made ready before; None if it was not."""
    try:
        return Prepared(folder, **json.loads((folder / 'facts.json').read_text(encoding='utf-8')))
    except FileNotFoundError:
        return None


def default_cache() -> Path:
    """The folder for models that are ready."""
    return user_cache() / 'lab'


def folder_of(subject: Subject, batch: int, shape: tuple[int, int], cache: Path) -> Path:
    """Where a model is kept, by all that it is made from."""
    made_from = [subject.factory, subject.arguments, subject.fuse, subject.digest, batch, *shape,
                 [_version(name) for name in _WRITERS], sha256(_ARCHS),
                 *(_digest(module) for module in (subject.factory.partition(':')[0], 'mmone.lab.building'))]
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    return cache / f'{re.sub(r"[^A-Za-z0-9.-]+", "_", subject.model.name)[:60]}-{shape[0]}x{shape[1]}-{key}'


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _digest(module: str) -> str:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(f'{module}, which builds the model, is no module')
    return sha256(spec.origin)


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest of all outputs, relative to each one's largest value; infinite where they are not comparable."""
    if not found or [array.shape for array in found] != [array.shape for array in expected]:
        return float('inf')
    largest = [np.abs(a.astype(np.float64) - b).max() / max(np.abs(b).max(), 1e-12) for a, b in zip(found, expected)]
    return float(np.nan_to_num(np.max(largest), nan=np.inf))  # NaN stays NaN in NumPy's maximum
