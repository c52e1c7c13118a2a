"""Compare models on one test set."""
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from mmone.complexity import Complexity
from mmone.config import load_config
from mmone.errors import InputError
from mmone.lab.document import check_folder
from mmone.lab.measure import Progress
from mmone.lab.protocol import RUNS
from mmone.zoo import find_config

from .. import statistics
from .disagreement import disagreements
from .latency import Cost, Lab
from .models import Model, find_model
from .predictions import Predictions, Predictor
from .scores import Hits, Scores, score
from .test_set import TestSet

REPORT = 'report'  # the report's folder, beside what is kept


@dataclass(frozen=True)
class Row:
    """A model and what it gets.

    Attributes:
        model (Model): The model.
        found (Predictions): What it predicts.
        scores (Scores): Held against the truth.
        metrics (np.ndarray): (M,) in percent.
        samples (np.ndarray): (R, M) of the same resamples for all models.
        complexity (Complexity, optional): Deployed.
        cost (Cost, optional): None if nothing was measured.
    """
    model: Model
    found: Predictions
    scores: Scores
    metrics: np.ndarray
    samples: np.ndarray
    complexity: Complexity | None
    cost: Cost | None


@dataclass(frozen=True)
class Pair:
    """Two models, and how they differ in the main metric.

    Attributes:
        first (Row): One.
        second (Row): The other.
        difference (Difference): The first's minus the second's, with the bootstrap's p.
        discordance (Discordance, optional): Of classifiers.
    """
    first: Row
    second: Row
    difference: statistics.Difference
    discordance: statistics.Discordance | None

    @property
    def p(self) -> float:
        """Of McNemar's exact test for classifiers, of the paired bootstrap for others."""
        return self.difference.p if self.discordance is None else self.discordance.p


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        test_set (TestSet): The images.
        rows (list[Row]): The models.
        pairs (list[Pair]): All pairs of them.
        disagreements (np.ndarray): (N,) by :func:`.disagreement.disagreements`.
    """
    test_set: TestSet
    rows: list[Row]
    pairs: list[Pair]
    disagreements: np.ndarray

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.rows[0].scores.metrics


def compare(names: Sequence[str], data: str | None = None, out: str | Path = 'comparison',
            cfg_options: Sequence[str] = (), latency: bool = True, runs: int = RUNS, trust: bool = False,
            listen: Callable[[Progress], None] = lambda progress: None) -> Comparison:
    """Compare models on one test set, each by its own test pipeline.

    Args:
        names (Sequence[str]): Two or more, each as :func:`.models.find_model` takes it.
        data (str, optional): Config of the test set. Defaults to the first model's that has one.
        out (str | Path): Folder in which predictions and latencies are kept. Defaults to ``'comparison'``.
        cfg_options (Sequence[str]): Overrides of the test set's config as ``key=value``.
        latency (bool): Have the lab measure them, too. Defaults to True.
        runs (int): Of each model, that are measured. Defaults to 100.
        trust (bool): Allow checkpoints that can run code. Defaults to False.
        listen (Callable): Is told how far it is.

    Raises:
        InputError: If a model or the test set cannot be used, or models are of different tasks or classes.
    """
    if len(names) < 2:
        raise InputError(f'{len(names)} model{"" if len(names) == 1 else "s"} given: expected two or more to compare')
    if len(names) > len(string.ascii_uppercase):
        raise InputError(f'{len(names)} models given: at most {len(string.ascii_uppercase)} are compared at once')
    models = [find_model(letter, name) for letter, name in zip(string.ascii_uppercase, names)]
    for first, second in combinations(models, 2):
        if first.digest == second.digest:
            raise InputError(f'models {first.letter} and {second.letter} are the same: {first.name}')
    out = Path(out).absolute()
    if not out.parent.is_dir():
        raise InputError(f'cannot write to {out}: there is no directory {out.parent}', parameter='out')
    if out.is_file():
        raise InputError(f'cannot write to {out}: it is a file', parameter='out')
    if out.is_dir():
        check_folder(out / REPORT)
    test_set = TestSet(_config(models, data, cfg_options))
    lab = Lab(models) if latency else None
    predictors = [Predictor(model, test_set, out / 'predictions', trust) for model in models]
    found = [predictor.predict(listen) for predictor in predictors]
    scores = [score(test_set, one) for one in found]
    metrics = [one.weighted(np.ones((1, len(test_set))))[0] for one in scores]
    samples = _samples(scores, len(test_set))
    costs = lab.measure(out / 'lab.db', runs, listen) if lab else {}
    rows = [Row(model, one, scored, point, drawn, model.complexity(), costs.get(model.letter))
            for model, one, scored, point, drawn in zip(models, found, scores, metrics, samples)]
    return Comparison(test_set, rows, [_pair(*two) for two in combinations(rows, 2)],
                      disagreements(test_set.task, found))


def _config(models: Sequence[Model], data: str | None, options: Sequence[str]):
    if data is None:
        cfg = next((model.cfg for model in models if model.cfg is not None), None)
        if cfg is None:
            raise InputError('exported models have no test set: give a config that has one', parameter='data')
    else:
        cfg, _ = find_config(data)
    return load_config(str(cfg.filename), options)


def _samples(scores: Sequence[Scores], count: int) -> list[np.ndarray]:
    """The metrics (R, M) of each model on the same resamples of the images."""
    parts = [[one.weighted(weights) for one in scores] for weights in statistics.resamples(count)]
    return [np.concatenate(part) for part in zip(*parts)]


def _pair(first: Row, second: Row) -> Pair:
    difference = statistics.difference(first.metrics[0], second.metrics[0], first.samples[:, 0], second.samples[:, 0])
    discordance = None
    if isinstance(first.scores, Hits) and isinstance(second.scores, Hits):
        discordance = statistics.mcnemar(first.scores.right, second.scores.right)
    return Pair(first, second, difference, discordance)
