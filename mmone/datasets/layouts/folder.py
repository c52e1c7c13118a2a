"""A folder's files, and what is found in them: the same for all layouts."""
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from mmone.errors import InputError
from mmone.runtime.images import IMAGE_SUFFIXES

# In a folder that mmone new made: it is no data of the user's.
MARKER = 'made_by_mmone_new.json'
SPLITS = ('train', 'val', 'test')
_SPLIT_NAMES = {'train': r'train(ing)?|trn', 'val': r'val(id(ation)?)?|dev', 'test': r'test(ing)?'}
# What people call folders of images, of masks, and of other things than classes.
IMAGE_FOLDERS = ('images', 'image', 'imgs', 'img', 'img_dir', 'jpegimages', 'leftimg8bit', 'input', 'inputs', 'rgb',
                  'photos', 'frames')
MASK_FOLDERS = ('masks', 'mask', 'ann', 'anns', 'ann_dir', 'annotations', 'annotation', 'annots', 'labels', 'label',
                 'segmentationclass', 'segmentationclassaug', 'segmentation', 'segmentations', 'seg', 'gt', 'gts',
                 'gtfine', 'groundtruth', 'ground_truth', 'targets')
OTHER_FOLDERS = ('segmentationobject', 'instance', 'instances', 'overlay', 'overlays', 'visualization')
Track = Callable[[Iterable], Iterable]


class Sample(NamedTuple):
    """An image and what is known of it.

    Attributes:
        image (str): Its path from the folder.
        labels (tuple[int]): Its class; that of each box; or those that its mask has.
        boxes (tuple): (x1, y1, x2, y2) in pixels of each box.
        crowds (tuple[bool]): Whether a box is to be left out of training and counting.
        size (tuple[int, int]): (width, height), or (0, 0) if nobody has looked.
        mask (str): The mask's path from the folder.
        name (str): What the layout's lists call it.
    """
    image: str
    labels: tuple[int, ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    crowds: tuple[bool, ...] = ()
    size: tuple[int, int] = (0, 0)
    mask: str = ''
    name: str = ''


@dataclass
class Found:
    """A data set that was found.

    Attributes:
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        layout (str): A key of :data:`LAYOUTS`.
        root (Path): The folder that the paths begin at.
        classes (list[str]): Their names, in the order of their numbers.
        splits (dict[str, list[Sample]]): By ``'train'``, ``'val'`` and ``'test'``; ``'all'`` if there are none.
        counts (list[int]): Images, boxes or pixels of each class.
        notes (list[str]): What the user should know.
        common (dict): Arguments that the library's data set needs for all splits.
        in_place (dict[str, dict]): For a split that the library can read as it lies, the further arguments.
        listed (dict[str, dict]): The same for a split of which the library can read a part, by a list of names.
        palette (list): A colour (r, g, b) for each class, or nothing.
        values (dict): Which class the values of masks are, if they have to be converted: numbers or colours.
        colours (bool): Whether those are colours, as r·65536 + g·256 + b.
    """
    task: str
    layout: str
    root: Path
    classes: list[str]
    splits: dict[str, list[Sample]]
    counts: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    common: dict[str, Any] = field(default_factory=dict)
    in_place: dict[str, dict[str, Any]] = field(default_factory=dict)
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    palette: list[tuple[int, ...]] = field(default_factory=list)
    values: dict[int, int] = field(default_factory=dict)
    colours: bool = False

    def samples(self) -> list[Sample]:
        return [sample for samples in self.splits.values() for sample in samples]


@dataclass
class Options:
    """What the user has said of the data.

    Attributes:
        classes (Sequence[str]): Names of the classes, in their order. Defaults to those in the data.
        label_column (str, optional): The column of a CSV that has the classes.
        ignore_index (int, optional): The value of masks that is no class.
        track (Callable): Wraps an iterable, to show progress.
    """
    classes: Sequence[str] = ()
    label_column: str | None = None
    ignore_index: int | None = None
    track: Track = iter


class Folder:
    """The files of a folder.

    Attributes:
        root (Path): The folder.
        files (list[str]): Their paths from there, sorted, without hidden ones and those that mmone new has made.
        images (list[str]): Those that are images by their names.
    """

    def __init__(self, root: Path):
        self.root = root
        self.files = sorted(_walk(root))
        self.images = [path for path in self.files if path.lower().endswith(IMAGE_SUFFIXES)]
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self.images:
            for name in {PurePosixPath(path).name, PurePosixPath(path).stem}:
                self._by_name[name].append(path)

    def ending(self, *suffixes: str) -> list[str]:
        return [path for path in self.files if path.lower().endswith(suffixes)]

    def named(self, name: str) -> list[str]:
        """The images of a file's name, with or without its suffix."""
        return self._by_name.get(name, [])

    def image_for(self, path: str, near: str = '') -> str | None:
        """The image that is meant by a path, of which the first folders or the suffix may be missing.

        Args:
            path (str): As an annotation has it.
            near (str): The annotation: of several images that of the nearest folder is taken.
        """
        given = PurePosixPath(path.replace('\\', '/').strip())
        found = self.named(given.name) or self.named(given.stem)
        if len(found) < 2:
            return found[0] if found else None
        parts, beside = [part for part in given.parts if part != '/'], PurePosixPath(near).parts

        def closeness(image: str) -> tuple[int, int, bool]:
            own = PurePosixPath(image).parts
            tail = len(os.path.commonprefix([parts[-2::-1], list(own[-2::-1])]))
            folders = [*map(str.lower, own[:-1])]
            shared = Counter(folders) & Counter(map(str.lower, beside[:-1]))
            # Masks have their images' names too.
            return tail, sum(shared.values()), bool({*folders} & {*IMAGE_FOLDERS})

        ranked = sorted(found, key=closeness, reverse=True)
        return ranked[0] if closeness(ranked[0]) > closeness(ranked[1]) else None

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding='utf-8-sig', errors='replace')


def _walk(root: Path) -> Iterable[str]:
    """Paths of all files; links to folders are followed, each folder once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen or MARKER in files:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith('.') and name != '__MACOSX')
        for name in files:
            if not name.startswith('.'):
                yield Path(folder, name).relative_to(root).as_posix()


def many(number: int, what: str) -> str:
    return f'{number} {what}{"" if number == 1 else "es" if what.endswith("s") or what.endswith("x") else "s"}'


def split_of(word: str) -> str | None:
    """The split that a folder's name stands for, as ``'val'`` for ``valid`` and ``val2017``."""
    word = re.sub(r'[-_]?\d{4}$', '', word.lower())
    return next((split for split, names in _SPLIT_NAMES.items() if re.fullmatch(names, word)), None)


def split_in(path: str) -> str | None:
    """The split that a path names: by a folder, else by a word in the file's name."""
    *folders, name = PurePosixPath(path).parts
    words = [*reversed(folders), *re.findall(r'[a-z]+(?:\d{4})?', PurePosixPath(name).stem.lower())]
    return next(filter(None, map(split_of, words)), None)


def split_of_folders(path: str) -> str | None:
    return next(filter(None, map(split_of, PurePosixPath(path).parts[:-1])), None)


def by_split(samples: Iterable[Sample], key: Callable[[Sample], str | None]) -> dict[str, list[Sample]]:
    """Samples by split; all in ``'all'`` if none has one, and those without one left out if others have."""
    groups: dict[str | None, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    without = groups.pop(None, [])
    if not groups or (without and 'train' not in groups):
        return {'all': [*without, *(sample for group in groups.values() for sample in group)]}
    return {str(split): group for split, group in groups.items()}


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as it is shown, without decoding it.

    Raises:
        InputError: If it is no image.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(274, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except Exception as error:  # whatever a decoder raises
        raise InputError(f'image {path} cannot be decoded: replace it, or remove it from the data') from error


def measure(found: Found, at_most: int = 300) -> None:
    """Note the sizes of images that nobody has looked at, of some evenly taken."""
    for samples in found.splits.values():
        unknown = [k for k, sample in enumerate(samples) if not all(sample.size)]
        for k in unknown[::-(-len(unknown) // at_most)] if unknown else ():
            samples[k] = samples[k]._replace(size=image_size(found.root / samples[k].image))


def counted(found: Found) -> Found:
    """Count labels of images or boxes; crowds are none."""
    counts = Counter(label for sample in found.samples() for label, crowd in
                     zip(sample.labels, sample.crowds or [False] * len(sample.labels)) if not crowd)
    found.counts = [counts[k] for k in range(len(found.classes))]
    return found


def named_classes(options: Options, names: Sequence[str]) -> list[str]:
    """The user's names for the classes, or those in the data.

    Raises:
        InputError: If there are too few of the user's.
    """
    if options.classes and len(options.classes) != len(names):
        raise InputError(f'{len(options.classes)} classes are named, but the data has {len(names)} '
                         f'({", ".join(names[:5])}{", …" if len(names) > 5 else ""})', parameter='classes')
    return list(options.classes or names)


def image_sets(folder: Folder, kind: str) -> dict[str, str]:
    """The lists of VOC's splits, with ``trainval`` where there is no ``train``."""
    lists = {PurePosixPath(path).stem: path for path in folder.ending('.txt')
             if re.search(rf'(^|/)ImageSets/{kind}/\w+\.txt$', path)}
    found = {split: lists[split] for split in SPLITS if split in lists}
    if 'train' not in found and 'trainval' in lists:
        found['train'] = lists['trainval']
        found.pop('val', None)
    return found if 'train' in found else {}


def by_lists(samples: list[Sample], lists: dict[str, str], found: Found) -> dict[str, list[Sample]]:
    """Samples by the lists of their names; the lists that name others are dropped."""
    by_name = {sample.name: sample for sample in samples}
    splits: dict[str, list[Sample]] = {}
    for split, path in list(lists.items()):
        names = (found.root / path).read_text().split('\n')
        names = [line.split()[0] for line in names if line.strip()]
        splits[split] = [by_name[name] for name in names if name in by_name]
        if len(splits[split]) < len(names):
            found.notes.append(f'{path} names {many(len(names) - len(splits[split]), "image")} that are not there or '
                               'not labelled')
            lists.pop(split)
    return {split: group for split, group in splits.items() if group} if splits.get('train') else {}
