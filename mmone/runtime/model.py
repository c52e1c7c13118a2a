"""Run exported models: numpy, OpenCV or Pillow and the format's own runtime, without PyTorch.

Where models only run, ``pip install --no-deps mmone numpy opencv-python onnxruntime`` is all it takes::

    from mmone.runtime import Runtime
    model = Runtime('detector.onnx')
    print(model.predict('photo.jpg'))
"""
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from mmone.errors import InputError

from .backends import BACKENDS, KEY
from .images import TRANSFORMS, read_image, resize

VERSION = 1
NO_DIGEST = '0' * 64


class Runtime:
    """An exported model.

    Args:
        path (str | Path): A file written by ``tools/export.py``: ``.onnx``, ``.xml`` (OpenVINO),
            ``.mlpackage`` (Core ML, which computes on macOS only), ``.pt`` (TorchScript) or
            ``.pt2``; the last two need PyTorch.
        threads (int, optional): Threads of one prediction. Defaults to all cores.
        providers (Sequence[str]): ONNX Runtime's execution providers. Defaults to the CPU's.

    Attributes:
        meta (dict): ``task``; ``classes``, their names; ``input``: ``height`` and ``width``,
            ``dynamic`` (which of ``batch`` and ``hw`` are free), ``dtype``, ``mean`` and ``std`` in
            RGB; ``pipeline``: the transforms before it; ``outputs``; ``source`` and
            ``source_sha256`` of the checkpoint; ``mmone``: the version that wrote it.

    Raises:
        InputError: If the file is not one of ours, was changed since it was written, or its
            runtime is not installed.
    """

    def __init__(self,
                 path: str | Path,
                 threads: int | None = None,
                 providers: Sequence[str] = ('CPUExecutionProvider', )):
        self.path = Path(path)
        if self.path.suffix not in BACKENDS:
            raise InputError(f'{path} is no exported model: expected a file in '
                             f'{", ".join(BACKENDS)}')
        if not self.path.exists():
            raise InputError(f'exported model {path} does not exist')
        open_, package = BACKENDS[self.path.suffix]
        try:
            text, self._compute = open_(self.path, threads, providers)
            self.meta = _parse(text, self.path)
            intact = digest(self.path, self.meta['sha256']) == self.meta['sha256']
        except ModuleNotFoundError as error:
            raise InputError(f'{path} needs {error.name}, which is not installed: pip install '
                             f'{package}') from None
        except InputError:
            raise
        except Exception as error:  # whatever a runtime raises for a broken file
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise InputError(f'{path} cannot be read ({reason}): export it again') from None
        if not intact:
            raise InputError(f'{path} was changed since it was exported (its SHA-256 is not the one '
                             'written in it): export it again')

    @property
    def task(self) -> str:
        """``'classification'``, ``'detection'`` or ``'segmentation'``."""
        return self.meta['task']

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the network's answer.

        Args:
            images (np.ndarray): (N, 3, H, W) in RGB, uint8; or normalized float32 where the
                model was exported with ``--raw``. Any N: a model of a fixed batch takes the
                images one by one.

        Returns:
            dict[str, np.ndarray]: By task ``scores`` (N, classes); ``boxes`` (N, K, 5), each
            ``x1, y1, x2, y2, score`` in pixels of the input, best first, and ``labels`` (N, K),
            where -1 fills up what was not found; or ``labels`` (N, H, W). And ``logits`` where
            the model was exported with ``--logits``.

        Raises:
            InputError: If the shape or type is not the model's.
        """
        given = self.meta['input']
        images = np.asarray(images)
        size = (given['height'], given['width'])
        fits = images.ndim == 4 and images.shape[1] == 3 and len(images) > 0 and (
            'hw' in given['dynamic'] or images.shape[2:] == size)
        if not fits or images.dtype != given['dtype']:
            height, width = ('H', 'W') if 'hw' in given['dynamic'] else size
            raise InputError(f'{self.path} takes {given["dtype"]} images (N, 3, {height}, {width}), '
                             f'got {images.dtype} {tuple(images.shape)}'
                             + ('' if 'hw' in given['dynamic'] else ': resize them, or export with '
                                '--shape or --dynamic hw'))
        images = np.ascontiguousarray(images)
        if 'batch' in given['dynamic']:
            return self._compute(images)
        outputs = [self._compute(images[i:i + 1]) for i in range(len(images))]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop an image (H, W, 3) uint8 in RGB as the model's data set is."""
        for transform in self.meta['pipeline']:
            image = TRANSFORMS[transform['type']](image, transform)
        return image

    def predict(self, images, batch_size: int = 1) -> dict | list[dict]:
        """Predict images of any size.

        Args:
            images: A path, an array (H, W, 3) uint8 in RGB, or an iterable of those.
            batch_size (int): Images computed at a time, where they have the same size. Defaults
                to 1.

        Returns:
            dict | list[dict]: For each image ``label``, ``class``, ``score`` and ``scores``
            (classes,); or ``boxes``, a list of ``label``, ``class``, ``score`` and ``box`` ``[x1,
            y1, x2, y2]`` in pixels of the image, best first; or ``labels`` (H, W), the class of
            each of the image's pixels, and ``classes``, the fraction of pixels of each that occurs.

        Raises:
            InputError: If an image cannot be decoded; names it.
        """
        single = isinstance(images, (str, Path)) or getattr(images, 'ndim', None) == 3
        answers = []
        source = iter([images] if single else images)
        while chunk := list(islice(source, batch_size)):
            originals = [image if isinstance(image, np.ndarray) else read_image(image)
                         for image in chunk]  # yapf: disable
            inputs = [self.normalized(self.prepare(image)) for image in originals]
            alike = len({array.shape for array in inputs}) == 1
            for stack in [np.stack(inputs)] if alike else [array[None] for array in inputs]:
                outputs = self(stack)
                for i in range(len(stack)):
                    output = {name: value[i] for name, value in outputs.items()}
                    answers.append(self._record(output, originals[len(answers) % batch_size],
                                                stack.shape[2:]))
        return answers[0] if single else answers

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """A prepared image as the model takes it: (3, H, W), normalized only with ``--raw``."""
        given = self.meta['input']
        if given['dtype'] != 'uint8':  # the model leaves normalizing to the caller
            image = (image - np.float32(given['mean'])) / np.float32(given['std'])
        return image.transpose(2, 0, 1).astype(given['dtype'])

    def _record(self, output: dict, original: np.ndarray, size: tuple[int, int]) -> dict:
        names = self.meta['classes']
        if self.task == 'classification':
            label = int(output['scores'].argmax())
            return dict(label=label, score=float(output['scores'][label]), scores=output['scores'],
                        **{'class': names[label]})  # yapf: disable
        height, width = original.shape[:2]
        if self.task == 'detection':
            found = output['labels'] >= 0
            scale = np.float32([width / size[1], height / size[0]] * 2)
            return dict(boxes=[
                dict(label=int(label), score=float(row[4]), box=(row[:4] * scale).tolist(),
                     **{'class': names[label]})
                for row, label in zip(output['boxes'][found], output['labels'][found])])  # yapf: disable
        labels = output['labels'].astype(np.uint8 if len(names) <= 256 else np.int32)
        labels = resize(labels, (height, width), 'nearest')
        values, counts = np.unique(labels, return_counts=True)
        return dict(labels=labels, classes={
            names[value]: count / labels.size for value, count in zip(values.tolist(), counts.tolist())})


def is_exported(path: str | Path) -> bool:
    """Whether a path is that of an exported model; a ``.pt`` may also be a checkpoint."""
    path = Path(path)
    if path.suffix == '.pt' and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f'/extra/{KEY}') for name in archive.namelist())
    return path.suffix in BACKENDS and path.suffix != '.pt'


def digest(path: Path, written: str = NO_DIGEST) -> str:
    """SHA-256 of an exported model, as if the one ``written`` in it were zeros."""
    total = hashlib.sha256()
    for content in _contents(path):
        total.update(content.replace(written.encode(), NO_DIGEST.encode()))
    return total.hexdigest()


def _contents(path: Path) -> Iterator[bytes]:
    if path.is_dir():
        for file in sorted(file for file in path.rglob('*') if file.is_file()):
            yield file.read_bytes()
    elif path.suffix in ('.pt', '.pt2'):
        with zipfile.ZipFile(path) as archive:  # its check sums change with the digest
            for name in sorted(archive.namelist()):
                yield archive.read(name)
    else:
        yield path.read_bytes()
        if path.suffix == '.xml':
            yield path.with_suffix('.bin').read_bytes()


def _parse(text: str | None, path: Path) -> dict:
    try:
        meta = json.loads(text or '')
        known = meta['version'] == VERSION and re.fullmatch('[0-9a-f]{64}', meta['sha256'])
    except (ValueError, KeyError, TypeError):
        raise InputError(f'{path} was not written by tools/export.py: it has no {KEY} metadata; '
                         'export the checkpoint with it') from None
    if not known:
        raise InputError(f'{path} has {KEY} metadata of version {meta["version"]}, this mmone reads '
                         f'version {VERSION}: export it again')
    return meta
