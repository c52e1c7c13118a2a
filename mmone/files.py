"""Files that are written whole or not at all, and what they are told apart by."""
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmone.errors import InputError


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
def scratch_folder(path: str | Path) -> Iterator[Path]:
    """A hidden folder beside ``path``, on the same disk, in which to make what gets its name.

    It is gone afterwards. What a killed process left of its own is removed by the next one.

    Raises:
        InputError: If it cannot be made.
    """
    path = Path(path).absolute()
    for stale in path.parent.glob(f'.{path.name}.*.partial'):
        process = re.fullmatch(r'\.(\d+)\.partial', stale.name[len(path.name) + 1:])
        if process and not _is_alive(int(process[1])):
            shutil.rmtree(stale, ignore_errors=True)
    folder = path.with_name(f'.{path.name}.{os.getpid()}.partial')
    try:
        folder.mkdir()
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, path: str | Path) -> None:
    """Give a file or folder that is complete its name, in place of what has it now."""
    path = Path(path)
    if made.is_file():
        with open(made, 'rb') as file:
            os.fsync(file.fileno())
    if path.is_dir():  # a folder is not replaced in one step
        os.replace(path, made.with_name(f'{made.name}.old'))
    os.replace(made, path)


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Yields the path of a file to write, which gets the name ``path`` if nothing is raised."""
    path = Path(path)
    with scratch_folder(path) as folder:
        made = folder / path.name
        yield made
        publish(made, path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
