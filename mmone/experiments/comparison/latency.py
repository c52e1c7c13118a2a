"""How long the models take and how large they are, by the lab."""
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mmone.errors import InputError
from mmone.lab import measure as lab
from mmone.lab.cache import default_cache, folder_of, read
from mmone.lab.machine import this_machine
from mmone.lab.protocol import RUNS
from mmone.lab.store import Measurement, Store
from mmone.lab.subject import Subject
from mmone.lab.subjects import find_subject

from .models import Model, file_size


class Cost(NamedTuple):
    """What the lab says of a model.

    Attributes:
        measurement (Measurement, optional): Its latency; None where it could not be measured.
        size (int, optional): Bytes of its file: of a config's, of the network that is timed, as ONNX.
        reason (str): Why there is no measurement.
    """
    measurement: Measurement | None = None
    size: int | None = None
    reason: str = ''


class Lab:
    """Measures the models that are compared.

    Args:
        models (Sequence[Model]): The models.

    Raises:
        InputError: If the runtime is not installed.
    """

    def __init__(self, models: Sequence[Model]):
        self._models = models
        self._tasks: dict[str, lab.Task] = {}
        self._reasons: dict[str, str] = {}
        for model in models:
            try:
                subject = _subject(model)
            except InputError as error:  # such as images of no one size
                self._reasons[model.letter] = error.message
            else:
                self._tasks[model.letter], = lab.plan([subject])

    def measure(self, path: Path, runs: int = RUNS, listen: Callable = lambda progress: None) -> dict[str, Cost]:
        """What each model costs, by its letter; nothing is measured that the file has.

        Args:
            path (Path): The lab's file.
            runs (int): Of each model. Defaults to 100.
            listen (Callable): Is told how far it is.
        """
        with Store(path) as store:
            failures = lab.measure(list(self._tasks.values()), store, runs, listen=listen)
            key = this_machine().key
            found = {(one.model.name, one.setting): one for one in store.measurements() if one.machine.key == key}
        reasons = {failure.task.subject.model.name: failure.reason for failure in failures}
        costs = {letter: Cost(reason=reason) for letter, reason in self._reasons.items()}
        for letter, task in self._tasks.items():
            name = task.subject.model.name
            costs[letter] = Cost(found.get((name, task.setting)), _size(task), reasons.get(name, ''))
        return costs


def _subject(model: Model) -> Subject:
    """The lab's; a config's network without its weights, which take no time, and by a name of its own."""
    subject = find_subject(model.given)
    if model.cfg is None:
        return subject
    return replace(subject, model=replace(subject.model, name=f'{model.name}@{model.digest[:8]}'))


def _size(task: lab.Task) -> int | None:
    subject, setting = task
    if subject.path is not None:
        return file_size(subject.path)
    folder = folder_of(subject, setting.batch, (setting.height, setting.width), default_cache())
    prepared = read(folder)
    return None if prepared is None or prepared.error else prepared.onnx.stat().st_size
