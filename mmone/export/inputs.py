"""The images that an exported model takes, by its config: their size, their transforms, some to compare on."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.model import BaseModel

from mmone.config import dataset_of, native_shape, type_name
from mmone.datasets.shapes import make_sample
from mmone.errors import InputError
from mmone.pipeline import ImagePipeline, image_suffixes, split
from mmone.runtime.images import TRANSFORMS

from .graph import pad_divisor

COMPARED_IMAGES = 8
# Transforms whose reading :class:`mmone.runtime.Runtime` can do.
_READERS = ('LoadImageFromFile', 'LoadImageFromNDArray', 'InferencerLoader')


def reading(cfg: Config) -> dict | None:
    """How a config's test pipeline reads an image's file, as :class:`mmone.runtime.Runtime` does it too.

    Returns:
        dict | None: ``color_type``, ``backend`` and ``to_float32``, by mmcv's names; None where only OpenMMLab
        can read it.
    """
    readers, _ = split(cfg)
    reader = readers[-1] if readers else dict(type='LoadImageFromFile')
    if type_name(reader) not in _READERS:
        return None
    return dict(color_type=reader.get('color_type', 'color'), backend=reader.get('imdecode_backend', 'cv2'),
                to_float32=bool(reader.get('to_float32')))


def prepare(cfg: Config, shape: tuple[int, int] | None, dynamic_hw: bool,
            files: Sequence[Path] = ()) -> tuple[tuple[int, int], list[dict]]:
    """The size of a model's input, and the transforms that bring an image to it.

    Args:
        cfg (Config): With the test pipeline.
        shape (tuple[int, int], optional): The size that is wanted. Defaults to the one the pipeline
            gives; if that takes images as they are, to the first test image's, or if there is none to
            the size that was trained on.
        dynamic_hw (bool): Whether the size is left free.
        files (Sequence[Path]): Test images.

    Returns:
        tuple: (height, width), and the transforms of the test pipeline that change images, with a
        resize to a fixed size where they alone do not give it.

    Raises:
        InputError: If the config does not say the size, or has a transform that only OpenMMLab
            can do.
    """
    readers, others = split(cfg)
    transforms = [_transform(transform) for transform in [*readers[:-1], *others]
                  if not type_name(transform).startswith('Pack')]
    fixed = _fixed_size(transforms)
    as_it_is = ImagePipeline(cfg).read(files[0])['img'].shape[:2] if files and not transforms else None
    size = shape or fixed or as_it_is or native_shape(cfg)
    if fixed != size and (fixed or not dynamic_hw):
        transforms = _fitted(transforms, size)
    return size, transforms


def _transform(transform: dict) -> dict:
    """A transform as :data:`mmone.runtime.images.TRANSFORMS` and JSON take it, with sizes as lists."""
    kind = type_name(transform)
    if kind not in TRANSFORMS or (kind == 'Resize' and 'scale' not in transform):
        raise InputError(f'the test pipeline has the transform {kind}, which runs in OpenMMLab only: expected '
                         f'{", ".join(TRANSFORMS)}')
    transform = dict(transform, type=kind)
    for key in ('scale', 'crop_size'):
        value = transform.get(key)
        if isinstance(value, int) and kind != 'ResizeEdge':
            value = (value, value)
        if value is not None:
            transform[key] = value if isinstance(value, int) else list(value)
    return transform


def _fixed_size(transforms: Sequence[dict]) -> tuple[int, int] | None:
    """(height, width) of all images after the transforms; None where that depends on the image."""
    last = transforms[-1] if transforms else {}
    if last.get('type') == 'CenterCrop':
        return tuple(last['crop_size'][::-1])
    if last.get('type') == 'Resize' and not last.get('keep_ratio'):
        return tuple(last['scale'][::-1])
    return None


def _fitted(transforms: Sequence[dict], size: tuple[int, int]) -> list[dict]:
    """The transforms with the last one changed, or one added, so that they give ``size``."""
    last = transforms[-1] if transforms else {}
    if last.get('type') == 'CenterCrop':
        # The edge that is resized keeps its ratio to the crop: objects are as large in it as before.
        crop = max(last['crop_size'])
        scaled = [dict(step, scale=round(step['scale'] * max(size) / crop)) if step['type'] == 'ResizeEdge' else step
                  for step in transforms[:-1]]
        return [*scaled, dict(last, crop_size=list(size[::-1]))]
    kept = transforms[:-1] if last.get('type') == 'Resize' else transforms
    return [*kept, dict(type='Resize', scale=list(size[::-1]), keep_ratio=False)]


def check_shape(model: BaseModel, shape: tuple[int, int], dynamic_hw: bool) -> None:
    """Raise InputError if the data preprocessor would pad images of a size, or of some sizes if those are free."""
    divisor = pad_divisor(model.data_preprocessor)
    if min(shape) < 1 or any(edge % divisor for edge in shape):
        height, width = (max(1, -(-edge // divisor)) * divisor for edge in shape)
        raise InputError(f'images of {shape[0]}x{shape[1]}: expected multiples of {divisor}, to which the '
                         f'data_preprocessor pads, e.g. {height}x{width}', parameter='shape')
    padded = (getattr(model.data_preprocessor, 'test_cfg', None) or {}).get('size')  # mmseg
    if padded and (dynamic_hw or any(edge < least for edge, least in zip(shape, padded))):
        raise InputError(f'the data_preprocessor pads test images to {padded[0]}x{padded[1]}, which the graph does '
                         'not: expected a fixed size that is at least as large', parameter='shape')


def image_files(cfg: Config, folder: str | Path | None, most: int | None = COMPARED_IMAGES) -> tuple[list[Path], Path]:
    """Some images, and the folder they are in: the given one, or the test data's.

    Args:
        cfg (Config): Says what images are called, and where the test data is.
        folder (str | Path, optional): Searched with all folders in it. Defaults to the test data's.
        most (int, optional): How many, drawn evenly; None for all. Defaults to 8.
    """
    dataset = dataset_of(cfg.get('test_dataloader'))
    prefix = dataset.get('data_prefix') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path') or prefix.get('img') or ''
    root = dataset.get('data_root') or ''
    place = Path(folder) if folder else Path(root, prefix)
    found = []
    if folder or root or prefix:
        found = sorted(file for file in place.rglob('*') if file.name.lower().endswith(image_suffixes(cfg)))
    if folder and not found:
        raise InputError(f'there are no images in {folder}', parameter='images')
    return (found if most is None else found[::max(1, len(found) // most)][:most]), place


def images_to_compare_on(cfg: Config, files: Sequence[Path], place: Path, shape: tuple[int, int], channels: int,
                         raw: bool) -> tuple[list[np.ndarray], str]:
    """Images of ``files``, read as the config's test pipeline does, or if there are none generated ones; and in words.

    Each is (H, W) or (H, W, channels), of three channels in RGB, of uint8 or, for a model that takes normalized
    images, float32.

    Raises:
        InputError: If an image cannot be read, has other channels than the model takes, or values that uint8
            has not.
    """
    if files:
        pipeline = ImagePipeline(cfg)
        return ([as_exported(pipeline.read(file)['img'], file, channels, raw) for file in files],
                f'{len(files)} images of {place}')
    size = max(64, *shape)
    generated = (make_sample(0, index, size).image for index in range(COMPARED_IMAGES))
    colours = [i % 3 for i in range(channels)]
    return [image[:, :, colours].squeeze() for image in generated], f'{COMPARED_IMAGES} generated images'


def as_exported(image: np.ndarray, file: Path, channels: int, raw: bool) -> np.ndarray:
    """An image as a pipeline has read it, as an exported model's pipeline takes it."""
    image = image[:, :, 0] if image.shape[2:] == (1, ) else image
    found = image.shape[2] if image.ndim == 3 else 1
    if found != channels:
        raise InputError(f'image {file} has {found} channels, the model takes {channels}: set in_channels of its '
                         'backbone, or color_type of the LoadImageFromFile in the test pipeline')
    image = image[:, :, ::-1] if channels == 3 else image
    if raw:
        return image if image.dtype == np.uint8 else image.astype(np.float32)
    if image.dtype != np.uint8 and not np.array_equal(image, image.astype(np.uint8)):
        raise InputError(f'image {file} has values of {image.dtype} that are none of uint8: only a model that takes '
                         'normalized images can be exported', parameter='raw')
    return image.astype(np.uint8)
