"""How latency is measured, as functions of times: what is kept of them, what is said of them, in which order.

The protocol is that of MobileOne's paper (https://arxiv.org/abs/2206.04040v2, sections 3.1 and 4.1): batch 1 at 224²,
the whole round trip from an image in memory to the answer in memory, many runs, outliers by other processes taken
out. Where the paper leaves it open:

- **Models take turns.** One process holds all models of a runtime. The runs of each are cut into :data:`ROUNDS`
  rounds; in a round every model has its turn, in every second round in the opposite order. So whatever slows the
  machine for a while falls on all alike. A turn begins with a rest, in which the threads of the model before stop
  spinning, and a run that is not timed, which brings the model's weights back to the caches.
- **Warm-up** goes on until the medians of two successive windows of :data:`WINDOW` runs differ by less than
  :data:`STABLE`, for :data:`WARM_UP_SECONDS` at most.
- **Outliers** are slow: another process only ever adds time. What lies more than three standard deviations above the
  median is discarded and counted; the standard deviation is estimated by the median absolute deviation, which the
  outliers themselves do not move (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993), and is taken as
  :data:`CLOCK` of the median at least.
- **What is kept** gives the median, the 10th and 90th percentile and the minimum.
- **Steady** is a measurement whose percentiles are apart by less than :data:`SPREAD` of the median, and of whose runs
  at most :data:`OUTLIERS` were discarded: more are no outliers. Another is made again, up to :data:`ATTEMPTS` times;
  of those that are not steady the one with the least spread is kept, and marked.

On a GPU, times are those between two events around the network, with the image and the answer in the GPU's memory;
elsewhere they are the clock's, from the image as an array to the answer as an array.
"""
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import TypeVar

import numpy as np

from .store import Latency

RUNS = 100
ROUNDS = 10
WINDOW = 5
STABLE = 0.05
WARM_UP_SECONDS = 10.0
DEVIATIONS = 3
CLOCK = 0.02
SPREAD = 0.25
OUTLIERS = 0.25
ATTEMPTS = 3
REST = 0.05  # seconds

T = TypeVar('T')


def chunks(runs: int) -> list[int]:
    """How many runs of a model each round has."""
    rounds = min(ROUNDS, runs)
    return [runs // rounds + (number < runs % rounds) for number in range(rounds)]


def turns(models: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """The turns of models: the round's number and the model, every second round backwards."""
    for number in range(rounds):
        for model in models if number % 2 == 0 else reversed(models):
            yield number, model


def warm_up(run: Callable[[], float], clock: Callable[[], float] = time.perf_counter) -> int:
    """Run until times are stable.

    Args:
        run (Callable): Runs once and returns the time that it took.
        clock (Callable): In seconds.

    Returns:
        int: How many runs that were.
    """
    end, count, before = clock() + WARM_UP_SECONDS, 0, float('inf')
    while True:
        now = median(run() for _ in range(WINDOW))
        count += WINDOW
        if abs(now - before) < STABLE * now or clock() >= end:
            return count
        before = now


def kept(times: Sequence[float]) -> list[float]:
    """Times without outliers, in their order."""
    middle = median(times)
    deviation = 1.4826 * median(abs(time - middle) for time in times)  # of a normal distribution
    limit = middle + DEVIATIONS * max(deviation, CLOCK * middle)
    return [time for time in times if time <= limit]


def summarize(times: Sequence[float], started: str, load: float | None = None) -> Latency:
    """What a measurement says, from the milliseconds of all its runs."""
    rest = kept(times)
    p10, middle, p90 = (float(value) for value in np.percentile(rest, [10, 50, 90]))
    return Latency(started, len(rest), len(times) - len(rest), middle, p10, p90, min(rest),
                   steady=p90 - p10 < SPREAD * middle and len(times) - len(rest) <= OUTLIERS * len(times), load=load)


def spread(latency: Latency) -> float:
    """How far apart the percentiles are, relative to the median."""
    return (latency.p90 - latency.p10) / latency.median
