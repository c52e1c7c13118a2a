"""The report's pictures, as matplotlib's figures."""
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from mmone.lab import paper
from mmone.lab.findings import OURS, Panel, described, short
from mmone.lab.labels import add_labels
from mmone.lab.store import Measurement

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), told apart by the colour-blind; ours has one of its own.
OURS_COLOUR = '#D55E00'
COLOURS = ('#0072B2', '#009E73', '#E69F00', '#CC79A7', '#56B4E9', '#000000')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')  # as many as have no common divisor with the colours
DPI = 110
PALETTE = 128  # colours of a PNG, which make it a third as large
STYLE: Any = {
    'text.parse_math': False,  # names are not formulas
    'svg.hashsalt': 'mmone', 'svg.fonttype': 'path', 'font.family': 'DejaVu Sans', 'font.size': 8,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.titlesize': 9, 'figure.dpi': DPI,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save figures the same way wherever that is."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # a browser may call itself by any letters
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, or as PNG of few colours, by the suffix; the same figure gives the same file."""
    if path.suffix == '.svg':
        return figure.savefig(path, metadata={'Date': None})
    drawn = BytesIO()
    figure.savefig(drawn, format='png')
    Image.open(drawn).convert('RGB').quantize(PALETTE, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


class Markers:
    """Colours and shapes of families, the same in all pictures of a report.

    Args:
        families (Iterable[str]): Their names.
    """

    def __init__(self, families: Sequence[str]):
        looks = zip(cycle(COLOURS), cycle(MARKERS))
        self._looks = {family: look for family, look in zip(sorted({*families} - {OURS}), looks)}
        self._looks[OURS] = (OURS_COLOUR, '*')

    def scatter(self, axes: Axes, networks: Sequence[Measurement], xs: Sequence[float], ys: Sequence[float]) -> None:
        """Draw a point for each network; that of an unsteady one is hollow."""
        for family, (colour, marker) in self._looks.items():
            for steady in (True, False):
                chosen = [index for index, one in enumerate(networks)
                          if one.model.family == family and one.latency.steady == steady]
                axes.scatter([xs[index] for index in chosen], [ys[index] for index in chosen], marker=marker,
                             s=75 if family == OURS else 24, facecolors=colour if steady else 'white',
                             edgecolors=colour if not steady else 'white', linewidths=1.0 if not steady else 0.4,
                             zorder=3)

    def legend(self, figure: Figure, networks: Sequence[Measurement]) -> None:
        """Name the families of some networks below the picture."""
        here = {one.model.family for one in networks}
        handles = [matplotlib.lines.Line2D([], [], linestyle='', marker=marker, color=colour, label=family,
                                           markersize=9 if family == OURS else 5)
                   for family, (colour, marker) in self._looks.items() if family in here]
        if not all(one.latency.steady for one in networks):
            handles.append(matplotlib.lines.Line2D([], [], linestyle='', marker='o', color='0.3', label='unsteady',
                                                   markerfacecolor='white', markersize=5))
        figure.legend(handles=handles, loc='outside lower center', ncols=8, frameon=False, fontsize=7,
                      handletextpad=0.1, columnspacing=1.2)


def latency_against_counts(panel: Panel, markers: Markers, title: str) -> Figure:
    """Latency against multiply-adds and against parameters, side by side."""
    figure = Figure(figsize=(12, 7), layout='constrained')
    counts = dict(multiply_adds='multiply-adds of an image (millions)', parameters='parameters (millions)')
    drawn = []
    for axes, (count, label) in zip(figure.subplots(1, 2, sharey=True), counts.items()):
        networks = [one for one in panel.networks if getattr(one.model, count)]
        xs = [getattr(one.model, count) / 1e6 for one in networks]
        ys = [one.latency.median for one in networks]
        _logarithmic(axes, 'x', xs, label)
        _logarithmic(axes, 'y', ys, _latency_label(panel))
        found = panel.correlation(count)
        axes.set_title(f'Spearman’s {described(found)}' if found else 'too few networks for a correlation')
        markers.scatter(axes, networks, xs, ys)
        drawn.append((axes, networks, xs, ys))
    figure.suptitle(title, fontsize=10)
    markers.legend(figure, panel.networks)
    _settle(figure)
    for axes, networks, xs, ys in drawn:
        _name(axes, networks, xs, ys)
    return figure


def accuracy_against_latency(panel: Panel, markers: Markers, title: str) -> Figure:
    """Published top-1 against latency, with the Pareto front."""
    figure = Figure(figsize=(9, 6.5), layout='constrained')
    axes = figure.subplots()
    xs = [one.latency.median for one in panel.published]
    ys = [one.model.top1 or 0 for one in panel.published]
    _logarithmic(axes, 'x', xs, _latency_label(panel))
    axes.set_ylabel('published ImageNet top-1 (%)')
    axes.set_ylim(min(ys) - 1.5, max(ys) + 1.5)
    steps = _steps([(one.latency.median, one.model.top1 or 0) for one in panel.front])
    axes.plot(*zip(*steps), color='0.75', linewidth=2.5, zorder=1, label='Pareto front')
    axes.legend(loc='lower right', frameon=False)
    axes.set_title(title)
    markers.scatter(axes, panel.published, xs, ys)
    markers.legend(figure, panel.published)
    _settle(figure)
    _name(axes, panel.published, xs, ys, avoid=steps)
    return figure


def ablations(panel: Panel, title: str) -> Figure:
    """Latency of the 30-layer networks as multiples of the plain one's with ReLU, the paper's beside it."""
    base = next(one.latency.median for one in panel.ablation if one.model.name == paper.PLAIN)
    networks = sorted(panel.ablation, key=lambda one: ('-block-' not in one.model.name, -one.latency.median))
    factors = [one.latency.median / base for one in networks]
    theirs = {place: paper.ACTIVATIONS[one.model.name] / paper.ACTIVATIONS[paper.PLAIN]
              for place, one in enumerate(networks) if one.model.name in paper.ACTIVATIONS}
    figure = Figure(figsize=(8, 0.3 * len(networks) + 1.6), layout='constrained')
    axes = figure.subplots()
    axes.barh(range(len(networks)), [factor - 1 for factor in factors], left=1, height=0.55, color=COLOURS[0],
              label='measured here', zorder=2)
    axes.scatter([*theirs.values()], [*theirs], marker='D', color=OURS_COLOUR, edgecolors='white',
                 label=f'the paper’s, {paper.PHONE}', zorder=3)
    for place, (one, factor) in enumerate(zip(networks, factors)):
        axes.annotate(f'{factor:.2f}{"" if one.latency.steady else " †"}', (1, place), (4, 0), va='center',
                      xycoords=('axes fraction', 'data'), textcoords='offset points', fontsize=7)
    axes.set_yticks(range(len(networks)), [short(one.model.name) for one in networks])
    _logarithmic(axes, 'x', [0.8, 1.2, *factors, *theirs.values()], 'times the latency of the plain chain with ReLU')
    axes.axvline(1, color='0.4', linewidth=0.8, zorder=2)
    axes.set_title(title)
    figure.legend(loc='outside lower center', ncols=2, frameon=False)
    return figure


def _settle(figure: Figure) -> None:
    """Give everything its final place, which labels are put into then."""
    figure.draw_without_rendering()
    figure.set_layout_engine('none')


def _name(axes: Axes, networks: Sequence[Measurement], xs: Sequence[float], ys: Sequence[float],
          avoid: Sequence[tuple[float, float]] = ()) -> None:
    weights = ['bold' if one.model.family == OURS else 'normal' for one in networks]
    add_labels(axes, xs, ys, [one.model.name for one in networks], weights=weights, avoid=avoid)


def _steps(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Close points of the steps between the points of a front."""
    steps = list(front[:1])
    for (x, y), (next_x, next_y) in zip(front, front[1:]):
        steps += [(x * (next_x / x)**(part / 20), y) for part in range(1, 21)]
        steps += [(next_x, y + (next_y - y) * part / 20) for part in range(1, 21)]
    return steps


def _latency_label(panel: Panel) -> str:
    batch = panel.setting.batch
    return f'latency of {f"a batch of {batch} images" if batch > 1 else "an image"} (ms, median)'


def _logarithmic(axes: Axes, which: str, values: Sequence[float], label: str) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5, and room for labels at both ends."""
    axis = axes.xaxis if which == 'x' else axes.yaxis
    low, high = min(values), max(values)
    margin = max((high / low)**0.07, 1.15)
    axes.set(**{f'{which}scale': 'log', f'{which}label': label, f'{which}lim': (low / margin, high * margin)})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,g}'))
    axis.set_minor_locator(NullLocator())
    axes.grid(True, color='0.92', linewidth=0.6, zorder=0)
