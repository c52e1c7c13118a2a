"""Files that are written whole or not at all, and their checksums."""
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmone.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where two processes that write one file are not kept apart
    fcntl = None  # type: ignore[assignment]


class InUse(InputError):
    """A file that another process is writing."""


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def check_output(path: str | Path, overwrite: bool) -> None:
    """Raise InputError, before any work, if a file cannot or must not be written."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f'cannot write {path}: it is a directory')
    if not path.parent.is_dir():
        raise InputError(f'cannot write {path}: there is no directory {path.parent}')
    if path.exists() and not overwrite:
        raise InputError(f'{path} exists: give another file, or allow it to be replaced', parameter='overwrite')


@contextmanager
def scratch_folder(path: str | Path, salvage: Callable[[Path], None] = lambda folder: None) -> Iterator[Path]:
    """An empty hidden folder beside ``path``, on the same disk, in which to make what gets its name.

    It is gone afterwards. What a killed process left in it is removed by the next one that writes
    ``path``.

    Args:
        path (str | Path): What gets its name.
        salvage (Callable): Is given the folder as a killed process left it, before it is emptied, while no
            other process can be using it. Defaults to doing nothing.

    Raises:
        InputError: If it cannot be made, or another process is using it.
    """
    path = Path(path).absolute()
    folder = _scratch(path)
    lock = _lock(folder, path)
    try:
        old = folder / f'{path.name}.old'
        if old.exists() and not path.exists():  # its process was killed while it replaced a folder
            os.replace(old, path)
        salvage(folder)
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _scratch(path: Path) -> Path:
    return path.with_name(f'.{path.name}.partial')


def _lock(folder: Path, path: Path) -> int | None:
    """Make a folder for this process alone, until the file descriptor that is returned is closed.

    The lock goes with the process, so a folder without one was left by a process that was killed.
    """
    while True:
        try:
            folder.mkdir(exist_ok=True)
            if fcntl is None:
                return None
            lock = os.open(folder, os.O_RDONLY)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and path.parent.is_dir():
                continue  # another process has just removed it
            raise InputError(f'cannot write {path}: {error.strerror}') from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise InUse(f'cannot write {path}: another process is writing it') from None
        except OSError:  # a file system that has no locks
            return lock
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        os.close(lock)  # another process removed it before it was locked


def publish(made: Path, path: str | Path) -> None:
    """Give a file or folder that is complete its name, in place of what has it now."""
    path = Path(path)
    if made.is_file():
        with open(made, 'r+b') as file:  # Windows syncs no file that is open for reading alone
            os.fsync(file.fileno())
    if path.is_dir():  # a folder is not replaced in one step: scratch_folder knows this name
        os.replace(path, made.with_name(f'{path.name}.old'))
    os.replace(made, path)


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yields the path of a file to write, which gets the name ``path`` if nothing is raised."""
    path = Path(path)
    with scratch_folder(path) as folder:
        made = folder / path.name
        yield made
        publish(made, path)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what killed processes left of the files that they were writing in a folder."""
    for scratch in Path(folder).glob('.?*.partial'):
        remove_leftover(scratch.with_name(scratch.name[1:-len('.partial')]))


def remove_leftover(path: Path) -> None:
    """Remove what a killed process left beside the file or folder that it was writing."""
    if _scratch(path).exists():
        with suppress(InputError), scratch_folder(path):
            pass


@contextmanager
def temporary_files() -> Iterator[None]:
    """Have temporary files made in a folder of this process, until the block ends.

    Libraries leave theirs behind where they are killed: the sockets of a data loader's workers, configs that
    are being read, results that are evaluated. Whoever comes next removes the folders whose processes are gone.
    """
    base = _temporary_base()
    nested = base.name.startswith('mmone-')  # in the folder of the process that started this one
    # A socket's path may have 104 bytes, of which multiprocessing takes 32.
    folder, lock = (base, None) if fcntl is None or nested or len(str(base)) > 55 else _own_folder(base)
    before, variables = tempfile.tempdir, {'TMPDIR': str(folder)}
    if 'TORCHINDUCTOR_CACHE_DIR' not in os.environ and lock is not None:  # what is kept for the next process stays
        variables['TORCHINDUCTOR_CACHE_DIR'] = str(base / f'torchinductor_{os.getuid()}')
    outside = {name: os.environ.get(name) for name in variables}
    tempfile.tempdir = str(folder)
    os.environ.update(variables)
    try:
        yield
    finally:
        tempfile.tempdir = before
        for name, value in outside.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)  # with what libraries leave to the end of the process
            os.close(lock)


def _temporary_base() -> Path:
    """What ``tempfile.gettempdir()`` is; that finds out by writing a file, which stays if it is killed there."""
    places = (tempfile.tempdir, *map(os.environ.get, ('TMPDIR', 'TEMP', 'TMP')), '/tmp')
    return Path(next((place for place in places if place and os.path.isdir(place) and os.access(place, os.W_OK)),
                     None) or tempfile.gettempdir()).absolute()


def _own_folder(base: Path) -> tuple[Path, int | None]:
    """Remove the folders of processes that are gone, and make one for this; ``base`` if there can be none."""
    prefix = f'mmone-{os.getuid()}-'
    for left in base.glob(f'{prefix}*'):
        lock = _lock_own(left)
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    for folder in (base / f'{prefix}{number}' for number in range(1000)):
        lock = _lock_own(folder)
        if lock is not None:
            return folder, lock
    return base, None


def _lock_own(folder: Path) -> int | None:
    """Make a folder for this process alone; None where it is another's, or cannot be made."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        there = folder.lstat()
        if there.st_uid != os.getuid() or not stat.S_ISDIR(there.st_mode):  # anybody may make names in /tmp
            return None
    except OSError:
        return None
    try:
        return _lock(folder, folder)
    except InputError:
        return None


def user_cache() -> Path:
    """mmone's folder in the user's cache."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'mmone')
