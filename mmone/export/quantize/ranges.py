"""What the tensors of a network take over images, and the ranges that 256 steps are spread over."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .network import Network, session

RULES = ('min-max', 'percentile', 'mse')
PERCENTILE = 99.99
_SAMPLES = 2000  # values of a tensor that are kept of each image
STEPS = 255
MIDDLE = 127  # steps to each side of 0, where they are as many


@dataclass
class Observed:
    """What a tensor (1, C, ...) took.

    Attributes:
        low (np.ndarray): The least of each channel (C, ).
        high (np.ndarray): The largest.
        mean (np.ndarray): Their means.
        samples (np.ndarray): Some values of all images; empty where they were not asked for.
    """
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    samples: list[np.ndarray] = field(default_factory=list)

    @property
    def largest(self) -> np.ndarray:
        """The largest absolute value of each channel (C, )."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def observe(network: Network, tensors: Sequence[str], images: Iterable[np.ndarray],
            sampled: Sequence[str] = (), rng: np.random.Generator | None = None) -> dict[str, Observed]:
    """Compute a network on images one by one, and keep of some tensors what they take.

    Args:
        network (Network): In float32.
        tensors (Sequence[str]): Their names.
        images (Iterable[np.ndarray]): Each (C, H, W), as the network takes it.
        sampled (Sequence[str]): Those whose values are sampled too. Defaults to none.
        rng (np.random.Generator, optional): Draws the samples.
    """
    rng = rng or np.random.default_rng(0)
    names = list(dict.fromkeys([*tensors, *sampled]))
    computed = session(network.store(), names)
    found: dict[str, Observed] = {}
    count = 0
    for image in images:
        count += 1
        for name, value in zip(names, computed.run(names, {'images': image[None]})):
            value = value.astype(np.float32, copy=False)
            channels = value.reshape(value.shape[1] if value.ndim > 1 else 1, -1)
            low, high, mean = channels.min(1), channels.max(1), channels.mean(1, dtype=np.float64)
            if name not in found:
                found[name] = Observed(low, high, mean)
            else:
                seen = found[name]
                seen.low, seen.high = np.minimum(seen.low, low), np.maximum(seen.high, high)
                seen.mean = seen.mean + mean
            if name in sampled:
                flat = value.reshape(-1)
                kept = flat if len(flat) <= _SAMPLES else flat[rng.integers(0, len(flat), _SAMPLES)]
                found[name].samples.append(kept.copy())
    for seen in found.values():
        seen.mean = seen.mean / max(count, 1)
    return found


@dataclass(frozen=True)
class Steps:
    """How a tensor's values become integers of 0 to 255: ``round(value / scale) + zero_point``."""
    scale: float
    zero_point: int


def steps(seen: Observed, rule: str = 'min-max', symmetric: bool = False) -> Steps:
    """The steps for a tensor.

    Args:
        seen (Observed): What it takes.
        rule (str): ``'min-max'``, all that was seen; ``'percentile'``, all but 0.01 %; or ``'mse'``, where the
            mean squared error of the sampled values is least. Defaults to ``'min-max'``: once channels are equalized,
            what a range cuts off is what later layers decide by.
        symmetric (bool): As far below 0 as above it, and 0 in the middle. Defaults to False.
    """
    low, high = min(float(seen.low.min()), 0.0), max(float(seen.high.max()), 0.0)
    values = np.concatenate(seen.samples) if seen.samples else np.zeros(0, np.float32)
    if rule == 'percentile' and len(values):
        low, high = (float(np.clip(edge, low, high)) for edge in np.percentile(values, (100 - PERCENTILE, PERCENTILE)))
        low, high = min(low, 0.0), max(high, 0.0)
    made = _symmetric if symmetric else _steps
    if rule == 'mse' and len(values):
        candidates = [made(low * part, high * part) for part in np.linspace(1, 0.4, 31)]
        return min(candidates, key=lambda each: float(np.square(values - rounded(values, each)).mean()))
    return made(low, high)


def _steps(low: float, high: float) -> Steps:
    """0 is one of the steps, since layers pad with it; a tensor that is 0 throughout has steps of 1."""
    scale = (high - low) / STEPS
    if not scale > np.finfo(np.float32).tiny:
        return Steps(1.0, 0)
    scale = float(np.float32(scale))
    return Steps(scale, int(np.clip(round(-low / scale), 0, STEPS)))


def _symmetric(low: float, high: float) -> Steps:
    largest = max(-low, high) / MIDDLE
    return Steps(float(np.float32(largest)) if largest > np.finfo(np.float32).tiny else 1.0, MIDDLE + 1)


def rounded(values: np.ndarray, to: Steps) -> np.ndarray:
    """Values as the steps stand for them."""
    integers = np.clip(np.rint(values / np.float32(to.scale)) + to.zero_point, 0, STEPS)
    return (integers - to.zero_point) * np.float32(to.scale)
