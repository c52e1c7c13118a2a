"""A config's test pipeline: how its images are read and prepared, and what people are shown of them."""
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mmone.compat import takes_rgb
from mmone.config import dataset_of, default_scope, type_name
from mmone.errors import InputError, cause
from mmone.runtime.images import IMAGE_SUFFIXES, check_size, read_image

# Transforms that read the image are called after that in all libraries: LoadImageFromFile, InferencerLoader,
# LoadSingleRSImageFromFile; so are those that read what is known of it, which there is nothing to read from.
_READS = re.compile('load', re.IGNORECASE)
_READS_TRUTH = re.compile('(?!.*(image|img)).*load.*(annotation|proposal|label|mask)', re.IGNORECASE)
_GREY = np.array([0.114, 0.587, 0.299], np.float32)  # of blue, green and red, as OpenCV weighs them
# What a reader raises that has not got to the image: of these, people are told more than that it failed.
_OWN_ERRORS = (ArithmeticError, AttributeError, LookupError, NameError, RuntimeError, TypeError)


def image_suffixes(cfg: Config) -> tuple[str, ...]:
    """How the names of images end, in lower case: the usual ends, and those of the config's test data."""
    dataset = dataset_of(cfg.get('test_dataloader'))
    own = dataset.get('extensions') or dataset.get('img_suffix') or ()  # mmpretrain's, mmseg's
    return (*IMAGE_SUFFIXES, *(end.lower() for end in ([own] if isinstance(own, str) else own)))


class ImageError(InputError):
    """An image that cannot be used; others may be."""


def split(cfg: Config) -> tuple[list[dict], list[dict]]:
    """The transforms of a config's test pipeline that read an image, and those after them, without annotations."""
    pipeline = dataset_of(cfg.get('test_dataloader')).get('pipeline') or []
    kept = [transform for transform in pipeline if not _READS_TRUTH.match(type_name(transform))]
    reads = [i for i, transform in enumerate(kept) if _READS.search(type_name(transform))]
    first = reads[-1] + 1 if reads else 0
    return kept[:first], kept[first:]


def truth_readers(cfg: Config) -> list[dict]:
    """The transforms of a config's test pipeline that read what is annotated of an image."""
    pipeline = dataset_of(cfg.get('test_dataloader')).get('pipeline') or []
    return [transform for transform in pipeline if _READS_TRUTH.match(type_name(transform))]


class ImagePipeline:
    """Reads and prepares images one by one, as a config's test pipeline does, without annotations.

    Args:
        cfg (Config): With the pipeline.
        read (Callable): Reads a file where the pipeline does not, because its data set has images in
            memory: (H, W) or (H, W, C), of three channels in RGB. Defaults to
            :func:`mmone.runtime.images.read_image`.

    Attributes:
        reader (dict): The transform that reads the image; empty if there is none.

    Raises:
        InputError: If the config has no test pipeline, or what its reader needs is not installed.
    """

    def __init__(self, cfg: Config, read: Callable[[str], np.ndarray] = read_image):
        self._read_file = read
        readers, transforms = split(cfg)
        if not readers + transforms:
            raise InputError('the config has no pipeline in test_dataloader.dataset to prepare images')
        self.reader = readers[-1] if readers else {}
        if self.reader.get('imdecode_backend') == 'tifffile' and find_spec('tifffile') is None:
            raise InputError('the test pipeline reads images with tifffile, not installed here: pip install tifffile')
        self._given = type_name(self.reader) in ('', 'LoadImageFromNDArray')  # and not read
        with default_scope(cfg):
            self._read = Compose([] if self._given else readers)
            self._prepare = Compose([_without_annotations(transform) for transform in transforms])

    def read(self, given: str | Path | list | np.ndarray, number: int = 0) -> dict:
        """Read an image; what is returned has it under ``img``.

        Args:
            given (str | Path | list | np.ndarray): A path, paths where the pipeline makes an image of
                several files, or an image: (H, W, 3) in BGR or, if the pipeline reads others, as it does.
            number (int): Its place among the images. Defaults to 0.

        Raises:
            ImageError: If it is no image, or cannot be read or decoded.
            InputError: If a package that the pipeline reads it with is not there.
        """
        if isinstance(given, np.ndarray):
            return self._of_array(given, str(number), number)
        path: Any = [str(part) for part in given] if isinstance(given, (list, tuple)) else str(given)
        if self._given:
            return self._of_array(self._as_bgr(path), path, number)
        for file in [path] if isinstance(path, str) else path:
            _check_file(file)
        try:
            found = self._read(dict(img_path=path, img_id=number))
        except ImportError as error:
            raise InputError(f'the test pipeline reads images by {type_name(self.reader)}, which needs {error.name}, '
                             'not installed here') from error
        except Exception as error:  # whatever a reader raises for what it cannot decode
            reason = f' ({type(error).__name__}: {cause(error)})' if isinstance(error, _OWN_ERRORS) else ''
            raise ImageError(f'image {path} cannot be decoded{reason}') from error
        if found is None or found.get('img') is None:
            raise ImageError(f'image {path} cannot be decoded')
        return found

    def _as_bgr(self, path: str) -> np.ndarray:
        try:
            image = self._read_file(path)
        except InputError as error:
            raise ImageError(error.message) from error
        return image[:, :, ::-1] if image.shape[2:] == (3, ) else image

    def _of_array(self, image: np.ndarray, name: str, number: int) -> dict:
        if image.ndim not in (2, 3) or not image.size:
            raise ImageError(f'image {name} is of shape {image.shape}: expected (H, W) or (H, W, channels)')
        if str(self.reader.get('color_type', '')).startswith('grayscale') and image.shape[2:] == (3, ):
            image = np.rint(image @ _GREY).astype(image.dtype)
        if self.reader.get('to_float32'):
            image = image.astype(np.float32)
        return dict(img=image, img_path=name, img_id=number, img_shape=image.shape[:2], ori_shape=image.shape[:2])

    def prepare(self, found: dict) -> dict:
        """The model's ``inputs`` and ``data_samples`` of an image from :meth:`read`.

        Raises:
            ImageError: If a transform cannot take it, as one of a single row that is to be shrunk.
        """
        try:
            return self._prepare(found)
        except Exception as error:  # whatever a transform raises
            raise ImageError(f'image {found["img_path"]} cannot be prepared ({type(error).__name__}: {cause(error)})'
                             ) from error


def normalization(preprocessor: BaseDataPreprocessor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a library's data preprocessor, each (C, 1, 1), of three channels in RGB.

    Raises:
        InputError: If it has them for another number of channels.
    """
    if getattr(preprocessor, 'mean', None) is None:
        return torch.zeros(channels, 1, 1), torch.ones(channels, 1, 1)
    if preprocessor.mean.numel() not in (1, channels):
        raise InputError(f'the data_preprocessor has means of {preprocessor.mean.numel()} channels, the model takes '
                         f'{channels}: give as many means and standard deviations')
    mean, std = (value.detach().float().cpu().expand(channels, 1, 1).clone()
                 for value in (preprocessor.mean, preprocessor.std))
    return (mean, std) if channels != 3 or takes_rgb(preprocessor) else (mean.flip(0), std.flip(0))


def _check_file(path: str) -> None:
    """Raise ImageError for a file that is not there, or states a size that is too large to decode."""
    if '://' in path:  # the reader's back end knows
        return
    try:
        check_size(Path(path).read_bytes(), path)
    except OSError as error:
        raise ImageError(f'image {path} cannot be read: {error.strerror}') from error
    except InputError as error:
        raise ImageError(error.message) from error


def _without_annotations(transform: dict) -> dict:
    if 'meta_keys' not in transform:
        return transform
    # CocoMetric wants the annotations too.
    return dict(transform, meta_keys=tuple(key for key in transform['meta_keys'] if key != 'instances'))


def picture(image: np.ndarray) -> np.ndarray:
    """What people are shown of an image as a pipeline has read it: (H, W, 3) uint8 in BGR.

    Of more than three channels the first three are shown, one stands for all colours, and values that are
    not those of 8 bits are stretched to them.
    """
    image = image[:, :, None] if image.ndim == 2 else image
    image = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, [0, 0, 0]]
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float32))
        low, high = float(image.min()), float(image.max())
        if low < 0 or not 1 < high <= 255:
            image = (image - low) * (255 / max(high - low, 1e-12))
        image = np.rint(image).astype(np.uint8)
    return np.ascontiguousarray(image)
