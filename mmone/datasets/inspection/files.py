"""What is in the files of images and masks, looked at by several processes."""
import hashlib
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from mmone.errors import InputError
from mmone.runtime.images import check_size

_MIN_FILES = 64  # for which processes are worth starting
_CHUNK = 16
_HEADER = 1 << 18  # bytes in which most images state what they are
# Formats that OpenCV, which reads the images of a training, has in all of its builds.
_COMMON = ('JPEG', 'MPO', 'PNG', 'BMP', 'WEBP', 'TIFF', 'PPM')


class Job(NamedTuple):
    """A file to look at.

    Attributes:
        path (str): The file.
        mask (str): The library that reads it, if it is a mask; else empty.
        decode (bool): Whether to decode an image, and not its header only.
    """
    path: str
    mask: str = ''
    decode: bool = True


class Facts(NamedTuple):
    """What a file is.

    Attributes:
        path (str): The file.
        fault (str): ``'missing'``, ``'undecodable'``, ``'truncated'``, or why it is too large; else empty.
        size (tuple): (width, height) as a training sees the image.
        stored (tuple): The same before what EXIF says of its orientation.
        channels (int): As they are stored; of a palette 1.
        mode (str): Pillow's.
        digest (bytes): Of its content.
        values (tuple): Of a mask, (value, number of pixels) of all values.
    """
    path: str
    fault: str = ''
    size: tuple[int, int] = (0, 0)
    stored: tuple[int, int] = (0, 0)
    channels: int = 0
    mode: str = ''
    digest: bytes = b''
    values: tuple[tuple[int, int], ...] = ()


def look(job: Job) -> Facts:
    """Look at a file."""
    path = job.path
    try:
        with open(path, 'rb') as file:
            content = file.read(-1 if job.decode else _HEADER)
    except OSError:
        return Facts(path, 'missing')
    try:
        check_size(content, path)
    except InputError as failed:
        return Facts(path, failed.message)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = (_mask if job.mask else _image)(job, content)
    if not job.decode and (found.fault or not found.channels):  # what states it elsewhere
        return look(job._replace(decode=True))
    return found._replace(digest=digest if job.decode else b'')


def _image(job: Job, content: bytes) -> Facts:
    try:
        image = Image.open(BytesIO(content))
    except Exception:  # whatever a decoder raises for a broken file
        return Facts(job.path, '' if _opencv(content) is not None else 'undecodable')
    fault = ''
    if job.decode:
        try:
            image.load()
        except Exception:
            fault = 'truncated' if _opencv(content) is not None else 'undecodable'
    if not fault and image.format not in _COMMON and _opencv(content) is None:
        fault = 'undecodable'
    size = image.size
    if _orientation(image) > 4:
        size = size[::-1]
    return Facts(job.path, fault, size, image.size, len(image.getbands()), image.mode)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x112, 1)
    except Exception:  # broken EXIF data keep no image from being shown
        return 1


def _opencv(content: bytes, flag: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:
        return None


def read_mask(content: bytes, backend: str) -> tuple[np.ndarray, str] | None:
    """The numbers of a mask as mmseg reads them, before they become 8 bits, and Pillow's mode of the file."""
    try:
        image = Image.open(BytesIO(content))
        values, mode = np.asarray(image), image.mode
    except Exception:
        return None
    if backend != 'pillow':
        decoded = _opencv(content, cv2.IMREAD_UNCHANGED)
        if decoded is None:
            return None
        values = decoded
    return np.squeeze(values), mode


def _mask(job: Job, content: bytes) -> Facts:
    read = read_mask(content, job.mask)
    if read is None:
        return Facts(job.path, 'undecodable')
    values, mode = read
    if values.ndim != 2:
        return Facts(job.path, '', values.shape[1::-1], values.shape[1::-1], values.shape[-1], mode)
    if values.dtype == np.uint8:
        numbers = np.bincount(values.ravel(), minlength=256)
        found = np.flatnonzero(numbers)
        pairs = zip(found.tolist(), numbers[found].tolist())
    else:
        uniques, numbers = np.unique(values.astype(np.int64), return_counts=True)
        pairs = zip(uniques.tolist(), numbers.tolist())
    return Facts(job.path, '', values.shape[::-1], values.shape[::-1], 1, mode, values=tuple(pairs))


def look_at(jobs: list[Job], track: Callable[[Iterable], Iterable] = iter, several: bool = True) -> Iterator[Facts]:
    """Look at files.

    Args:
        jobs (list[Job]): The files.
        track (Callable): Wraps the iterable of facts, to show progress. Defaults to iter.
        several (bool): In as many processes as there are cores for this one. Defaults to True.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    if not several or len(jobs) < _MIN_FILES or cores == 1 or 'fork' not in multiprocessing.get_all_start_methods():
        yield from track(map(look, jobs))
        return
    # Forked, so that they do not take seconds to import the package of this module.
    with multiprocessing.get_context('fork').Pool(cores) as pool:
        yield from track(pool.imap(look, jobs, _CHUNK))


def upright(path: str) -> np.ndarray | None:
    """(H, W, 3) uint8 in RGB of an image's file, to be shown; None if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    except Exception:
        return None
