"""Trainings of several configs, one after the other, each in a process of its own, that go on where they were stopped.

A run is a config file beside a folder of its name, the work directory. What has come of it is read from mmengine's log.
"""
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmone.devices import MEMORY
from mmone.engine.train import train
from mmone.errors import InputError
from mmone.files import written_whole

TOP1, VALIDATION_LOSS = 'accuracy/top1', 'validation/cross_entropy'
POLL = 2.0  # seconds between two looks at a log
RAISED = 'mmone.errors.InputError: '  # how the last line of a traceback begins


class Epoch(NamedTuple):
    """What the log has of an epoch; top-1 in percent. None stands for what was not measured after it."""
    train_loss: float | None
    val_loss: float | None
    top1: float | None


class Run(NamedTuple):
    """A training: its config file and how many epochs it has."""
    config: Path
    max_epochs: int

    @property
    def work_dir(self) -> Path:
        return self.config.with_suffix('')

    def history(self) -> dict[int, Epoch]:
        """The epochs of which the log has something, by their numbers from 1."""
        found: dict[int, dict[str, Any]] = {}
        for entry in _entries(self.work_dir):
            if 'loss' in entry and 'epoch' in entry:
                found.setdefault(entry['epoch'], {})['train_loss'] = entry['loss']
            elif TOP1 in entry:
                found.setdefault(entry['step'], {}).update(val_loss=entry.get(VALIDATION_LOSS), top1=entry[TOP1])
        return {epoch: Epoch(*map(found[epoch].get, Epoch._fields)) for epoch in sorted(found)}

    def is_finished(self) -> bool:
        """Whether the last epoch was validated."""
        last = self.history().get(self.max_epochs)
        return last is not None and last.top1 is not None


def _entries(work_dir: Path) -> Iterator[dict]:
    """The entries of a run's logs, the oldest first. A line that was cut off when the run was killed is none."""
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text(errors='replace').splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry


def write_config(path: Path, cfg: Config) -> Run:
    """Write the config of a run, which ``mmone train`` takes by itself.

    Raises:
        InputError: If there is another one.
    """
    cfg.work_dir = str(path.with_suffix(''))
    made = cfg.pretty_text
    if path.exists():
        if _comparable(path.read_text()) != _comparable(made):
            raise InputError(f'{path} was written for another config, or other options: give another folder',
                             parameter='work_dir')
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as scratch:
            scratch.write_text(made)
    return Run(path, cfg.train_cfg.max_epochs)


def _comparable(text: str) -> str:
    """A config's text without its folder, which another name, or a move, changes."""
    return re.sub(r'^work_dir = .*\n?', '', text, flags=re.M)


def finish(runs: Sequence[Run], listen: Callable[[Run, int], None] = lambda run, epochs: None) -> None:
    """Train what is not finished.

    Args:
        runs (Sequence[Run]): From :func:`write_config`.
        listen (Callable): Is told of the run under way, and of how many epochs all runs have, as they come.

    Raises:
        InputError: If a training fails by what a user can mend.
        subprocess.CalledProcessError: If one fails otherwise.
    """
    for run in runs:
        if not run.is_finished():
            others = sum(len(one.history()) for one in runs if one is not run)
            _go_on(run, partial(_tell, run, others, listen))


def _tell(run: Run, others: int, listen: Callable[[Run, int], None]) -> None:
    listen(run, others + len(run.history()))


def _go_on(run: Run, tell: Callable[[], None]) -> None:
    # One that was killed between the last checkpoint and the validation after it would never validate.
    (run.work_dir / f'epoch_{run.max_epochs}.pth').unlink(missing_ok=True)
    run.work_dir.mkdir(parents=True, exist_ok=True)
    log = run.work_dir / 'output.txt'
    # Ended where this process is gone: its standard input ends then.
    with open(log, 'w') as output, subprocess.Popen(
            [sys.executable, '-m', __name__, str(run.config)], stdin=subprocess.PIPE, stdout=output,
            stderr=subprocess.STDOUT, env=dict(dict(GLIBC_TUNABLES=MEMORY), **os.environ)) as process:
        try:
            while process.poll() is None:
                tell()
                time.sleep(POLL)
        finally:
            process.kill()
    tell()
    if process.returncode:
        last = log.read_text(errors='replace').rstrip().rpartition('\n')[2]
        if last.startswith(RAISED):
            raise InputError(f'{run.config}: {last.removeprefix(RAISED)}')
        raise subprocess.CalledProcessError(process.returncode, f'training {run.config}, log: {log}')
    if not run.is_finished():
        raise InputError(f'{run.config} was trained, and the log in {run.work_dir} has no {TOP1} of its last epoch: is '
                         'the data validated, and are scalars logged by LocalVisBackend?')


def _end_with_input() -> None:
    """End this process when its standard input ends."""
    while os.read(0, 1):  # not sys.stdin, which would be locked in the workers that are forked meanwhile
        pass
    os._exit(1)


if __name__ == '__main__':
    threading.Thread(target=_end_with_input, daemon=True).start()
    train(sys.argv[1], resume='auto')
