"""INT8 that keeps its accuracy: channels equalized, weights fitted and rounded layer after layer, biases corrected."""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmone.errors import InputError

Progress = Callable[[Sequence, str], Iterable]  # what is gone through, and what is done with it in a word or two
LEAST = 8  # images
HELD_OUT = 50
EXPONENT = 0.5


@dataclass(frozen=True)
class Int8:
    """How a model is brought to INT8.

    Attributes:
        images (str | Path): A folder of images like those that the model will see; labels are not needed.
        count (int): How many of them to calibrate on, at most. Up to 50 others are held out, to compare on.
        agreement (float): The least that the file's answers may agree with the float model's on images held out:
            the share of equal best classes, of boxes with a counterpart, or of equal pixels. Where they agree
            less, layers are given back to float, the most sensitive first; where ``most_kept`` of them do not
            suffice, nothing is written.
        keep (Sequence[str]): Layers that stay in float, by their names or parts of those.
        most_kept (int): How many layers may be given back for the sake of ``agreement``.
        latency (float, optional): Give layers back to float, the most sensitive first, as long as the file takes
            at most this share of the float one's time in the same runtime on this machine.
        ranges (str): ``'min-max'``, ``'percentile'`` or ``'mse'``.
        rounding (str): ``'compensated'`` or ``'nearest'``.
        exponent (float, optional): Of equalization; None leaves the channels as they are.
        correct (bool): Correct the biases.
        seed (int): Of what is drawn.
        progress (Callable): Shows how far it is.
    """
    images: str | Path
    count: int = 100
    agreement: float = 0.9
    keep: Sequence[str] = ()
    most_kept: int = 8
    latency: float | None = None
    ranges: str = 'min-max'
    rounding: str = 'compensated'
    exponent: float | None = EXPONENT
    correct: bool = True
    seed: int = 0
    progress: Progress = lambda each, _: each

    def check(self) -> None:
        """Raise InputError for values that cannot be."""
        if self.count < LEAST:
            raise InputError(f'count={self.count}: expected at least {LEAST} images, 100 are usual', parameter='count')
        if not 0 <= self.agreement <= 1:
            raise InputError(f'agreement={self.agreement}: expected a share of 0 to 1', parameter='agreement')
        if self.exponent is not None and not 0 <= self.exponent <= 1:
            raise InputError(f'exponent={self.exponent}: expected 0 to 1', parameter='exponent')
        if self.latency is not None and not self.latency > 0:
            raise InputError(f'latency={self.latency}: expected a share of the float model\'s above 0',
                             parameter='latency')
        if self.most_kept < 0:
            raise InputError(f'most_kept={self.most_kept}: expected 0 or more', parameter='most_kept')
