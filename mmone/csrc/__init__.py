"""Sources of the compiled module ``mmone._ext``, what it computes as plain loops (``reference.py``), and its loader."""
import struct
from importlib import import_module
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1]
# What the functions of the module take, counted up in ext.c.
INTERFACE = 1


def load() -> ModuleType | None:
    """The compiled module; None where it was not built: installed without GCC, or not on Linux.

    OpenMP's library must have been loaded before, by importing torch.

    Raises:
        ImportError: If a build is there and does not load. The message says why.
    """
    builds = sorted(FOLDER.glob('_ext.*'))
    try:
        for build in builds:
            _check_whole(build)
        module = import_module('mmone._ext')
        found = getattr(module, 'INTERFACE', None)
        if found != INTERFACE:
            raise ImportError(f'it was built from other sources (interface {found}, not {INTERFACE})')
    except Exception as error:  # what a broken build raises is anybody's guess
        if not builds:
            return None
        names = ', '.join(build.name for build in builds)
        raise ImportError(f'{names} in {FOLDER} does not load: {error}') from error
    return module


def _check_whole(path: Path) -> None:
    """Raise ImportError for the first part of a library of Linux: loading it would end the process by a bus error."""
    size = path.stat().st_size
    with path.open('rb') as file:
        header = file.read(64)
        if header[:5] != b'\x7fELF\x02' or len(header) < 64:  # not one of 64 bits: the loader says what is wrong
            return
        order = '<' if header[5] == 1 else '>'
        table, entry_size, count = (*struct.unpack_from(f'{order}Q', header, 32),
                                    *struct.unpack_from(f'{order}HH', header, 54))
        file.seek(table)
        entries = file.read(entry_size * count)
    if entry_size < 56 or len(entries) < entry_size * count:
        raise ImportError(f'the file ends before its list of segments, after {size} bytes')
    for at in range(0, len(entries), entry_size):
        offset, length = (struct.unpack_from(f'{order}Q', entries, at + place)[0] for place in (8, 32))
        if offset + length > size:
            raise ImportError(f'the file is cut off after {size} bytes, of at least {offset + length}')
