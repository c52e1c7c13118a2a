"""Kill commands at random moments, and see that nothing is lost.

    python -m tests.kill --rounds 100 [--only train …]

Each round starts a command, kills it, and looks at what it left. A round begins where the one before it was
killed, so that each is the next run of another. Killed are all processes of the command, or the first alone,
whose children must end by themselves; after a random time, or before a random one of its file operations,
which finds the moments between two of them. Lost is a round after which

- a file of a final name is not whole,
- the next run refuses, fails, or does not go on from where it was,
- hidden or temporary files are more than one killed run can leave, or any are there after a run to the end.
"""
import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import torch

from mmone.checkpoints.io import read_checkpoint
from mmone.cli import main as mmone
from mmone.models import MobileOne
from mmone.runtime import Runtime
from mmone.runtime.images import read_image
from tests.kit import SERVER, environment, losses, make_data, write_config

MOST_TEMPORARY = 6  # names that killed runs leave until the next one, beside those of runs whose children are ending
ORPHANS_END = 30  # seconds: a DataLoader's worker looks for its parent every five
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_OPERATIONS = ('os.rename', 'os.mkdir', 'os.remove', 'os.rmdir', 'os.link', 'os.truncate')


class Lost(Exception):
    """A kill after which something is lost."""


class Subject:
    """A command that is killed.

    Args:
        folder (Path): Where it works, and where its temporary files go.

    Attributes:
        turns (int): How many different outputs it has, in turns. Of each, the next run that writes it removes
            what a killed one has left.
    """
    name: str
    turns = 1

    def __init__(self, folder: Path):
        self.folder = folder / self.name
        self.temporary = folder / f'{self.name}.tmp'
        self.folder.mkdir()
        self.temporary.mkdir()

    def arguments(self, number: int) -> list:
        """The command's, in round ``number``."""
        raise NotImplementedError

    def check(self) -> str:
        """What there is of final names, in words; raises :class:`Lost` if something of it is not whole."""
        raise NotImplementedError

    def finished(self) -> None:
        """See to what a run to its end has left."""

    def start(self, number: int, dies_before: int | None = None, counted: Path | None = None, alone: bool = False):
        """Start the command in processes of its own; returns its first."""
        process = SERVER.Process(target=_run, args=(
            [self.name, *map(str, self.arguments(number))], self.folder, self.temporary, dies_before, counted, alone))
        process.start()
        return process

    def hidden(self) -> list[str]:
        return [str(path.relative_to(self.folder)) for path in self.folder.rglob('.*')
                if not path.parent.name.startswith('.')]


def _kill(pid: int, alone: bool) -> None:
    """Kill the first process of a command, or all that are in its session."""
    try:
        os.kill(pid, signal.SIGKILL) if alone else os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # on its way to a session of its own, and alone
        os.kill(pid, signal.SIGKILL)


def _run(arguments: list[str], folder: Path, temporary: Path, dies_before: int | None, counted: Path | None,
         alone: bool) -> None:
    """In a process of a command: run it, counting its file operations or dying before one of them."""
    multiprocessing.set_start_method('fork', force=True)  # as outside of a forkserver
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment(), TMPDIR=str(temporary))
    tempfile.tempdir = None  # the forkserver's
    for descriptor, name in ((1, 'out'), (2, 'err')):
        os.dup2(os.open(f'{temporary}.{name}', os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    torch.set_num_threads(1)
    own, places, number = os.getpid(), (str(folder), str(temporary)), 0

    def watch(event: str, args: tuple) -> None:
        nonlocal number
        if not (event in _OPERATIONS or (event == 'open' and args[2] & _WRITES)) or os.getpid() != own:
            return
        if isinstance(args[0], (str, bytes, os.PathLike)) and os.path.abspath(os.fsdecode(args[0])).startswith(places):
            number += 1
            if number == dies_before:
                os.kill(own, signal.SIGKILL) if alone else os.killpg(own, signal.SIGKILL)

    sys.addaudithook(watch)
    status = mmone(arguments)
    if counted:
        counted.write_text(str(number))
    raise SystemExit(status)


class Train(Subject):
    name = 'train'

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.config = write_config(folder, 'mmpretrain', folder / 'data')
        self.work = self.folder / 'work'
        self.expected: dict = {}
        self.epochs = 0

    def arguments(self, number):
        return [self.config, '--work-dir', self.work, '--resume']

    def check(self):
        written = sorted(self.work.glob('*.pth'))
        for path in written:
            read_checkpoint(path)
        epochs = max((int(path.stem.split('_')[1]) for path in written if path.stem.count('_') == 1), default=0)
        if epochs < self.epochs:
            raise Lost(f'epoch {self.epochs} was written, and now {epochs} is the last')
        self.epochs = epochs
        return f'{epochs} of 3 epochs{", deployed" if len(written) > epochs else ""}'

    def finished(self):
        found = losses(self.work)
        self.expected = self.expected or found
        if found != self.expected or len(found) != 9:
            raise Lost('the resumed runs trained otherwise than an uninterrupted one')
        if sorted(path.name for path in self.work.glob('*.pth'))[-2:] != ['epoch_3.pth', 'epoch_3_deploy.pth']:
            raise Lost('the deployed checkpoint is missing')
        shutil.rmtree(self.work)
        self.epochs = 0


class Files(Subject):
    """A command that writes files, in turns; each replaces that of the turn before."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.prepare(folder)

    def prepare(self, folder: Path) -> None:
        raise NotImplementedError

    def outputs(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name.startswith('out'))

    def check(self):
        for path in self.outputs():
            self.check_file(path)
        return ', '.join(path.name for path in self.outputs()) or 'nothing'

    def check_file(self, path: Path) -> None:
        """Raises whatever the readers of such a file raise if it is not whole."""
        read_checkpoint(path)


def _weights(path: Path, deploy: bool, prefix: str = 'backbone.') -> None:
    weights = {f'{prefix}{key}': value for key, value in MobileOne('s0', deploy=deploy).state_dict().items()}
    torch.save(dict(state_dict=weights, meta={}), path)


class Convert(Files):
    name = 'convert'
    turns = 3

    def prepare(self, folder):
        self.config = write_config(self.folder, 'mmpretrain', folder / 'data')
        for deploy in (True, False):
            _weights(self.folder / f'in_{deploy}.pth', deploy)

    def arguments(self, number):
        turns = (['in_False.pth', 'out.pth'], ['in_False.pth', 'out.safetensors', '--deploy', '--to', 'timm'],
                 ['in_True.pth', 'out_expanded.pth', '--expand', self.config, '--batches', 1])
        return [*turns[number % self.turns], '--force']


class Reparameterize(Files):
    name = 'reparameterize'

    def prepare(self, folder):
        self.config = write_config(self.folder, 'mmpretrain', folder / 'data')
        _tiny_classifier(self.config, self.folder / 'in.pth')

    def arguments(self, number):
        return [self.config, 'in.pth', 'out.pth', '--force']


class Export(Files):
    name = 'export'
    turns = 3

    def prepare(self, folder):
        self.config = write_config(self.folder, 'mmpretrain', folder / 'data')
        _tiny_classifier(self.config, self.folder / 'in.pth')

    def arguments(self, number):
        return [self.config, 'in.pth', '--out', ('out.onnx', 'out.xml', 'out.pt')[number % self.turns], '--force']

    def check_file(self, path):
        if path.suffix != '.bin':  # which is opened with its .xml
            Runtime(path)


class Quantize(Export):
    name = 'quantize'
    turns = 2

    def arguments(self, number):
        return [self.config, 'in.pth', '--out', ('out.onnx', 'out.xml')[number % self.turns], '--images',
                self.folder.parent / 'data' / 'JPEGImages', '--agreement', 0, '--force']


def _tiny_classifier(config: Path, path: Path) -> None:
    from mmengine.config import Config

    from mmone.config import build_model
    torch.save(dict(state_dict=build_model(Config.fromfile(config)).state_dict()), path)


class Shapes(Files):
    name = 'shapes'

    def prepare(self, folder):
        pass

    def arguments(self, number):
        return ['out', '--images', 16, '--size', 64, '--val-fraction', 0.25, '--force', '--seed', number % 2]

    def check_file(self, path):
        made = json.loads((path / 'shapes.json').read_text())['images']
        for pattern in ('JPEGImages/*.jpg', 'SegmentationClass/*.png', 'classes/*/*/*.jpg'):
            images = list(path.glob(pattern))
            if len(images) != made:
                raise Lost(f'{path} has {len(images)} of {made} {pattern}')
            for image in images:
                read_image(image)


class Environment(Subject):
    """The environment's making, in a clone whose packages are stubs."""
    name = 'environment'

    def __init__(self, folder):
        super().__init__(folder)
        from tests.test_environment import SCRIPT, Clone
        self.clone = Clone(self.folder)
        self.clone.cache_mmcv()
        self.clone.fill_index()
        (self.clone.root / 'started').touch()  # its first build would take longer
        self.command = [sys.executable, str(SCRIPT)]

    def start(self, number, dies_before=None, counted=None, alone=False):
        if counted:
            counted.write_text('0')  # pip's operations are not counted
        output = open(f'{self.temporary}.out', 'w')
        return _Popen(self.command, cwd=self.clone.root, env=dict(self.clone.env, TMPDIR=str(self.temporary)),
                      start_new_session=True, stdout=output, stderr=output)

    def check(self):
        wheels = [*self.clone.index.glob('*.whl'), *self.folder.glob('cache/**/*.whl')]
        for wheel in wheels:
            if zipfile.ZipFile(wheel).testzip() is not None:
                raise Lost(f'{wheel} is not whole')
        installed = len(list(self.clone.root.glob('.venv/lib/*/site-packages/*.dist-info')))
        return f'{installed} packages'

    def finished(self):
        again = self.clone.make()
        if (again.returncode, again.stdout) != (0, ''):
            raise Lost(f'a finished environment is made again: {again.stdout}')
        subprocess.run([self.clone.root / '.venv/bin/python', '-c', 'import mmcv.ops, torchvision.ops'], check=True)
        shutil.rmtree(self.clone.root / '.venv')

    def hidden(self):
        return [path.name for path in self.clone.root.glob('.venv/lib/*/site-packages/~*')]


class _Popen(subprocess.Popen):
    """With the names that multiprocessing has for the same."""

    def join(self, timeout=None):
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            pass

    @property
    def exitcode(self):
        return self.poll()


SUBJECTS = {kind.name: kind for kind in (Train, Convert, Reparameterize, Export, Quantize, Shapes, Environment)}


class Harness:
    """Kills one subject, round after round.

    Attributes:
        lost (list[str]): What was lost.
        seen (Counter): How many rounds were killed, and how many had ended before.
    """

    def __init__(self, subject: Subject, rng: random.Random):
        self.subject = subject
        self.rng = rng
        self.lost: list[str] = []
        self.seen: Counter = Counter()
        self.sessions: list[int] = []
        self.most: Counter = Counter()  # hidden and temporary names left by a kill

    def begin(self) -> None:
        """Run to the end, to know how long that takes, and what it does."""
        first = SERVER.Process(target=str)  # starts the forkserver, which takes long
        first.start()
        first.join()
        self.turns = self.to_the_end()

    def to_the_end(self) -> list[tuple[float, int]]:
        """Run each turn to its end; returns how many seconds and file operations each took."""
        counted = self.subject.temporary.with_suffix('.count')
        turns = []
        for number in range(self.subject.turns):
            began = time.monotonic()
            process = self.subject.start(number, counted=counted)
            process.join(600)
            self.see_exit(process, number)
            turns.append((time.monotonic() - began, int(counted.read_text())))
            self.subject.check()
            self.subject.finished()
        left = self.subject.hidden() + os.listdir(self.subject.temporary)
        if left:
            raise Lost(f'a run to the end leaves {left}')
        return turns

    def see_exit(self, process, number: int) -> None:
        if process.exitcode != 0:
            said = ''.join(Path(f'{self.subject.temporary}.{name}').read_text() for name in ('out', 'err')
                           if Path(f'{self.subject.temporary}.{name}').exists())
            raise Lost(f'run {number} exits with {process.exitcode}: {said[-2000:]}')

    def round(self, number: int) -> str:
        """Start, kill and look; returns what happened, in words."""
        alone = self.rng.random() < 0.5
        seconds, operations = self.turns[number % len(self.turns)]
        after, before = self.rng.uniform(0, seconds), None
        if operations and self.rng.random() < 0.5:
            before = self.rng.randint(1, operations)
        process = self.subject.start(number, before, alone=alone)
        self.sessions.append(process.pid)
        process.join(600 if before else after)
        if process.exitcode is None:
            _kill(process.pid, alone)
            process.join()
        moment = f'operation {before}' if before else f'{after:.2f} s'
        if process.exitcode == -signal.SIGKILL:
            self.seen['killed'] += 1
            what = f'killed {"alone" if alone else "whole"} at {moment}: {self.subject.check()}'
        else:
            self.see_exit(process, number)
            self.seen['ended'] += 1
            what = f'ended before {moment}: {self.subject.check()}'
            self.subject.finished()
        for kind, found, most in (('hidden', self.subject.hidden(), self.subject.turns),
                                  ('temporary', os.listdir(self.subject.temporary), MOST_TEMPORARY)):
            self.most[kind] = max(self.most[kind], len(found))
            if len(found) > most:
                raise Lost(f'{len(found)} {kind} files are left: {found}')
        return what

    def close(self) -> None:
        """See that all children have ended, and that a run to the end leaves nothing."""
        deadline = time.monotonic() + ORPHANS_END
        while left := [pid for pid in self.sessions if _members(pid)]:
            if time.monotonic() > deadline:
                raise Lost(f'processes of the sessions {left} are still there')
            time.sleep(0.2)
        self.to_the_end()

    def run(self, rounds: int, say=print) -> None:
        self.attempt(self.begin, say)
        if self.lost:
            return
        for number in range(1, rounds + 1):
            self.attempt(lambda number=number: say(f'{self.subject.name:<15} {number:>4}  {self.round(number)}'), say)
        self.attempt(self.close, say)

    def attempt(self, step, say) -> None:
        try:
            step()
        except Exception as error:  # whatever a reader raises for a file that is not whole
            self.lost.append(f'{self.subject.name}: {type(error).__name__}: {error}')
            say(f'LOST  {self.lost[-1]}')


def _members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for entry in filter(str.isdigit, os.listdir('/proc')):
        try:
            status = Path('/proc', entry, 'stat').read_text().rpartition(')')[2].split()
        except OSError:  # it has just ended
            continue
        if int(status[3]) == session and status[0] != 'Z':
            found.append(int(entry))
    return found


def kill(names: list[str], rounds: int, seed: int, folder: Path, say=print, turns: int | None = None) -> list[Harness]:
    """Kill commands ``rounds`` times each; returns what was seen. ``turns`` are those of a subject, if not all."""
    make_data(folder / 'data')
    harnesses = []
    for name in names:
        subject = SUBJECTS[name](folder)
        subject.turns = turns or subject.turns
        harnesses.append(Harness(subject, random.Random(f'{seed} {name}')))
        harnesses[-1].run(rounds, say)
    return harnesses


def main() -> int:
    parser = argparse.ArgumentParser('python -m tests.kill', description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=100, help='for each command (default: %(default)s)')
    parser.add_argument('--only', nargs='+', choices=SUBJECTS, default=list(SUBJECTS), metavar='COMMAND',
                        help=f'of {", ".join(SUBJECTS)}')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    shared = set(os.listdir('/dev/shm'))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='mmone-kill-') as folder:
        harnesses = kill(args.only, args.rounds, args.seed, Path(folder),
                         lambda line: print(line, flush=True))
    lost = [line for harness in harnesses for line in harness.lost]
    print()
    for harness in harnesses:
        seen, most = harness.seen, harness.most
        print(f'{harness.subject.name:<15} {seen["killed"]:>4} killed, {seen["ended"]:>4} ended before, '
              f'{len(harness.lost):>3} lost; at most {most["hidden"]} hidden and {most["temporary"]} temporary left')
    left = sorted(set(os.listdir('/dev/shm')) - shared)
    print(f'{sum(harness.seen["killed"] for harness in harnesses)} kills in {time.monotonic() - began:.0f} s, '
          f'{len(lost)} lost; left in shared memory: {len(left)} {" ".join(left[:5])}')
    return bool(lost)


if __name__ == '__main__':
    sys.exit(main())
