"""How far an exported model's answers are from PyTorch's."""
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.model import BaseModel
from scipy.optimize import linear_sum_assignment

from mmone.config import default_scope
from mmone.runtime import Runtime
from mmone.runtime.images import resize
from mmone.runtime.model import channels_first

# Limits of what rounding may do, in float32 and in half precision. It decides between equal scores,
# and which of two boxes is suppressed whose IoU is the threshold: a few boxes may have no counterpart.
LIMITS = dict(score=(1e-4, 2e-2), logits=(1e-4, 5e-2), box_score=(1e-3, 2e-2), box=(0.5, 4.0),
              unmatched=(0.005, 0.1), pixels=(0.999, 0.98))

Answer = dict[str, np.ndarray]  # as mmone.runtime.Runtime gives it


class Difference(NamedTuple):
    """The difference between two models' answers.

    Attributes:
        text (str): The measures, for people.
        within (bool): Whether they are within :data:`LIMITS`.
        measures (dict[str, float]): By name.
    """
    text: str
    within: bool
    measures: dict[str, float]


def difference(model: BaseModel, exported: Runtime, images: Sequence[np.ndarray]) -> Difference:
    """Compare an exported model with PyTorch, in all sizes and batches that it is free to take.

    Args:
        model (BaseModel): The model it is of, from :func:`mmone.apis.get_model`.
        exported (Runtime): The exported model.
        images (Sequence[np.ndarray]): Each as :meth:`mmone.runtime.Runtime.predict` takes it, of any size.
    """
    batches = _batches([exported.prepare(image) for image in images], exported.meta['input']['dynamic'])
    expected = [answers(model, np.stack([channels_first(image) for image in batch])) for batch in batches]
    given = [exported(np.stack([exported.normalized(image) for image in batch])) for batch in batches]
    return compare(exported.task, expected, given, exported.meta['half'])


def _batches(images: list[np.ndarray], free: Sequence[str]) -> list[list[np.ndarray]]:
    """Images of an exported model's size in batches: of several sizes where those are free."""
    if 'hw' in free:  # the second half in another size
        half = len(images) // 2
        images = images[:half] + [
            resize(image, tuple(edge + 32 for edge in image.shape[:2])) for image in images[half:]]
    if 'batch' not in free:
        return [[image] for image in images]
    if len({image.shape for image in images}) > 1:
        return [[image] * count for image, count in zip(images, itertools.cycle((1, 2, 3)))]
    return [batch for batch in (images[:1], images[1:3], images[3:]) if batch]


@torch.no_grad()
def answers(model: BaseModel, images: np.ndarray) -> Answer:
    """The answers of the library's own model, in the form of the exported one's.

    Args:
        model (BaseModel): From :func:`mmone.apis.get_model`.
        images (np.ndarray): (N, C, H, W), of three channels in RGB.
    """
    scope = model.cfg.default_scope
    shape = images.shape[2:]
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0), img_id=0)
    with default_scope(model.cfg):
        samples = [_sample(scope, meta) for _ in images]
        if images.shape[1] == 3:
            images = images[:, ::-1]  # BGR
        inputs = [torch.from_numpy(np.ascontiguousarray(image)) for image in images]
        found = model.test_step(dict(inputs=inputs, data_samples=samples))
    if scope == 'mmpretrain':
        batch = model.data_preprocessor(dict(inputs=inputs, data_samples=samples))['inputs']
        return dict(scores=torch.stack([sample.pred_score for sample in found]).cpu().numpy(),
                    logits=model(batch, mode='tensor').cpu().numpy())
    if scope == 'mmseg':
        return dict(labels=torch.cat([sample.pred_sem_seg.data for sample in found]).cpu().numpy(),
                    logits=torch.stack([sample.seg_logits.data for sample in found]).cpu().numpy())
    most = max(len(sample.pred_instances) for sample in found)
    boxes, labels = np.zeros((len(found), most, 5), np.float32), np.full((len(found), most), -1)
    for i, sample in enumerate(found):
        instances = sample.pred_instances.cpu().numpy()
        boxes[i, :len(instances)] = np.column_stack([instances.bboxes, instances.scores])
        labels[i, :len(instances)] = instances.labels
    return dict(boxes=boxes, labels=labels)


def _sample(scope: str, meta: dict):
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample as Sample
    elif scope == 'mmdet':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    return Sample(metainfo=meta)


def compare(task: str, expected: Sequence[Answer], given: Sequence[Answer], half: bool = False) -> Difference:
    """Compare the answers to the same batches of images.

    Args:
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        expected (Sequence[Answer]): PyTorch's, one a batch.
        given (Sequence[Answer]): The exported model's.
        half (bool): Whether that is in half precision. Defaults to False.
    """
    measure = dict(classification=_compare_scores, detection=_compare_boxes, segmentation=_compare_pixels)[task]
    limits = {name: both[half] for name, both in LIMITS.items()}
    return measure(list(zip(expected, given)), limits)


# A box counts from this score, and is another's counterpart from this IoU.
SCORE, _IOU = 0.3, 0.5


def agreement(task: str, expected: Sequence[Answer], given: Sequence[Answer], least: float) -> Difference:
    """How far two models decide the same, where their numbers may differ: one in INT8 and the one in float.

    Args:
        task (str): ``'classification'``, the share of images of the same best class; ``'detection'``, of boxes of
            a score from 0.3 in either answer, the share with a counterpart of the same class and an IoU from 0.5;
            ``'segmentation'``, of equal pixels.
        expected (Sequence[Answer]): The float model's, one a batch.
        given (Sequence[Answer]): The other's.
        least (float): The share that suffices.
    """
    pairs = list(zip(expected, given))
    if task == 'classification':
        same = sum(int((a['scores'].argmax(1) == b['scores'].argmax(1)).sum()) for a, b in pairs)
        total, of = sum(len(a['scores']) for a, _ in pairs), 'images have the same best class'
    elif task == 'detection':
        counts = [_counterparts(*image) for a, b in pairs
                  for image in zip(a['boxes'], a['labels'], b['boxes'], b['labels'])]
        same, total = 2 * sum(found for found, _ in counts), sum(all_boxes for _, all_boxes in counts)
        of = f'boxes of a score from {SCORE} have a counterpart'
    else:
        same = sum(int((a['labels'] == b['labels']).sum()) for a, b in pairs)
        total, of = sum(a['labels'].size for a, _ in pairs), 'pixels are equal'
    share = same / total if total else 1.0
    return Difference(f'{share:.1%} of {total} {of}', share >= least, dict(agreement=share))


def _counterparts(boxes: np.ndarray, labels: np.ndarray, others: np.ndarray,
                  other_labels: np.ndarray) -> tuple[int, int]:
    """How many boxes (K, 5) of an answer have a counterpart in another, and how many both have."""
    counted, other_counted = ((rows[:, 4] >= SCORE) & (names >= 0) for rows, names in (
        (boxes, labels), (others, other_labels)))
    found, _ = counterparts(boxes[counted], labels[counted], others[other_counted], other_labels[other_counted])
    return len(found), int(counted.sum() + other_counted.sum())


def counterparts(boxes: np.ndarray, labels: np.ndarray, others: np.ndarray,
                 other_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair as many boxes of two answers as can be, each with one of its class and an IoU from 0.5.

    Args:
        boxes (np.ndarray): (K, 4) or more columns, the first four ``x1, y1, x2, y2``.
        labels (np.ndarray): (K,).
        others (np.ndarray): The other answer's.
        other_labels (np.ndarray): The same of these.

    Returns:
        tuple[np.ndarray, np.ndarray]: The indices of the boxes that are paired, and of their counterparts.
    """
    if not len(boxes) or not len(others):
        return np.zeros(0, int), np.zeros(0, int)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:4], others[None, :, 2:4])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas, other_areas = (np.prod(rows[:, 2:4] - rows[:, :2], axis=1) for rows in (boxes, others))
    iou = shared / np.maximum(areas[:, None] + other_areas[None] - shared, 1e-9)
    iou[labels[:, None] != other_labels[None]] = 0
    rows, columns = linear_sum_assignment((iou >= _IOU) + iou / 2, maximize=True)
    paired = iou[rows, columns] >= _IOU
    return rows[paired], columns[paired]


def _compare_scores(pairs: list[tuple[Answer, Answer]], limits: dict[str, float]) -> Difference:
    score = max(float(np.abs(a['scores'] - b['scores']).max()) for a, b in pairs)
    measures = dict(score=score)
    text = f'scores differ by at most {score:.1e}'
    if 'logits' in pairs[0][1]:
        measures['logits'] = max(float(np.abs(a['logits'] - b['logits']).max() / np.abs(a['logits']).max())
                                 for a, b in pairs)
        text += f', logits by {measures["logits"]:.1e} relative'
    return Difference(text, all(value <= limits[name] for name, value in measures.items()), measures)


def _compare_pixels(pairs: list[tuple[Answer, Answer]], limits: dict[str, float]) -> Difference:
    total = sum(a['labels'].size for a, _ in pairs)
    same = sum(int((a['labels'] == b['labels']).sum()) for a, b in pairs) / total
    return Difference(f'{same:.4%} of the pixels are equal', same >= limits['pixels'], dict(pixels=same))


def _compare_boxes(pairs: list[tuple[Answer, Answer]], limits: dict[str, float]) -> Difference:
    total, unmatched, box, score = 0, 0, 0.0, 0.0
    for a, b in pairs:
        for image in zip(a['boxes'], a['labels'], b['boxes'], b['labels']):
            matched, alone = match_boxes(image[:2], image[2:], limits['box'])
            # Where an answer ends, at its limit or threshold, rounding decides between equals.
            last = max(boxes[labels >= 0, 4].min() if (labels >= 0).any() else 0
                       for boxes, labels in (image[:2], image[2:]))
            missing = sum(bool(box[4] > last + limits['box_score']) for box in alone)
            unmatched += missing
            total += len(matched) + missing
            for ours, theirs in matched:
                box = max(box, float(np.abs(ours[:4] - theirs[:4]).max()))
                score = max(score, float(abs(ours[4] - theirs[4])))
    within = unmatched <= limits['unmatched'] * total and score <= limits['box_score']
    return Difference(
        f'{total} boxes, {unmatched} without a counterpart, the others within {box:.1e} pixels and '
        f'{score:.1e} of score', within,
        dict(boxes=total, unmatched=unmatched, box=box, box_score=score))


def match_boxes(expected, given, limit: float) -> tuple[list[tuple], list]:
    """Pair the boxes of two answers to an image.

    Args:
        expected: Boxes (K, 5) and labels (K,); boxes of a label below 0 do not count.
        given: The same.
        limit (float): Boxes farther apart are no pair, in pixels.

    Returns:
        tuple[list[tuple], list]: The pairs, each with the nearest box of its class that is left, and
        the boxes of both answers that have no counterpart.
    """
    (boxes, labels), (others, other_labels) = ((boxes[labels >= 0], labels[labels >= 0])
                                               for boxes, labels in (expected, given))
    free = np.ones(len(others), bool)
    pairs, alone = [], []
    for box, label in zip(boxes, labels):
        places = np.abs(others[:, :4] - box[:4]).max(axis=1)
        distances = np.where(free & (other_labels == label) & (places <= limit),
                             places + np.abs(others[:, 4] - box[4]), np.inf)
        if len(others) and distances.min() < np.inf:
            nearest = int(distances.argmin())
            free[nearest] = False
            pairs.append((box, others[nearest]))
        else:
            alone.append(box)
    return pairs, alone + list(others[free])
