"""The images: whether they are there, can be read, and are what the annotations and the model take them for."""
import os
from collections.abc import Iterator
from pathlib import Path

from mmone.config import type_name
from mmone.runtime.images import IMAGE_SUFFIXES

from .files import Facts
from .findings import Finding, count, error, some, warning
from .reading import Sample, Split
from .subject import Subject

_FAULTS = ('', 'missing', 'undecodable', 'truncated')  # else it is why an image is too large


def check_samples(subject: Subject) -> Iterator[Finding]:
    """Data sets without an image."""
    for split in subject.splits:
        if split.samples or not split.complete or any(one.level == 'error' for one in split.findings):
            continue
        filtered = f' ({count(split.left_out, "image")} are left out by them)' if split.left_out else ''
        yield error(f'the data set of {split.loader} has no samples: check its data_root='
                    f'{split.config.get("data_root")!r}, ann_file, data_prefix and filters{filtered}')


def check_files(subject: Subject) -> Iterator[Finding]:
    """Images that are missing or cannot be read."""
    for split in subject.splits:
        facts = list(subject.looked_at(sample.image for sample in split.samples))
        yield from _missing(split, [fact.path for fact in facts if fact.fault == 'missing'], len(facts))
        broken = [fact.path for fact in facts if fact.fault == 'undecodable']
        if broken:
            yield error(f'image {broken[0]} cannot be decoded{_as(broken)}: replace it, or remove it from the data set')
        cut = [fact.path for fact in facts if fact.fault == 'truncated']
        if cut:
            yield warning(f'image {cut[0]} is truncated{_more([*cut])}: it is read with a grey end; copy it again, or '
                          'remove it from the data set')
        large = [fact.fault for fact in facts if fact.fault not in _FAULTS]
        if large:
            yield error(large[0])


def _as(paths: list[str]) -> str:
    return f', nor {len(paths) - 1} more' if len(paths) > 1 else ''


def _missing(split: Split, paths: list[str], of: int) -> Iterator[Finding]:
    if not paths:
        return
    first = Path(paths[0])
    others = [end for end in IMAGE_SUFFIXES for end in (end, end.upper())
              if first.with_suffix(end).exists() and end != first.suffix]
    place = split.ann_file or split.key
    if others and split.kind == 'masks':
        todo = f'{first.with_suffix(others[0]).name} does: set {split.key}.img_suffix={others[0]!r}'
    elif others and split.kind == 'voc':
        todo = f'{first.with_suffix(others[0]).name} does, but XMLDataset reads .jpg only: convert the images'
    elif others:
        todo = f'{first.with_suffix(others[0]).name} does: write the names in {place} as the files have them'
    else:
        todo = f'add it, or take it out of {place}; the folder is set by {split.key}.data_root and data_prefix'
    yield error(f'image {first} does not exist{f", nor do {len(paths) - 1} of {of} others" if len(paths) > 1 else ""}'
                f'{" but " if others else ": "}{todo}')


def check_sizes(subject: Subject) -> Iterator[Finding]:
    """Images of another size than their annotations say."""
    for split in subject.splits:
        wrong: list[tuple[Sample, Facts]] = []
        spoiled: list[tuple[Sample, Facts]] = []
        turned: list[tuple[Sample, Facts]] = []
        for sample in split.samples:
            fact = subject.facts.get(sample.image)
            if not fact or fact.fault or not fact.size[0] or not sample.size:
                continue
            fact = fact._replace(size=split.seen(fact))
            if fact.size == sample.size:
                continue
            if fact.stored != fact.size and fact.stored == sample.size:
                turned.append((sample, fact))
            elif _beyond(sample, fact):
                spoiled.append((sample, fact))
            else:
                wrong.append((sample, fact))
        if turned:
            sample, fact = turned[0]
            yield (error if any(_beyond(*one) for one in turned) else warning)(
                f'image {sample.image} is turned by its EXIF data to {_by(fact.size)} when it is read, but its '
                f'annotation ({sample.source}) is of {_by(sample.size)}{_more(turned)}: write the images upright, '
                'without EXIF, or annotate them as they are shown')
        for found, level in ((spoiled, error), (wrong, warning)):
            if found:
                sample, fact = found[0]
                yield level(f'image {sample.image} is of {_by(fact.size)} but its annotation ({sample.source}) says '
                            f'{_by(sample.size)}{_more(found)}: '
                            f'{"its boxes lie outside of it; " if found is spoiled else ""}take the images that were '
                            'annotated, or mend the annotations')


def _beyond(sample: Sample, fact: Facts) -> bool:
    """Whether a box ends outside of the image as it is."""
    return any(box.corners[2] > fact.size[0] + 2 or box.corners[3] > fact.size[1] + 2 for box in sample.boxes)


def _by(size: tuple[int, int] | None) -> str:
    return 'x'.join(map(str, size or ()))


def _more(found: list) -> str:
    return f', and so with {count(len(found) - 1, "other")}' if len(found) > 1 else ''


def check_channels(subject: Subject) -> Iterator[Finding]:
    """Images of another number of channels than the model takes."""
    wanted = subject.channels
    preprocessor = subject.cfg.model.get('data_preprocessor') or subject.cfg.get('data_preprocessor') or {}
    mean = preprocessor.get('mean')
    if type_name(preprocessor) in _OF_ONE_IMAGE and isinstance(mean, (list, tuple)) and len(mean) not in (1, wanted):
        yield error(f'model.data_preprocessor.mean has {count(len(mean), "value")} but model.backbone.in_channels is '
                    f'{wanted}: make them agree')
    for split in subject.splits:
        reader = split.reader
        if reader is None or any(type_name(step) not in _KEEP_CHANNELS and 'Gray' in type_name(step)
                                 for step in split.pipeline):
            continue
        kind = reader.get('color_type', 'color')
        facts = [fact for fact in subject.looked_at(one.image for one in split.samples) if fact.channels]
        if kind.startswith('color') or kind.startswith('grayscale'):
            given = 3 if kind.startswith('color') else 1
            if given != wanted:
                yield error(f'{split.key}.pipeline reads images of {count(given, "channel")} (color_type={kind!r}) but '
                            f'model.backbone.in_channels is {wanted}: make them agree')
        elif kind == 'unchanged':
            strange = [fact for fact in facts if fact.channels != wanted and fact.mode != 'P']
            if strange:
                yield error(f'image {strange[0].path} has {count(strange[0].channels, "channel")} but '
                            f'model.backbone.in_channels is {wanted}{_more(strange)}: convert them, or read them with '
                            "color_type='color'")


# Others are of several images, which lie behind one another.
_OF_ONE_IMAGE = ('', 'ClsDataPreprocessor', 'DetDataPreprocessor', 'SegDataPreProcessor', 'ImgDataPreprocessor')
_KEEP_CHANNELS = ('RandomGrayscale', )


def check_duplicates(subject: Subject) -> Iterator[Finding]:
    """Images that are trained on and tested on: by their paths, and of files that were read whole by their content."""
    trained: dict = {}
    for split in subject.training:
        for sample in split.samples:
            for name in _names(subject, sample.image):
                trained.setdefault(name, sample.image)
    told = set()
    for split in subject.splits:
        if split.training:
            continue
        shared = [(sample.image, trained[name]) for sample in split.samples
                  for name in _names(subject, sample.image) if name in trained]
        shared = list(dict.fromkeys(shared))
        if shared and (key := frozenset(shared)) not in told:
            told.add(key)
            ours, theirs = shared[0]
            number = len({image for image, _ in shared})
            same = 'is' if ours == theirs else f'is the same as {theirs} and'
            yield warning(f'image {ours} of {split.loader} {same} trained on'
                          f'{f", as {number - 1} more" if number > 1 else ""} of {len(split.samples)}: what '
                          'is measured on them says nothing of new images; take them out of one of the two')
    if subject.whole:
        for split in subject.training:
            yield from _twice(subject, split)


def _names(subject: Subject, path: str) -> Iterator:
    if path:
        yield os.path.abspath(path)
    fact = subject.facts.get(path)
    if subject.whole and fact and fact.digest:
        yield fact.digest


def _twice(subject: Subject, split: Split) -> Iterator[Finding]:
    first: dict[bytes, str] = {}
    again = []
    for sample in split.samples:
        fact = subject.facts.get(sample.image)
        if fact and fact.digest:
            if fact.digest in first:
                again.append((sample.image, first[fact.digest]))
            first.setdefault(fact.digest, sample.image)
    if again:
        names = some(dict.fromkeys(again[0]), 2)
        yield warning(f'{split.key} has {count(len(again), "image")} twice ({names}): they weigh double; remove the '
                      'copies')
