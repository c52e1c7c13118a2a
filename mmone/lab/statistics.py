"""The statistics of the report: rank correlation with its uncertainty, and the Pareto front."""
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap, rankdata, spearmanr

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        rho (float): −1 to 1.
        p (float): How likely at least as strong a one is where there is none.
        low (float): Lower end of the 95% bootstrap interval.
        high (float): Upper end.
        count (int): Number of pairs.
    """
    rho: float
    p: float
    low: float
    high: float
    count: int


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Spearman's ρ of pairs, its p-value and the percentile bootstrap interval, by scipy.

    Pairs are resampled together, with a fixed seed: the same measurements give the same report.

    Returns:
        Correlation, optional: None of fewer than four pairs, or where one side never changes.
    """
    if len(x) < 4 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    found = spearmanr(x, y)
    with warnings.catch_warnings():  # of resamples that repeat one value, which have no correlation
        warnings.simplefilter('ignore', DegenerateDataWarning)
        resampled = bootstrap((x, y), _rho, paired=True, n_resamples=RESAMPLES, rng=np.random.default_rng(0),
                              method='percentile').bootstrap_distribution
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Correlation(float(found.statistic), float(found.pvalue), float(low), float(high), len(x))


def _rho(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Pearson's correlation of ranks along an axis; NaN where a resample repeats one value."""
    x, y = rankdata(x, axis=axis), rankdata(y, axis=axis)
    x, y = x - x.mean(axis, keepdims=True), y - y.mean(axis, keepdims=True)
    with np.errstate(invalid='ignore', divide='ignore'):
        return (x * y).sum(axis) / np.sqrt((x * x).sum(axis) * (y * y).sum(axis))


def dominators(costs: Sequence[float], gains: Sequence[float]) -> list[list[int]]:
    """For each point the indices of those that cost no more and gain no less, and are better in one of the two.

    The points that nothing dominates are the Pareto front.
    """
    points = list(zip(costs, gains))
    return [[other for other, (b_cost, b_gain) in enumerate(points)
             if b_cost <= cost and b_gain >= gain and (b_cost < cost or b_gain > gain)]
            for cost, gain in points]
