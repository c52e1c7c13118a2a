"""Measure models on this machine, each kept as soon as it is made; the protocol is :mod:`.protocol`'s.

``plan([find_subject(name), …], runtimes)`` says what there is to do, ``measure(tasks, store)`` does it. Every runtime
computes in a process of its own, so that none is slowed by another's threads, and one at a time: the process holds all
models of its runtime, which then take turns. (A process for each model would hold a copy of the runtime for each,
hundreds of megabytes of PyTorch's.) What a killed run has timed is in the lab's file, and is not timed again.
"""
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import NamedTuple

from mmone.devices import find_device
from mmone.errors import InputError

from .cache import default_cache, folder_of, read
from .machine import load_average, this_machine, usable_cores
from .protocol import ATTEMPTS, REST, RUNS, chunks, spread, summarize, turns
from .runtimes import DEFAULT_RUNTIME, RUNTIMES, check
from .store import Latency, Measurement, Model, Setting, Store
from .subject import Subject
from .worker import Died, Refused, Worker


class Task(NamedTuple):
    """A measurement to be made."""
    subject: Subject
    setting: Setting

    def __str__(self) -> str:
        setting = self.setting
        return (f'{self.subject.model.name}, {setting.runtime} {setting.precision} on {setting.device}, '
                f'{setting.threads} thread{"s" if setting.threads != 1 else ""}')


class Failure(NamedTuple):
    """A measurement that could not be made, and why, in one line."""
    task: Task
    reason: str


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        done (int): Steps of :attr:`total`: models made ready, and turns.
        total (int): Grows where a measurement is repeated.
        text (str): What was just done.
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
        runtimes (Sequence[str], optional): Of :data:`.runtimes.RUNTIMES`. Defaults to ONNX Runtime; on a GPU
            to PyTorch.
        threads (Sequence[int]): Defaults to one.
        batch (int): Images at once. Defaults to 1.
        shape (tuple[int, int], optional): Height and width of an image. Defaults to each model's own.
        device (str): ``'cpu'`` or ``'cuda'``.

    Raises:
        InputError: If a runtime is unknown, not installed, or cannot compute a model or on the device.
    """
    if device != 'cpu':
        find_device(device)
    names = list(runtimes or [DEFAULT_RUNTIME[device]])
    if any(subject.path is None for subject in subjects):
        check(names, device)
    tasks = []
    for subject, count in product(subjects, threads):
        for runtime in _runtimes_of(subject, names if runtimes else None, device) or names:
            height, width = shape or subject.shape
            for precision in [subject.precision] if device == 'cpu' else ['float32', 'float16']:
                tasks.append(Task(subject, Setting(runtime, device, precision, count, batch, height, width)))
    return list({(task.subject.model.name, task.setting): task for task in tasks}.values())


def _runtimes_of(subject: Subject, asked: list[str] | None, device: str) -> list[str]:
    """The one runtime of an exported file; none of any other model."""
    if subject.path is None or subject.runtime is None:
        return []
    if device != 'cpu':
        raise InputError(f'exported model {subject.path} is measured on the CPU only', parameter='device')
    if asked and subject.runtime not in asked:
        raise InputError(f'exported model {subject.path} is computed by {subject.runtime} only', parameter='runtime')
    if subject.runtime in RUNTIMES:
        check([subject.runtime])
    return [subject.runtime]


def measure(tasks: Sequence[Task], store: Store, runs: int = RUNS, again: bool = False,
            listen: Callable[[Progress], None] = lambda progress: None, cache: Path | None = None) -> list[Failure]:
    """Make what is missing of some measurements, and keep each in the lab's file as soon as it is made.

    Args:
        tasks (Sequence[Task]): From :func:`plan`.
        store (Store): The lab's file.
        runs (int): Of each model, those included that are discarded. Defaults to 100.
        again (bool): Also make those that the file has. Defaults to False.
        listen (Callable): Is told how far it is.
        cache (Path, optional): Folder for models that are ready. Defaults to :func:`.cache.default_cache`.

    Returns:
        list[Failure]: What could not be measured; all else was.
    """
    run = _Run(store, runs, listen, cache or default_cache())
    run.measure([task for task in tasks if again or not run.has(task)], again)
    return run.failures


@dataclass
class _Job:
    """A task under way.

    Attributes:
        task (Task): What is measured.
        number (int): By which the process knows it.
        key (str): By which the file knows its rounds.
        folder (Path, optional): Of the model that is ready; None of an exported file.
        rounds (dict): The times of each round.
        load (float, optional): The machine's before it.
        best (Latency, optional): The steadiest of those that are not steady.
        attempts (int): Made so far.
        over (bool): Whether it is made, or cannot be.
    """
    task: Task
    number: int
    key: str
    folder: Path | None
    rounds: dict[int, list[float]]
    load: float | None = None
    best: Latency | None = None
    attempts: int = 0
    over: bool = False

    @property
    def model(self) -> str:
        return self.task.subject.model.name


class _Run:
    """One call of :func:`measure`."""

    def __init__(self, store: Store, runs: int, listen: Callable[[Progress], None], cache: Path):
        self.store, self.runs, self.listen, self.cache = store, runs, listen, cache
        self.machine = this_machine()
        self.chunks = chunks(runs)
        self.failures: list[Failure] = []
        self.done = self.total = 0

    def has(self, task: Task) -> bool:
        return self.store.has(self.machine.key, task.subject.model.name, task.setting)

    def measure(self, tasks: Sequence[Task], again: bool) -> None:
        jobs = [self._job(number, task, again) for number, task in enumerate(tasks)]
        unready = list({job.folder: job for job in jobs if job.folder and read(job.folder) is None}.values())
        self.total = len(unready) + sum(len(self.chunks) - len(job.rounds) for job in jobs)
        self._prepare(unready, jobs)
        self._leave_out(jobs)
        for group in _groups(job for job in jobs if not job.over):
            self._group(group)

    def _job(self, number: int, task: Task, again: bool) -> _Job:
        subject, setting = task
        folder = subject.path is None and folder_of(subject, setting.batch, (setting.height, setting.width), self.cache)
        key = json.dumps([self.machine.key, subject.model.name, astuple(setting), self.runs, self.machine.versions])
        if again:
            self.store.forget_rounds(key)
        return _Job(task, number, key, folder or None, self.store.rounds(key))

    def _step(self, text: str, steps: int = 1, measurement: Measurement | None = None) -> None:
        self.done += steps
        self.listen(Progress(self.done, self.total, text, measurement))

    def _fail(self, job: _Job, reason: str) -> None:
        job.over = True
        self.failures.append(Failure(job.task, reason))
        self._step(f'{job.task}: {reason}', len(self.chunks) - len(job.rounds))

    def _prepare(self, unready: list[_Job], jobs: list[_Job]) -> None:
        """Make models ready, in a process that is replaced where one kills it."""
        while unready:
            with Worker(usable_cores(), self.cache) as worker:
                while unready:
                    job = unready.pop(0)
                    setting = job.task.setting
                    assert job.folder
                    try:
                        worker.prepare(job.task.subject, setting.batch, (setting.height, setting.width), job.folder)
                        self._step(f'{job.model} is ready')
                    except (Refused, Died) as error:
                        self._step(f'{job.model} cannot be made ready')
                        for other in jobs:
                            if other.folder == job.folder:
                                self._fail(other, str(error))
                        if isinstance(error, Died):
                            break

    def _leave_out(self, jobs: list[_Job]) -> None:
        """What models that are ready turn out to have no form for."""
        for job in jobs:
            prepared = read(job.folder) if job.folder else None
            kind = RUNTIMES.get(job.task.setting.runtime)
            if job.over or prepared is None or kind is None:
                continue
            if kind.graph and prepared.error:
                self._fail(job, prepared.error)
            elif kind.branches and not prepared.branches:
                job.over = True
                self._step(f'{job.task}: left out, it has no branches', len(self.chunks) - len(job.rounds))

    def _group(self, jobs: list[_Job]) -> None:
        """Measure models of one runtime in one process; one that ends the process gets another for itself."""
        under_way = jobs[0]
        try:
            with Worker(jobs[0].task.setting.threads, self.cache) as worker:
                for under_way in jobs:
                    self._open(worker, under_way)
                while racing := [job for job in jobs if not job.over]:
                    for number, under_way in turns(racing, len(self.chunks)):
                        if not under_way.over and number not in under_way.rounds:
                            self._turn(worker, under_way, number)
        except Died as error:
            if len(jobs) == 1:
                self._fail(under_way, str(error))
                return
            for rest in ([job for job in jobs if not job.over and job is not under_way], [under_way]):
                if rest:
                    self._group(rest)

    def _open(self, worker: Worker, job: _Job) -> None:
        try:
            worker.open(job.number, job.task.subject, job.task.setting, job.folder)
        except Refused as error:
            self._fail(job, str(error))
            return
        if len(job.rounds) == len(self.chunks):  # a run was killed between the last round and the measurement
            self._finish(job)

    def _turn(self, worker: Worker, job: _Job, number: int) -> None:
        if not job.rounds:
            job.load = load_average()
        time.sleep(REST)
        try:
            times = job.rounds[number] = worker.run(job.number, self.chunks[number])
        except Refused as error:
            self._fail(job, str(error))
            return
        self.store.add_round(job.key, number, times)
        self._step(f'{job.task}: round {number + 1} of {len(self.chunks)}')
        if len(job.rounds) == len(self.chunks):
            self._finish(job)

    def _finish(self, job: _Job) -> None:
        """Keep a measurement whose rounds are all there; it goes on if that was not steady."""
        times = [time for number in sorted(job.rounds) for time in job.rounds[number]]
        latency = summarize(times, datetime.now(timezone.utc).isoformat(timespec='seconds'), job.load)
        if job.best is None or latency.steady or spread(latency) < spread(job.best):
            job.best = latency
        measurement = Measurement(self.machine, self._model(job), job.task.setting, job.best)
        self.store.add(measurement)
        self.store.forget_rounds(job.key)
        job.rounds, job.attempts = {}, job.attempts + 1
        job.over = job.best.steady or job.attempts == ATTEMPTS
        if job.over:
            self._step(f'{job.task}: {job.best.median:.2f} ms', 0, measurement)
        else:
            self.total += len(self.chunks)
            self._step(f'{job.task}: not steady, made again', 0)

    def _model(self, job: _Job) -> Model:
        subject, setting = job.task
        prepared = read(job.folder) if job.folder else None
        if prepared is None:
            return subject.model
        own = subject.shape == (setting.height, setting.width)
        return replace(subject.model, parameters=prepared.parameters,
                       multiply_adds=prepared.multiply_adds if own else None)


def _groups(jobs: Iterable[_Job]) -> list[list[_Job]]:
    """Those that are measured in one process."""
    groups: dict[tuple, list[_Job]] = {}
    for job in jobs:
        setting = job.task.setting
        groups.setdefault((setting.runtime, setting.device, setting.threads), []).append(job)
    return list(groups.values())
