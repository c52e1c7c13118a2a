"""Names beside the points of a plot, placed so that none covers another, a point or the frame."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

GAP = 2.0  # points between a label and whatever is beside it
NEAR = 10.0  # points from which on a line leads from a point to its label
DISTANCES = (5, 8, 12, 17, 23, 30, 38, 47, 57, 68, 80, 95, 112, 130)
ANGLES = 24
CHOICES, ROUNDS, ORDERS = 120, 4, 6  # more are slower and hardly better


def add_labels(axes: Axes, xs: Sequence[float], ys: Sequence[float], names: Sequence[str], size: float = 6.5,
               weights: Sequence[str] | None = None, avoid: Sequence[tuple[float, float]] = ()) -> list[Any]:
    """Write a name beside each point, the same way each time; call it when the axes have their final place.

    Each label takes, one after the other and the most crowded first, the nearest place around its point
    that covers nothing, and again when all others have theirs; lines lead to those that are not beside it.

    Args:
        axes (Axes): Where the points are drawn.
        xs (Sequence[float]): In the units of the data.
        ys (Sequence[float]): In the units of the data.
        names (Sequence[str]): One for each point.
        size (float): Of the letters, in points. Defaults to 6.5.
        weights (Sequence[str], optional): Of the letters of each; ``'normal'`` by default.
        avoid (Sequence[tuple[float, float]]): Other points to be kept free, in the units of the data.

    Returns:
        list[Text]: The labels.
    """
    if not names:
        return []
    figure: Any = axes.figure
    unit = figure.dpi / 72  # pixels of a point
    points = axes.transData.transform(np.column_stack((xs, ys)).astype(float))
    # By offsets in points, which no format's resolution changes.
    texts = [axes.annotate(name, point, (0, 0), textcoords='offset points', fontsize=size, fontweight=weight,
                           ha='center', va='center', zorder=4)
             for name, point, weight in zip(names, zip(xs, ys), weights or ['normal'] * len(names))]
    extents = [text.get_window_extent() for text in texts]
    halves = np.array([(extent.width / 2 + GAP * unit, extent.height / 2 + GAP * unit / 2) for extent in extents])
    free = axes.transData.transform(np.array(avoid, float)) if len(avoid) else np.empty((0, 2))
    centres = _places(points, halves, free, axes.get_window_extent(), unit)
    for text, way, half in zip(texts, (centres - points) / unit, halves / unit):
        text.set_position(way)
        _lead(axes, text.xy, way, half)
    return texts


def _places(points: np.ndarray, halves: np.ndarray, free: np.ndarray, frame: Bbox, unit: float) -> np.ndarray:
    """The centres (N, 2) of labels of half sizes (N, 2) for points (N, 2), in pixels."""
    obstacles = np.concatenate((points, free))
    choices = [_choices(index, half, obstacles, frame, unit) for index, half in enumerate(halves)]
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    crowded = np.argsort(np.sort(gaps, axis=1)[:, :6].sum(1), kind='stable')
    shuffled = np.random.default_rng(0)
    orders = [crowded, *(shuffled.permutation(len(points)) for _ in range(ORDERS - 1))]
    return min((_settled(order, points, halves, choices) for order in orders), key=lambda found: found[0])[1]


def _choices(index: int, half: np.ndarray, obstacles: np.ndarray, frame: Bbox, unit: float
             ) -> tuple[np.ndarray, np.ndarray]:
    """The best centres for the label of a point, and what each costs, whatever the other labels do."""
    point, others = obstacles[index], np.delete(obstacles, index, axis=0)
    centres = _candidates(point, half, unit)
    cost = np.linalg.norm(centres - point, axis=1) / unit
    cost += 3000 * _outside(centres, half, frame)
    cost += 300 * _covers(centres, half, obstacles, np.full((1, 2), 3 * unit)).sum(1)
    cost += 20 * _meet(point, centres[:, None], others, np.full(2, 2.5 * unit)).sum(1)
    best = np.argsort(cost, kind='stable')[:CHOICES]
    return centres[best], cost[best]


def _settled(order: np.ndarray, points: np.ndarray, halves: np.ndarray,
             choices: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, np.ndarray]:
    """Let labels choose in an order, again and again with all others in their places; what it costs, and centres."""
    centres, placed, costs = np.zeros_like(points), np.zeros(len(points), bool), np.zeros(len(points))
    for index in np.tile(order, ROUNDS):
        placed[index] = False
        (around, own), half, others, sizes = choices[index], halves[index], centres[placed], halves[placed]
        cost = own + 1000 * _covers(around, half, others, sizes).sum(1)
        cost += 60 * _meet(points[index], around[:, None], others, sizes).sum(1)
        cost += 60 * _meet(points[placed], others, around[:, None], half).sum(1)
        chosen = cost.argmin()
        centres[index], costs[index], placed[index] = around[chosen], cost[chosen], True
    return costs.sum(), centres


def _candidates(point: np.ndarray, half: np.ndarray, unit: float) -> np.ndarray:
    """Centres around a point, so that the label's nearest edge is at each of the distances."""
    angle = np.arange(ANGLES) * 2 * np.pi / ANGLES
    direction = np.column_stack((np.cos(angle), np.sin(angle)))
    with np.errstate(divide='ignore'):
        to_edge = np.min(half / np.abs(direction), axis=1)
    reach = to_edge[None] + np.array(DISTANCES)[:, None] * unit - GAP * unit
    return (point + reach[..., None] * direction).reshape(-1, 2)


def _covers(centres: np.ndarray, half: np.ndarray, others: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes around centres (M, 2) and around others (N, 2) cover each other: (M, N)."""
    return (np.abs(centres[:, None] - others[None]) < half + sizes).all(-1)


def _outside(centres: np.ndarray, half: np.ndarray, frame: Bbox) -> np.ndarray:
    inside = (centres - half >= (frame.x0, frame.y0)) & (centres + half <= (frame.x1, frame.y1))
    return ~inside.all(1)


def _meet(starts: np.ndarray, ends: np.ndarray, centres: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Whether lines, most of the way from a point to its label, meet boxes; all are broadcast but for the last axis."""
    way = 0.9 * (ends - starts)
    with np.errstate(divide='ignore', invalid='ignore'):  # of lines along an axis
        near, far = (centres - halves - starts) / way, (centres + halves - starts) / way
    enter, leave = np.minimum(near, far).max(-1), np.maximum(near, far).min(-1)
    return (enter <= leave) & (leave >= 0) & (enter <= 1)


def _lead(axes: Axes, point: tuple[float, float], way: np.ndarray, half: np.ndarray) -> None:
    """A thin line from a point to the edge of its label ``way`` from it, in points, where that is not beside it."""
    edge = way * (1 - min(1.0, *(half / np.maximum(np.abs(way), 1e-9))))
    if np.linalg.norm(edge) > NEAR:
        axes.annotate('', point, edge, textcoords='offset points', zorder=2,
                      arrowprops=dict(arrowstyle='-', color='0.55', linewidth=0.5, shrinkA=0, shrinkB=3))
