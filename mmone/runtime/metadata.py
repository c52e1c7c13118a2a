"""What an exported file says of itself: JSON under one key, with a digest of the whole file."""
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmone.errors import InputError
from mmone.formats import weights_of

KEY = 'mmone'
VERSION = 1
# Written in the digest's place while the file is made: the digest is of a file with this in it.
NO_DIGEST = '0' * 64
_ZIPPED = ('.pt', '.pt2')


def parse(text: str | None, path: Path) -> dict:
    """The metadata of a file, from the text under :data:`KEY`.

    Raises:
        InputError: If there is none, or it is of another version.
    """
    try:
        meta = json.loads(text or '')
        known = meta['version'] == VERSION and re.fullmatch('[0-9a-f]{64}', meta['sha256'])
    except (ValueError, KeyError, TypeError):
        raise InputError(f'{path} was not exported by mmone: it has no {KEY} metadata') from None
    if not known:
        raise InputError(f'{path} has {KEY} metadata of version {meta["version"]}, this mmone reads version '
                         f'{VERSION}: export it again')
    return meta


def digest(path: Path, written: str = NO_DIGEST, weights: Path | None = None) -> str:
    """SHA-256 of an exported model with :data:`NO_DIGEST` in place of the digest ``written`` in it.

    ``weights`` is the second file of a model of two, where that is not the one beside it.
    """
    total = hashlib.sha256()
    for content in _contents(path, weights):
        total.update(content.replace(written.encode(), NO_DIGEST.encode()))
    return total.hexdigest()


def belong_together(path: Path, weights: Path) -> bool:
    """Whether two files, the one sealed that is opened, were exported as one model."""
    found = re.findall(rb'[0-9a-f]{64}', path.read_bytes())  # its digest, and that of its checkpoint
    return any(digest(path, written.decode(), weights) == written.decode() for written in set(found))


def _contents(path: Path, weights: Path | None) -> Iterator[bytes]:
    if path.is_dir():
        for file in _files(path):
            yield file.read_bytes()
    elif path.suffix in _ZIPPED:
        with zipfile.ZipFile(path) as archive:  # its check sums change with the digest
            for name in sorted(archive.namelist()):
                yield archive.read(name)
    else:
        yield path.read_bytes()
        second = weights or weights_of(path)
        if second:
            yield second.read_bytes()


def seal(path: Path) -> str:
    """Write an exported model's digest over :data:`NO_DIGEST` in it; returns the digest."""
    empty, found = NO_DIGEST.encode(), digest(path).encode()
    if path.suffix in _ZIPPED:
        sealed = path.with_name(f'sealed{path.suffix}')
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(sealed, 'w') as copy:
            for entry in archive.infolist():
                copy.writestr(entry, archive.read(entry).replace(empty, found))
        os.replace(sealed, path)
    else:
        for file in _files(path) if path.is_dir() else [path]:
            content = file.read_bytes()
            if empty in content:
                file.write_bytes(content.replace(empty, found))
    return found.decode()


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob('*') if file.is_file())
