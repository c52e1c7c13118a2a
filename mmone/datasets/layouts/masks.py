"""Images and masks: numbers, colours of a palette or a table, or black and white."""
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmone.errors import InputError

from .folder import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    OTHER_FOLDERS,
    Folder,
    Found,
    Options,
    Sample,
    by_lists,
    by_split,
    image_sets,
    image_size,
    named_classes,
    split_of,
    split_of_folders,
)

# How masks' names end where those of their images do not, the better one first.
_MASK_ENDS = ('_gtfine_labeltrainids', '_gtfine_labelids', '_labeltrainids', '_labelids', '_segmentation', '_mask',
              '_masks', '_labels', '_label', '_seg', '_gt', '_ann', '_l', '')
_IMAGE_ENDS = ('_leftimg8bit', '_image', '_img', '_rgb', '')
_NO_MASKS = re.compile(r'_(color|instanceids?|instance|panoptic|polygons)$')
_VOID = {'void', 'ignore', 'ignored', 'unlabelled', 'unlabeled', 'unknown', 'ignore_index'}
IGNORED = 255  # what mmsegmentation leaves out of a mask


def _mask_word(path: str) -> int | None:
    """Which folder of a path is one of masks, or of other things than images; the last one that is."""
    folders = [part.lower() for part in PurePosixPath(path).parts[:-1]]
    places = [k for k, part in enumerate(folders)
              if part in (*MASK_FOLDERS, *OTHER_FOLDERS) or re.fullmatch(r'(train|val|test)annot', part)]
    return places[-1] if places else None


def is_mask_path(path: str) -> bool:
    """Whether an image is by its name a mask, or drawn from one."""
    return _mask_word(path) is not None or bool(_NO_MASKS.search(PurePosixPath(path).stem.lower()))


def _image_places(mask: str, place: int | None, folders: dict[str, str]) -> list[str]:
    """Folders in which the image of a mask may lie, of those that have images, by their names in lower case."""
    path = PurePosixPath(mask)
    if place is None:
        return [str(path.parent)]
    before, after = path.parts[:place], path.parts[place + 1:-1]
    word = path.parts[place].lower()
    names = [word.removesuffix('annot')] if word.endswith('annot') else IMAGE_FOLDERS
    wanted = ['/'.join((*before, name, *after)) for name in names]
    wanted.append('/'.join((*before, *after)) or '.')  # masks within the folder of images
    return [folders[folder.lower()] for folder in wanted if folder.lower() in folders]


def look_masks(folder: Folder) -> Any:
    """Masks by their images."""
    by_folder: dict[str, dict[str, str]] = defaultdict(dict)
    for path in folder.images:
        pure = PurePosixPath(path)
        if _mask_word(path) is None:
            own = by_folder[str(pure.parent)]
            own.setdefault(_core(pure.stem.lower(), _IMAGE_ENDS), path)
            own[pure.stem.lower()] = path
    lower = {place.lower(): place for place in by_folder}
    pairs: dict[str, tuple[int, str]] = {}
    for path in folder.images:
        stem, place = PurePosixPath(path).stem.lower(), _mask_word(path)
        end = next(k for k, end in enumerate(_MASK_ENDS) if stem.endswith(end))
        if _NO_MASKS.search(stem) or (place is None and _MASK_ENDS[end] in ('', '_l', '_ann')) or (
                place is not None and path.split('/')[place].lower() in OTHER_FOLDERS):
            continue
        for where in _image_places(path, place, lower):
            found = [by_folder[where].get(key) for key in (stem, _core(stem, _MASK_ENDS))]
            image = next((image for image in found if image not in (None, path)), None)
            if image:
                pairs[image] = min(pairs.get(image, (len(_MASK_ENDS), '')), (end, path))
                break
    return {image: mask for image, (_, mask) in sorted(pairs.items())}


def _core(stem: str, ends: tuple[str, ...]) -> str:
    return stem.removesuffix(next(end for end in ends if stem.endswith(end)))


def read_masks(folder: Folder, pairs: dict[str, str], options: Options) -> Found:
    """Masks, which mmsegmentation reads as they lie if they have numbers of classes from 0."""
    masks = {image: _read_mask(folder.root / mask) for image, mask in options.track(pairs.items())}
    kinds = Counter(one.colours for one in masks.values())
    if len(kinds) > 1:
        other = next(pairs[image] for image, one in masks.items() if one.colours != kinds.most_common(1)[0][0])
        raise InputError(f'masks are of several kinds, in colours and of numbers: {other} is not as most others')
    pixels: Counter[int] = Counter()
    for one in masks.values():
        pixels.update(one.pixels)
    found = Found('segmentation', 'masks', folder.root, [], {})
    table = _mask_names(folder)
    colours = bool(kinds[True]) and not all(_is_grey(value) for value in pixels)
    if kinds[True] and not colours:  # grey, written as RGB
        for image, one in masks.items():
            masks[image] = _Mask(True, {value & 255: count for value, count in one.pixels.items()}, one.size, ())
        pixels = Counter({value & 255: count for value, count in pixels.items()})
    found.colours = colours
    classes = _colour_classes(pixels, table, pairs) if colours else _number_classes(pixels, table, options, found)
    found.classes = named_classes(options, [name for _, name in classes])
    found.values = {value: k for k, (value, _) in enumerate(classes)}
    if colours:
        found.palette = [tuple(_rgb(value)) for value, _ in classes]
    else:
        found.palette = _palette(masks, [value for value, _ in classes])
    found.counts = [pixels[value] for value, _ in classes]
    ignored = sum(count for value, count in pixels.items() if value not in found.values)
    if ignored:
        found.notes.append(f'{ignored / sum(pixels.values()):.1%} of pixels ignored')
    samples = []
    for image, mask in pairs.items():
        size = image_size(folder.root / image)
        if size != masks[image].size:
            raise InputError(f'{folder.root / mask} is of {"x".join(map(str, masks[image].size))} pixels and its image '
                             f'of {"x".join(map(str, size))}: masks are as large as their images')
        present = sorted(found.values[value] for value in masks[image].pixels if value in found.values)
        samples.append(Sample(image, tuple(present), size=size, mask=mask, name=PurePosixPath(image).stem))
    lists = image_sets(folder, 'Segmentation')
    found.splits = (by_lists(samples, lists, found)
                    or by_split(samples, lambda sample: split_of_folders(sample.image)))
    same = all(value == k for value, k in found.values.items()) and all(
        value in found.values or value == IGNORED for value in pixels)
    if same and not kinds[True] and not any(path.lower().endswith(('.jpg', '.jpeg')) for path in pairs.values()):
        found.values = {}
        _read_masks_in_place(found, lists, folder)
    return found


class _Mask(NamedTuple):
    """What a mask has: whether it is in colours, pixels of each value (r·65536 + g·256 + b), size, palette."""
    colours: bool
    pixels: dict[int, int]
    size: tuple[int, int]
    palette: tuple[int, ...]


def _read_mask(path: Path) -> _Mask:
    values, palette = mask_values(path)
    colours = values.ndim == 3
    if values.dtype == np.uint8 and not colours:  # much faster
        counts = np.bincount(values.ravel(), minlength=256)
        found = counts.nonzero()[0]
        counts = counts[found]
    else:
        found, counts = np.unique(packed(values), return_counts=True)
    if not colours and found.max(initial=0) > 255:
        raise InputError(f'{path} has values up to {found.max()}: a mask has one number a class, up to 255')
    if len(found) > 1000:
        raise InputError(f'{path} has {len(found)} colours: no mask of classes, which has one colour each')
    return _Mask(colours, dict(zip(found.tolist(), counts.tolist())), (values.shape[1], values.shape[0]), palette)


def mask_values(path: Path) -> tuple[np.ndarray, tuple[int, ...]]:
    """A mask's numbers, (H, W), or colours, (H, W, 3) in RGB, and its palette.

    JPEG, which is not exact, is taken for black and white.

    Raises:
        InputError: If it is no image.
    """
    try:
        with Image.open(path) as image:
            palette = tuple(image.getpalette() or ()) if image.mode == 'P' else ()
            if image.mode in ('RGBA', 'RGB', 'CMYK', 'YCbCr'):
                values = np.asarray(image.convert('RGB'))
            elif image.mode in ('LA', 'PA'):
                values = np.asarray(image)[..., 0]
            else:
                values = np.asarray(image)
    except Exception as error:  # whatever a decoder raises
        raise InputError(f'mask {path} cannot be decoded: replace it, or remove it and its image') from error
    if path.suffix.lower() in ('.jpg', '.jpeg'):
        grey = values if values.ndim == 2 else values.mean(2)
        if (np.minimum(grey, 255 - grey) > 64).mean() > 0.02:
            raise InputError(f'{path} is a mask in JPEG, which does not keep colours: write masks as PNG')
        values = np.where(grey > 127, 255, 0).astype(np.uint8)
    return values, palette


def packed(values: np.ndarray) -> np.ndarray:
    """(H, W) int32 of a mask's numbers, or of its colours as r·65536 + g·256 + b."""
    values = values.astype(np.int32)
    return values if values.ndim == 2 else (values << np.array([16, 8, 0], np.int32)).sum(2, dtype=np.int32)


def _rgb(value: int) -> tuple[int, int, int]:
    return value >> 16, value >> 8 & 255, value & 255


def _is_grey(value: int) -> bool:
    return len(set(_rgb(value))) == 1


class _Named(NamedTuple):
    """A line of a table of classes: name, and colour or number if it says."""
    name: str
    colour: int | None
    number: int | None


def _mask_names(folder: Folder) -> list[_Named]:
    """The lines of a table of classes that lies beside the data."""
    wanted = re.compile(r'(^|/)[\w-]*(class|label|colou?r|names|palette)[\w-]*\.(txt|csv|names)$', re.IGNORECASE)
    for path in folder.files:
        if path.count('/') > 1 or not wanted.search(path):
            continue
        lines = [line.strip() for line in folder.read(path).splitlines() if line.strip() and not line.startswith('#')]
        rows = [row for row in map(_named, lines) if row]
        if any(row.colour is not None or row.number is not None for row in rows):  # then a line without is the title
            rows = [row for row in rows if row.colour is not None or row.number is not None]
        if len(rows) > 1:
            return rows
    return []


def _named(line: str) -> _Named | None:
    number, gap = r'(\d{1,3})', r'\s*[,;:\t ]\s*'
    first = re.match(rf'(.+?){gap}{number}{gap}{number}{gap}{number}(?!\d)', line)
    last = re.match(rf'{number}{gap}{number}{gap}{number}{gap}([^\d\s].*)$', line)
    if last:
        return _Named(last[4].strip(), _pack(last.groups()[:3]), None)
    if first:
        return _Named(re.sub(r'^\d+\s*[,;:\t]\s*', '', first[1]).strip(), _pack(first.groups()[1:]), None)
    numbered = re.match(r'(\d{1,3})\s*[,;:\t ]\s*([^\d\s,;].*)$', line) or None
    if numbered:
        return _Named(numbered[2].strip(), None, int(numbered[1]))
    return _Named(line, None, None) if len(line) < 60 else None


def _pack(colour: Sequence[str]) -> int:
    red, green, blue = map(int, colour)
    return red << 16 | green << 8 | blue


def _colour_classes(pixels: Counter[int], table: list[_Named], pairs: dict[str, str]) -> list[tuple[int, str]]:
    """(colour, name) of each class; those of ``void`` are none."""
    named = [(row.colour, row.name) for row in table if row.colour is not None]
    if named:
        unknown = sorted(set(pixels) - {colour for colour, _ in named})
        rare = sum(pixels[colour] for colour in unknown) / sum(pixels.values())
        if rare > 0.01:
            raise InputError(f'masks have the colour {_rgb(max(unknown, key=lambda colour: pixels[colour]))}, which '
                             'the table of colours does not name: add it')
        return [(colour, name) for colour, name in dict(named).items() if name.lower() not in _VOID]
    if len(pixels) > 64:
        raise InputError(f'masks as {next(iter(pairs.values()))} have {len(pixels)} colours and no table says which '
                         'are classes: write it as labelmap.txt, a line "name:r,g,b" for each class')
    order = sorted(pixels, key=lambda colour: (colour != 0, -pixels[colour], colour))
    return [(colour, 'background' if colour == 0 else 'rgb_{}_{}_{}'.format(*_rgb(colour))) for colour in order]


def _number_classes(pixels: Counter[int], table: list[_Named], options: Options, found: Found) -> list[tuple[int, str]]:
    """(number, name) of each class."""
    values = sorted(pixels)
    if options.ignore_index is not None:
        if options.ignore_index not in pixels:
            raise InputError(f'no mask has the value {options.ignore_index}: they have '
                             f'{", ".join(map(str, values[:20]))}', parameter='ignore_index')
        values.remove(options.ignore_index)
    names = {k if row.number is None else row.number: row.name for k, row in enumerate(table)}
    if values == [0, 255]:
        return [(0, names.get(0, 'background')), (255, names.get(1, 'foreground'))]
    inner = [value for value in values if value != IGNORED]
    if inner == [0, 1] and not names:
        names = {0: 'background', 1: 'foreground'}
    if not inner:
        raise InputError(f'masks have nothing but the value {", ".join(map(str, values))}: expected numbers of classes')
    if max(inner) > 2 * len(inner) + 8 and max(inner) >= len(names):  # shades of grey, made to be looked at
        found.notes.append(f'the values {", ".join(map(str, values[:20]))} of masks become the classes 0, 1, …')
        return [(value, f'class_{value}') for value in values]
    void = {value for value, name in names.items() if name.lower() in _VOID and value == max(names)}
    highest = max([*inner, *names])
    if not names:
        found.notes.append('no table of classes: they have their numbers for names (--classes A,B,…); a number that is '
                           'no class is --ignore-index N')
    return [(value, names.get(value, f'class_{value}')) for value in range(highest + 1)
            if value not in void and value != options.ignore_index]


def _palette(masks: dict[str, _Mask], values: list[int]) -> list[tuple[int, ...]]:
    palette = next((one.palette for one in masks.values() if one.palette), ())
    colours = [tuple(palette[3 * value:3 * value + 3]) for value in values]
    grey = all(len(set(colour)) <= 1 for colour in colours)
    return [] if grey or len(set(colours)) < len(colours) else colours


def _read_masks_in_place(found: Found, lists: dict[str, str], folder: Folder) -> None:
    """Set how mmsegmentation reads pairs as they lie: it wants one suffix of images and one of masks."""
    ways = {sample.image: _way(sample) for sample in found.samples()}
    if None in ways.values() or len({(way.image_suffix, way.mask_suffix) for way in ways.values() if way}) != 1:
        found.values = {k: k for k in range(len(found.classes))}
        return
    first = next(way for way in ways.values() if way)
    found.common = dict(img_suffix=first.image_suffix, seg_map_suffix=first.mask_suffix)
    for split, samples in found.splits.items():
        chosen = [way for sample in samples if (way := ways[sample.image])]
        folders = {(way.images, way.masks) for way in chosen}
        found.splits[split] = [sample._replace(name=way.name) for sample, way in zip(samples, chosen)]
        if len(folders) != 1:
            found.values = {k: k for k in range(len(found.classes))}
            continue
        images, masks = folders.pop()
        prefix = dict(img_path=images, seg_map_path=masks)
        found.listed[split] = dict(data_prefix=prefix)
        inside = [path for path in folder.images
                  if path.startswith(f'{images}/' if images else '') and path.endswith(first.image_suffix)]
        if split in lists:
            found.in_place[split] = dict(data_prefix=prefix, ann_file=lists[split])
        elif split != 'all' and len(inside) == len(samples):
            found.in_place[split] = dict(data_prefix=prefix)


class _Way(NamedTuple):
    """How mmsegmentation is told where an image and its mask are: folder / name + suffix."""
    images: str
    masks: str
    name: str
    image_suffix: str
    mask_suffix: str


def _way(sample: Sample) -> _Way | None:
    """None if the names of image and mask do not begin alike."""
    image, mask = PurePosixPath(sample.image), PurePosixPath(sample.mask)
    name = image.stem[:len(_core(image.stem.lower(), _IMAGE_ENDS))]
    if not mask.name.startswith(name):
        return None
    images, masks, inner = list(image.parts[:-1]), list(mask.parts[:-1]), [name]
    while images and masks and images[-1] == masks[-1] and split_of(images[-1]) is None and len(images) > 1:
        inner.insert(0, images.pop())
        masks.pop()
    return _Way('/'.join(images), '/'.join(masks), '/'.join(inner), image.name[len(name):], mask.name[len(name):])
