"""What models predict of a test set, kept in a folder: a killed run goes on from there, a second one computes nothing.

The predictions of a model are in files of :data:`CHUNK` images, each written whole, in a folder that is called by all
that they depend on: the model, the images, and the versions of the libraries.
"""
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement

from mmone.apis import predict
from mmone.errors import InputError
from mmone.files import remove_leftovers, written_whole
from mmone.lab.measure import Progress
from mmone.libraries import FORK

from .models import Model
from .test_set import Answer, TestSet

CHUNK, BATCH = 32, 8
_FACTS = 'facts.json'
_LIBRARIES = ('mmone', 'torch', *FORK, *FORK.values())


class Predictions:
    """What a model predicts of a test set, image by image.

    Args:
        folder (Path): Where it is kept.
        test_set (TestSet): Of these images.
    """

    def __init__(self, folder: Path, test_set: TestSet):
        self._folder = folder
        self._count = len(test_set)
        self._open: tuple[int, dict[str, np.ndarray]] = (-1, {})

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Answer]:
        return (self[index] for index in range(self._count))

    def __getitem__(self, index: int) -> Answer:
        if not 0 <= index < self._count:
            raise IndexError(index)
        number = index // CHUNK
        if self._open[0] != number:
            with np.load(_file(self._folder, number)) as arrays:
                self._open = number, dict(arrays)
        start = f'{index % CHUNK}.'
        return {key.removeprefix(start): array for key, array in self._open[1].items() if key.startswith(start)}


class Predictor:
    """Predicts what is missing of a test set.

    Args:
        model (Model): From :func:`.models.find_model`.
        test_set (TestSet): The images.
        folder (Path): Where predictions are kept, of all models.
        trust (bool): Allow a checkpoint that can run code. Defaults to False.

    Raises:
        InputError: If the model is of another task or other classes than the test set.
    """

    def __init__(self, model: Model, test_set: TestSet, folder: Path, trust: bool = False):
        if model.task != test_set.task:
            raise InputError(f'model {model.letter}, {model.name}, is one of {model.task}, the test set is of '
                             f'{test_set.task}: compare models of one task')
        self._model, self._test_set = model, test_set
        self.folder = folder / f'{re.sub(r"[^A-Za-z0-9.-]+", "_", model.name)[:60]}-{_key(model, test_set)}'
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        chunks = [range(start, min(start + CHUNK, len(test_set))) for start in range(0, len(test_set), CHUNK)]
        self.missing = [(number, chunk) for number, chunk in enumerate(chunks)
                        if not _file(self.folder, number).exists()]
        facts, self._loaded = self.folder / _FACTS, None
        if self.missing or not facts.exists():
            self._loaded = model.load(trust)
            with written_whole(facts) as made:
                made.write_text(json.dumps(dict(model=model.name, classes=self._loaded.dataset_meta.get('classes'))))
        classes = json.loads(facts.read_text())['classes']
        if classes:  # some checkpoints do not tell
            _check_classes(model, tuple(classes), test_set.classes)

    def predict(self, listen: Callable[[Progress], None]) -> Predictions:
        """Predict.

        Args:
            listen (Callable): Is told how far it is.

        Raises:
            InputError: If the model cannot take an image.
        """
        for done, (number, chunk) in enumerate(self.missing):
            listen(Progress(done, len(self.missing), f'model {self._model.letter} predicts'))
            images = [self._test_set.images[i] for i in chunk]
            found = [_answer(one, self._test_set) for one in predict(self._loaded, images, BATCH)]
            arrays: dict[str, Any] = {f'{i}.{key}': array for i, one in enumerate(found) for key, array in one.items()}
            with written_whole(_file(self.folder, number)) as made:
                np.savez_compressed(made, **arrays)
        self.missing, self._loaded = [], None
        return Predictions(self.folder, self._test_set)


def _file(folder: Path, number: int) -> Path:
    return folder / f'{number:05}.npz'


def _key(model: Model, test_set: TestSet) -> str:
    made_from = [model.digest, test_set.digest(), len(test_set.classes), CHUNK,
                 *(f'{name} {_version(name)}' for name in _LIBRARIES)]
    return hashlib.sha256('\n'.join(map(str, made_from)).encode()).hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ''


def _check_classes(model: Model, given: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if given == expected:
        return
    start = f'model {model.letter}, {model.name},'
    if sorted(given) == sorted(expected):
        raise InputError(f'{start} has the classes of the test set in another order: class 0 is {given[0]!r} here and '
                         f'{expected[0]!r} there' if given[0] != expected[0] else
                         f'{start} has the classes of the test set in another order')
    alone = [name for name in given if name not in expected] or [name for name in expected if name not in given]
    raise InputError(f'{start} has {len(given)} classes, the test set {len(expected)}: they differ in {alone[0]!r}; '
                     'compare models of the same classes')


def _answer(prediction, test_set: TestSet) -> Answer:
    """A prediction as arrays that are kept."""
    if prediction.sample is None:
        raise InputError(f'image {prediction.name} {prediction.error}: replace it, or remove it from the test set')
    sample: BaseDataElement = prediction.sample
    count = len(test_set.classes)
    if 'pred_score' in sample and test_set.task == 'classification':
        scores = sample.pred_score.numpy().astype(np.float32)
        if scores.shape != (count, ):
            raise InputError(f'the classifier gives {scores.size} scores, the test set has {count} classes')
        return dict(scores=scores)
    if 'pred_instances' in sample and test_set.task == 'detection':
        found = sample.pred_instances
        labels: Any = found.labels.numpy()
        if len(labels) and labels.max() >= count:
            raise InputError(f'the detector gives class {labels.max()}, the test set has {count} classes')
        return dict(boxes=found.bboxes.numpy().astype(np.float32), scores=found.scores.numpy().astype(np.float32),
                    labels=labels.astype(np.int32))
    if 'pred_sem_seg' in sample and test_set.task == 'segmentation':
        return dict(labels=sample.pred_sem_seg.data[0].numpy().astype(np.int16 if count > 255 else np.uint8))
    raise InputError(f'the model predicts {", ".join(sample.keys()) or "nothing"}, which is not compared')
