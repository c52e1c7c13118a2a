"""The classes of the config, of the data, of the head and of the checkpoint."""
from collections import Counter
from collections.abc import Iterator, Sequence

from .findings import Finding, count, error, note, some, warning
from .reading import Split
from .subject import Subject


def check_names(subject: Subject) -> Iterator[Finding]:
    """The config's names against those that the data has for the same labels."""
    for split in subject.splits:
        if split.kind == 'coco' and split.names is not None:
            yield from _coco(split)
        elif split.kind == 'voc':
            yield from _voc(split)
        elif split.kind == 'folders' and split.names is not None:
            yield from _folders(split)
        elif split.kind == 'folders':
            yield from _listed(split)


def _key(split: Split) -> str:
    return f'{split.key}.classes' if split.config.get('classes') else f'{split.key}.metainfo.classes'


def _listing(names: Sequence) -> str:
    return f'({", ".join(map(repr, names))}{", " if len(names) == 1 else ""})' if len(names) <= 12 else some(names)


def _similar(name: str, others: Sequence) -> str:
    """A hint at another name that differs only in case, spaces and signs."""
    def plain(text) -> str:
        return ''.join(letter for letter in str(text).lower() if letter.isalnum())
    found = next((other for other in others if plain(other) == plain(name)), None)
    return f' (the data has {found!r})' if found is not None else ''


def _coco(split: Split) -> Iterator[Finding]:
    """CocoDataset numbers labels by the file's order of categories, and calls them by the config's order."""
    given, found, file = split.classes, split.names or [], split.ann_file
    every = [one.get('name') for one in split.raw['categories']]
    twice = [name for name, times in Counter(found).items() if times > 1]
    absent = [name for name in given if name not in every]
    if twice:
        yield error(f'{file} has {count(len(twice), "category", "categories")} twice ({some(twice)}), so the labels do '
                    'not fit the names: give them one id')
    elif not found:
        yield error(f'{file} has none of the classes of {_key(split)} ({some(given)}), so no box is used: its '
                    f'categories are {_listing(every)}, set them there')
    elif absent and tuple(found) != tuple(given[:len(found)]):
        yield error(f'{_key(split)} has {absent[0]!r}, which is no category of {file}{_similar(absent[0], every)}: '
                    f'the labels after it get wrong names. Set classes={_listing(found)}, or add the category')
    elif absent:
        yield warning(f'{_key(split)} has {some(map(repr, absent))}, no category of {file}'
                      f'{_similar(absent[0], every)}: nothing is learned of it')
    elif tuple(found) != tuple(given):
        first = next(number for number, (one, other) in enumerate(zip(found, given)) if one != other)
        kind = type(split.dataset).__name__
        yield error(f'{_key(split)} has its classes in another order than {file}, by which {kind} numbers them: what'
                    f' is annotated as {found[first]!r} is called {given[first]!r}. Set '
                    f'classes={_listing(found)}')
    others = [name for name in every if name not in given]
    if others and found:
        yield warning(f'{file} has {count(len(others), "category", "categories")} that the config does not '
                      f'({some(map(repr, others))}): their boxes are left out; add them to {_key(split)} to use them')
    ids = sorted(one.get('id') for one in split.raw['categories'] if isinstance(one.get('id'), int))
    if ids and ids != list(range(ids[0], ids[0] + len(ids))) and not split.loader.startswith('test'):
        yield note(f'{file} has category ids that are not contiguous, which CocoDataset copes with')


def _voc(split: Split) -> Iterator[Finding]:
    boxes = [box for sample in split.samples for box in sample.boxes]
    names = Counter(box.name for box in boxes)
    others = {name: times for name, times in names.items() if name not in split.classes}
    if not boxes or not others:
        return
    first = next(iter(others))
    similar = _similar(first, split.classes).replace('the data', 'it')
    text = (f'{_key(split)} has no {some(map(repr, others))}{similar}, as '
            f'{count(sum(others.values()), "box is", "boxes are")} named in the annotations of {split.ann_file}: '
            'they are left out; set it as the annotations have it')
    yield error(text) if len(others) == len(names) else warning(text)


def _folders(split: Split) -> Iterator[Finding]:
    """CustomDataset numbers labels by the sorted names of folders, and calls them by the config's order."""
    given, found, place = split.classes, split.names or [], split.dataset.img_prefix
    labels = {sample.label for sample in split.samples}
    empty = [name for label, name in enumerate(found) if label not in labels]
    if len(given) != len(found):
        strange = [name for name in found if name not in given] or [name for name in given if name not in found]
        yield error(f'{_key(split)} has {count(len(given), "class", "classes")} but {place} has '
                    f'{count(len(found), "folder")} ({some(found)}), and each folder is a class: add to one what it '
                    f'lacks, or remove from the other ({some(strange)})')
        return
    moved = [(name, given[number]) for number, name in enumerate(found) if name != given[number] and name in given]
    if moved:
        yield error(f'{_key(split)} has its classes in another order than the folders of {place}, which are numbered '
                    f'in sorted order: the folder {moved[0][0]} is called {moved[0][1]!r}. Set '
                    f'classes={_listing(found)}, or leave it out')
    if empty and split.complete and not split.chosen:
        yield warning(f'{place} has {count(len(empty), "folder")} without an image ({some(empty)}): nothing is learned '
                      'of that class')


def _listed(split: Split) -> Iterator[Finding]:
    if not split.classes:
        return
    wrong = [sample for sample in split.samples if sample.label is not None
             and not 0 <= sample.label < len(split.classes)]
    if wrong:
        yield error(f'{wrong[0].source} has the class {wrong[0].label}, but {_key(split)} has '
                    f'{count(len(split.classes), "class", "classes")}, of which the first is 0'
                    f'{f"; so have {len(wrong) - 1} more lines" if len(wrong) > 1 else ""}: number the classes from 0, '
                    'or name all of them')


def check_splits(subject: Subject) -> Iterator[Finding]:
    """The classes of training against those of the other data."""
    if not subject.training:
        return
    first = subject.training[0]
    for split in subject.splits:
        ours, theirs = first.classes, split.classes
        if split is first or not ours or not theirs or ours == theirs:
            continue
        if split.kind == 'folders' and first.kind == 'folders' and split.names and first.names:
            lacking = sorted({*first.names} ^ {*split.names})
            folders = f'{first.dataset.img_prefix} and {split.dataset.img_prefix}'
            if lacking:
                yield error(f'{folders} have other folders ({some(lacking)} in one of them only), so the same number '
                            f'is another class in each: add what is missing, if need be empty')
                continue
        number = next((number for number, (one, other) in enumerate(zip(ours, theirs)) if one != other),
                      min(len(ours), len(theirs)))
        names = [names[number] if number < len(names) else 'missing' for names in (ours, theirs)]
        renamed = len(ours) == len(theirs) and not {*ours} & {*theirs}
        yield (warning if renamed else error)(
            f'{split.key} has other classes than {first.key}: class {number} is {names[1]!r} there and {names[0]!r} '
            f'here; set {_key(split)} to the same, in the same order')


def check_occurrence(subject: Subject) -> Iterator[Finding]:
    """Classes that no image of the training has."""
    for split in subject.training:
        names = split.classes
        if not split.complete or split.chosen or not split.samples or not names or split.kind in ('masks', 'other'):
            continue
        if split.kind == 'folders':
            if split.names is not None:
                continue  # their folders have said it
            labels = Counter(sample.label for sample in split.samples)
        else:
            labels = Counter(box.label for sample in split.samples for box in sample.boxes if not box.dropped)
            names = tuple(split.names or names)
        never = [name for number, name in enumerate(names) if not labels[number]]
        if never and len(never) < len(names):
            yield warning(f'{split.key} has no example of {some(map(repr, never))}: nothing is learned of it')


def check_checkpoint(subject: Subject) -> Iterator[Finding]:
    """The classes of what is started from against those of the training."""
    theirs = subject.checkpoint_classes
    ours = subject.training[0].classes if subject.training else ()
    if not theirs or not ours or theirs == ours or len(theirs) != len(ours):
        return  # another number of classes is told when the weights are loaded
    number = next(number for number, (one, other) in enumerate(zip(theirs, ours)) if one != other)
    path, resumed = subject.cfg.load_from, subject.cfg.get('resume')
    same = {*map(str, theirs)} == {*map(str, ours)}
    text = (f'{path} was trained with {"these classes in another order" if same else "other classes"}: class {number} '
            f'is {theirs[number]!r} there and {ours[number]!r} in {subject.training[0].key}')
    if resumed and same:
        yield error(f'{text}; resuming would exchange the names: set the classes in the order that it has')
    else:
        yield warning(f'{text}; set the same, or start from it by its backbone alone (mmone convert CHECKPOINT OUT '
                      '--drop-head)')


def check_heads(subject: Subject) -> Iterator[Finding]:
    """The classes of the heads against the data's. At the start of a training a hook does it on the built model."""
    if not subject.whole:
        return
    for split in subject.splits:
        for key, head in subject.heads():
            number = head.get('num_classes')
            if split.classes and isinstance(number, int) and number != len(split.classes):
                yield error(f'{key}.num_classes is {number} but the data set of {split.loader} has '
                            f'{count(len(split.classes), "class", "classes")} ({some(split.classes)}): make them agree')


def check_top_k(subject: Subject) -> Iterator[Finding]:
    """Metrics that ask for more classes than there are."""
    for loader in ('val_dataloader', 'test_dataloader') if subject.task == 'mmpretrain' else ():
        for key, head in subject.heads():
            number = head.get('num_classes')
            asked = [(f'{where}.topk', metric.get('topk')) for where, metric in subject.metrics(loader)]
            if head.get('cal_acc'):
                asked.append((f'{key}.topk', head.get('topk')))
            for where, top in asked:
                most = max(top) if isinstance(top, (list, tuple)) and top else top or 1
                if number and most > number:
                    yield error(f'{where} asks whether the class is among the first {most}, but {key} has '
                                f'{count(number, "class", "classes")}: set {where}=(1, )')
