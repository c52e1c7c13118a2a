"""The boxes: whether they are where images are, and of what size the anchors are."""
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmone.config import type_name, walk

from .findings import Finding, count, error, note, some, warning
from .reading import Box, Sample, Split
from .subject import Subject

_NEEDED = dict(images=('id', 'file_name', 'height', 'width'), annotations=('id', 'image_id', 'category_id', 'bbox'),
               categories=('id', 'name'))
_EDGE = 1.5  # pixels that a box may lie outside: some count from 1, some round
_FAR = 0.5  # of boxes that no anchor fits, from which on it is told
# Heads that divide by the width and height of a box, or take their logarithms, of zero too.
_SPOILED_BY_ZERO = ('SSDHead', )


def _boxes(split: Split) -> list[tuple[Sample, Box]]:
    return [(sample, box) for sample in split.samples for box in sample.boxes]


def check_entries(subject: Subject) -> Iterator[Finding]:
    """What CocoDataset needs of its file and that is not there."""
    for split in subject.splits:
        raw, file = split.raw, split.ann_file
        if not raw:
            continue
        for part, keys in _NEEDED.items():
            for key in keys:
                lacking = [number for number, entry in enumerate(raw[part]) if key not in entry]
                if lacking:
                    yield error(f'{file} has no {key!r} in {part}[{lacking[0]}]{_and(lacking)}, which CocoDataset '
                                'needs: add it')
        bad = [number for number, one in enumerate(raw['annotations']) if 'bbox' in one
               and not (isinstance(one['bbox'], list) and len(one['bbox']) == 4)]
        if bad:
            yield error(f'{file} has annotations[{bad[0]}].bbox={raw["annotations"][bad[0]]["bbox"]!r}{_and(bad)}: '
                        'expected [x, y, width, height]')
        flat = [number for number, one in enumerate(raw['annotations']) if 'area' not in one
                and not one.get('ignore')]
        if flat:
            yield error(f'{file} has no \'area\' in annotations[{flat[0]}]{_and(flat)}, which CocoDataset needs: add '
                        'the width times the height of bbox')
        yield from _identities(split)


def _and(numbers: list) -> str:
    return f' and {count(len(numbers) - 1, "more entry", "more entries")}' if len(numbers) > 1 else ''


def _identities(split: Split) -> Iterator[Finding]:
    """Numbers that are given twice, or to nothing."""
    raw, file = split.raw, split.ann_file
    images = [one.get('id') for one in raw['images']]
    for part, ids in (('images', images), ('annotations', [one.get('id') for one in raw['annotations']])):
        twice = [number for number, times in Counter(ids).items() if times > 1 and number is not None]
        if twice:
            what = ('the boxes of both are those of the last one' if part == 'images' else 'CocoDataset stops there')
            yield error(f'{file} has the id {twice[0]!r} twice among its {part}'
                        f'{f" and {len(twice) - 1} more ids" if len(twice) > 1 else ""}, so {what}: number them anew')
    known = set(images)
    lost = [one for one in raw['annotations'] if 'image_id' in one and one['image_id'] not in known]
    if lost:
        yield warning(f'{file} has {count(len(lost), "annotation")} of images that it does not have (image_id='
                      f'{lost[0]["image_id"]!r}): they are left out; add the images, or remove them')
    categories = {one.get('id') for one in raw['categories']}
    strange = [one for one in raw['annotations'] if 'category_id' in one and one['category_id'] not in categories]
    if strange:
        yield warning(f'{file} has {count(len(strange), "annotation")} of categories that it does not have '
                      f'(category_id={strange[0]["category_id"]!r}): they are left out; add the categories')


def check_numbers(subject: Subject) -> Iterator[Finding]:
    """Boxes that are no boxes in pixels."""
    for split in subject.splits:
        boxes = [(sample, box) for sample, box in _boxes(split) if sample.size and min(sample.size) > 1]
        if not boxes:
            continue
        corners = np.array([box.corners for _, box in boxes], np.float64)
        sizes = np.array([sample.size for sample, _ in boxes], np.float64)
        sample, box = boxes[0]
        if (corners <= 1).all() and (corners >= 0).all() and (sizes > 4).all():
            yield error(f'the boxes of {_file(split, sample)} are fractions of the image, as {_told(split, box)}: '
                        'multiply them by its width and height')
            continue
        beyond = np.any(np.concatenate([corners[:, 2:] > sizes + _EDGE, corners[:, :2] < -_EDGE], 1), axis=1)
        if split.kind == 'coco' and beyond.mean() > 0.5:
            ends = corners[:, 2:] - corners[:, :2]  # what stands where width and height should be
            if (ends > corners[:, :2]).mean() > 0.95 and (ends <= sizes + _EDGE).mean() > 0.95:
                yield error(f'the boxes of {split.ann_file} look like x1, y1, x2, y2 ({_told(split, box)}), but COCO '
                            'has x, y, width, height: subtract x1 and y1')
                continue
        yield from _outside(split, boxes, corners, sizes, beyond)
        yield from _degenerate(subject, split, boxes, corners)


def _file(split: Split, sample: Sample) -> str:
    return split.ann_file if split.kind == 'coco' else sample.source or split.key


def _told(split: Split, box: Box) -> str:
    numbers = (*box.corners[:2], box.width, box.height) if split.kind == 'coco' else box.corners
    return f'{box.name} at [{", ".join(f"{number:g}" for number in numbers)}]'


def _outside(split: Split, boxes: list, corners: np.ndarray, sizes: np.ndarray,
             beyond: np.ndarray) -> Iterator[Finding]:
    gone = (np.minimum(corners[:, 2:], sizes) <= np.maximum(corners[:, :2], 0)).any(1) & \
        (corners[:, 2:] > corners[:, :2]).all(1)
    for chosen, what in ((gone, 'outside of its image'), (beyond & ~gone, 'partly outside of its image')):
        found = np.flatnonzero(chosen)
        if len(found):
            sample, box = boxes[found[0]]
            yield warning(f'{_file(split, sample)} has {count(len(found), "box", "boxes")} {what}, as '
                          f'{_told(split, box)} of {sample.image} ({"x".join(map(str, sample.size or ()))}): see '
                          'whether the boxes are those of this image, and cut them at its edge')


def _degenerate(subject: Subject, split: Split, boxes: list, corners: np.ndarray) -> Iterator[Finding]:
    """Boxes without an area. CocoDataset leaves them out, XMLDataset does not."""
    small = (corners[:, 2:] - corners[:, :2] < 1).any(1)
    flat = [number for number in np.flatnonzero(small) if not boxes[number][1].crowd]
    if not flat:
        return
    sample, box = boxes[flat[0]]
    text = (f'{_file(split, sample)} has {_told(split, box)}, less than a pixel wide or high'
            f'{f", one of {len(flat)} such boxes" if len(flat) > 1 else ""}')
    if split.kind == 'coco':
        yield warning(f'{text}: CocoDataset leaves it out; remove or mend it')
    elif split.training and split.transform('FilterAnnotations') is None:
        spoiled = any(type_name(node) in _SPOILED_BY_ZERO for node in walk(subject.cfg.model))
        yield (error if spoiled else warning)(
            f'{text}{", by which the loss of SSD becomes infinite" if spoiled else ""}: remove it, or add '
            f"dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)) to {split.key}.pipeline before PackDetInputs")
    elif split.training:
        yield note(f'{text}: FilterAnnotations leaves it out')


def check_dropped(subject: Subject) -> Iterator[Finding]:
    """Data sets none of whose boxes is trained on."""
    for split in subject.training:
        boxes = [box for _, box in _boxes(split)]
        crowds = sum(box.crowd for box in boxes)
        used = sum(not box.dropped and not box.crowd for box in boxes)
        if boxes and not used:
            why = Counter(box.dropped or 'crowds, or difficult' for box in boxes)
            reasons = ', '.join(f'{number} {reason}' for reason, number in why.most_common())
            yield error(f'{split.key} trains on none of its {count(len(boxes), "box", "boxes")} ({reasons}): see '
                        f'{split.ann_file}, and filter_cfg')
        elif crowds:
            yield note(f'{split.key} has {count(crowds, "box", "boxes")} marked as crowd, difficult or too small: they '
                       'are not trained on')
        if split.samples and not boxes and split.kind in ('coco', 'voc') and split.complete:
            yield error(f'{split.ann_file} lists {count(len(split.samples), "image")} without a box: there is nothing '
                        'to learn; see whether it is the file with the annotations')


def check_evaluated(subject: Subject) -> Iterator[Finding]:
    """Files that a CocoMetric reads by itself: of other images than its loader has, or without what it needs."""
    for split in subject.splits:
        if split.training:
            continue
        for key, metric in subject.metrics(split.loader):
            if type_name(metric) != 'CocoMetric' or not metric.get('ann_file'):
                continue
            yield from _evaluated(subject, split, f'{key}.ann_file', metric['ann_file'])


def _evaluated(subject: Subject, split: Split, key: str, file: str) -> Iterator[Finding]:
    try:
        raw = subject.reader.json(file)
        theirs = {one['id'] for one in raw['images']}
    except (OSError, ValueError, KeyError, TypeError):
        return  # told when the evaluator is built
    lacking = [number for number, one in enumerate(raw.get('annotations') or ()) if 'iscrowd' not in one]
    if lacking:
        yield error(f'{file} has no \'iscrowd\' in annotations[{lacking[0]}]{_and(lacking)}, which CocoMetric needs: '
                    'add iscrowd=0')
    if split.kind != 'coco' or not split.raw:
        if split.kind == 'voc':
            yield error(f'{key} is {file}, but {split.loader} reads annotations of Pascal VOC, whose images have other '
                        f"ids: remove {key}, and add 'instances' to meta_keys of PackDetInputs in {split.key}.pipeline")
        return
    ours = {one.get('id') for one in split.raw['images']}
    if ours - theirs:
        yield error(f'{key} is {file}, which lacks {count(len(ours - theirs), "image")} of {split.loader}, that reads '
                    f'{split.ann_file}: set both to the same file')
    elif theirs - ours:
        yield warning(f'{key} is {file}, which has {count(len(theirs - ours), "image")} more than {split.ann_file} of '
                      f'{split.loader}: what is on them counts as not found; set both to the same file')
    else:
        names = [[one.get('name') for one in data['categories']] for data in (raw, split.raw)]
        if names[0] != names[1]:
            yield error(f'{key} is {file}, whose categories ({some(names[0])}) are not those of {split.ann_file} '
                        f'({some(names[1])}), which {split.loader} reads: set both to the same file')


def input_boxes(subject: Subject, split: Split) -> np.ndarray:
    """(N, 2): width and height of the boxes that are trained on, in pixels of what the model is given."""
    width, height = subject.input_size
    resize = split.transform('Resize', 'RandomResize', 'RandomChoiceResize') or {}
    found = []
    for sample, box in _boxes(split):
        if box.dropped or box.crowd or not sample.size or not all(sample.size) or box.width <= 0 or box.height <= 0:
            continue
        x, y = width / sample.size[0], height / sample.size[1]
        if resize.get('keep_ratio'):
            x = y = min(x, y)
        found.append((box.width * x, box.height * y))
    return np.array(found, np.float64).reshape(-1, 2)


def anchors(subject: Subject) -> np.ndarray | None:
    """(A, 2): width and height of the model's anchors; None if it has none."""
    generator = _generator(subject)
    if generator is None:
        return None
    corners = np.concatenate([level.detach().cpu().numpy() for level in generator.base_anchors])
    return corners[:, 2:] - corners[:, :2]


def _generator(subject: Subject) -> Any:
    if not any(node.get('anchor_generator') for node in walk(subject.cfg.model)):
        return None
    head = getattr(subject.model, 'bbox_head', None) or getattr(subject.model, 'rpn_head', None)
    generator = getattr(head, 'prior_generator', None)
    return generator if hasattr(generator, 'base_anchors') else None


def best_overlaps(boxes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(N, ): how much of a box and the anchor most like it they have in common, laid on one centre."""
    common = np.minimum(boxes[:, None, 0], shapes[None, :, 0]) * np.minimum(boxes[:, None, 1], shapes[None, :, 1])
    areas = boxes.prod(1)[:, None] + shapes.prod(1)[None] - common
    return (common / areas).max(1) if len(shapes) else np.zeros(len(boxes))


def check_anchors(subject: Subject) -> Iterator[Finding]:
    """Boxes that no anchor is like, and images that the anchors do not cover."""
    if not subject.whole or subject.task != 'mmdet':
        return
    shapes = anchors(subject)
    if shapes is None:
        return
    assigner: dict = next((node for node in walk(subject.cfg.model) if type_name(node) == 'MaxIoUAssigner'), {})
    wanted = assigner.get('pos_iou_thr', 0.5)
    for split in subject.training:
        boxes = input_boxes(subject, split)
        if not len(boxes):
            continue
        far = best_overlaps(boxes[:100_000], shapes) < min(wanted, 0.5)
        if far.mean() > _FAR:
            middle = np.median(np.sqrt(boxes.prod(1)))
            sides = np.sqrt(shapes.prod(1))
            yield warning(f'{far.mean():.0%} of the boxes of {split.key} overlap with no anchor by '
                          f'{min(wanted, 0.5):g}: in the input of {"x".join(map(str, subject.input_size))} the middle '
                          f'one is {middle:.0f} pixels large, the anchors {sides.min():.0f} to {sides.max():.0f}; set '
                          'the sizes in '
                          'model.bbox_head.anchor_generator, or the scale of Resize')
    yield from _cover(subject)


def _cover(subject: Subject) -> Iterator[Finding]:
    generator = _generator(subject)
    maps = subject.forward(lambda model, image: model.extract_feat(image), training=False)
    for level, (features, stride) in enumerate(zip(maps, generator.strides)):
        for axis, size, cells, step in zip('xy', subject.input_size, features.shape[:1:-1], stride):
            reach = cells * step
            if size - reach > step / 2 or reach - size > step:
                yield warning(f'the anchors of level {level} reach to {reach} of the {size} pixels of the input along '
                              f'{axis}: its {cells} cells are not {step} pixels apart; set '
                              f'model.bbox_head.anchor_generator.strides[{level}]={round(size / cells)}')
                return
