"""The statistics of the report: rank correlation with its uncertainty, and the Pareto front."""
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, spearmanr

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
    with warnings.catch_warnings():  # a resample of one pair alone has no correlation
        warnings.simplefilter('ignore')
        resampled = bootstrap((x, y), lambda a, b: spearmanr(a, b).statistic, paired=True, vectorized=False,
                              n_resamples=RESAMPLES, rng=np.random.default_rng(0), method='percentile',
                              confidence_level=CONFIDENCE).bootstrap_distribution
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Correlation(float(found.statistic), float(found.pvalue), float(low), float(high), len(x))


def dominators(costs: Sequence[float], gains: Sequence[float]) -> list[list[int]]:
    """For each point the indices of those that cost no more and gain no less, and are better in one of the two.

    The points that nothing dominates are the Pareto front.
    """
    points = list(zip(costs, gains))
    return [[other for other, (b_cost, b_gain) in enumerate(points)
             if b_cost <= cost and b_gain >= gain and (b_cost < cost or b_gain > gain)]
            for cost, gain in points]
