"""A detector's boxes from what its convolutions give, in numpy: for runtimes that have no non-maximum suppression."""
from typing import Any

import numpy as np

WH_CLIP = np.float32(abs(np.log(np.float32(16 / 1000))))  # mmdet's: no side grows by more than 62.5
_BLOCK = 128  # boxes that are compared with each other at a time


class Decoder:
    """Does what mmdet's anchor heads do after their convolutions, as :class:`mmone.export.graph.Detection` does.

    Args:
        how (dict): ``levels``, each with ``size`` (height, width), ``stride`` (x, y) and ``anchors``, corners
            (x1, y1, x2, y2) at the first place; ``means`` and ``stds`` of the deltas; ``classes``, their number;
            ``sigmoid`` or softmax; ``nms_pre``, ``min_size``, ``score_thr``, ``iou_threshold``, ``class_agnostic``
            and ``max_per_img`` of the head's ``test_cfg``.
        shape (tuple[int, int]): Height and width of the input, at whose edges boxes end.

    Attributes:
        centres, steps, halves (np.ndarray): Each (A, 2): the centres of boxes with deltas of 0, how far a delta of
            1 moves them in pixels, and half their sizes.
    """

    def __init__(self, how: dict[str, Any], shape: tuple[int, int]):
        self.how = how
        self.means, self.stds = np.float32(how['means']), np.float32(how['stds'])
        self.edges = np.array([shape[1], shape[0]] * 2, np.float32)
        grids = [_grid(level) for level in how['levels']]
        anchors = np.concatenate(grids)
        sizes = anchors[:, 2:] - anchors[:, :2]
        self.centres = (anchors[:, :2] + anchors[:, 2:]) * np.float32(0.5) + sizes * self.means[:2]
        self.steps, self.halves = sizes * self.stds[:2], sizes * np.float32(0.5)
        self.ends = np.cumsum([len(grid) for grid in grids])
        pairs = [len(grid) * how['classes'] for grid in grids]
        self.places = min(how['max_per_img'], sum(
            min(how['nms_pre'], count) if how['nms_pre'] > 0 else count for count in pairs))

    def __call__(self, logits: np.ndarray, deltas: np.ndarray) -> dict[str, np.ndarray]:
        """The boxes of an image.

        Args:
            logits (np.ndarray): (A, classes), with one column more before a softmax, for the background.
            deltas (np.ndarray): (A, 4).

        Returns:
            dict[str, np.ndarray]: ``boxes`` (K, 5), each x1, y1, x2, y2 in pixels of the input and a score, best
            first, and ``labels`` (K,), int32; places that are not filled have the label -1.
        """
        scores, anchors, labels = self._candidates(logits)
        boxes = self._decode(deltas[anchors], anchors)
        if self.how['min_size'] >= 0:
            large = (boxes[:, 2:] - boxes[:, :2]).min(1) > self.how['min_size']
            scores, boxes, labels = scores[large], boxes[large], labels[large]
        kept = suppress(boxes, scores, np.zeros_like(labels) if self.how['class_agnostic'] else labels,
                        self.how['iou_threshold'], self.places)
        found, names = np.zeros((self.places, 5), np.float32), np.full(self.places, -1, np.int32)
        found[:len(kept), :4], found[:len(kept), 4], names[:len(kept)] = boxes[kept], scores[kept], labels[kept]
        return dict(boxes=found, labels=names)

    def _candidates(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scores, anchors and labels, each (P,), of all pairs above the threshold, at most ``nms_pre`` of a level."""
        classes, most = self.how['classes'], self.how['nms_pre']
        scores = sigmoid(logits) if self.how['sigmoid'] else softmax(logits)[:, :classes]
        scores = np.ascontiguousarray(scores).reshape(-1)
        found, first = [], 0
        for last in self.ends * classes:
            pairs = first + np.flatnonzero(scores[first:last] > np.float32(self.how['score_thr']))
            if 0 < most < len(pairs):
                pairs = pairs[np.argpartition(-scores[pairs], most - 1)[:most]]
            found.append(pairs)
            first = last
        best = np.concatenate(found)
        return (scores[best], *np.divmod(best, classes))

    def _decode(self, deltas: np.ndarray, anchors: np.ndarray) -> np.ndarray:
        """Boxes (P, 4) as mmdet's DeltaXYWHBBoxCoder decodes ``deltas`` (P, 4) of some anchors (P,)."""
        centres = self.centres[anchors] + self.steps[anchors] * deltas[:, :2]
        sizes = deltas[:, 2:] * self.stds[2:] + self.means[2:]
        halves = self.halves[anchors] * np.exp(np.clip(sizes, -WH_CLIP, WH_CLIP))
        return np.concatenate([centres - halves, centres + halves], 1).clip(0, self.edges)


def suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou_threshold: float,
             limit: int) -> np.ndarray:
    """Non-maximum suppression among the boxes of each label.

    Args:
        boxes (np.ndarray): (P, 4), corners.
        scores (np.ndarray): (P,).
        labels (np.ndarray): (P,).
        iou_threshold (float): A box is suppressed where its overlap with a better one is more than that.
        limit (int): Stop after that many.

    Returns:
        np.ndarray: Indices of the boxes that are kept, best first; of equals, the first.
    """
    order = np.argsort(-scores, kind='stable')
    kept = order[:0]
    for first in range(0, len(order), _BLOCK):  # no more than it takes: there may be thousands
        block = order[first:first + _BLOCK]
        free: np.ndarray = np.logical_not(_overlap(boxes, labels, kept, block, iou_threshold).any(0))
        overlap = _overlap(boxes, labels, block, block, iou_threshold)
        for i, suppressed in enumerate(overlap):
            if free[i]:
                free[i + 1:] &= ~suppressed[i + 1:]
        kept = np.concatenate([kept, block[free]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def _overlap(boxes: np.ndarray, labels: np.ndarray, some: np.ndarray, others: np.ndarray,
             iou_threshold: float) -> np.ndarray:
    """Whether some boxes (S,) and others (O,) of their labels overlap by more than the threshold: (S, O)."""
    one, other = boxes[some].T[..., None], boxes[others].T[:, None]
    width = np.minimum(one[2], other[2]) - np.maximum(one[0], other[0])
    height = np.minimum(one[3], other[3]) - np.maximum(one[1], other[1])
    shared = width.clip(0) * height.clip(0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    with np.errstate(invalid='ignore'):  # two boxes without area have no overlap
        overlap = shared / (areas[0] + areas[1] - shared) > np.float32(iou_threshold)
    return overlap & (labels[some][:, None] == labels[others])


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    return scores


def sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over='ignore'):  # of what is far below zero, the answer is 0
        return 1 / (1 + np.exp(-logits))


def _grid(level: dict[str, Any]) -> np.ndarray:
    """The anchors (places * anchors at a place, 4) of a level, row by row."""
    height, width = level['size']
    x, y = (np.arange(count, dtype=np.float32) * np.float32(stride)
            for count, stride in zip((width, height), level['stride']))
    shifts = np.stack([np.tile(x, height), np.repeat(y, width)] * 2, 1)
    return (np.float32(level['anchors'])[None] + shifts[:, None]).reshape(-1, 4)
