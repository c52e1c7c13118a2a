"""The masks: whether their numbers are classes."""
from collections import Counter
from collections.abc import Iterator

import numpy as np

from mmone.config import type_name

from .files import Facts
from .findings import Finding, error, some, warning
from .reading import Split
from .subject import Subject

_IGNORED = 255


def backend(split: Split) -> str:
    """What a data set's masks are read with."""
    return (split.mask_reader or {}).get('imdecode_backend') or 'pillow'


def ignore_index(subject: Subject) -> int:
    """The number in a mask that the loss leaves out."""
    return next((head.get('ignore_index', _IGNORED) for key, head in subject.heads() if 'decode_head' in key), _IGNORED)


def translation(split: Split) -> np.ndarray:
    """(256, ): what mmseg makes of the numbers in a mask, of reduce_zero_label and of classes that are chosen."""
    table = np.arange(256)
    if getattr(split.dataset, 'reduce_zero_label', False):
        table = np.where((table == 0) | (table == 255), 255, table - 1)
    chosen = table.copy()
    for old, new in (getattr(split.dataset, 'label_map', None) or {}).items():
        chosen[table == int(old)] = new
    return chosen


def _masks(subject: Subject, split: Split) -> list[tuple[str, Facts]]:
    """Images and the facts of their masks."""
    return [(sample.image, subject.facts[sample.mask]) for sample in split.samples if sample.mask in subject.facts]


def pixels(subject: Subject, split: Split) -> Counter:
    """How many pixels each number has, as the model is given it, in all masks that were looked at."""
    table = translation(split)
    found: Counter = Counter()
    for _, fact in _masks(subject, split):
        for value, number in fact.values:
            found[int(table[value % 256])] += number
    return found


def check_files(subject: Subject) -> Iterator[Finding]:
    """Masks that are missing, cannot be read, or are pictures."""
    for split in subject.splits:
        facts = [fact for _, fact in _masks(subject, split)]
        missing = [fact.path for fact in facts if fact.fault == 'missing']
        if missing:
            others = f', nor do {len(missing) - 1} others' if missing[1:] else ''
            yield error(f'mask {missing[0]} does not exist{others}: set '
                        f' {split.key}.seg_map_suffix={split.dataset.seg_map_suffix!r} and data_prefix to what the '
                        'masks are called, or take the image out')
        broken = [fact for fact in facts if fact.fault and fact.fault != 'missing']
        if broken:
            yield error(f'image {broken[0].path} cannot be decoded: replace it, or remove it from the data set'
                        if broken[0].fault == 'undecodable' else broken[0].fault)
        colours = [fact for fact in facts if fact.channels > 1]
        if colours:
            first, number = colours[0], len(colours)
            so = f', as {number - 1} more' if number > 1 else ''
            if first.mode == 'P':
                yield error(f'mask {first.path} is a PNG with a palette, which {backend(split)!r} reads as colours{so}'
                            f": set imdecode_backend='pillow' in LoadAnnotations of {split.key}.pipeline")
            else:
                yield error(f'mask {first.path} has {first.channels} channels{so}, which are colours and no numbers of '
                            'classes: write masks of one channel (or PNG with a palette) with the class of each pixel')


def check_sizes(subject: Subject) -> Iterator[Finding]:
    """Masks of another size than their images."""
    for split in subject.splits:
        wrong = [(image, fact) for image, fact in _masks(subject, split)
                 if not fact.fault and image in subject.facts and not subject.facts[image].fault
                 and split.seen(subject.facts[image]) != fact.size]
        if wrong:
            image, fact = wrong[0]
            size, stored = split.seen(subject.facts[image]), subject.facts[image].stored
            exif = ' (its EXIF data turn the image, but not the mask)' if size != stored else ''
            yield error(f'mask {fact.path} is of {"x".join(map(str, fact.size))} but its image {image} of '
                        f'{"x".join(map(str, size))}{exif}{f", and {len(wrong) - 1} more" if wrong[1:] else ""}: write '
                        'both in the same size')


def check_values(subject: Subject) -> Iterator[Finding]:
    """Numbers in masks that are no classes."""
    ignored = ignore_index(subject)
    for split in subject.splits:
        known = [fact for _, fact in _masks(subject, split) if fact.values]
        classes = len(split.classes)
        if not known or not classes:
            continue
        raw = {value for fact in known for value, _ in fact.values}
        if raw <= {0, 255} and 255 in raw and classes > 1:
            yield (warning if split.has_own_transforms else error)(
                f'the masks of {split.key} have the values {some(sorted(raw))} only, as {known[0].path}: 255 is '
                f'{"left out of the loss" if ignored == 255 else "no class"}; write the numbers of the classes, 1 in '
                'place of 255')
            continue
        table = translation(split)
        left_out = ignored, _after(split)
        wrong = sorted(value for value in raw if not 0 <= value <= 255
                       or (table[value] >= classes and table[value] not in left_out))
        if wrong:
            first = next(fact for fact in known if any(value == wrong[0] for value, _ in fact.values))
            reduced = getattr(split.dataset, 'reduce_zero_label', False)
            hint = ''
            if wrong == [classes] and not reduced and not getattr(split.dataset, 'label_map', None):
                hint = f', or reduce_zero_label=True in {split.key} and LoadAnnotations if 0 is no class'
            yield (error if split.training and not split.has_own_transforms else warning)(
                f'mask {first.path} has the value {some(wrong)}, but {split.key} has {classes} classes, '
                f'{"from 1 on by reduce_zero_label" if reduced else f"0 to {classes - 1}"}, and {ignored} is left out: '
                f'mend the masks, or set model.decode_head.ignore_index{hint}')
        yield from _taken_away(split, known, raw)


def _after(split: Split) -> int | None:
    """What left-out pixels become where the data set itself leaves some out."""
    moved = getattr(split.dataset, 'reduce_zero_label', False) or getattr(split.dataset, 'label_map', None)
    return _IGNORED if moved else None


def _taken_away(split: Split, known: list[Facts], raw: set[int]) -> Iterator[Finding]:
    """``reduce_zero_label`` on masks whose 0 is a class."""
    if not getattr(split.dataset, 'reduce_zero_label', False) or not split.training or 0 not in raw:
        return
    highest = max((value for value in raw if value < 255), default=0)
    named = str(split.classes[0]).lower() in ('background', 'bg', 'unlabeled', 'void', 'other')
    if highest < len(split.classes) and (named or highest == len(split.classes) - 1):
        yield warning(f'{split.key}.reduce_zero_label leaves out the pixels of 0 and makes {split.classes[0]!r} of 1, '
                      f'but the masks have 0 to {highest} for {len(split.classes)} classes, as {known[0].path}: set '
                      'reduce_zero_label=False if 0 is a class')


def check_ignored(subject: Subject) -> Iterator[Finding]:
    """Masks of pixels that are all left out, and classes that no pixel is of."""
    ignored = ignore_index(subject)
    for split in subject.training:
        known = [fact for _, fact in _masks(subject, split) if fact.values]
        table = translation(split)
        empty = [fact for fact in known if all(table[value % 256] == ignored for value, _ in fact.values)]
        if empty:
            yield (error if len(empty) == len(known) and len(known) > 1 else warning)(
                f'mask {empty[0].path} has no pixel of a class, only {ignored}, which is left out'
                f'{f", as {len(empty) - 1} of {len(known)} more" if empty[1:] else ""}: remove its image, or '
                'annotate it')
        found = pixels(subject, split)
        never = [name for number, name in enumerate(split.classes) if not found[number]]
        if subject.whole and known and never and len(never) < len(split.classes):
            yield warning(f'{split.key} has no pixel of {some(map(repr, never))}: nothing is learned of it')


def check_ignored_everywhere(subject: Subject) -> Iterator[Finding]:
    """The number that is left out, in all places of the config."""
    if subject.task != 'mmseg' or 'model' not in subject.cfg:
        return
    ignored = ignore_index(subject)
    padding = (subject.cfg.model.get('data_preprocessor') or {}).get('seg_pad_val', _IGNORED)
    number = next((head.get('num_classes') or 0 for key, head in subject.heads() if 'decode_head' in key), 0)
    if padding != ignored and padding >= number > 0:
        yield warning(f'model.data_preprocessor.seg_pad_val is {padding}, no class, but model.decode_head.ignore_index '
                      f'is {ignored}: an image that is padded stops the training; set both to the same')
    for key, metric in subject.metrics('val_dataloader'):
        if type_name(metric) == 'IoUMetric' and metric.get('ignore_index', _IGNORED) != ignored:
            yield warning(f'{key}.ignore_index is {metric.get("ignore_index", _IGNORED)} but that of model.decode_head '
                          f'{ignored}: set both to the same')
