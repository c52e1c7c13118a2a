"""Checkpoints that are given by an address: from PyTorch's cache, or downloaded to it."""
import errno
import os
import re
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlparse

import torch
import torch.distributed
from mmengine.dist import get_dist_info
from mmengine.logging import print_log

from mmone.errors import InputError
from mmone.files import InUse, sha256, written_whole

from .io import read_checkpoint

# What PyTorch and OpenMMLab put before the end of a published file's name: how its SHA-256 begins. Digits
# alone may be a date, unless OpenMMLab's date stands before them.
_PUBLISHED = re.compile(r'-(?=\d*[a-f])(?P<torch>[0-9a-f]{8,64})\.|_\d{8}-(?P<openmmlab>[0-9a-f]{8})\.')


class DownloadError(InputError):
    """Weights that an address does not give: the file in its place mends it."""


def read_from(address: str, trust: bool) -> dict:
    """Read a checkpoint from an address, as :func:`read_checkpoint` reads a file.

    Of several processes the first one downloads, as in mmengine.

    Args:
        address (str): ``http://…`` or ``https://…``.
        trust (bool): Allow a pickle that can run code.

    Raises:
        DownloadError: If it cannot be downloaded or kept, or is broken; says where to put the file.
        InputError: If it cannot be used for another reason.
    """
    rank, processes = get_dist_info()
    if processes > 1 and rank > 0:
        torch.distributed.barrier()
    try:
        return _read(address, cached(address), trust)
    finally:
        if processes > 1 and rank == 0:
            torch.distributed.barrier()


def cached(address: str) -> Path:
    """Where PyTorch keeps what an address gives."""
    name = os.path.basename(unquote(urlparse(address).path))
    if name in ('', '.', '..'):
        raise InputError(f'{address} names no file: give the address of a checkpoint')
    return Path(torch.hub.get_dir(), 'checkpoints', name)


def _read(address: str, path: Path, trust: bool) -> dict:
    found = ''
    if path.is_file():
        try:
            return _read_published(path, trust, str(path))
        except InputError as error:
            if error.parameter:  # it is whole, but has to be trusted
                raise
            found = error.message + '; '
    instead = f'put it to {path}, or give the file in place of the address'
    try:
        return _fetch(address, path, trust, replace=bool(found))
    except URLError as error:
        reason = error if isinstance(error, HTTPError) else error.reason
        raise DownloadError(f'{found}{address} cannot be downloaded ({reason}): download it elsewhere and '
                            f'{instead}') from None
    except OSError as error:
        raise DownloadError(f'{found}{address} cannot be kept in {path.parent} ({error.strerror}): set TORCH_HOME to a '
                            f'folder that can be written, or download it elsewhere and {instead}') from None
    except InputError as error:
        if error.parameter:
            raise
        raise DownloadError(f'{found}{error.message}; {instead}') from None


def _fetch(address: str, path: Path, trust: bool, replace: bool) -> dict:
    """Download a checkpoint to the cache, whole or not at all, and read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    while True:
        try:
            with written_whole(path) as made:
                _download(address, made)
                return _read_published(made, trust, address)
        except InUse:
            time.sleep(0.5)
            if path.is_file() and not replace:
                return _read_published(path, trust, str(path))


def _read_published(path: Path, trust: bool, name: str) -> dict:
    """Read a file after its name was compared with its content, where the name tells of it."""
    match = _PUBLISHED.search(path.name)
    if match:
        expected, digest = match['torch'] or match['openmmlab'], sha256(path)
        if not digest.startswith(expected):
            raise InputError(f'checkpoint {name} is not what was published: its SHA-256 begins with '
                             f'{digest[:len(expected)]}, not with {expected}: download it again')
    return read_checkpoint(path, trust, name)


def _download(address: str, made: Path) -> None:
    print_log(f'Downloading {address}', logger='current')
    try:
        torch.hub.download_url_to_file(address, str(made), progress=os.isatty(0))
    except URLError:
        raise
    except (ConnectionError, TimeoutError, HTTPException, ValueError) as error:
        raise URLError(str(error) or type(error).__name__) from None
