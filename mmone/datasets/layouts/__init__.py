"""What a folder of somebody's own data is: class folders, boxes or masks, in the layouts that people have.

Each layout has two functions: one tells, quickly, whether a folder has it, the other reads it into a
:class:`Found`, which is the same for all. Files are named by their paths from the folder, with ``/``.
"""
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mmone.errors import InputError
from mmone.runtime.images import IMAGE_SUFFIXES

from .boxes import look_coco, look_voc, look_yolo, read_coco, read_voc, read_yolo
from .classes import has_class_folders, look_csv, look_folders, read_csv, read_folders
from .folder import MARKER, SPLITS, Folder, Found, Options, Sample, many, measure, split_of
from .masks import IGNORED, is_mask_path, look_masks, mask_values, packed, read_masks

__all__ = ['IGNORED', 'LAYOUTS', 'MARKER', 'Folder', 'Found', 'Options', 'Sample', 'find', 'mask_values', 'packed']


class Layout(NamedTuple):
    """A layout: its name for people, its task, and its two functions."""
    title: str
    task: str
    look: Callable[[Folder], Any]
    read: Callable[[Folder, Any, Options], Found]


LAYOUTS = {
    'folders': Layout('class folders', 'classification', look_folders, read_folders),
    'csv': Layout('a CSV of files and labels', 'classification', look_csv, read_csv),
    'coco': Layout('COCO JSON', 'detection', look_coco, read_coco),
    'voc': Layout('Pascal VOC XML', 'detection', look_voc, read_voc),
    'yolo': Layout('YOLO text labels', 'detection', look_yolo, read_yolo),
    'masks': Layout('images and masks', 'segmentation', look_masks, read_masks),
}


# What lies beside the data and says nothing of them.
_PAPERS = re.compile(r'^(readme|licen[cs]e)[^/]*$|^[^/]*\.(md|pdf|html?|zip)$', re.IGNORECASE)


def open_folder(data: str | Path) -> Folder:
    """The folder that has the data: the one given, or the only one in it, as archives are packed.

    Raises:
        InputError: If it does not exist or has no images.
    """
    root = Path(data)
    if not root.exists():
        raise InputError(f'data {data} does not exist')
    if not root.is_dir():
        raise InputError(f'data {data} is a file: give the folder that has the images')
    root = root.resolve()
    folder = Folder(root)
    if not folder.images:
        raise InputError(f'{data} has no images ({", ".join(IMAGE_SUFFIXES)}) in it or in its folders')
    while True:
        tops = {path.partition('/')[0] for path in folder.files if not _PAPERS.search(path)}
        inner = root / next(iter(tops))
        if len(tops) > 1 or not inner.is_dir() or split_of(inner.name) or has_class_folders(folder):
            return folder
        root, folder = inner, Folder(inner)


def find(data: str | Path, task: str | None = None, layout: str | None = None,
         options: Options | None = None) -> Found:
    """What a folder holds.

    Args:
        data (str | Path): The folder.
        task (str, optional): ``'classification'``, ``'detection'`` or ``'segmentation'``: where the data
            could be for several.
        layout (str, optional): A key of :data:`LAYOUTS`: where there are several.
        options (Options, optional): What else the user has said of it.

    Raises:
        InputError: If there is no layout that is known, or more than one, or what it has cannot be used.
    """
    options = options or Options()
    folder = open_folder(data)
    wanted = {name: one for name, one in LAYOUTS.items()
              if task in (None, one.task) and layout in (None, name)}
    if not wanted:
        assert layout is not None
        raise InputError(f'format {layout} is for {LAYOUTS[layout].task}, not for {task}')
    evidence = {name: one.look(folder) for name, one in wanted.items()}
    present = [name for name, there in evidence.items() if there]
    # Folders may have any names: they are classes where nothing says that they are not.
    if len(present) > 1 and 'folders' in present:
        present.remove('folders')
    if not present:
        raise InputError(_nothing_found(folder, data, task, layout))
    if len(present) > 1:
        kinds = ', '.join(f'{LAYOUTS[name].title} (--format {name}, {LAYOUTS[name].task})' for name in present)
        raise InputError(f'{data} has {kinds}: choose one of them by --format, or by --task')
    name, = present
    found = wanted[name].read(folder, evidence[name], options)
    found.splits = {split: found.splits[split] for split in (*SPLITS, 'all') if found.splits.get(split)}
    if not found.splits:
        raise InputError(f'{data} has {LAYOUTS[name].title}, but no image that is labelled by it was found')
    if len(found.classes) < (1 if found.task == 'detection' else 2):
        raise InputError(f'{data} has {LAYOUTS[name].title} of {len(found.classes)} classes'
                         f'{f" ({found.classes[0]})" if found.classes else ""}: training needs at least two')
    measure(found)
    _note_images_without_labels(folder, found)
    return found


def _nothing_found(folder: Folder, data: str | Path, task: str | None, layout: str | None) -> str:
    asked = f'--format {layout}' if layout else f'--task {task}' if task else ''
    expected = ', '.join(one.title for name, one in LAYOUTS.items() if task in (None, one.task))
    boxes = [path for path in folder.ending('.csv') if re.search(r'(?i)\bx_?min\b', folder.read(path)[:400])]
    if boxes:
        return f'{boxes[0]} in {data} has boxes in CSV, which is not read: convert it to COCO JSON'
    labelme = [path for path in folder.ending('.json')[:20] if '"shapes"' in folder.read(path)]
    if labelme:
        return f'{labelme[0]} in {data} is labelme\'s, which is not read: convert it to COCO JSON'
    return (f'{data} has {len(folder.images)} images and no labels{f" for {asked}" if asked else ""}: expected '
            f'{expected}')


def _note_images_without_labels(folder: Folder, found: Found) -> None:
    used = {path for sample in found.samples() for path in (sample.image, sample.mask)}
    left = [path for path in folder.images if path not in used and not (
        found.task == 'segmentation' and is_mask_path(path))]
    if left:
        found.notes.append(f'{many(len(left), "image")} without labels left out, as {left[0]}')
