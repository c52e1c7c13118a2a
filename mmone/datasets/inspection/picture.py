"""A config's data as one picture."""
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator
from PIL import Image

from mmone.files import written_whole

from . import boxes, masks
from .files import read_mask, upright
from .findings import sampled
from .inspect import Inspection
from .reading import Sample, Split

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), told apart by the colour-blind.
COLOURS = ('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00', '#F0E442')
STYLE: Any = {'font.size': 8, 'axes.titlesize': 9, 'axes.spines.top': False, 'axes.spines.right': False,
         'font.family': 'DejaVu Sans', 'text.parse_math': False}
SAMPLES = 6
CLASSES = 24  # bars that can be read beside each other
POINTS = 20_000


def draw(found: Inspection, path: Path) -> None:
    """Draw sizes, classes, box sizes and samples of a config's data to a PNG file."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # classes may be called by any letters
        figure = Figure(figsize=(13, 6.2), dpi=110, layout='constrained')
        halves: Any = figure.subfigures(2, 1, height_ratios=(1.4, 1))
        above, below = halves
        first = found.subject.splits[0]
        has_boxes = any(sample.boxes for sample in first.samples)
        panels = above.subplots(1, 3 if has_boxes else 2, width_ratios=(1, 1.5, 1)[:3 if has_boxes else 2])
        _sizes(panels[0], found)
        _classes(panels[1], found)
        if has_boxes:
            _boxes(panels[2], found, first)
        _samples(below, found, first)
        with written_whole(path) as made:
            figure.savefig(made, format='png')


def _label(split: Split) -> str:
    return split.key.replace('_dataloader.dataset', '')


def _sizes(axes: Axes, found: Inspection) -> None:
    """Widths and heights, the larger the point the more images."""
    for split, colour in zip(found.subject.splits, COLOURS):
        shapes, numbers = np.unique(np.array(found.sizes(split)).reshape(-1, 2), axis=0, return_counts=True)
        if len(shapes):
            areas = 20 + 160 * numbers / numbers.max()
            axes.scatter(shapes[:, 0], shapes[:, 1], s=areas, color=colour, alpha=0.55, linewidths=0,
                         label=_label(split))
    every = {size for split in found.subject.splits for size in found.sizes(split)}
    axes.set(xlabel='width (pixels)', ylabel='height (pixels)', xlim=(0, None), ylim=(0, None))
    axes.set_title('sizes of images' + (f': all {"x".join(map(str, *every))}' if len(every) == 1 else ''))
    axes.margins(0.15)
    axes.grid(color='0.92')
    axes.set_axisbelow(True)
    if axes.collections:
        axes.autoscale()
        axes.set(xlim=(0, axes.get_xlim()[1]), ylim=(0, axes.get_ylim()[1]))
        for handle in axes.legend(loc='lower right', frameon=False).legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([40])


def _classes(axes: Axes, found: Inspection) -> None:
    """What part of each data set is of each class, on a logarithmic axis where they differ much."""
    splits = found.subject.splits
    counts = [found.counts(split) for split in splits]
    names = list(dict.fromkeys(name for one in counts for name in one))
    names.sort(key=lambda name: -counts[0].get(name, 0))
    title = f'classes: numbers of {found.unit(splits[0])}'
    if len(names) > CLASSES:
        title += f' (the {CLASSES // 2} that have most and least of {len(names)})'
        names = names[:CLASSES // 2] + names[-CLASSES // 2:]
    height = 0.8 / max(len(splits), 1)
    for number, (split, one, colour) in enumerate(zip(splits, counts, COLOURS)):
        places = np.arange(len(names)) + (number - (len(splits) - 1) / 2) * height
        axes.barh(places, [one.get(name, 0) for name in names], height, color=colour, label=_label(split))
    values = [value for one in counts for value in one.values() if value]
    if values and max(values) > 50 * min(values):
        axes.set_xscale('log')
    axes.set_yticks(range(len(names)), [name if len(name) <= 24 else name[:23] + '…' for name in names])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.set_title(title, loc='left')
    axes.grid(axis='x', color='0.92')
    axes.set_axisbelow(True)
    axes.legend(loc='lower right', bbox_to_anchor=(1, 0.98), ncols=len(splits), frameon=False)


def _short(value: float, _=None) -> str:
    for unit, name in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
        if value >= unit:
            return f'{value / unit:g}{name}'
    return f'{value:g}'


def _boxes(axes: Axes, found: Inspection, split: Split) -> None:
    """Boxes as large as the model sees them, and the anchors."""
    axes.set(title='boxes and anchors in the input', xlabel='width (pixels)', ylabel='height (pixels)')
    try:
        shapes, anchors = boxes.input_boxes(found.subject, split), boxes.anchors(found.subject)
    except Exception as failed:  # of a model that cannot be built, which the findings tell
        axes.text(0.5, 0.5, type(failed).__name__, transform=axes.transAxes, ha='center')
        return
    if len(shapes):
        shapes = np.array(sampled(shapes.tolist(), POINTS))
        axes.scatter(shapes[:, 0], shapes[:, 1], s=6, color=COLOURS[0], alpha=0.35, linewidths=0,
                     label=f'boxes of {_label(split)}')
    if anchors is not None and len(anchors):
        axes.scatter(anchors[:, 0], anchors[:, 1], s=26, marker='x', color=COLOURS[5], linewidths=1.1, label='anchors')
    axes.set(xscale='log', yscale='log')
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(_short))
        axis.set_minor_formatter(FuncFormatter(lambda *_: ''))
    axes.grid(color='0.92')
    axes.set_axisbelow(True)
    if axes.collections:
        axes.legend(loc='upper left', frameon=True, framealpha=0.8, edgecolor='none')


def _samples(figure, found: Inspection, split: Split) -> None:
    """Some images with what is annotated."""
    shown = [(sample, image) for sample in sampled(split.samples, 3 * SAMPLES) if sample.image
             and (image := upright(sample.image)) is not None]
    shown = sampled(shown, SAMPLES)
    figure.suptitle(f'samples of {_label(split)}', fontsize=9)
    if not shown:
        return
    for axes, (sample, image) in zip(np.ravel(figure.subplots(1, max(len(shown), 2))), shown):
        axes.imshow(image, interpolation='nearest' if max(image.shape) < 100 else 'antialiased')
        if sample.mask:
            _overlay(axes, sample, split)
        for box in sample.boxes:
            _box(axes, box, split)
        axes.set_title(_title(sample, split), fontsize=7)
    for axes in figure.axes:
        axes.set_axis_off()


def _title(sample: Sample, split: Split) -> str:
    name = Path(sample.image).name
    name = name if len(name) <= 26 else name[:12] + '…' + name[-12:]
    if sample.label is not None and 0 <= sample.label < len(split.classes):
        return f'{split.classes[sample.label]}\n{name}'
    return name


def _colour(label: int) -> str:
    return COLOURS[label % len(COLOURS)]


def _box(axes: Axes, box: boxes.Box, split: Split) -> None:
    colour = '0.6' if box.dropped else _colour(box.label)
    axes.add_patch(Rectangle(box.corners[:2], box.width, box.height, fill=False, edgecolor=colour, linewidth=1,
                             linestyle=':' if box.dropped or box.crowd else '-'))
    axes.text(*box.corners[:2], box.name, fontsize=5.5, color='white', va='bottom', clip_on=True,
              bbox=dict(facecolor=colour, edgecolor='none', pad=0.6))


def _overlay(axes: Axes, sample: Sample, split: Split) -> None:
    """Lay a mask in the data set's colours over its image."""
    try:
        read = read_mask(Path(sample.mask or '').read_bytes(), masks.backend(split))
    except OSError:
        return
    if read is None or read[0].ndim != 2:
        return
    values = masks.translation(split)[read[0].astype(np.int64) % 256]
    palette = np.zeros((256, 4), np.uint8)
    own: Sequence = split.dataset.metainfo.get('palette') or ()
    for label in range(len(split.classes)):
        colour = own[label] if label < len(own) else [int(_colour(label)[place:place + 2], 16) for place in (1, 3, 5)]
        palette[label] = *colour[:3], 140
    axes.imshow(Image.fromarray(palette[values]), interpolation='nearest')
