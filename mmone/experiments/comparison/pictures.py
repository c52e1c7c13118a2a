"""An image as it is annotated and as the models see it, side by side.

The libraries' own drawings name each box and each region, in letters that scale with it: with many of them nothing can
be read. Here colours stand for classes, and are told once, below.
"""
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from mmone.export.compare import counterparts

from .disagreement import certain
from .models import Model
from .test_set import Answer, TestSet

_STYLE: Any = {'font.size': 8, 'axes.titlesize': 8, 'font.family': 'DejaVu Sans', 'text.parse_math': False}
_COLUMNS, _DPI, _OPACITY = 3, 150, 0.6
_WIDTH = dict(classification=2.2, detection=3.6, segmentation=3.6)  # of a panel, in inches
_RIGHT, _WRONG = '#006400', '#B00000'
_LETTERS = 12  # of a title, to the inch


def draw(test_set: TestSet, index: int, models: Sequence[Model], found: Sequence[Answer], path: Path) -> None:
    """Draw the truth and what models predict of an image to a JPEG file."""
    image, truth = test_set.picture(index), test_set.truth(index)
    colours = _colours(test_set)
    rows = math.ceil((1 + len(models)) / _COLUMNS)
    columns = math.ceil((1 + len(models)) / rows)
    width = _WIDTH[test_set.task]
    height = width * image.shape[0] / image.shape[1] + 0.5
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # classes may be called by any letters
        figure = Figure((width * columns, height * rows + 0.35), layout='constrained')
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        titles = ['truth', *(f'{model.letter}: {model.name}' for model in models)]
        for axes, answer, title in zip(panels, [truth, *found], titles):
            axes.imshow(image, interpolation='nearest' if max(image.shape) < 100 else 'antialiased')
            fill = dict(classification=_label, detection=_boxes, segmentation=_map)[test_set.task]
            words, colour = fill(axes, answer, truth, test_set, colours)
            axes.set_title(f'{_short(title, width)}\n{_short(words, width)}', color=colour)
        shown = _classes(test_set, [truth, *found])
        if shown:
            figure.legend(handles=[Patch(color=colours[label], label=test_set.classes[label]) for label in shown],
                          loc='outside lower center', ncols=min(len(shown), int(1.1 * width * columns)), frameon=False)
        figure.savefig(path, format='jpg', dpi=_DPI, pil_kwargs=dict(quality=82))


def _short(text: str, width: float) -> str:
    letters = int(_LETTERS * width)
    return text if len(text) <= letters else f'{text[:letters - 1]}…'


def _colours(test_set: TestSet) -> np.ndarray:
    """(classes, 3), 0 to 1: the data set's, else matplotlib's in turn."""
    count, palette = len(test_set.classes), test_set.palette
    if palette is None or len(palette) < count or not np.array_equal(np.shape(palette)[1:], (3, )):
        return np.array([matplotlib.colormaps['tab20'](label % 20)[:3] for label in range(count)])
    return np.array(palette[:count]) / 255


def _classes(test_set: TestSet, answers: Sequence[Answer]) -> list[int]:
    """Those that colours stand for in a picture."""
    if test_set.task == 'classification':
        return []
    labels = [certain(one)[1] if test_set.task == 'detection' else one['labels'].ravel() for one in answers]
    return [label for label in np.unique(np.concatenate(labels)).tolist() if label < len(test_set.classes)]


# Each draws an answer over its image, and returns words to it and their colour


def _label(axes: Axes, answer: Answer, truth: Answer, test_set: TestSet, colours: np.ndarray) -> tuple[str, str]:
    if 'label' in answer:
        return test_set.classes[int(answer['label'])], 'black'
    best = int(answer['scores'].argmax())
    return f'{answer["scores"][best]:.2f} {test_set.classes[best]}', _RIGHT if best == truth['label'] else _WRONG


def _boxes(axes: Axes, answer: Answer, truth: Answer, test_set: TestSet, colours: np.ndarray) -> tuple[str, str]:
    boxes, labels = certain(answer)
    there = certain(truth)
    right = set(counterparts(boxes, labels, *there)[0].tolist())
    for number, ((x1, y1, x2, y2), label) in enumerate(zip(boxes.tolist(), labels.tolist())):
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colours[label], linewidth=1.4,
                                 linestyle='-' if number in right or answer is truth else (0, (2, 1.2))))
    if answer is truth:
        return f'{len(boxes)} boxes', 'black'
    return f'{len(right)} right, {len(there[0]) - len(right)} missed, {len(boxes) - len(right)} wrong', 'black'


def _map(axes: Axes, answer: Answer, truth: Answer, test_set: TestSet, colours: np.ndarray) -> tuple[str, str]:
    labels, counted = answer['labels'].astype(int), truth['labels'] != test_set.ignore
    known = (labels < len(colours)) & (counted if answer is truth else True)
    axes.imshow(np.dstack([colours[np.where(known, labels, 0)], _OPACITY * known]))
    if answer is truth:
        return '', 'black'
    return f'{(labels == truth["labels"])[counted].mean() if counted.any() else 0:.1%} of the pixels right', 'black'
