"""A process that computes, and the one that asks it: ``python -m mmone.lab.worker``, a line of JSON each way.

It is told its number of threads before it imports a runtime, and ends when whoever asks is gone.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from mmone.errors import InputError, cause

from .cache import Prepared, difference, read
from .protocol import warm_up
from .runtimes import Runner, open_model
from .runtimes.exported import open_file
from .store import Model, Setting
from .subject import Subject

try:
    import fcntl
except ImportError:  # Windows, where two runs at once disturb each other
    fcntl = None  # type: ignore[assignment]

# Largest difference from PyTorch's answer in float32, relative to the largest answer.
TOLERANCE = dict(float32=2e-3, float16=5e-2)


class Died(Exception):
    """The process is gone; says how."""


class Refused(Exception):
    """It could not do what was asked; says why, in one line."""


class Worker:
    """A process that computes. It is killed when the block ends.

    Args:
        threads (int): Of its runtime.
        turn (Path): A folder, which one process of all runs at a time holds: two runs do not compute at once.
    """

    def __init__(self, threads: int, turn: Path):
        names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'TORCHINDUCTOR_COMPILE_THREADS')
        self._turn = turn
        self._errors = tempfile.TemporaryFile('w+', errors='replace')
        self._process = subprocess.Popen(
            [sys.executable, '-m', __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, env={**os.environ, **{name: str(threads) for name in names}},
            start_new_session=True)  # an interrupt from the terminal is for the process that asks

    def prepare(self, subject: Subject, batch: int, shape: tuple[int, int], folder: Path) -> Prepared:
        self._ask(do='prepare', subject=asdict(subject), batch=batch, shape=shape, folder=str(folder))
        prepared = read(folder)
        assert prepared is not None
        return prepared

    def open(self, number: int, subject: Subject, setting: Setting, folder: Path | None) -> None:
        """Open a model by a number, compare its answer with PyTorch's, and run it until its times are stable."""
        self._ask(do='open', number=number, subject=asdict(subject), setting=asdict(setting),
                  folder=folder and str(folder))

    def run(self, number: int, count: int) -> list[float]:
        """Milliseconds of ``count`` runs of an open model."""
        return self._ask(do='run', number=number, count=count)

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        with _held(self._turn):
            try:
                print(json.dumps(request), file=self._process.stdin, flush=True)
                line = self._process.stdout.readline()
            except BrokenPipeError:
                line = ''
        if not line:
            raise Died(self._why())
        answer = json.loads(line)
        if 'error' in answer:
            raise Refused(answer['error'])
        return answer['answer']

    def _why(self) -> str:
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return 'its process was killed, as the system does where memory runs out'
        self._errors.seek(0)
        lines = self._errors.read().split('\n')
        last = next((line.strip() for line in reversed(lines) if line.strip()), 'without a word')
        how = f'signal {signal.Signals(-status).name}' if status < 0 else f'exit status {status}'
        return f'its process ended ({how}: {last[:200]})'

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream
            try:
                stream.close()
            except BrokenPipeError:  # what it was asked and never read
                pass


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder, which one process at a time does, until the block ends."""
    if fcntl is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _Served:
    """What the process does."""

    def __init__(self) -> None:
        self._runners: dict[int, Runner] = {}

    def prepare(self, subject: dict, batch: int, shape: list[int], folder: str) -> None:
        from .building import prepare
        prepare(_subject(subject), batch, (shape[0], shape[1]), Path(folder))

    def open(self, number: int, subject: dict, setting: dict, folder: str | None) -> int:
        given, wanted = _subject(subject), Setting(**setting)
        if given.path is not None:
            runner = open_file(given.path, wanted)
        else:
            prepared = read(Path(folder or ''))
            assert prepared is not None
            runner = open_model(given, prepared, wanted)
            apart = difference(runner.answer(), prepared.expected())
            if not apart < TOLERANCE[wanted.precision]:
                raise InputError(f'it answers otherwise than PyTorch (by {apart:.1e} of the largest answer)')
        self._runners[number] = runner
        return warm_up(runner.time)

    def run(self, number: int, count: int) -> list[float]:
        runner = self._runners[number]
        runner.time()  # brings its weights back to the caches
        return [runner.time() for _ in range(count)]


def _subject(given: dict) -> Subject:
    return Subject(**{**given, 'model': Model(**given['model']), 'shape': tuple(given['shape'])})


def _answer(served: _Served, request: dict) -> dict:
    try:
        return dict(answer=getattr(served, request.pop('do'))(**request))
    except MemoryError:
        return dict(error='it does not fit into the memory')
    except InputError as error:
        return dict(error=error.message)
    except Exception as error:  # whatever a runtime raises for a model that it cannot compute
        return dict(error=f'{type(error).__name__}: {cause(error)}')


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    served = _Served()
    for line in requests:
        print(json.dumps(_answer(served, json.loads(line))), file=answers, flush=True)


if __name__ == '__main__':
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what libraries print is no answer
    serve(sys.stdin, answers)
