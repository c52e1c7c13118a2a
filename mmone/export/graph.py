"""The graph that is exported: from images to the final answer."""
import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import fuse_conv_bn
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmone.compat import takes_rgb
from mmone.errors import InputError
from mmone.models import MobileOne
from mmone.pipeline import normalization

from .heads import is_multi_label


class Graph(nn.Module):
    """A deployed model with its pre-processing and post-processing.

    The input is (N, C, H, W): uint8, or with ``raw`` float32 that is normalized already. Three channels are
    RGB; others are in the order in which the config's test pipeline reads them.
    Normalizing is a subtraction and a scale. The scale is folded into the first convolution, exactly.
    The subtraction stays an operator of its own: that convolution pads its input with zeros, which
    stand for the mean colour after the subtraction but for black before it.

    Args:
        model (BaseModel): The library's model in eval mode; it is left as it is.
        shape (tuple[int, int]): Height and width of the input, as far as they are fixed.
        dynamic_hw (bool): Leave height and width free. Defaults to False.
        raw (bool): Take normalized images. Defaults to False.
        half (bool): Compute the network in float16, with the answer in float32. Defaults to
            False.
        logits (bool): Give the logits too, (N, classes) or (N, classes, H, W). Defaults to
            False.

    Attributes:
        outputs (dict[str, tuple[str, ...]]): The names of the outputs, each with those of its
            dimensions.
        decision (dict): How the outputs become labels, where that is not by the highest score.
    """
    outputs: dict[str, tuple[str, ...]] = {}
    decision: dict = {}
    mean: Tensor | None
    scale: Tensor | None

    def __init__(self, model: BaseModel, shape: tuple[int, int], dynamic_hw: bool = False,
                 raw: bool = False, half: bool = False, logits: bool = False):
        super().__init__()
        self.shape = shape
        self.dynamic_hw = dynamic_hw
        self.logits = logits
        self.network = copy.deepcopy(model).requires_grad_(False)
        preprocessor = self.network.data_preprocessor
        del self.network.data_preprocessor
        channels = input_channels(model)
        self.reverse = channels == 3 and not takes_rgb(preprocessor)
        self.divisor = pad_divisor(preprocessor) if dynamic_hw else 1
        self.pad_value = float(getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0)))
        mean, std = normalization(preprocessor, channels)
        normalizes = not raw and bool(mean.any() or (std != 1).any())
        # A value that is padded with is one of normalized images.
        folds = (normalizes and isinstance(self.network.backbone, MobileOne)
                 and (self.divisor == 1 or self.pad_value == 0))
        if folds:
            conv = self.network.backbone.stage0.branch_reparam
            conv.weight.data /= std.flip(0) if self.reverse else std
        self._set_buffer('mean', mean if normalizes else None)
        self._set_buffer('scale', 1 / std if normalizes and not folds else None)
        # Norms of necks and heads: some converters leave them as they are. One that does more in its forward, as
        # timm's BatchNormAct2d with its activation, would lose that.
        forwards = {type(module).forward for module in self.network.modules() if isinstance(module, _BatchNorm)}
        if forwards <= {_BatchNorm.forward, nn.SyncBatchNorm.forward}:
            self.network = fuse_conv_bn(self.network)
        self.half_network = half
        if half:
            self.network.half()

    def _set_buffer(self, name: str, value: Tensor | None) -> None:
        if value is None:  # a plain attribute: torch.export 2.11 miscounts buffers that are None
            setattr(self, name, None)
        else:
            self.register_buffer(name, value)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images.float()
        if self.mean is not None:
            x = x - self.mean
        if self.scale is not None:
            x = x * self.scale
        if self.reverse:
            x = x.flip(1)
        if self.divisor > 1:
            height, width = self.padded_size(images)
            x = F.pad(x, (0, width - images.shape[3], 0, height - images.shape[2]), value=self.pad_value)
        outputs = self.run(x.half() if self.half_network else x)
        return self.answer([output.float() if self.half_network else output for output in outputs],
                           images)

    def padded_size(self, images: Tensor) -> Sequence[int]:
        """Height and width of images as the network sees them."""
        if not self.dynamic_hw:
            return self.shape
        size = images.shape[2:]
        return [edge + (-edge) % self.divisor for edge in size] if self.divisor > 1 else size

    def run(self, x: Tensor) -> Sequence[Tensor]:
        """The network on normalized images (N, C, H, W), padded as the data preprocessor does it."""
        raise NotImplementedError

    def answer(self, outputs: Sequence[Tensor], images: Tensor) -> tuple[Tensor, ...]:
        """The outputs, in the order of :attr:`outputs`, from those of :meth:`run` in float32."""
        raise NotImplementedError


def input_channels(model: BaseModel) -> int:
    """Channels of the images that a model takes."""
    return model.backbone.in_channels if isinstance(model.backbone, MobileOne) else (
        model.cfg.model.backbone.get('in_channels', 3))


def pad_divisor(preprocessor: BaseDataPreprocessor) -> int:
    """What a library's data preprocessor pads edges of test images to multiples of."""
    divisor = getattr(preprocessor, 'pad_size_divisor', 1)
    if getattr(preprocessor, 'test_cfg', None):  # mmseg
        divisor = preprocessor.test_cfg.get('size_divisor')
    return divisor or 1


class Classification(Graph):
    """Scores (N, classes): the softmax of the logits, or where an image may be of several classes the sigmoid."""

    def __init__(self, model, shape, **kwargs):
        super().__init__(model, shape, **kwargs)
        self.outputs = dict(scores=('batch', 'classes'))
        if self.logits:
            self.outputs['logits'] = ('batch', 'classes')
        self.multi_label = is_multi_label(model.head)
        if self.multi_label:
            self.decision = dict(threshold=model.head.thr, topk=model.head.topk)

    def run(self, x):
        return [self.network(x, mode='tensor')]

    def answer(self, outputs, images):
        logits, = outputs
        scores = logits.sigmoid() if self.multi_label else logits.softmax(1)
        return (scores, logits)[:len(self.outputs)]


class Segmentation(Graph):
    """Label map (N, H, W) of the input's pixels."""

    def __init__(self, model, shape, **kwargs):
        super().__init__(model, shape, **kwargs)
        self.network.auxiliary_head = None  # for training only
        self.align_corners = model.align_corners
        self.threshold = model.decode_head.threshold
        self.decision = dict(align_corners=self.align_corners)
        if model.out_channels == 1:
            self.decision['threshold'] = self.threshold
        self.outputs = dict(labels=('batch', 'height', 'width'))
        if self.logits:
            self.outputs['logits'] = ('batch', 'classes', 'height', 'width')

    def run(self, x):
        logits = self.network(x, mode='tensor')
        # Some heads have outputs for their auxiliary losses behind the one that they predict by.
        return [logits[0] if isinstance(logits, tuple) else logits]

    def answer(self, outputs, images):
        logits = F.interpolate(
            outputs[0], size=self.padded_size(images), mode='bilinear', align_corners=self.align_corners)
        if self.divisor > 1:  # without what was padded
            height, width = images.shape[2:]
            logits = logits[:, :, :height, :width]
        if logits.shape[1] == 1:
            labels = logits.sigmoid().squeeze(1) > self.threshold
        else:
            labels = logits.argmax(1)
        return (labels.to(torch.int32), logits)[:len(self.outputs)]


class Detection(Graph):
    """Boxes (N, K, 5) in pixels of the input with their scores, best first, and labels (N, K).

    It does what mmdet's anchor heads do after their convolutions: per level the ``nms_pre`` best pairs
    of an anchor and a class, decoding, per-class NMS, and the ``max_per_img`` best. Places that are not
    filled have the label -1.

    Args:
        select (Callable): Non-maximum suppression, (boxes (N, P, 4), scores (N, P), IoU threshold,
            score threshold, K) → scores (N, P) with zeros where it suppressed.

    Attributes:
        sizes (list[tuple[int, int]]): Height and width of each level, where they are fixed.
    """
    outputs: dict[str, tuple[str, ...]] = dict(
        boxes=('batch', 'places', 'x1, y1, x2, y2, score'), labels=('batch', 'places'))
    means: Tensor
    stds: Tensor
    zero: Tensor
    none: Tensor
    across: Tensor
    edges: Tensor
    centres: Tensor
    steps: Tensor
    halves: Tensor

    def __init__(self, model, shape, select: Callable | None = None, **kwargs):
        if kwargs.get('logits'):
            raise InputError('a detector has no logits, classifiers and segmentors have', parameter='logits')
        head = model.bbox_head
        super().__init__(model, shape, **kwargs)
        coder, cfg = head.bbox_coder, head.test_cfg
        nms = cfg['nms']
        self.select = select or select_by_offset
        self.classes = head.num_classes
        self.sigmoid = head.use_sigmoid_cls
        self.prior_generator = head.prior_generator
        self.register_buffer('means', torch.tensor(coder.means))
        self.register_buffer('stds', torch.tensor(coder.stds))
        self.shifted = any(coder.means)
        self.register_buffer('zero', torch.tensor(0.0))
        self.register_buffer('none', torch.tensor(-1))
        self.register_buffer('across', torch.tensor([1.0, 0, 1, 0]))  # x1, x2
        self.wh_clip = abs(torch.tensor(16 / 1000).log().item())
        self.nms_pre = cfg.get('nms_pre', -1)
        self.min_size = cfg.get('min_bbox_size', -1)
        self.score_thr = float(cfg.get('score_thr', 0))
        self.iou_threshold = float(nms.get('iou_threshold', 0.5))
        self.class_agnostic = bool(nms.get('class_agnostic', False))
        self.max_per_img = cfg.get('max_per_img', 100)
        if not self.dynamic_hw:
            self.register_buffer('edges', torch.tensor([*shape[::-1], *shape[::-1]]).float())
            with torch.no_grad():
                x = torch.zeros(1, input_channels(model), *shape, dtype=next(self.network.parameters()).dtype)
                scores, _ = self.network(x, mode='tensor')
            self.sizes = [tuple(level.shape[-2:]) for level in scores]
            for name, value in zip(('centres', 'steps', 'halves'), self._anchors(scores)):
                self.register_buffer(name, value)

    def _anchors(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The anchors of levels (N, channels, H, W), as decoding takes them.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Each (A, 2): the centres of boxes with deltas of 0, how far a
            delta of 1 moves them in pixels, and half their sizes.
        """
        shapes = [level.shape[-2:] for level in levels]
        priors = torch.cat(self.prior_generator.grid_priors(shapes, device=levels[0].device))
        sizes = priors[:, 2:] - priors[:, :2]
        centres = (priors[:, :2] + priors[:, 2:]) * 0.5 + sizes * self.means[:2]
        return centres, sizes * self.stds[:2], sizes * 0.5

    def run(self, x):
        scores, deltas = self.network(x, mode='tensor')
        return [*scores, *deltas]

    def answer(self, outputs, images):
        levels = len(outputs) // 2
        channels = self.classes + (0 if self.sigmoid else 1)
        deltas = [by_anchor(level, 4) for level in outputs[levels:]]
        boxes = self._decode(torch.cat(deltas, dim=1), outputs[:levels], images)
        scores, pairs = self._candidates([by_anchor(level, channels) for level in outputs[:levels]])
        # Not floor, which takes six operators for integers.
        anchors = torch.div(pairs, self.classes, rounding_mode='trunc').to(torch.int64)
        labels = pairs - anchors * self.classes
        boxes = _rows(boxes, anchors)
        if self.min_size >= 0:
            large = (boxes[..., 2:] - boxes[..., :2]).amin(-1) > self.min_size
            scores = torch.where(large, scores, self.zero)

        # Far apart, boxes of different classes do not suppress each other.
        places = boxes
        if not self.class_agnostic:
            side = images.shape[2] + images.shape[3] if self.dynamic_hw else max(self.shape) + 1
            places = boxes + (labels.to(boxes) * side).unsqueeze(-1)
        places = places.reshape(places.shape[0], -1, 4)  # so that OpenVINO sees the 4
        scores = self.select(places, scores, self.iou_threshold, self.score_thr, self.max_per_img)
        scores, kept = scores.topk(self._at_most(self.max_per_img, scores.shape[1]), dim=1)
        # Boxes below the threshold suppressed none above it: they can go after NMS too.
        found = scores > self.score_thr
        boxes = torch.cat([_rows(boxes, kept), scores.unsqueeze(-1)], dim=-1)
        boxes = torch.where(found.unsqueeze(-1), boxes, self.zero)
        labels = torch.where(found, labels.gather(1, kept), self.none)
        return boxes, labels.to(torch.int32)

    def _at_most(self, limit: int, count: int) -> int:
        # Where sizes are free, candidates are filled up to the limits.
        return limit if self.dynamic_hw else min(limit, count)

    def _candidates(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The scores (N, P) of each level's best pairs of an anchor and a class, and their indices (N, P).

        The index of a pair is ``anchor * classes + label``, where ``anchor`` counts through all of
        ``levels``, each (N, anchors, channels).
        """
        counts = [level.shape[1] * self.classes for level in levels]
        scores = torch.cat(list(levels), dim=1)
        scores = scores.sigmoid() if self.sigmoid else scores.softmax(-1)[..., :self.classes]
        scores = scores.flatten(1)
        found, first = [], 0
        for count in counts:
            level = scores[:, first:first + count]
            if self.nms_pre > 0 and self.dynamic_hw:
                # Filled up with scores of 0, of any pair.
                level, pairs = F.pad(level, (0, self.nms_pre)).topk(self.nms_pre, dim=1, sorted=False)
                pairs = pairs.minimum(torch.zeros_like(pairs) + (count - 1))
            elif 0 < self.nms_pre < count:
                level, pairs = level.topk(self.nms_pre, dim=1, sorted=False)
            else:
                pairs = torch.arange(count, device=scores.device).expand_as(level)
            found.append((level, pairs + first))
            first = first + count
        scores, pairs = (torch.cat(part, dim=1) for part in zip(*found))
        if self.dynamic_hw:
            scores, pairs = (F.pad(part, (0, self.max_per_img)) for part in (scores, pairs))
        return scores, pairs

    def _decode(self, deltas: Tensor, levels: Sequence[Tensor], images: Tensor) -> Tensor:
        """Boxes (N, A, 4) as mmdet's DeltaXYWHBBoxCoder decodes ``deltas``."""
        centres, steps, halves = (
            self._anchors(levels) if self.dynamic_hw else (self.centres, self.steps, self.halves))
        centres = centres + steps * deltas[..., :2]
        sizes = deltas[..., 2:] * self.stds[2:]
        if self.shifted:
            sizes = sizes + self.means[2:]
        halves = halves * sizes.clamp(-self.wh_clip, self.wh_clip).exp()
        boxes = torch.cat([centres - halves, centres + halves], dim=-1)
        if self.dynamic_hw:
            # A comparison with a traced size would be one with the example's.
            height, width = images.shape[2:]
            return boxes.clamp(min=0).minimum(self.across * width + (1 - self.across) * height)
        if self.shape[0] == self.shape[1]:
            return boxes.clamp(0, self.shape[0])
        return boxes.clamp(min=0).minimum(self.edges)


def by_anchor(level: Tensor, channels: int) -> Tensor:
    """(N, anchors at a place x channels, H, W) → (N, anchors, channels)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, channels)


def _rows(values: Tensor, indices: Tensor) -> Tensor:
    """Rows (N, K, C) of ``values`` (N, A, C), by ``indices`` (N, K)."""
    images, count = values.shape[:2]
    first = torch.arange(images, device=indices.device).unsqueeze(1) * count
    return values.flatten(0, 1)[indices + first]


def select_by_offset(boxes: Tensor, scores: Tensor, iou_threshold: float, score_thr: float,
                     limit: int) -> Tensor:
    """Non-maximum suppression by torchvision's operator, all images at once.

    See :class:`Detection` for the arguments. Images are set apart as classes are, by an offset; in
    float64, so that what an image's boxes are rounded to does not depend on its place in the batch.
    """
    from torchvision.ops import nms
    apart = boxes.double()
    side = apart.amax() - apart.amin() + 1
    image = torch.arange(boxes.shape[0], device=boxes.device).to(apart).reshape(-1, 1, 1)
    kept = nms((apart + image * side).flatten(0, 1), scores.flatten().double(), iou_threshold)
    kept_scores = scores.flatten()[kept]
    return torch.zeros_like(scores).flatten().scatter(0, kept, kept_scores).reshape(scores.shape)


# By the library of a model, which is the default_scope of its config: the task, and its graph.
GRAPHS = dict(mmpretrain=('classification', Classification), mmdet=('detection', Detection),
              mmseg=('segmentation', Segmentation))
