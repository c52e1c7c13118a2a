"""Detectors in formats without non-maximum suppression: the graph ends before it, the runtime goes on."""
import numpy as np
import torch

from mmone.errors import InputError
from mmone.export.graph import Detection, Graph, by_anchor
from mmone.runtime.boxes import Decoder


def describe(graph: Graph) -> dict:
    """What :class:`mmone.runtime.boxes.Decoder` needs to finish the answer of a detector: for the metadata."""
    if not isinstance(graph, Detection):
        return {}
    generator = graph.prior_generator
    try:
        levels = [dict(size=list(size), stride=[float(step) for step in stride], anchors=anchors.tolist())
                  for size, stride, anchors in zip(graph.sizes, generator.strides, generator.base_anchors)]
    except (AttributeError, TypeError):
        levels = []
    how = dict(levels=levels, means=graph.means.tolist(), stds=graph.stds.tolist(), classes=graph.classes,
               sigmoid=graph.sigmoid, nms_pre=graph.nms_pre, min_size=graph.min_size, score_thr=graph.score_thr,
               iou_threshold=graph.iou_threshold, class_agnostic=graph.class_agnostic,
               max_per_img=graph.max_per_img)
    if not levels or not _has_anchors_of(Decoder(how, graph.shape), graph):
        raise InputError(f'a detector with anchors by {type(generator).__name__} cannot be written so: expected '
                         "the same anchors at all places of a level, as mmdet's AnchorGenerator has them")
    return dict(boxes=how)


def _has_anchors_of(decoder: Decoder, graph: Detection) -> bool:
    return all(np.array_equal(getattr(decoder, name), getattr(graph, name).numpy())
               for name in ('centres', 'steps', 'halves'))


def leave_boxes(graph: Detection) -> None:
    """Have a detector's graph answer ``logits`` (N, anchors, classes) and ``deltas`` (N, anchors, 4)."""
    channels = graph.classes + (0 if graph.sigmoid else 1)

    def answer(outputs, images):
        levels = len(outputs) // 2
        parts = ((outputs[:levels], channels), (outputs[levels:], 4))
        return tuple(torch.cat([by_anchor(level, count) for level in part], dim=1) for part, count in parts)

    graph.outputs = dict(logits=('batch', 'anchors', 'classes'), deltas=('batch', 'anchors', '4'))
    graph.answer = answer  # type: ignore[method-assign]
