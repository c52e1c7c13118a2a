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

from mmone.errors import InputError, cause
from mmone.formats import FORMATS, SUFFIXES, Format, format_of

from .guard import check_file, read_metadata
from .images import TRANSFORMS, resize
from .metadata import KEY
from .reading import read


class Runtime:
    """An exported model.

    Args:
        path (str | Path): A file that :func:`mmone.export.export_model` wrote: ``.onnx``, ``.xml``
            (OpenVINO), ``.param`` (ncnn), ``.mlpackage`` (Core ML, which computes on macOS only), ``.pt``
            (TorchScript) or ``.pt2``; the last two need PyTorch.
        threads (int, optional): Threads of one prediction. Defaults to all cores.
        providers (Sequence[str]): ONNX Runtime's execution providers. Defaults to the CPU's.

    Attributes:
        meta (dict): ``task``; ``classes``, their names; ``input``: ``height`` and ``width``,
            ``dynamic`` (which of ``batch`` and ``hw`` are free), ``dtype``, ``mean`` and ``std``, of
            three channels in RGB; ``reading``: how files are read; ``pipeline``: the transforms before
            the input; ``outputs``; ``decision``: how they become labels, where not by the highest
            score; ``source`` and ``source_sha256`` of the checkpoint; ``mmone``: the version that
            wrote it.

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
            images (np.ndarray): (N, C, H, W), of three channels in RGB, uint8; or normalized float32
                where the model was exported without normalization. Any N: a model of a fixed batch
                takes the images one by one.

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

    @property
    def channels(self) -> int:
        """Channels of the images that the model takes."""
        return len(self.meta['input']['mean'])

    @property
    def normalizes_outside(self) -> bool:
        """Whether the model takes normalized images, instead of uint8."""
        return self.meta['input']['dtype'] != 'uint8'

    def _check(self, images: np.ndarray) -> None:
        expected = self.meta['input']
        free = 'hw' in expected['dynamic']
        size = ('H', 'W') if free else (expected['height'], expected['width'])
        fits = (images.ndim == 4 and images.shape[1] == self.channels and len(images) > 0
                and (free or images.shape[2:] == size))
        if not fits or images.dtype != expected['dtype']:
            raise InputError(f'{self.path} takes {expected["dtype"]} images (N, {self.channels}, {size[0]}, '
                             f'{size[1]}), got {images.dtype} {tuple(images.shape)}'
                             + ('' if free else ': resize them, or export the model in their size or with '
                                'free sizes'))

    def read(self, path: str | Path) -> np.ndarray:
        """Read an image's file as the config's test pipeline does, for :meth:`prepare`.

        Raises:
            InputError: If it cannot be read or decoded, or only OpenMMLab reads such files.
        """
        reading = self.meta.get('reading', {})  # not in files of mmone 0.1
        if reading is None:
            raise InputError(f'image {path} is read by OpenMMLab only, as all that {self.path} is for: give an array')
        image = read(path, reading.get('color_type', 'color'), reading.get('backend', 'cv2'))
        found = image.shape[2] if image.ndim == 3 else 1
        if found != self.channels:
            raise InputError(f'image {path} has {found} channels, of which {self.path} takes {self.channels}')
        # Values between those of uint8 that resizing makes are kept where training kept them.
        return image.astype(np.float32) if reading.get('to_float32') and self.normalizes_outside else image

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop an image as the config's test pipeline does: (H, W), (H, W, 3) in RGB, or (H, W, C)."""
        for transform in self.meta['pipeline']:
            image = TRANSFORMS[transform['type']](image, transform)
        return image

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """A prepared image as the model takes it: (C, H, W), normalized if the model does not do that.

        Raises:
            InputError: If it has other channels than the model takes, or is not of uint8 where that is taken.
        """
        expected, image = self.meta['input'], channels_first(image)
        if len(image) != self.channels:
            raise InputError(f'{self.path} takes images of {self.channels} channels, got {len(image)}')
        if self.normalizes_outside:
            mean, std = (np.float32(expected[name])[:, None, None] for name in ('mean', 'std'))
            return ((image - mean) / std).astype(expected['dtype'])
        if image.dtype != np.uint8:
            raise InputError(f'{self.path} takes uint8 images, got {image.dtype}')
        return image

    def predict(self, images, batch_size: int = 1) -> dict | list[dict]:
        """Predict images of any size.

        Args:
            images (str | Path | ndarray | Iterable): A path, an array (H, W, 3) uint8 in RGB (of a model of
                other images: (H, W) or (H, W, C), as it was trained on), or an iterable of those.
            batch_size (int): Images computed at a time, where they have the same size. Defaults
                to 1.

        Returns:
            dict | list[dict]: For each image ``label``, ``class``, ``score`` and ``scores``
            (classes,), or where it may be of several classes ``labels``, a list of ``label``,
            ``class`` and ``score``, best first, and ``scores``; or ``boxes``, a list of ``label``,
            ``class``, ``score`` and ``box`` ``[x1, y1, x2, y2]`` in pixels of the image, best first;
            or ``labels`` (H, W), the class of each of the image's pixels, and ``classes``, the
            fraction of pixels of each that occurs.

        Raises:
            InputError: If an image cannot be decoded; names it.
        """
        single = isinstance(images, (str, Path)) or getattr(images, 'ndim', None) in (2, 3)
        source = iter([images] if single else images)
        records = []
        while chunk := list(islice(source, batch_size)):
            originals = [given if isinstance(given, np.ndarray) else self.read(given) for given in chunk]
            inputs = [self.normalized(self.prepare(image)) for image in originals]
            same_size = len({array.shape for array in inputs}) == 1
            answers = []
            for batch in [np.stack(inputs)] if same_size else [array[None] for array in inputs]:
                outputs = self(batch)
                answers += [{name: value[i] for name, value in outputs.items()} for i in range(len(batch))]
            records += [self._record(answer, image.shape[:2], array.shape[1:])
                        for answer, image, array in zip(answers, originals, inputs)]
        return records[0] if single else records

    def positive(self, scores: np.ndarray) -> np.ndarray:
        """The labels (K,) that a classifier gives an image of ``scores`` (classes,), best first.

        Of several classes are those whose score reaches the head's threshold, or the ``topk`` best.
        """
        decision = self.meta.get('decision') or dict(threshold=None, topk=1)
        best = np.argsort(-scores, kind='stable')
        if decision['threshold'] is None:
            return best[:decision['topk']]
        return best[scores[best] >= decision['threshold']]

    def _record(self, answer: dict, original: tuple[int, int], size: tuple[int, int]) -> dict:
        """The answer to an input of ``size`` as :meth:`predict` gives it for an image of ``original`` size."""
        def named(label, **more):
            names = self.meta['classes']
            return {'label': int(label), 'class': names[label] if label < len(names) else str(label), **more}

        if self.task == 'classification':
            scores = answer['scores']
            labels = [named(label, score=float(scores[label])) for label in self.positive(scores)]
            return dict(labels=labels, scores=scores) if self.meta.get('decision') else dict(labels[0], scores=scores)
        if self.task == 'detection':
            found = answer['labels'] >= 0
            scale = np.array([original[1] / size[1], original[0] / size[0]] * 2, np.float32)
            return dict(boxes=[named(label, score=float(row[4]), box=(row[:4] * scale).tolist())
                               for row, label in zip(answer['boxes'][found], answer['labels'][found])])
        mask = answer['labels'].astype(np.uint8 if len(self.meta['classes']) <= 256 else np.int32)
        mask = resize(mask, original, 'nearest')
        values, counts = np.unique(mask, return_counts=True)
        return dict(labels=mask, classes={
            named(value)['class']: count / mask.size for value, count in zip(values.tolist(), counts.tolist())})


def channels_first(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) → (C, H, W)."""
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _open(path: Path, kind: Format, threads: int | None, providers: Sequence[str]) -> tuple[dict, Callable]:
    """The metadata of a file that is as it was written, and the function that computes it."""
    try:
        check_file(path)
        text, compute = import_module(f'.{kind.backend}', __package__).open_model(path, threads, providers)
        return read_metadata(text, path), compute
    except ModuleNotFoundError as error:
        raise InputError(f'{path} needs {error.name}, which is not installed: pip install '
                         f'{" ".join(kind.runs_with)}') from None
    except InputError:
        raise
    except Exception as error:  # whatever a runtime raises for a broken file
        raise InputError(f'{path} cannot be read ({cause(error)}): export it again') from error


def is_exported(path: str | Path) -> bool:
    """Whether a path is that of an exported model; a ``.pt`` may also be a checkpoint."""
    path = Path(path)
    if path.suffix == '.pt' and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith(f'/extra/{KEY}') for name in archive.namelist())
        except zipfile.BadZipFile:
            return False
    return path.suffix in SUFFIXES and path.suffix != '.pt'
