"""What a file from elsewhere holds, found out without running any of it. Standard library only."""
import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mmone.errors import InputError

_ZIP = b'PK\x03\x04'
# Before PyTorch 1.6: what follows them are the numbers of the weights.
_PICKLES_IN_OLD_FILES = 5
_TEXT = 1 << 24  # bytes of text that a program may unpack to, whatever its size
_KINDS = (
    (re.compile(rb'\s*<(!doctype|html|head|body|\?xml)', re.IGNORECASE), 'a web page'),
    (re.compile(rb'version https://git-lfs'), 'a pointer of Git LFS in place of the file'),
    (re.compile(rb'\s*\{\s*"(error|message|code)'), "a server's error message"),
    (re.compile(rb'.{257}ustar', re.DOTALL), 'a tar archive'),
)


class Pickle(NamedTuple):
    """What a pickle has in it.

    Attributes:
        names (set[str]): What it would import, as ``module.name``; ``'?'`` for what is only known when it
            runs, or cannot be read by pickle's own tools.
        texts (set[str]): All of its text, the keys of its dicts among it.
    """
    names: set[str]
    texts: set[str]


def taken_for_something_else(path: Path) -> str | None:
    """What a file is that is commonly met where a model's file should be; None if none of that."""
    with open(path, 'rb') as file:
        start = file.read(512)
    return next((kind for pattern, kind in _KINDS if pattern.match(start)), None)


def is_archive(path: Path) -> bool:
    """Whether a file begins as a zip archive, which is what PyTorch goes by."""
    with open(path, 'rb') as file:
        return file.read(len(_ZIP)) == _ZIP


def open_archive(path: Path, name: str, compressed: bool = False) -> zipfile.ZipFile:
    """Open a zip archive that does not unpack to more than can be: ``torch.save`` never compresses.

    Args:
        path (Path): The file.
        name (str): What messages call it.
        compressed (bool): Whether text in it may be, as in programs of TorchScript. Defaults to False.

    Raises:
        InputError: If it is no whole archive, or holds more than it has bytes.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception:  # whatever a directory raises that was cut off, or made to break what reads it
        raise InputError(f'{name} is truncated, its end is missing or broken: copy or download it again') from None
    claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > (_TEXT + 4 * path.stat().st_size if compressed else path.stat().st_size):
        archive.close()
        raise InputError(f'{name} has {path.stat().st_size:,} bytes but would unpack to {claimed:,}: PyTorch '
                         'writes no such files, it may be a zip bomb')
    return archive


def pickles_in(path: Path) -> Iterator[bytes]:
    """The pickles in a checkpoint, as ``torch.save`` writes it to an archive, or did before PyTorch 1.6."""
    if not is_archive(path):
        yield path.read_bytes()
        return
    with open_archive(path, str(path)) as archive:
        for name in archive.namelist():
            if name.rpartition('/')[2] == 'data.pkl':
                yield archive.read(name)


def look_into(content: bytes) -> Pickle:
    """Read the instructions of pickles, one after the other, without following them."""
    names: set[str] = set()
    texts: set[str] = set()
    file = io.BytesIO(content)
    for _ in range(_PICKLES_IN_OLD_FILES):
        if file.tell() < len(content):
            try:
                _read_one(file, names, texts)
            except Exception:  # pickletools is stricter than what unpickles
                names.add('?')
                break
    return Pickle(names, texts)


def _read_one(file: BinaryIO, names: set[str], texts: set[str]) -> None:
    pushed: list = [None, None]  # what the last two instructions put on the stack, None for no text
    memo: dict[int, str | None] = {}
    argument: Any
    for instruction, argument, _ in pickletools.genops(file):
        kind = instruction.name
        if kind in ('GLOBAL', 'INST'):
            names.add(argument.replace(' ', '.'))
        elif kind == 'STACK_GLOBAL':
            names.add('.'.join(pushed[-2:]) if None not in pushed[-2:] else '?')
        elif kind.startswith('EXT'):
            names.add('?')
        if kind == 'MEMOIZE':
            memo[len(memo)] = pushed[-1]
        elif kind in ('PUT', 'BINPUT', 'LONG_BINPUT'):
            memo[int(argument)] = pushed[-1]
        elif kind not in ('PROTO', 'FRAME'):
            if kind in ('GET', 'BINGET', 'LONG_BINGET'):
                argument = memo.get(int(argument))
            pushed.append(argument if isinstance(argument, str) else None)
            if pushed[-1] is not None and 'GLOBAL' not in kind:
                texts.add(pushed[-1])
