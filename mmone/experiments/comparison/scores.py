"""Metrics of a test set as functions of how often each image counts, which is what a bootstrap varies.

With every image once they are those of the libraries' evaluators: mmpretrain's ``Accuracy``, mmdet's ``CocoMetric`` on
the boxes as the data set class takes them, mmseg's ``IoUMetric``. All are in percent.
"""
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, NamedTuple, Protocol

import numpy as np

from .predictions import Predictions
from .test_set import Answer, TestSet

_RECALLS = np.linspace(0, 1, 101)  # COCO's
_AT_ONCE = 4_000_000  # numbers


class Scores(Protocol):
    """What one model gets on a test set.

    Attributes:
        metrics (tuple[str, ...]): Their names, the main one first.
    """
    metrics: tuple[str, ...]

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """Metrics (R, M) of R test sets in which images (R, N) count as often as that; NaN where there is none."""

    def by_class(self) -> np.ndarray:
        """The main metric of each class (K,); NaN of those that do not occur."""


def score(test_set: TestSet, found: Predictions) -> Scores:
    """Hold a model's predictions against what is annotated."""
    kind: Any = dict(classification=Hits, detection=Matches, segmentation=Areas)[test_set.task]
    return kind.of(test_set, found)


@dataclass(frozen=True)
class Hits:
    """Whether a classifier is right.

    Attributes:
        ranks (np.ndarray): (N,) how many classes have a higher score than the true one.
        labels (np.ndarray): (N,) the true classes.
        count (int): Of classes.
    """
    ranks: np.ndarray
    labels: np.ndarray
    count: int

    @classmethod
    def of(cls, test_set: TestSet, found: Predictions) -> 'Hits':
        labels = np.array([test_set.truth(i)['label'] for i in range(len(test_set))])
        # Of equal scores PyTorch's best is the first.
        ranks = [int((scores > scores[label]).sum() + (scores[:label] == scores[label]).sum())
                 for scores, label in zip((one['scores'] for one in found), labels)]
        return cls(np.array(ranks), labels, len(test_set.classes))

    @property
    def metrics(self) -> tuple[str, ...]:
        return ('top-1', 'top-5') if self.count > 5 else ('top-1', )

    @property
    def right(self) -> np.ndarray:
        """(N,) bool: whether the best class is the true one."""
        return self.ranks == 0

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        hits = np.stack([self.ranks < int(name[4:]) for name in self.metrics], axis=1)
        return 100 * (weights @ hits.astype(float)) / weights.sum(1, keepdims=True)

    def by_class(self) -> np.ndarray:
        return 100 * _ratio(np.bincount(self.labels, self.right, self.count), np.bincount(self.labels,
                                                                                         minlength=self.count))


@dataclass(frozen=True)
class Areas:
    """Pixels of each class in each image, that a segmentor gets right, gives it, and that it has: (N, K) each."""
    right: np.ndarray
    given: np.ndarray
    true: np.ndarray
    metrics = ('mIoU', 'pixel accuracy')

    @classmethod
    def of(cls, test_set: TestSet, found: Predictions) -> 'Areas':
        count = len(test_set.classes)
        rows = [_areas(one['labels'], test_set.truth(i)['labels'], count, test_set.ignore)
                for i, one in enumerate(found)]
        return cls(*np.array(rows).transpose(1, 0, 2))

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        right, given, true = (weights @ areas for areas in (self.right, self.given, self.true))
        return 100 * np.stack([_mean(_ratio(right, given + true - right)), _ratio(right.sum(1), true.sum(1))], axis=1)

    def by_class(self) -> np.ndarray:
        right, given, true = (areas.sum(0) for areas in (self.right, self.given, self.true))
        return 100 * _ratio(right, given + true - right)


def _areas(given: np.ndarray, true: np.ndarray, count: int, ignore: int) -> list[np.ndarray]:
    counted = true != ignore
    given, true = given[counted].astype(int), true[counted].astype(int)
    return [np.bincount(labels[labels < count], minlength=count) for labels in (given[given == true], given, true)]


class Class(NamedTuple):
    """The boxes that a detector gives one class, the best first.

    Attributes:
        images (np.ndarray): (B,) the image of each.
        right (np.ndarray): (T, B) bool: whether each is a true one, by IoU threshold.
        counted (np.ndarray): (T, B) bool: whether each counts: those over crowds do not.
        true (np.ndarray): (N,) how many true ones each image has.
    """
    images: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    true: np.ndarray

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """Average precision (R, T) of R test sets, as COCO defines it, at each IoU threshold.

        An image that counts twice has its boxes twice, one after the other; between the two the precision is on
        none of the points that count.
        """
        drawn, total = weights[:, self.images], weights @ self.true
        every = np.cumsum(drawn, axis=1, dtype=float)
        found = np.zeros((len(weights), len(self.right)))
        for t, (right, counted) in enumerate(zip(self.right, self.counted)):
            hits = np.cumsum(drawn[:, right], axis=1, dtype=float)
            given = every if counted.all() else np.cumsum(drawn * counted, axis=1, dtype=float)
            precision = _ratio(hits, given[:, right])
            # From each recall on the highest.
            best = np.maximum.accumulate(np.nan_to_num(precision)[:, ::-1], axis=1)[:, ::-1]
            recall = _ratio(hits, total[:, None])
            for r in range(len(weights)):
                places = np.searchsorted(recall[r], _RECALLS)
                found[r, t] = best[r][places[places < best.shape[1]]].sum() / len(_RECALLS)
        return np.where(total[:, None] > 0, found, np.nan)


@dataclass(frozen=True)
class Matches:
    """A detector's boxes, matched with the true ones by pycocotools."""
    classes: Sequence[Class]
    metrics = ('mAP', 'mAP@50')

    @classmethod
    def of(cls, test_set: TestSet, found: Predictions) -> 'Matches':
        return cls(_match([test_set.truth(i) for i in range(len(test_set))], list(found), len(test_set.classes)))

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        at_once = max(1, _AT_ONCE // max(1, *(len(one.images) for one in self.classes)))
        return np.concatenate([self._weighted(weights[start:start + at_once])
                               for start in range(0, len(weights), at_once)])

    def _weighted(self, weights: np.ndarray) -> np.ndarray:
        precision = np.stack([one.precision(weights) for one in self.classes], axis=1)  # (R, K, T)
        return 100 * np.stack([_mean(precision.mean(2)), _mean(precision[:, :, 0])], axis=1)

    def by_class(self) -> np.ndarray:
        return 100 * np.array([one.precision(np.ones((1, len(one.true))))[0].mean() for one in self.classes])


def _match(truths: Sequence[Answer], found: Sequence[Answer], count: int) -> list[Class]:
    from pycocotools.cocoeval import COCOeval
    with redirect_stdout(StringIO()):
        evaluation = COCOeval(_coco(truths, count), _coco(found, count), 'bbox')
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
    images, thresholds = len(truths), len(evaluation.params.iouThrs)
    return [_class(evaluation.evalImgs[k * images:(k + 1) * images], thresholds) for k in range(count)]


def _coco(answers: Sequence[Answer], count: int):
    """Boxes as pycocotools takes them, the true ones or those that were found."""
    from pycocotools.coco import COCO
    boxes: list[dict] = []
    for image, one in enumerate(answers, 1):
        extra = one.get('crowd', one.get('scores'))
        key = 'iscrowd' if 'crowd' in one else 'score'
        for (left, top, right, bottom), label, value in zip(one['boxes'].tolist(), one['labels'].tolist(),
                                                            extra.tolist()):  # type: ignore[union-attr]
            box = dict(id=len(boxes) + 1, image_id=image, category_id=label + 1, iscrowd=0,
                       bbox=[left, top, right - left, bottom - top], area=(right - left) * (bottom - top))
            boxes.append({**box, key: value})
    coco = COCO()
    coco.dataset = dict(images=[dict(id=image) for image in range(1, len(answers) + 1)], annotations=boxes,
                        categories=[dict(id=label, name=str(label)) for label in range(1, count + 1)])
    coco.createIndex()
    return coco


def _class(images: Sequence[dict | None], thresholds: int) -> Class:
    """What pycocotools says of one class, image by image."""
    there = [(number, one) for number, one in enumerate(images) if one is not None]
    true = np.zeros(len(images))
    for number, one in there:
        true[number] = (np.array(one['gtIgnore']) == 0).sum()
    scores = np.array([value for _, one in there for value in one['dtScores']], float)
    order = np.argsort(-scores, kind='mergesort')  # as COCO's own code breaks ties
    places = np.array([number for number, one in there for _ in one['dtScores']], int)[order]
    matched, ignored = (np.concatenate([one[key] for _, one in there] or [np.zeros((thresholds, 0))], axis=1)[:, order]
                        for key in ('dtMatches', 'dtIgnore'))
    counted = ignored == 0
    return Class(places, (matched != 0) & counted, counted, true)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is nothing."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, of those that are no NaN; NaN where none is."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(-1), known.sum(-1))
