"""How sure a figure of a test set is, and whether two models' figures on the same images differ.

A test set is a sample of images: another would have given other figures. The bootstrap (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapters 13 and 16) draws as many images from it, with replacement, again and
again, and sees how far a figure moves. It says nothing of what another training would have given.
"""
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest

CONFIDENCE = 0.95
RESAMPLES = 2000
_AT_ONCE = 4_000_000  # numbers


class Difference(NamedTuple):
    """A figure of one model minus that of another.

    Attributes:
        value (float): Of the test set.
        low (float): Lower end of the 95% bootstrap interval.
        high (float): Upper end.
        p (float): How likely at least as large a difference is where there is none.
    """
    value: float
    low: float
    high: float
    p: float


class Discordance(NamedTuple):
    """On how many images one of two models alone is right.

    Attributes:
        first (int): The first alone.
        second (int): The second alone.
        p (float): Of McNemar's exact test: how likely at least as uneven numbers are where both are as often right.
    """
    first: int
    second: int
    p: float


def resamples(count: int, number: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each of ``count`` images is drawn: arrays (some, count), ``number`` rows in all, the same each time."""
    generator = np.random.default_rng(0)
    at_once = max(1, _AT_ONCE // count)
    for start in range(0, number, at_once):
        yield generator.multinomial(count, np.full(count, 1 / count), min(at_once, number - start))


def interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval of a figure's resamples (N,); NaN, which some have, do not count."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float('nan'), float('nan')
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def difference(first: float, second: float, firsts: np.ndarray, seconds: np.ndarray) -> Difference:
    """Compare a figure of two models, by their figures (N,) of the same resamples.

    p is twice the share of resamples in which the difference has not the sign that it mostly has.
    """
    apart = firsts - seconds
    apart = apart[~np.isnan(apart)]
    fewer = min((apart <= 0).sum(), (apart >= 0).sum())
    return Difference(first - second, *interval(apart), min(1.0, 2 * (int(fewer) + 1) / (len(apart) + 1)))


def mcnemar(first: np.ndarray, second: np.ndarray) -> Discordance:
    """McNemar's exact test of two models that are right or wrong on the same images, (N,) bool each."""
    alone, other = int((first & ~second).sum()), int((second & ~first).sum())
    return Discordance(alone, other, float(binomtest(alone, alone + other).pvalue) if alone + other else 1.0)
