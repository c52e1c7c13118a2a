"""Measure models on this machine, each kept as soon as it is made; the protocol is :mod:`.protocol`'s.

``plan(find_subjects(names), runtimes)`` says what there is to do, ``measure(tasks, store)`` does it. Every runtime
computes in a process of its own, so that none is slowed by another's threads, and one at a time: the process holds all
models of its runtime, which then take turns. What a killed run has timed is in the lab's file, and is not timed again.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .protocol import RUNS
from .store import Measurement, Setting, Store
from .subjects import Subject


class Task(NamedTuple):
    """A measurement to be made."""
    subject: Subject
    setting: Setting


class Failure(NamedTuple):
    """A measurement that could not be made, and why, in one line."""
    task: Task
    reason: str


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        done (int): Steps of :attr:`total`: models made ready, and turns.
        total (int): Grows where a measurement is repeated.
        text (str): What is being done.
        measurement (Measurement, optional): One that was just kept.
    """
    done: int
    total: int
    text: str
    measurement: Measurement | None = None


def plan(subjects: Sequence[Subject], runtimes: Sequence[str] | None = None, threads: Sequence[int] = (1, ),
         batch: int = 1, shape: tuple[int, int] | None = None, device: str = 'cpu') -> list[Task]:
    """What is to be measured: each model with each runtime and number of threads; on a GPU in both precisions.

    Args:
        subjects (Sequence[Subject]): From :func:`.subjects.find_subject`. An exported file is computed by its
            format's own runtime.
        runtimes (Sequence[str], optional): Of :data:`.runtimes.RUNTIMES`. Defaults to ONNX Runtime.
        threads (Sequence[int]): Defaults to one.
        batch (int): Images at once. Defaults to 1.
        shape (tuple[int, int], optional): Height and width of an image. Defaults to each model's own.
        device (str): ``'cpu'`` or ``'cuda'``.

    Raises:
        InputError: If a runtime is unknown, not installed, or cannot compute on the device.
    """
    raise NotImplementedError


def measure(tasks: Sequence[Task], store: Store, runs: int = RUNS, again: bool = False,
            listen: Callable[[Progress], None] = lambda progress: None, cache: Path | None = None) -> list[Failure]:
    """Make what is missing of some measurements, and keep each in the lab's file as soon as it is made.

    Args:
        tasks (Sequence[Task]): From :func:`plan`.
        store (Store): The lab's file.
        runs (int): Of each model, those included that are discarded. Defaults to 100.
        again (bool): Also make those that the file has. Defaults to False.
        listen (Callable): Is told how far it is.
        cache (Path, optional): Folder for exported models. Defaults to :func:`.exports.default_cache`.

    Returns:
        list[Failure]: What could not be measured; all else was.
    """
    raise NotImplementedError
