"""Images of one class each: class folders, and a CSV of files and labels."""
import csv
import os
import re
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np

from mmone.errors import InputError

from .folder import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    OTHER_FOLDERS,
    Folder,
    Found,
    Options,
    Sample,
    by_split,
    counted,
    many,
    named_classes,
    split_in,
    split_of,
    split_of_folders,
)

_NO_CLASSES = {*IMAGE_FOLDERS, *MASK_FOLDERS, *OTHER_FOLDERS, 'imagesets', 'coco'}
# What mmpretrain's data set takes for images.
_MMPRETRAIN_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')

# Class folders


def _class_folders(folder: Folder) -> dict[str, list[str]]:
    """Names of class folders, by the folder they lie in: ``''``, or folders of splits."""
    tree: dict[str, set[str]] = defaultdict(set)
    for path in folder.images:
        parts = path.split('/')
        if len(parts) > 2 and split_of(parts[0]):
            tree[parts[0]].add(parts[1])
        elif len(parts) > 1 and not split_of(parts[0]):
            tree[''].add(parts[0])
    if len(tree) > 1:
        tree.pop('', None)
    return {place: sorted(names) for place, names in sorted(tree.items())}


def has_class_folders(folder: Folder) -> bool:
    found = _class_folders(folder)
    names = {name.lower() for names in found.values() for name in names}
    return len(names) > 1 and not names & _NO_CLASSES


def look_folders(folder: Folder) -> Any:
    """Class folders by what they lie in; nothing if their names are others than of classes."""
    return has_class_folders(folder) and _class_folders(folder)


def read_folders(folder: Folder, places: dict[str, list[str]], options: Options) -> Found:
    """Classes by the names of folders, which mmpretrain reads as they lie if all splits have them all."""
    classes = sorted({name for names in places.values() for name in names})
    if options.classes and sorted(options.classes) != classes:
        raise InputError(f'the class folders are {", ".join(classes[:5])}, …, and not those named', parameter='classes')
    found = Found('classification', 'folders', folder.root, list(options.classes or classes), {})
    index = {name: k for k, name in enumerate(found.classes)}
    for place, names in places.items():
        split = split_of(place) if place else 'all'
        depth = 1 if place else 0
        images = [path for path in folder.images if not place or path.startswith(f'{place}/')]
        inside = [path for path in images if path.count('/') > depth and path.split('/')[depth] in index]
        found.splits.setdefault(str(split), []).extend(
            Sample(path, (index[path.split('/')[depth]], )) for path in inside)
        # mmpretrain numbers all folders that there are, in their order.
        folders = [entry.name for entry in os.scandir(folder.root / place)
                   if entry.is_dir() and not entry.name.startswith('.')]
        if sorted(folders) == found.classes and all(path.lower().endswith(_MMPRETRAIN_SUFFIXES) for path in inside):
            found.in_place[str(split)] = dict(data_prefix=place)
        empty = sorted(set(folders) - set(names))
        if empty:
            found.notes.append(f'{many(len(empty), "folder")} without images in {place or "."} left out: {empty[0]}')
    duplicates = [split for split, count in Counter(map(split_of, filter(None, places))).items() if count > 1]
    for split in duplicates:
        found.in_place.pop(str(split), None)
    return counted(found)


# A CSV of files and labels

_LABEL_COLUMNS = ('label', 'labels', 'class', 'class_name', 'classname', 'category', 'target', 'species', 'y')
_SPLIT_COLUMNS = ('split', 'set', 'subset', 'partition', 'data set')


class _Table(NamedTuple):
    """A CSV that names images: its rows below the header, the names of columns, and that of files."""
    path: str
    header: list[str]
    rows: list[list[str]]
    files: int


def _table(folder: Folder, path: str) -> _Table | None:
    text = folder.read(path)
    first = text.partition('\n')[0]
    delimiter = max(',;\t|', key=first.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    width = len(rows[0]) if rows else 0
    rows = [row for row in rows if len(row) == width]
    if width < 2 or len(rows) < 2:
        return None
    probe = rows[:1] + rows[1:][::max(1, len(rows) // 50)]
    hits = [sum(bool(row[k] and folder.image_for(row[k])) for row in probe) for k in range(width)]
    files = int(np.argmax(hits))
    if hits[files] < max(1, len(probe) // 4):
        return None
    titled = folder.image_for(rows[0][files]) is None
    header = [name.lower() for name in rows[0]] if titled else [f'column {k + 1}' for k in range(width)]
    if 'xmin' in header or 'x_min' in header or 'bbox' in header:
        return None
    return _Table(path, header, rows[titled:], files)


def look_csv(folder: Folder) -> Any:
    """The tables of which a column names images."""
    paths = [path for path in folder.ending('.csv', '.tsv') if 'submission' not in path.lower()]
    return [table for table in map(lambda path: _table(folder, path), paths) if table]


def _label_column(table: _Table, options: Options) -> int | None:
    others = [k for k in range(len(table.header)) if k != table.files and table.header[k] not in _SPLIT_COLUMNS]
    if options.label_column:
        if options.label_column.lower() not in table.header:
            raise InputError(f'{table.path} has no column {options.label_column!r}: it has {", ".join(table.header)}',
                             parameter='label_column')
        return table.header.index(options.label_column.lower())
    known = [k for name in _LABEL_COLUMNS for k in others if table.header[k] == name]
    if not others:
        return None
    if len(others) != 1 and not known:
        raise InputError(f'{table.path} has the columns {", ".join(table.header)}: say which has the classes',
                         parameter='label_column')
    return known[0] if known else others[0]


def read_csv(folder: Folder, tables: list[_Table], options: Options) -> Found:
    """Classes by a column, splits by another, by the names of several tables, or by folders of images."""
    labels: dict[str, tuple[str, str | None]] = {}
    missing = 0
    for table in tables:
        column = _label_column(table, options)
        if column is None:
            continue
        by = next((k for k, name in enumerate(table.header) if name in _SPLIT_COLUMNS), None)
        split = split_in(table.path) if len(tables) > 1 else None
        for row in table.rows:
            image = folder.image_for(row[table.files], table.path)
            if image is None or not row[column]:
                missing += 1
                continue
            own = split_of(row[by]) if by is not None else split
            if image in labels and labels[image][0] != row[column]:
                raise InputError(f'{table.path} gives {image} two classes, {labels[image][0]} and {row[column]}: '
                                 'several classes an image are not read')
            labels[image] = (row[column], own or split_of_folders(image))
    names = sorted({name for name, _ in labels.values()}, key=_natural)
    if not names:
        return Found('classification', 'csv', folder.root, [], {})
    if len(names) > max(2, len(labels) // 2):
        raise InputError(f'the labels in {tables[0].path} have {len(names)} values for {len(labels)} images: these are '
                         'no classes', parameter='label_column')
    found = Found('classification', 'csv', folder.root, named_classes(options, names), {})
    if missing:
        found.notes.append(f'{many(missing, "row")} of {tables[0].path} without an image left out')
    index = {name: k for k, name in enumerate(names)}
    splits = {image: split for image, (_, split) in labels.items()}
    found.splits = by_split([Sample(image, (index[name], )) for image, (name, _) in sorted(labels.items())],
                             lambda sample: splits[sample.image])
    return counted(found)


def _natural(name: str) -> tuple:
    return (0, float(name), '') if re.fullmatch(r'-?\d+(\.\d+)?', name) else (1, 0.0, name)
