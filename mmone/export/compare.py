"""How far an exported model's answers are from PyTorch's."""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmengine.registry import DefaultScope
from torch import nn

# Limits of what rounding may do, in float32 and with --half. It decides between equal scores, and
# which of two boxes goes whose IoU is the threshold: of boxes, a few may be without a counterpart.
LIMITS = dict(score=(1e-4, 2e-2), logits=(1e-4, 5e-2), box_score=(1e-3, 2e-2), box=(0.5, 4.0),
              unmatched=(0.005, 0.1), pixels=(0.999, 0.98))  # yapf: disable


class Difference(NamedTuple):
    """What separates two answers.

    Attributes:
        text (str): The measures, for people.
        within (bool): Whether they are within :data:`LIMITS`.
        measures (dict[str, float]): By name.
    """
    text: str
    within: bool
    measures: dict[str, float]


@torch.no_grad()
def answers(model: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the library's own model says, in the form of the exported one's answers.

    Args:
        model (nn.Module): From :func:`mmone.apis.get_model`.
        images (np.ndarray): (N, 3, H, W) uint8 in RGB.
    """
    scope = model.cfg.default_scope
    shape = images.shape[2:]
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, scale_factor=(1.0, 1.0), img_id=0)
    with DefaultScope.overwrite_default_scope(scope):
        samples = [_sample(scope, meta) for _ in images]
        inputs = [torch.from_numpy(np.ascontiguousarray(image[::-1])) for image in images]  # BGR
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


def compare(task: str, expected: Sequence[dict[str, np.ndarray]],
            given: Sequence[dict[str, np.ndarray]], half: bool = False) -> Difference:
    """Compare the answers to the same batches of images.

    Args:
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        expected (Sequence[dict[str, np.ndarray]]): PyTorch's, a batch each.
        given (Sequence[dict[str, np.ndarray]]): The exported model's.
        half (bool): Whether that is one of ``--half``. Defaults to False.
    """

    def limit(name):
        return LIMITS[name][half]

    both = list(zip(expected, given))
    if task == 'classification':
        score = max(float(np.abs(a['scores'] - b['scores']).max()) for a, b in both)
        measures = dict(score=score)
        text = f'scores differ by at most {score:.1e}'
        if 'logits' in given[0]:
            measures['logits'] = max(
                float(np.abs(a['logits'] - b['logits']).max() / np.abs(a['logits']).max())
                for a, b in both)
            text += f', logits by {measures["logits"]:.1e} relative'
        return Difference(text, all(value <= limit(name) for name, value in measures.items()), measures)
    if task == 'segmentation':
        total = sum(a['labels'].size for a, _ in both)
        same = sum(int((a['labels'] == b['labels']).sum()) for a, b in both) / total
        return Difference(f'{same:.4%} of the pixels are equal', same >= limit('pixels'),
                          dict(pixels=same))
    total, unmatched, box, score = 0, 0, 0.0, 0.0
    for a, b in both:
        for image in zip(a['boxes'], a['labels'], b['boxes'], b['labels']):
            pairs, alone = match_boxes(image[:2], image[2:], limit('box'))
            # Where an answer ends, at its limit or threshold, rounding decides between equals.
            last = max(boxes[labels >= 0, 4].min() if (labels >= 0).any() else 0
                       for boxes, labels in (image[:2], image[2:]))
            alone = sum(bool(box[4] > last + limit('box_score')) for box in alone)
            unmatched += alone
            total += len(pairs) + alone
            for ours, theirs in pairs:
                box = max(box, float(np.abs(ours[:4] - theirs[:4]).max()))
                score = max(score, float(abs(ours[4] - theirs[4])))
    within = unmatched <= limit('unmatched') * total and score <= limit('box_score')
    return Difference(
        f'{total} boxes, {unmatched} without a counterpart, the others within {box:.1e} pixels and '
        f'{score:.1e} of score', within,
        dict(boxes=total, unmatched=unmatched, box=box, box_score=score))


def match_boxes(expected, given, limit: float) -> tuple[list[tuple], list]:
    """Pair the boxes of two answers to an image.

    Args:
        expected: Boxes (K, 5) and labels (K,) of which those below 0 do not count.
        given: The same.
        limit (float): Boxes farther apart are no pair, in pixels.

    Returns:
        tuple[list[tuple], list]: The pairs, each the nearest of its class that is left, and the
        boxes of both answers that have no counterpart.
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
