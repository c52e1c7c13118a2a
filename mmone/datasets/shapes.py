"""Generated images of coloured shapes, annotated for three tasks at once.

A folder made by :func:`make_dataset` holds one set of images and is read by the stock dataset
classes of mmpretrain, mmdet and mmseg::

    OUT/
      shapes.json                            what was generated; written last
      JPEGImages/000000.jpg ...              all images
      Annotations/000000.xml ...             VOC boxes          mmdet.XMLDataset
      ImageSets/{Main,Segmentation}/{train,val}.txt             lists of image names
      SegmentationClass/000000.png ...       palette PNG masks  mmseg.BaseSegDataset
      coco/{train,val}.json                  boxes and masks    mmdet.CocoDataset
      classes/{train,val}/<class>/*.jpg      class folders      mmpretrain.CustomDataset

The class folders are hard links into ``JPEGImages`` (copies where the file system has no links).

Each image shows one to four shapes that partly hide each other. Boxes and masks describe the
*visible* pixels, at least 75% of each shape. The image's class is that of the dominant shape, whose
visible area is at least 1.7 times any other's. Shapes are vivid and backgrounds muted, of any hue.
Shapes draw colour, texture and area from the same distributions whatever their class, so neither
colours nor the area that they cover tell the class.

Image ``i`` depends on (seed, i, size) alone, and so does the split it belongs to for a given
``val_fraction``: a larger set begins with the smaller one. For given versions of numpy, OpenCV and
Pillow the same arguments give the same bytes.
"""
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mmone.errors import InputError
from mmone.files import publish, remove_leftover, scratch_folder

# Sorted, since mmpretrain numbers class folders in that order: one number in all annotations.
CLASSES = ('circle', 'cross', 'square', 'star', 'triangle')
# One colour for each mask value: 0 is the background, 1 + k is CLASSES[k].
PALETTE = ((0, 0, 0), (230, 75, 60), (180, 90, 210), (60, 130, 230), (245, 190, 40),
           (60, 190, 90))

MIN_VISIBLE = 0.75
DOMINANCE = 1.7

_MARKER = 'shapes.json'
_GENERATOR = dict(generator='mmone.datasets.shapes', version=1)
_SUPERSAMPLING = 4
# Saturations: shapes are more vivid than what they lie on; hue and brightness are alike.
_MUTED, _VIVID = (0, 0.2), (0.75, 1)
_CONTRAST = 45  # least distance in CIELAB from a shape's colour to the colours around it


@dataclass(frozen=True)
class Sample:
    """One image and what it shows.

    Attributes:
        image (ndarray): RGB, uint8, (H, W, 3).
        instances (ndarray): uint8, (H, W): 0 is the background and 1 + j the visible pixels of
            shape j.
        labels (tuple[int]): Index into ``CLASSES`` of each shape; the dominant shape comes first.
    """
    image: np.ndarray
    instances: np.ndarray
    labels: tuple[int, ...]

    @property
    def mask(self) -> np.ndarray:
        """Semantic mask, uint8, (H, W): 0 is the background and 1 + k is ``CLASSES[k]``."""
        return np.array([0, *(label + 1 for label in self.labels)], np.uint8)[self.instances]

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """(x1, y1, x2, y2) in pixels around the visible part of each shape, x2 and y2 exclusive."""
        boxes = []
        for j in range(len(self.labels)):
            x, y, w, h = cv2.boundingRect((self.instances == j + 1).astype(np.uint8))
            boxes.append((x, y, x + w, y + h))
        return boxes


def _unit_polygon(radii: Iterable[float], angles: Iterable[float]) -> np.ndarray:
    """Corners (P, 2), from polar coordinates, of a polygon about the origin scaled to area 1."""
    radii, angles = np.asarray(radii), np.asarray(angles)
    x, y = radii * np.cos(angles), radii * np.sin(angles)
    area = 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))
    return np.stack([x, y], 1) / math.sqrt(area)


def _regular(corners: int) -> np.ndarray:
    return _unit_polygon(np.ones(corners), np.arange(corners) * 2 * np.pi / corners)


def _cross(thickness: float = 1 / 3) -> np.ndarray:
    # Each arm ends in two corners, at +-tip from its axis; between two arms is an inner corner.
    tip = math.atan(thickness)
    arms = np.arange(4)[:, None] * np.pi / 2 + [-tip, tip, np.pi / 4]
    radii = np.tile([math.hypot(1, thickness)] * 2 + [thickness * math.sqrt(2)], 4)
    return _unit_polygon(radii, arms.ravel())


_POLYGONS = dict(
    circle=_regular(48),
    square=_regular(4),
    triangle=_regular(3),
    star=_unit_polygon(np.tile([1, 0.45], 5), np.arange(10) * np.pi / 5),
    cross=_cross())


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of colours (..., 3) in 0-255, as (N, 3); Euclidean distance is about what eyes see."""
    rgb = np.asarray(rgb, np.float32).reshape(1, -1, 3) / 255
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0]


def _colours(rng: np.random.Generator, saturation: tuple[float, float], count: int) -> np.ndarray:
    """Random colours of any hue: (count, 3), float32, 0-255."""
    hue, value = rng.random((count, 1)), rng.uniform(0.45, 0.95, (count, 1))
    pure = np.clip(np.abs((hue * 6 + [0, 4, 2]) % 6 - 3) - 1, 0, 1)
    grey = 1 - rng.uniform(*saturation, (count, 1))
    return (255 * value * (grey + (1 - grey) * pure)).astype(np.float32)


def _pick_colour(rng: np.random.Generator, saturation: tuple[float, float],
                 others: Iterable[np.ndarray], nearest: float,
                 farthest: float = math.inf) -> np.ndarray:
    """A random colour (3,) whose distance to the closest of ``others`` is in the given range."""
    candidates = _colours(rng, saturation, 128)
    gaps = _lab(candidates)[:, None] - _lab(np.stack(list(others)))
    distances = np.sqrt((gaps ** 2).sum(-1)).min(1)
    # The first within range, else the one that misses it least.
    miss = np.maximum(nearest - distances, 0) + np.maximum(distances - farthest, 0)
    return candidates[miss.argmin()]


@lru_cache(maxsize=1)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x (1, S) and y (S, 1) of the pixels, in units of the image's side."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None, :], line[:, None]


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise, stripes, a gradient or a checker: (S, S), float32, from 0 to 1."""
    noise = np.zeros((size, size), np.float32)
    for cells, weight in zip((4, 8, 16, 40), rng.dirichlet(np.ones(4)), strict=True):
        coarse = rng.random((cells, cells), np.float32) * np.float32(weight)
        noise += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    x, y = _grid(size)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = x * cos + y * sin, y * cos - x * sin
    # Radians per side; a half wave is at most half as wide as a small shape, not one itself.
    wave = np.float32(2 * np.pi * rng.uniform(7, 14))
    kind = rng.integers(4)
    if kind == 0:
        field = noise
    elif kind == 1:
        field = 0.5 + 0.5 * np.sin(wave * u + np.float32(phase) + 3 * noise)
    elif kind == 2:
        field = u + 0.5 * noise
    else:
        field = np.tanh(3 * np.sin(wave * u + np.float32(phase)) * np.sin(wave * v))
        field = 0.5 + 0.4 * field + 0.3 * noise
    return cv2.normalize(field, np.empty_like(field), 0, 1, cv2.NORM_MINMAX)


def _blend(texture: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Paint a texture (H, W) between two colours: (H, W, 3), float32."""
    return first + texture[..., None] * (second - first)


def _draw(polygon: np.ndarray, size: int) -> np.ndarray:
    """The part of each pixel that a polygon (P, 2), in pixels, covers: (S, S), float32, 0-1."""
    side = size * _SUPERSAMPLING
    canvas = np.zeros((side, side), np.uint8)
    # OpenCV puts integers on the pixels' centres and takes fractional bits as `shift`.
    corners = np.rint((polygon * _SUPERSAMPLING - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [corners], 255, shift=4)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _place(rng: np.random.Generator, label: int, scale: float, size: int) -> np.ndarray:
    """Coverage (S, S) of a shape of area ``scale ** 2`` at a random place and angle."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    polygon = scale * _POLYGONS[CLASSES[label]] @ np.array([[cos, sin], [-sin, cos]])
    # A pixel of background stays at the border: each shape is whole, and its VOC corners, which
    # mmdet counts from 1, lie in the image.
    centre = rng.uniform(1 - polygon.min(0), size - 1 - polygon.max(0))
    return _draw(polygon + centre, size)


def _arrange(rng: np.random.Generator, dominant: int,
             size: int) -> tuple[list[int], list[np.ndarray], int]:
    """Place one to four shapes.

    Returns:
        tuple: the shapes' labels and coverages (S, S), both in the order of painting, and the
        dominant shape's place in that order.
    """
    scale = rng.uniform(0.34, 0.42) * size
    labels, covers = [dominant], [_place(rng, dominant, scale, size)]
    main = 0
    # Half the images show one shape: among many, a network is slow to learn which one counts.
    for _ in range(rng.choice(4, p=(0.5, 0.2, 0.15, 0.15))):
        label = int(rng.integers(len(CLASSES)))
        for _ in range(10):  # the image may be too full: then it has a shape less
            cover = _place(rng, label, rng.uniform(0.16 * size, 0.52 * scale), size)
            place = len(covers) if rng.random() < 0.5 else 0  # on top or under all
            pile = [*covers[:place], cover, *covers[place:]]
            lead = main + (place == 0)
            visible, whole = _count(pile)
            if ((visible >= MIN_VISIBLE * whole).all()
                    and visible[lead] >= DOMINANCE * np.delete(visible, lead).max()):
                labels, covers, main = [*labels[:place], label, *labels[place:]], pile, lead
                break
    return labels, covers, main


def _look(covers: list[np.ndarray]) -> np.ndarray:
    """Which of the layers, painted in their order, a pixel shows: (S, S), 1 + index, 0 for none."""
    top = np.zeros(covers[0].shape, np.uint8)
    for j, cover in enumerate(covers):
        top[cover >= 0.5] = j + 1
    return top


def _count(covers: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each layer (len(covers),): those that can be seen, and all."""
    visible = np.bincount(_look(covers).ravel(), minlength=len(covers) + 1)[1:]
    return visible, np.array([np.count_nonzero(cover >= 0.5) for cover in covers])


def _paint(rng: np.random.Generator, covers: list[np.ndarray], size: int) -> np.ndarray:
    """The image of the shapes, painted in their order over a background: RGB, uint8, (S, S, 3)."""
    first = _colours(rng, _MUTED, 1)[0]
    second = _pick_colour(rng, _MUTED, [first], 5, 18)
    image = _blend(_texture(rng, size), first, second)
    seen = [first + t * (second - first) for t in np.linspace(0, 1, 5, dtype=np.float32)]
    for cover in covers:
        colour = _pick_colour(rng, _VIVID, seen, _CONTRAST)
        seen.append(colour)
        paint = _blend(_texture(rng, size), colour,
                       _pick_colour(rng, _VIVID, [colour], 1, 8))
        image += cover[..., None] * (paint - image)
    image *= 1 + np.float32(rng.uniform(0, 0.2)) * (_texture(rng, size)[..., None] - 0.5)
    image += np.float32(rng.uniform(1, 7)) * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def make_sample(seed: int, index: int, size: int = 128) -> Sample:
    """Generate one image.

    Args:
        seed (int): Seed of the data set, not negative.
        index (int): Number of the image, not negative. Five images that start at a multiple of
            five have the five classes.
        size (int): Side of the image in pixels. Shapes scale with it; at 128 they are about 22 to
            90 pixels long. Defaults to 128.
    """
    block, turn = divmod(index, len(CLASSES))
    dominant = int(np.random.default_rng([seed, block, 1]).permutation(len(CLASSES))[turn])
    rng = np.random.default_rng([seed, index])
    labels, covers, main = _arrange(rng, dominant, size)
    order = [main, *(j for j in range(len(labels)) if j != main)]
    rank = np.zeros(len(labels) + 1, np.uint8)
    rank[[1 + j for j in order]] = range(1, len(labels) + 1)
    return Sample(_paint(rng, covers, size), rank[_look(covers)],
                  tuple(labels[j] for j in order))


def _in_val(index: int, val_fraction: float) -> bool:
    """Whether an image is for validation: whole blocks of five are, spread evenly."""
    return index // len(CLASSES) * val_fraction % 1 < val_fraction


def _voc_xml(name: str, sample: Sample) -> str:
    height, width = sample.mask.shape
    objects = []
    for label, box in zip(sample.labels, sample.boxes, strict=True):
        # VOC counts from 1. mmdet subtracts that and no more, so these are the corners that the
        # COCO boxes have, x2 and y2 exclusive.
        x1, y1, x2, y2 = (value + 1 for value in box)
        objects.append(
            f'<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox>'
            f'<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>'
            '</bndbox></object>\n')
    return (f'<annotation>\n<filename>{name}.jpg</filename>\n<size><width>{width}</width>'
            f'<height>{height}</height><depth>3</depth></size>\n{"".join(objects)}</annotation>\n')


def _run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths of a mask (H, W): columns first, beginning with zeros."""
    flat = np.concatenate([[False], mask.ravel(order='F'), [not mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return dict(size=list(mask.shape), counts=np.diff(ends, prepend=0).tolist())


def _coco_annotations(index: int, sample: Sample) -> list[dict]:
    annotations = []
    for j, (label, (x1, y1, x2, y2)) in enumerate(zip(sample.labels, sample.boxes, strict=True)):
        visible = sample.instances == j + 1
        annotations.append(dict(
            # Unique, and the same whatever the number of images; COCO wants ids from 1.
            id=index * 4 + j + 1, image_id=index, category_id=label + 1, iscrowd=0,
            bbox=[x1, y1, x2 - x1, y2 - y1], area=int(visible.sum()),
            segmentation=_run_lengths(visible)))
    return annotations


def _write(root: Path, images: int, seed: int, size: int, val_fraction: float,
           track: Callable[[Iterable[int]], Iterable[int]]) -> None:
    """Fill an empty folder with everything but the marker."""
    for folder in ('JPEGImages', 'Annotations', 'SegmentationClass', 'coco', 'ImageSets/Main',
                   'ImageSets/Segmentation',
                   *(f'classes/{split}/{name}' for split in ('train', 'val') for name in CLASSES)):
        (root / folder).mkdir(parents=True)
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
    names: dict[str, list[str]] = dict(train=[], val=[])
    coco = {split: dict(images=[], annotations=[], categories=categories) for split in names}
    for index in track(range(images)):
        sample = make_sample(seed, index, size)
        name, split = f'{index:06d}', 'val' if _in_val(index, val_fraction) else 'train'
        photo = root / 'JPEGImages' / f'{name}.jpg'
        Image.fromarray(sample.image).save(photo, quality=92)
        mask = Image.fromarray(sample.mask)
        mask.putpalette(np.array(PALETTE, np.uint8).tobytes())
        mask.save(root / 'SegmentationClass' / f'{name}.png')
        (root / 'Annotations' / f'{name}.xml').write_text(_voc_xml(name, sample))
        link = root / 'classes' / split / CLASSES[sample.labels[0]] / photo.name
        try:
            os.link(photo, link)
        except OSError:
            shutil.copyfile(photo, link)
        names[split].append(name)
        coco[split]['images'].append(
            dict(id=index, file_name=photo.name, width=size, height=size))
        coco[split]['annotations'] += _coco_annotations(index, sample)
    for split, lines in names.items():
        for task in ('Main', 'Segmentation'):
            (root / 'ImageSets' / task / f'{split}.txt').write_text('\n'.join(lines) + '\n')
        (root / 'coco' / f'{split}.json').write_text(json.dumps(coco[split]))


def _read_marker(folder: Path) -> dict | None:
    """What a folder that :func:`make_dataset` made holds, or None for any other folder."""
    try:
        made = json.loads((folder / _MARKER).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    ours = isinstance(made, dict) and made.get('generator') == _GENERATOR['generator']
    return made if ours else None


def make_dataset(out: str | os.PathLike, images: int, seed: int = 0, size: int = 128,
                 val_fraction: float = 0.2, force: bool = False,
                 track: Callable[[Iterable[int]], Iterable[int]] = iter) -> bool:
    """Generate a data set in the layout that the module describes, whole or not at all.

    The work is done in a folder beside ``out`` (:func:`mmone.files.scratch_folder`); a set to be
    replaced stays until the new one is complete.

    Args:
        out (str | PathLike): Folder to make.
        images (int): Number of images, enough for each split to have the five classes.
        seed (int): Not negative. Defaults to 0.
        size (int): Side of the square images in pixels, 64 to 2048. Defaults to 128.
        val_fraction (float): Part of the images for validation, between 0 and 1. Defaults to 0.2.
        force (bool): Replace a data set made earlier with other arguments. Defaults to False.
        track (Callable): Wraps the iterable of image numbers, to show progress. Defaults to iter.

    Returns:
        bool: False if ``out`` already holds this very data set, in which case nothing is done.

    Raises:
        InputError: An argument is out of range, ``out`` holds something else (with ``force``:
            something not made by this function), or another process is making it.
        OSError: Files cannot be written.
    """
    out = Path(out).resolve()
    if seed < 0:
        raise InputError(f'seed must not be negative, got {seed}')
    if not 64 <= size <= 2048:
        raise InputError(f'size must be from 64 to 2048 pixels, got {size}')
    if not 0 < val_fraction < 1:
        raise InputError(f'val_fraction must be between 0 and 1, got {val_fraction}')
    if images > 1_000_000:
        raise InputError(f'images must be at most 1000000 (names have six digits), got {images}')
    splits = {_in_val(i, val_fraction) for i in range(0, images - len(CLASSES) + 1, len(CLASSES))}
    if splits != {False, True}:
        raise InputError(f'{images} images are too few for {len(CLASSES)} classes in train and val '
                         f'with val_fraction {val_fraction}')

    wanted = dict(_GENERATOR, images=images, seed=seed, size=size, val_fraction=val_fraction)
    made = _read_marker(out)
    if made == wanted:
        remove_leftover(out)
        return False
    if out.exists() and not out.is_dir():
        raise InputError(f'{out} exists and is not a folder')
    if made is None and out.is_dir() and any(out.iterdir()):
        raise InputError(f'{out} is not empty and is no data set made here: choose another folder')
    if made is not None and not force:
        raise InputError(f'{out} holds a data set made with other arguments', parameter='force')

    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out) as folder:
        partial = folder / out.name
        partial.mkdir()
        _write(partial, images, seed, size, val_fraction, track)
        (partial / _MARKER).write_text(json.dumps(wanted) + '\n')
        publish(partial, out)
    return True


def make_preview(seed: int, images: int = 24, size: int = 128, columns: int = 3) -> np.ndarray:
    """A contact sheet of the first images: each plain, with its boxes, and with its mask.

    Returns:
        ndarray: RGB, uint8, (H, W, 3), with ``columns`` such triples in a row.
    """
    tiles = []
    for index in range(images):
        sample = make_sample(seed, index, size)
        plain = cv2.resize(sample.image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        boxed = plain.copy()
        for j, (label, box) in enumerate(zip(sample.labels, sample.boxes, strict=True)):
            x1, y1, x2, y2 = (2 * value for value in box)
            thick = 1 if j else 3
            cv2.rectangle(boxed, (x1, y1), (x2 - 1, y2 - 1), (0, 0, 0), thick + 2)
            cv2.rectangle(boxed, (x1, y1), (x2 - 1, y2 - 1), PALETTE[label + 1], thick)
            for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                cv2.putText(boxed, CLASSES[label], (x1 + 4, y1 + 14), cv2.FONT_HERSHEY_SIMPLEX,
                            0.45, colour, width, cv2.LINE_AA)
        mask = cv2.resize(sample.mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        masked = np.where(mask[..., None], np.array(PALETTE, np.uint8)[mask], plain // 3)
        tile = np.concatenate([plain, boxed, masked], 1)
        tiles.append(cv2.copyMakeBorder(tile, 3, 3, 5, 5, cv2.BORDER_CONSTANT, value=[255] * 3))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[k:k + columns], 1) for k in range(0, len(tiles), columns)]
    return np.concatenate(rows)
