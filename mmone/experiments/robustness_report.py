"""The report of an evaluation under corruptions: tables as Markdown, and pictures."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mmone.datasets.corrupt import CORRUPTIONS, SEVERITIES, Corrupt
from mmone.experiments import corruption_error
from mmone.experiments.corruption_error import CLEAN
from mmone.experiments.robustness import EXAMPLE, Results
from mmone.files import written_whole
from mmone.lab.document import Block, Heading, Picture, Table, Text, to_markdown
from mmone.lab.plots import COLOURS, MARKERS, save, style

REPORT = 'report.md'
CURVES, GALLERY = 'severities', 'corruptions'
SHOWN = 3  # the severity of the gallery
NAMES = {'accuracy/top1': 'top-1', 'coco/bbox_mAP': 'AP', 'pascal_voc/mAP': 'AP50', 'mIoU': 'mIoU'}
IMAGENET_CLASSES = 1000  # AlexNet's errors are of these


def summary(results: Results) -> list[list[str]]:
    """A table of a row a model: what is without corruptions, what is left with them, and on other test sets.

    Of a classifier of ImageNet's 1000 classes with mCE and relative mCE. A model that lacks what another has been
    evaluated under has no mean: the two could not be compared.
    """
    of_imagenet = _of_imagenet(results)
    sets = sorted({name for model in results.cells for name in results.sets(model)})
    name = NAMES[results.figure]
    rows = [['model', f'{name} %', 'corrupted %', 'of clean %', *(['mCE %', 'relative mCE %'] if of_imagenet else []),
             *(f'{other} %' for other in sets)]]
    every = {cell for model in results.cells for cell in results.percent(model)}
    for model in results.cells:
        found = results.percent(model)
        means = [corruption_error.mean_under_corruption(found), corruption_error.relative_to_clean(found)]
        values = [found.get(CLEAN), *(means if found.keys() == every else (None, None))]
        values += [corruption_error.mce(found), corruption_error.mce(found, relative=True)] if of_imagenet else []
        rows.append([model, *map(_number, [*values, *map(results.sets(model).get, sets)])])
    return rows


def _of_imagenet(results: Results) -> bool:
    return results.figure == 'accuracy/top1' and results.classes == IMAGENET_CLASSES


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.1f}'


def write_report(results: Results) -> Path:
    """Write tables and pictures into the results' folder; returns the tables' file."""
    with style():
        if _corruptions(results):
            with written_whole(results.folder / f'{CURVES}.png') as made:
                save(curves(results), made)
        if (results.folder / EXAMPLE).exists():
            with written_whole(results.folder / f'{GALLERY}.png') as made:
                gallery(results).savefig(made)
    path = results.folder / REPORT
    with written_whole(path) as made:
        made.write_text(to_markdown(_blocks(results)), encoding='utf-8')
    return path


def _blocks(results: Results) -> list[Block]:
    name, of_imagenet = NAMES[results.figure], _of_imagenet(results)
    blocks: list[Block] = [
        Heading(1, 'Robustness'),
        Text(f'{results.images} images, {name} in percent. Corrupted is the mean of all corruptions and severities, of '
             'clean that in percent of what it is without.'
             + (' mCE and relative mCE are errors in percent of AlexNet’s on all of ImageNet-C, lower is better.'
                if of_imagenet else '')),
        _table(summary(results))]
    if _corruptions(results):
        blocks.append(Picture(CURVES, f'{name} against severity, by corruption'))
    if (results.folder / EXAMPLE).exists():
        blocks.append(Picture(GALLERY, f'An image under all corruptions, of severity {SHOWN}'))
    for model in results.cells:
        found = results.percent(model)
        rows = [['corruption', *map(str, SEVERITIES), 'mean', *(['CE'] if of_imagenet else [])]]
        for corruption in _corruptions(results):
            cells = [found.get((corruption, severity)) for severity in SEVERITIES]
            cells.append(corruption_error.over_severities(found, corruption))
            cells += [corruption_error.corruption_error(found, corruption)] if of_imagenet else []
            rows.append([corruption, *map(_number, cells)])
        if len(rows) > 1:
            blocks += [Heading(2, model), _table(rows)]
    return blocks


def _table(rows: Sequence[Sequence[str]]) -> Table:
    head, *body = rows
    return Table([head[0], *(f'{name}>' for name in head[1:])], body)


def curves(results: Results) -> Figure:
    """The figure against the severity: a panel a corruption, a line a model."""
    there = _corruptions(results)
    columns = min(5, len(there))
    rows = -(-len(there) // columns)
    figure = Figure(figsize=(2.2 * columns + 0.4, 2 * rows + 0.6), layout='constrained')
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for corruption, axes in zip(there, panels):
        axes.set_title(corruption.replace('_', ' '))
        axes.grid(True, color='0.92', linewidth=0.6)
        for number, model in enumerate(results.cells):
            _draw(axes, results, model, corruption, number)
    axes.set_xticks([0, *SEVERITIES])
    axes.set_ylim(bottom=0)
    for unused in panels:
        unused.axis('off')
    figure.supxlabel('severity (0: without)', fontsize='medium')
    figure.supylabel(f'{NAMES[results.figure]} (%)', fontsize='medium')
    figure.legend(*axes.get_legend_handles_labels(), loc='outside upper center', ncols=columns, frameon=False)
    return figure


def _corruptions(results: Results) -> list[str]:
    """The corruptions of which something was evaluated."""
    found = {corruption for model in results.cells for corruption, _ in results.percent(model)}
    return [corruption for corruption in CORRUPTIONS if corruption in found]


def _draw(axes: Axes, results: Results, model: str, corruption: str, number: int) -> None:
    found = results.percent(model)
    cells = {0: found.get(CLEAN), **{severity: found.get((corruption, severity)) for severity in SEVERITIES}}
    points = [(severity, value) for severity, value in cells.items() if value is not None]
    axes.plot(*zip(*points), label=model, color=COLOURS[number % len(COLOURS)],
              marker=MARKERS[number % len(MARKERS)], markersize=4, linewidth=1.2)


def gallery(results: Results) -> Figure:
    """The example image without and with each corruption."""
    image = np.asarray(Image.open(results.folder / EXAMPLE).convert('RGB'))
    height, width = image.shape[:2]
    figure = Figure(figsize=(9, 9 * height / width + 0.8), layout='constrained')
    for axes, corruption in zip(figure.subplots(4, 4).flat, (None, *CORRUPTIONS)):
        corrupt = Corrupt(corruption, SHOWN) if corruption else Corrupt(severity=0)
        axes.imshow(corrupt.transform(dict(img=image[:, :, ::-1]))['img'][:, :, ::-1])
        axes.set_title((corruption or 'none').replace('_', ' '))
        axes.axis('off')
    return figure
