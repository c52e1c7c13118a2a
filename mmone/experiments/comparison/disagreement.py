"""On which images models disagree, and how much."""
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mmone.export.compare import SCORE, counterparts

from .predictions import Predictions
from .test_set import Answer


def disagreements(task: str, found: Sequence[Predictions]) -> np.ndarray:
    """Of each image (N,), the mean of all pairs of models.

    In classification the total variation distance of the scores, 0 to 1; in detection the number of boxes, of a score
    from 0.3, that have no counterpart in the other model's; in segmentation the share of pixels that differ.
    """
    measure = dict(classification=_of_scores, detection=_of_boxes, segmentation=_of_pixels)[task]
    return np.array([np.mean([measure(*pair) for pair in combinations(answers, 2)]) for answers in zip(*found)])


def certain(answer: Answer) -> tuple[np.ndarray, np.ndarray]:
    """The boxes and labels of an answer that count: those of a score from 0.3, or that are annotated."""
    kept = answer['scores'] >= SCORE if 'scores' in answer else ~answer['crowd']
    return answer['boxes'][kept], answer['labels'][kept]


def _of_scores(first: Answer, second: Answer) -> float:
    return float(np.abs(first['scores'] - second['scores']).sum() / 2)


def _of_boxes(first: Answer, second: Answer) -> float:
    ours, theirs = certain(first), certain(second)
    return len(ours[0]) + len(theirs[0]) - 2 * len(counterparts(*ours, *theirs)[0])


def _of_pixels(first: Answer, second: Answer) -> float:
    return float((first['labels'] != second['labels']).mean())
