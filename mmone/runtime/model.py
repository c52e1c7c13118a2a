"""Run exported models: numpy, OpenCV or Pillow and the format's own runtime, without PyTorch.

On a machine that only runs models, ``pip install --no-deps mmone numpy opencv-python onnxruntime`` is enough::

    from mmone.runtime import Runtime
    model = Runtime('detector.onnx')
    print(model.predict('photo.jpg'))
"""
import zipfile
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np

from mmone.errors import InputError
from mmone.formats import FORMATS, SUFFIXES, Format, format_of

from .images import TRANSFORMS, read_image, resize
from .metadata import KEY, digest, parse


class Runtime:
    """An exported model.

    Args:
        path (str | Path): A file that :func:`mmone.export.export_model` wrote: ``.onnx``, ``.xml``
            (OpenVINO), ``.mlpackage`` (Core ML, which computes on macOS only), ``.pt`` (TorchScript) or
            ``.pt2``; the last two need PyTorch.
        threads (int, optional): Threads of one prediction. Defaults to all cores.
        providers (Sequence[str]): ONNX Runtime's execution providers. Defaults to the CPU's.

    Attributes:
        meta (dict): ``task``; ``classes``, their names; ``input``: ``height`` and ``width``,
            ``dynamic`` (which of ``batch`` and ``hw`` are free), ``dtype``, ``mean`` and ``std`` in
            RGB; ``pipeline``: the transforms before it; ``outputs``; ``source`` and
            ``source_sha256`` of the checkpoint; ``mmone``: the version that wrote it.

    Raises:
        InputError: If mmone did not write the file, it was changed since, or its runtime is not
            installed.
    """

    def __init__(self,
                 path: str | Path,
                 threads: int | None = None,
                 providers: Sequence[str] = ('CPUExecutionProvider', )):
        self.path = Path(path)
        name = format_of(path)
        if name is None:
            raise InputError(f'{path} is no exported model: expected a file in {", ".join(SUFFIXES)}')
        if not self.path.exists():
            raise InputError(f'exported model {path} does not exist')
        self.meta, self._compute = _open(self.path, FORMATS[name], threads, providers)

    @property
    def task(self) -> str:
        """``'classification'``, ``'detection'`` or ``'segmentation'``."""
        return self.meta['task']

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the network's answer.

        Args:
            images (np.ndarray): (N, 3, H, W) in RGB, uint8; or normalized float32 where the model was
                exported without normalization. Any N: a model of a fixed batch takes the images one
                by one.

        Returns:
            dict[str, np.ndarray]: By task ``scores`` (N, classes); ``boxes`` (N, K, 5), each
            ``x1, y1, x2, y2, score`` in pixels of the input, best first, and ``labels`` (N, K),
            where -1 marks the places without a box; or ``labels`` (N, H, W). And ``logits`` where
            the model was exported with them.

        Raises:
            InputError: If the shape or type is not the model's.
        """
        images = np.asarray(images)
        self._check(images)
        images = np.ascontiguousarray(images)
        if 'batch' in self.meta['input']['dynamic']:
            return self._compute(images)
        outputs = [self._compute(images[i:i + 1]) for i in range(len(images))]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    def _check(self, images: np.ndarray) -> None:
        expected = self.meta['input']
        free = 'hw' in expected['dynamic']
        size = ('H', 'W') if free else (expected['height'], expected['width'])
        fits = (images.ndim == 4 and images.shape[1] == 3 and len(images) > 0
                and (free or images.shape[2:] == size))
        if not fits or images.dtype != expected['dtype']:
            raise InputError(f'{self.path} takes {expected["dtype"]} images (N, 3, {size[0]}, {size[1]}), '
                             f'got {images.dtype} {tuple(images.shape)}'
                             + ('' if free else ': resize them, or export the model in their size or with '
                                'free sizes'))

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop an image (H, W, 3) uint8 in RGB as the config's test pipeline does."""
        for transform in self.meta['pipeline']:
            image = TRANSFORMS[transform['type']](image, transform)
        return image

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """A prepared image as the model takes it: (3, H, W), normalized if the model does not do that."""
        expected = self.meta['input']
        if expected['dtype'] != 'uint8':
            image = (image - np.float32(expected['mean'])) / np.float32(expected['std'])
        return image.transpose(2, 0, 1).astype(expected['dtype'])

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
        source = iter([images] if single else images)
        records = []
        while chunk := list(islice(source, batch_size)):
            originals = [given if isinstance(given, np.ndarray) else read_image(given) for given in chunk]
            inputs = [self.normalized(self.prepare(image)) for image in originals]
            same_size = len({array.shape for array in inputs}) == 1
            answers = []
            for batch in [np.stack(inputs)] if same_size else [array[None] for array in inputs]:
                outputs = self(batch)
                answers += [{name: value[i] for name, value in outputs.items()} for i in range(len(batch))]
            records += [self._record(answer, image.shape[:2], array.shape[1:])
                        for answer, image, array in zip(answers, originals, inputs)]
        return records[0] if single else records

    def _record(self, answer: dict, original: tuple[int, int], size: tuple[int, int]) -> dict:
        """The answer to an input of ``size`` as :meth:`predict` gives it for an image of ``original`` size."""
        names = self.meta['classes']
        if self.task == 'classification':
            label = int(answer['scores'].argmax())
            return dict(label=label, score=float(answer['scores'][label]), scores=answer['scores'],
                        **{'class': names[label]})
        if self.task == 'detection':
            found = answer['labels'] >= 0
            scale = np.array([original[1] / size[1], original[0] / size[0]] * 2, np.float32)
            return dict(boxes=[
                dict(label=int(label), score=float(row[4]), box=(row[:4] * scale).tolist(),
                     **{'class': names[label]})
                for row, label in zip(answer['boxes'][found], answer['labels'][found])])
        labels = answer['labels'].astype(np.uint8 if len(names) <= 256 else np.int32)
        labels = resize(labels, original, 'nearest')
        values, counts = np.unique(labels, return_counts=True)
        return dict(labels=labels, classes={
            names[value]: count / labels.size for value, count in zip(values.tolist(), counts.tolist())})


def _open(path: Path, kind: Format, threads: int | None, providers: Sequence[str]) -> tuple[dict, Callable]:
    """The metadata of a file that is as it was written, and the function that computes it."""
    try:
        text, compute = import_module(f'.{kind.backend}', __package__).open_model(path, threads, providers)
        meta = parse(text, path)
        intact = digest(path, meta['sha256']) == meta['sha256']
    except ModuleNotFoundError as error:
        raise InputError(f'{path} needs {error.name}, which is not installed: pip install '
                         f'{" ".join(kind.runs_with)}') from None
    except InputError:
        raise
    except Exception as error:  # whatever a runtime raises for a broken file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise InputError(f'{path} cannot be read ({reason}): export it again') from None
    if not intact:
        raise InputError(f'{path} was changed since it was exported (its SHA-256 is not the one '
                         'written in it): export it again')
    return meta, compute


def is_exported(path: str | Path) -> bool:
    """Whether a path is that of an exported model; a ``.pt`` may also be a checkpoint."""
    path = Path(path)
    if path.suffix == '.pt' and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f'/extra/{KEY}') for name in archive.namelist())
    return path.suffix in SUFFIXES and path.suffix != '.pt'
