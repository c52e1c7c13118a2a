"""What an ablation says: a table of rows with their spread over seeds, and a picture."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import t

from mmone.experiments.ablations import Ablation, Row
from mmone.experiments.runs import Epoch
from mmone.files import written_whole
from mmone.lab.document import Heading, Picture, Table, Text, to_markdown
from mmone.lab.plots import COLOURS, OURS_COLOUR, save, style

CONFIDENCE = 0.95
TABLE, PICTURE = 'table.md', 'ablation.png'
# By rows and by seeds: the epochs of every run.
Histories = Mapping[Row, Mapping[int, Mapping[int, Epoch]]]


class Difference(NamedTuple):
    """Between the means of two rows, with the half width of its confidence interval; None of single runs."""
    value: float
    margin: float | None


def differences(scores: Sequence[Sequence[float]]) -> list[Difference]:
    """Of each row from the first.

    The interval is Student's, with the variance within rows pooled over all of them: runs of few seeds tell little of
    a row's own. It is for one comparison, and allows for seeds, not for the choice of test images.

    Args:
        scores (Sequence[Sequence[float]]): Of the seeds of every row.
    """
    freedom = sum(len(row) - 1 for row in scores)
    squares = sum((score - mean(row))**2 for row in scores for score in row)
    found = []
    for row in scores:
        error = (squares / freedom * (1 / len(row) + 1 / len(scores[0])))**0.5 if freedom else None
        found.append(Difference(mean(row) - mean(scores[0]), error and error * float(
            t.ppf((1 + CONFIDENCE) / 2, freedom))))
    return found


def write_report(ablation: Ablation, histories: Histories, config: str, folder: Path) -> Path:
    """Write the table and the picture, whole or not at all.

    Args:
        ablation (Ablation): Its title and all of its rows; those without a history are said to be left out.
        histories (Histories): Of finished runs.
        config (str): What was varied, for the text.
        folder (Path): Where to write.

    Returns:
        Path: The table.
    """
    with style(), written_whole(folder / PICTURE) as made:
        save(_draw(ablation, histories), made)
    with written_whole(folder / TABLE) as made:
        made.write_text(to_markdown(_blocks(ablation, histories, config)), encoding='utf-8')
    return folder / TABLE


def _last(history: Mapping[int, Epoch]) -> Epoch:
    return history[max(history)]


def _blocks(ablation: Ablation, histories: Histories, config: str):
    yield Heading(1, ablation.title)
    seeds = list(next(iter(histories.values())))
    epochs = max(next(iter(next(iter(histories.values())).values())))
    yield Text(f'{config}, {epochs} epochs, seeds {", ".join(map(str, seeds))}. Top-1 (%) of the validation after the '
               'last epoch, its mean and standard deviation over seeds; training loss over the last epoch, as it is '
               'trained on, and cross-entropy of the validation. The paper’s are on ImageNet.')
    scores = [[_last(history).top1 or 0 for history in runs.values()] for runs in histories.values()]
    rows = []
    for (row, runs), tops, difference in zip(histories.items(), scores, differences(scores)):
        last = [_last(history) for history in runs.values()]
        compared = '' if row is next(iter(histories)) else f'{difference.value:+.2f}' + (
            '' if difference.margin is None else f' ± {difference.margin:.2f}')
        rows.append([row.label, f'{mean(tops):.2f}', f'{stdev(tops):.2f}' if tops[1:] else '–',
                     ', '.join(f'{top:.2f}' for top in tops), compared,
                     _mean([one.train_loss for one in last]), _mean([one.val_loss for one in last]), row.paper or '–'])
    yield Table(['', 'top-1>', 'spread>', 'each seed', f'from {rows[0][0]}>', 'training loss>', 'validation loss>',
                 'paper'], rows)
    if any(score[1:] for score in scores):
        yield Text(f'± is the {CONFIDENCE:.0%} interval of the difference (Student’s, spread pooled over rows): where '
                   'it reaches 0, these seeds do not tell the two apart. Seeds are all that it allows for.')
    left_out = [row.label for row in ablation.rows if row not in histories]
    if left_out:
        yield Text(f'Left out, since the config has nothing to change there: {", ".join(left_out)}.')
    yield Picture(PICTURE.removesuffix('.png'), 'top-1 by row, and losses over time')


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f'{mean(known):.3f}' if known else '–'


def _draw(ablation: Ablation, histories: Histories) -> Figure:
    """Top-1 of every run, with mean and spread; and the losses over time, as in the paper's Figure 4."""
    figure = Figure(figsize=(11, 4.5), layout='constrained')
    left, right = figure.subplots(1, 2)
    for place, (row, runs) in enumerate(histories.items()):
        colour = ([OURS_COLOUR, *COLOURS])[place % (len(COLOURS) + 1)]
        tops = [_last(history).top1 or 0 for history in runs.values()]
        left.errorbar([place], [mean(tops)], [stdev(tops) if tops[1:] else 0], color=colour, fmt='_', markersize=22,
                      capsize=7)
        left.scatter([place] * len(tops), tops, color=colour, s=14, alpha=0.6, zorder=3)
        for field, line in (('val_loss', '-'), ('train_loss', ':')):
            curve = _curve(runs, field)
            right.plot(list(curve), list(curve.values()), line, color=colour, linewidth=1.4,
                       label=row.label if line == '-' else None)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xticks(range(len(histories)), [row.label for row in histories])
    left.set_xlim(-0.6, len(histories) - 0.4)
    left.set_ylabel('top-1 (%): every seed, mean and standard deviation')
    right.set(xlabel='epoch', ylabel='loss, mean over seeds (validation solid, training dotted)')
    for axes in (left, right):
        axes.grid(True, axis='y', color='0.92', linewidth=0.6, zorder=0)
    right.legend(frameon=False)
    figure.suptitle(ablation.title)
    return figure


def _curve(runs: Mapping[int, Mapping[int, Epoch]], field: str) -> dict[int, float]:
    """The mean of a loss over seeds, by the epochs after which all have one."""
    first, *others = runs.values()
    found = {epoch: [getattr(history[epoch], field) for history in (first, *others)]
             for epoch in first if all(epoch in history for history in others)}
    return {epoch: mean(values) for epoch, values in found.items() if None not in values}
