"""Images with boxes: COCO's JSON, Pascal VOC's XML, YOLO's text."""
import json
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import yaml

from mmone.errors import InputError

from .folder import (
    IMAGE_FOLDERS,
    SPLITS,
    Folder,
    Found,
    Options,
    Sample,
    by_lists,
    by_split,
    counted,
    image_sets,
    image_size,
    many,
    named_classes,
    split_in,
    split_of_folders,
)

# COCO JSON


class _Coco(NamedTuple):
    path: str
    content: dict


def look_coco(folder: Folder) -> Any:
    """The JSON files that have images, categories and annotations with boxes or polygons."""
    found = []
    for path in folder.ending('.json'):
        if (folder.root / path).stat().st_size < 40:
            continue
        try:
            content = json.loads(folder.read(path))
        except ValueError:
            continue
        if (isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ('images', 'categories'))
                and content.get('annotations') and isinstance(content['annotations'], list)
                and any('bbox' in one or 'segmentation' in one for one in content['annotations'][:100])):
            found.append(_Coco(path, content))
    # Of COCO's own files those of persons' joints and of captions have the same images.
    return [one for one in found if 'instances' in one.path] or found


def read_coco(folder: Folder, files: list[_Coco], options: Options) -> Found:
    """Boxes, which mmdet reads as they lie where nothing that it asks for is missing."""
    names = _coco_names(files)
    found = Found('detection', 'coco', folder.root, named_classes(options, list(names.values())), {})
    splits = [split_in(file.path) if len(files) > 1 or split_in(file.path) == 'train' else None for file in files]
    if len(files) > 1 and (None in splits or len(set(splits)) < len(splits)):
        raise InputError(f'{" and ".join(file.path for file in files[:3])} have boxes, and their names do not tell '
                         'which is for train, val and test: name them so')
    unused = {str(one.get('name')) for file in files for one in file.content['categories']} - {*names.values()}
    if unused:
        found.notes.append(f'{many(len(unused), "class")} without a box left out: {", ".join(sorted(unused)[:5])}')
    missing = 0
    for file, split in zip(files, splits):
        samples, lacking = _coco_samples(folder, file, list(names))
        found.splits[split or 'all'] = samples
        missing += lacking
        prefix = _common_prefix(samples, file)
        own = [str(one.get('name')) for one in file.content['categories']
               if str(one.get('name')) in names.values()]
        if (prefix is not None and not lacking and _coco_is_complete(file) and own == found.classes
                and len(samples) == len(file.content['images'])):
            found.in_place[split or 'all'] = dict(ann_file=file.path, data_prefix=dict(img=prefix))
    if missing:
        found.notes.append(f'{many(missing, "image")} of {files[0].path} not there, left out')
    return counted(found)


def _coco_names(files: list[_Coco]) -> dict[Any, str]:
    """Names of the categories that have annotations, by their ids."""
    names: dict[Any, str] = {}
    used: set[Any] = set()
    for file in files:
        for one in file.content['categories']:
            identity, name = one.get('id'), str(one.get('name', one.get('id')))
            if names.setdefault(identity, name) != name:
                raise InputError(f'{file.path} calls category {identity} {name}, and {files[0].path} '
                                 f'{names[identity]}: make them agree')
        used |= {one.get('category_id') for one in file.content['annotations']}
    unknown = used - set(names)
    if unknown:
        raise InputError(f'{files[0].path} has boxes of category {min(unknown, key=str)}, which is not among its '
                         'categories: its name cannot be known')
    kept = {identity: name for identity, name in names.items() if identity in used}
    double = [name for name, count in Counter(kept.values()).items() if count > 1]
    if double:
        raise InputError(f'{files[0].path} has two categories named {double[0]}: give them different names')
    return kept


def _coco_samples(folder: Folder, file: _Coco, identities: list) -> tuple[list[Sample], int]:
    index = {identity: k for k, identity in enumerate(identities)}
    annotations: dict[Any, list[dict]] = defaultdict(list)
    for one in file.content['annotations']:
        annotations[one.get('image_id')].append(one)
    samples, lacking = [], 0
    for entry in file.content['images']:
        image = folder.image_for(str(entry.get('file_name', '')), file.path)
        if image is None:
            lacking += 1
            continue
        size = (int(entry.get('width') or 0), int(entry.get('height') or 0))
        if not all(size):
            size = image_size(folder.root / image)
        boxes = [(index[one['category_id']], box, bool(one.get('iscrowd') or one.get('ignore')))
                 for one in annotations[entry.get('id')] if (box := _coco_box(one)) is not None]
        samples.append(_with_boxes(image, size, boxes, name=str(entry.get('file_name'))))
    return samples, lacking


def _coco_box(one: dict) -> tuple | None:
    """(x1, y1, x2, y2) of an annotation, around its polygons if it has no box."""
    box, polygons = one.get('bbox'), one.get('segmentation')
    if box and len(box) == 4:
        x, y, width, height = map(float, box)
        return x, y, x + width, y + height
    if isinstance(polygons, list) and polygons:
        points = np.concatenate([np.asarray(polygon, float).reshape(-1, 2) for polygon in polygons])
        return (*points.min(0), *points.max(0))
    return None


def _coco_is_complete(file: _Coco) -> bool:
    """Whether mmdet reads it: it wants an area and a box of each annotation, ids and sizes of images."""
    annotations = file.content['annotations']
    identities = {one.get('id') for one in annotations}
    return (len(identities) == len(annotations) and None not in identities
            and all(len(one.get('bbox') or ()) == 4 and 'area' in one for one in annotations)
            and all(one.get('width') and one.get('height') and 'id' in one for one in file.content['images']))


def _common_prefix(samples: list[Sample], file: _Coco) -> str | None:
    """The folder that all ``file_name`` are from."""
    prefixes = {sample.image.removesuffix(sample.name) for sample in samples if sample.image.endswith(sample.name)}
    whole = all(sample.image.endswith(sample.name) for sample in samples)
    return prefixes.pop() if whole and len(prefixes) == 1 else None


def _with_boxes(image: str, size: tuple[int, int], boxes: Sequence[tuple[int, tuple, bool]], name: str = '') -> Sample:
    """A sample of those boxes that have an area in the image."""
    kept = []
    for label, (x1, y1, x2, y2), crowd in boxes:
        x1, x2 = (float(min(max(x, 0), size[0])) for x in (x1, x2))
        y1, y2 = (float(min(max(y, 0), size[1])) for y in (y1, y2))
        if x2 - x1 >= 1 and y2 - y1 >= 1:
            kept.append((label, (x1, y1, x2, y2), crowd))
    return Sample(image, tuple(label for label, _, _ in kept), tuple(box for _, box, _ in kept),
                  tuple(crowd for _, _, crowd in kept), size, name=name)


# Pascal VOC XML


def look_voc(folder: Folder) -> Any:
    """The XML files that are annotations."""
    found = folder.ending('.xml')
    return [path for path in found if '<annotation' in folder.read(path)[:2000]] if found else []


def read_voc(folder: Folder, paths: list[str], options: Options) -> Found:
    """Boxes, which mmdet reads as they lie if folders and suffixes are those of Pascal VOC."""
    parsed, degenerate, missing = [], 0, 0
    for path in options.track(paths):
        image, size, objects, name = _voc_file(folder, path)
        if image is None:
            missing += 1
            continue
        parsed.append((path, image, size, objects, name))
    names = sorted({name for _, _, _, objects, _ in parsed for name, _, _ in objects})
    if options.classes and not set(names) <= set(options.classes):
        raise InputError(f'the data has the class {min(set(names) - set(options.classes))}, which is not among those '
                         'named', parameter='classes')
    found = Found('detection', 'voc', folder.root, list(options.classes or names), {})
    index = {name: k for k, name in enumerate(found.classes)}
    samples = []
    for _, image, size, objects, identity in parsed:
        sample = _with_boxes(image, size, [(index[name], box, hard) for name, box, hard in objects], identity)
        degenerate += len(objects) - len(sample.boxes)
        samples.append(sample)
    if missing:
        found.notes.append(f'{many(missing, "XML file")} without an image left out')
    if degenerate:
        found.notes.append(f'{many(degenerate, "box")} without an area: training leaves them out')
    # As mmdet's data set reads them.
    if all(sample.image == f'JPEGImages/{sample.name}.jpg' and path == f'Annotations/{sample.name}.xml'
           for path, sample in zip(paths, samples)) and not missing:
        found.common = dict(type='XMLDataset', data_prefix=dict(sub_data_root=''))
        found.listed = {split: {} for split in (*SPLITS, 'all')}
    lists = image_sets(folder, 'Main')
    found.splits = (by_lists(samples, lists, found)
                    or by_split(samples, lambda sample: split_of_folders(sample.image)))
    if found.common and lists:
        found.in_place = {split: dict(ann_file=lists[split]) for split in found.splits if split in lists}
    return counted(found)


def _voc_file(folder: Folder, path: str) -> tuple[str | None, tuple[int, int], list, str]:
    """Image, (width, height), (name, box, difficult) of each object, and what lists call it."""
    try:
        tree = ElementTree.fromstring((folder.root / path).read_bytes())
    except ElementTree.ParseError as error:
        raise InputError(f'{folder.root / path} is no XML that can be read: {error}') from error
    stem = PurePosixPath(path).stem
    image = folder.image_for(stem, path) or folder.image_for(tree.findtext('filename') or stem, path)
    if image is None:
        return None, (0, 0), [], ''
    try:
        size = tuple(int(float(tree.findtext(f'size/{side}') or 0)) for side in ('width', 'height'))
        if not all(size):
            size = image_size(folder.root / image)
        objects = []
        for one in tree.findall('object'):
            box = tuple(float(one.findtext(f'bndbox/{side}') or 'nan') - 1 for side in ('xmin', 'ymin', 'xmax', 'ymax'))
            hard = (one.findtext('difficult') or '0').strip() == '1'
            objects.append(((one.findtext('name') or '').strip(), box, hard))
    except ValueError as error:
        raise InputError(f'{folder.root / path} has a size or box that is no number: {error}') from error
    if any(not name or np.isnan(box).any() for name, box, _ in objects):
        raise InputError(f'{folder.root / path} has an object without a name or a box')
    return image, (size[0], size[1]), objects, stem


# YOLO text


def look_yolo(folder: Folder) -> Any:
    """Label files by their images."""
    texts = {path.lower(): path for path in folder.ending('.txt')}
    found = {}
    for image in folder.images if texts else ():
        for path in _yolo_places(image):
            if path.lower() in texts:
                found[image] = texts[path.lower()]
                break
    filled = [path for path in list(found.values())[:500] if (folder.root / path).stat().st_size]
    return found if any(_yolo_lines(folder.read(path)) for path in filled[:5]) else {}


def _yolo_places(image: str) -> list[str]:
    path = PurePosixPath(image).with_suffix('.txt')
    places = [str(path)]
    for k, part in enumerate(path.parts[:-1]):
        if part.lower() in IMAGE_FOLDERS:
            places.append('/'.join((*path.parts[:k], 'labels', *path.parts[k + 1:])))
    return places


def _yolo_lines(text: str) -> list[list[float]]:
    """The numbers of each line; nothing if it is not YOLO's."""
    rows = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            numbers = [float(word) for word in line.split()]
        except ValueError:
            return []
        polygon = len(numbers) >= 7 and len(numbers) % 2 == 1
        if not (len(numbers) in (5, 6) or polygon) or numbers[0] != int(numbers[0]) or numbers[0] < 0 or not all(
                -0.5 <= number <= 1.5 for number in numbers[1:]):
            return []
        rows.append(numbers)
    return rows


def read_yolo(folder: Folder, labels: dict[str, str], options: Options) -> Found:
    """Boxes, of polygons too; splits by a ``data.yaml`` or by folders."""
    samples, highest, degenerate = [], -1, 0
    for image, path in options.track(labels.items()):
        text = folder.read(path)
        rows = _yolo_lines(text)
        if text.strip() and not rows:
            raise InputError(f'{folder.root / path} is not in YOLO\'s format, class x y width height in parts of the '
                             'image: correct or remove it')
        size = image_size(folder.root / image)
        boxes = [(int(row[0]), _yolo_box(row, size), False) for row in rows]
        highest = max([highest, *(label for label, _, _ in boxes)])
        sample = _with_boxes(image, size, boxes)
        degenerate += len(boxes) - len(sample.boxes)
        samples.append(sample)
    names, notes = _yolo_names(folder, highest, options)
    found = Found('detection', 'yolo', folder.root, names, {}, notes=notes)
    if degenerate:
        found.notes.append(f'{many(degenerate, "box")} without an area left out')
    lists = _yolo_splits(folder)
    found.splits = by_split(samples, lambda sample: next(
        (split for split, named in lists.items() if named(sample.image)), None) if lists else
        split_of_folders(sample.image))
    return counted(found)


def _yolo_box(row: list[float], size: tuple[int, int]) -> tuple:
    width, height = size
    if len(row) < 7:
        _, x, y, w, h = row[:5]
        return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    points = np.reshape(row[1:], (-1, 2)) * (width, height)  # a polygon
    return (*points.min(0), *points.max(0))


def _yolo_yaml(folder: Folder) -> dict:
    for path in folder.ending('.yaml', '.yml'):
        try:
            content = yaml.safe_load(folder.read(path))
        except yaml.YAMLError:
            continue
        if isinstance(content, dict) and content.get('names'):
            return content
    return {}


def _yolo_names(folder: Folder, highest: int, options: Options) -> tuple[list[str], list[str]]:
    """Names of the classes, and notes on them."""
    names = _yolo_yaml(folder).get('names') or [
        line for path in folder.ending('classes.txt', '.names')[:1] for line in folder.read(path).splitlines() if line]
    if isinstance(names, dict):
        names = [names.get(k, names.get(str(k), f'class_{k}')) for k in range(max(map(int, names)) + 1)]
    names = list(options.classes) or [str(name).strip() for name in names]
    if not names:
        return [f'class_{k}' for k in range(highest + 1)], [
            'no data.yaml or classes.txt: the classes have their numbers for names (--classes A,B,…)']
    if highest >= len(names):
        raise InputError(f'the labels have the class number {highest}, but there are names for {len(names)} classes '
                         f'({", ".join(names[:5])}): name them all', parameter='classes')
    return names, []


def _yolo_splits(folder: Folder) -> dict[str, Callable[[str], bool]]:
    """What of a ``data.yaml`` tells whether an image is of a split."""
    content = _yolo_yaml(folder)
    found: dict[str, Callable[[str], bool]] = {}
    for split in SPLITS:
        given = content.get(split) or (content.get('valid') if split == 'val' else None)
        places = [str(place) for place in ([given] if isinstance(given, str) else given or [])]
        prefixes, listed = [], set()
        for place in places:
            # Written for another folder of work: what is left is what lies here.
            parts = [part for part in PurePosixPath(place.replace('\\', '/')).parts if part not in ('..', '.', '/')]
            tails = ['/'.join(parts[k:]) for k in range(len(parts))]
            tail = next((tail for tail in tails if (folder.root / tail).exists()), None)
            if tail is None:
                continue
            if tail.endswith('.txt'):
                listed |= {folder.image_for(line, tail) for line in folder.read(tail).splitlines() if line.strip()}
            else:
                prefixes.append(f'{tail}/')
        if prefixes or listed:
            found[split] = _membership(tuple(prefixes), listed)
    return found


def _membership(prefixes: tuple[str, ...], listed: set) -> Callable[[str], bool]:
    return lambda image: image in listed or bool(prefixes and image.startswith(prefixes))
