"""The report of a comparison: tables, what they allow to say, and pictures of where the models disagree most."""
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmone.lab import document
from mmone.lab.document import Block, Heading, Items, Picture, Table, Text, plain
from mmone.lab.machine import this_machine

from ..statistics import RESAMPLES, interval
from .comparison import REPORT, Comparison, Pair, Row
from .pictures import draw
from .test_set import TestSet

PICTURES = 6
_CLASSES = 60  # of which a table can be read
_LEVEL = 0.05


def write(found: Comparison, out: str | Path, pictures: int = PICTURES) -> Path:
    """Write the report as Markdown with pictures, and as one page.

    Args:
        found (Comparison): From :func:`.comparison.compare`.
        out (str | Path): The folder that it was given; the report's is in it, and replaces an earlier one.
        pictures (int): Of how many images. Defaults to 6.

    Returns:
        Path: The Markdown.

    Raises:
        InputError: If the report's folder has files that no report wrote.
    """
    return document.write(Path(out) / REPORT, lambda folder: _blocks(found, folder, pictures))


def table(found: Comparison) -> list[list[str]]:
    """Model by model; the first row has the heads."""
    costs = [row.cost for row in found.rows]
    head = ['', 'model', *(f'{name}>' for name in found.metrics), 'parameters (M)>', 'multiply-adds (M)>']
    rows = [[row.model.letter, plain(row.model.name), *_metrics(row), *_size(row)] for row in found.rows]
    if any(costs):
        head += ['image', 'latency (ms)>', 'file (MB)>']
        rows = [[*row, *_cost(cost)] for row, cost in zip(rows, costs)]
    return [head, *rows]


def verdict(pair: Pair, count: int) -> str:
    """What the difference of two models on so many images allows to say."""
    (value, low, high, _), metric = pair.difference, pair.first.scores.metrics[0]
    first, second = pair.first.model.letter, pair.second.model.letter
    how = f'95% interval {_signed(low)} to {_signed(high)}, {_p(pair.p)}'
    if pair.p < _LEVEL and not low <= 0 <= high:
        better, worse = (first, second) if value > 0 else (second, first)
        return f'{better} is better than {worse}: {first} − {second} = {_signed(value)} points of {metric} ({how}).'
    return (f'These {count} images do not tell {first} and {second} apart: {first} − {second} = {_signed(value)} '
            f'points of {metric} ({how}).')


def _blocks(found: Comparison, folder: Path, pictures: int) -> Iterator[Block]:
    test_set = found.test_set
    yield Heading(1, f'{len(found.rows)} models of {test_set.task} on {len(test_set)} images')
    yield Text(f'The test set of {plain(Path(test_set.cfg.filename).name)}. Each model is deployed and prepares images '
               'by its own config. In brackets are 95% intervals.')
    head, *rows = table(found)
    yield Table(head, rows)
    yield Items([verdict(pair, len(test_set)) for pair in found.pairs])
    yield from _discordance(found)
    yield from _by_class(found)
    yield from _pictures(found, folder, pictures)
    yield Heading(2, 'How it was made')
    yield Items([*_method(found)])


def _metrics(row: Row) -> list[str]:
    """Each with its interval."""
    ends = [interval(samples) for samples in row.samples.T]
    return [f'{value:.1f} [{low:.1f}, {high:.1f}]' for value, (low, high) in zip(row.metrics, ends)]


def _size(row: Row) -> list[str]:
    if row.complexity is None:
        return ['', '']
    return [f'{row.complexity.parameters / 1e6:.2f}', f'{row.complexity.multiply_adds / 1e6:,.0f}']


def _cost(cost) -> list[str]:
    size = '' if cost is None or cost.size is None else f'{cost.size / 1e6:.1f}'
    if cost is None or cost.measurement is None:
        return ['', 'not measured', size]
    setting, latency = cost.measurement.setting, cost.measurement.latency
    return [f'{setting.height}×{setting.width}', f'{latency.median:.2f}' + ('' if latency.steady else ' †'), size]


def _discordance(found: Comparison) -> Iterator[Block]:
    rows = [[f'{pair.first.model.letter}, {pair.second.model.letter}', str(pair.discordance.first),
             str(pair.discordance.second), _p(pair.discordance.p)] for pair in found.pairs if pair.discordance]
    if rows:
        yield Table(['models', 'the first alone is right>', 'the second alone is right>', 'McNemar>'], rows)


def _by_class(found: Comparison) -> Iterator[Block]:
    if len(found.test_set.classes) > _CLASSES:
        return
    yield Heading(2, f'{found.metrics[0]} by class')
    columns = np.array([row.scores.by_class() for row in found.rows])
    yield Table(['class', *(f'{row.model.letter}>' for row in found.rows)],
                [[plain(name), *('' if np.isnan(value) else f'{value:.1f}' for value in values)]
                 for name, values in zip(found.test_set.classes, columns.T)])


def _pictures(found: Comparison, folder: Path, most: int) -> Iterator[Block]:
    worst = [index for index in np.argsort(-found.disagreements, kind='stable')[:most].tolist()
             if found.disagreements[index] > 0]
    if not worst:
        return
    yield Heading(2, 'Where they disagree most')
    yield Text(_CAPTIONS[found.test_set.task] + (' Numbers are means of all pairs.' if len(found.pairs) > 1 else ''))
    models = [row.model for row in found.rows]
    for number, index in enumerate(worst, 1):
        name = f'disagreement-{number}'
        draw(found.test_set, index, models, [row.found[index] for row in found.rows], folder / f'{name}.jpg')
        yield Text(f'{plain(found.test_set.name(index))}: {_words(found.test_set, found.disagreements[index])}')
        yield Picture(name, f'{plain(found.test_set.name(index))}: truth and models', photograph=True)


_CAPTIONS = {
    'classification': 'In green are right answers, in red wrong ones.',
    'detection': 'Boxes of a score from 0.3. Dashed ones have no counterpart of their class and an IoU from 0.5 among '
                 'the true ones.',
    'segmentation': 'Pixels that do not count are without a colour in the truth.',
}


def _words(test_set: TestSet, value: float) -> str:
    if test_set.task == 'detection':
        return f'{value:.0f} boxes without a counterpart in the other model' + '’s answer'
    return f'{value:.0%} of the {"scores lie elsewhere" if test_set.task == "classification" else "pixels differ"}'


def _method(found: Comparison) -> Iterator[str]:
    yield (f'Intervals: {RESAMPLES:,} bootstrap samples of the images, the same for all models. They tell how far the '
           'figure depends on which images the test set has, and nothing of other trainings; of images that are alike, '
           'such as frames of a video, they are too narrow.')
    if found.test_set.task == 'classification':
        yield ('Pairs: McNemar’s exact test of the images on which one of two models alone is right; the interval is '
               'that of the difference on the same bootstrap samples.')
    else:
        yield ('Pairs: the difference on the same bootstrap samples; p is twice the share of those in which it has the '
               'other sign.')
    if len(found.rows) > 2:
        yield f'Each of the {len(found.pairs)} p is of its pair alone: of many pairs some are below 0.05 by chance.'
    if found.test_set.task == 'detection':
        yield ('mAP is COCO’s, over IoU thresholds from 0.50 to 0.95, of at most 100 boxes an image; true boxes are '
               'those that the data set class takes.')
    yield ('Parameters and multiply-adds are those of mmone flops, deployed; of exported files they are not counted.')
    costs = [row.cost for row in found.rows if row.cost is not None]
    if costs:
        machine = this_machine()
        yield (f'Latency: {plain(machine.name)}; by the protocol of mmone bench, batch 1, one thread, in ONNX Runtime '
               'the networks of configs, from the prepared image to raw outputs, and in their own runtime exported '
               'files, from the image to the answer. The file is that which is timed.')
        if any(cost.measurement and not cost.measurement.latency.steady for cost in costs):
            yield '† varies more than the protocol allows, and was measured three times.'
        for row in found.rows:
            if row.cost is not None and row.cost.measurement is None:
                yield f'{row.model.letter} was not measured: {plain(row.cost.reason, 300)}'


def _signed(value: float) -> str:
    return f'{value:+.1f}'.replace('-', '−')


def _p(value: float) -> str:
    return 'p < 0.001' if value < 0.001 else f'p = {value:.3f}'
