"""What other libraries raise for a user's mistake, told as an :class:`InputError`."""
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mmcv
import mmengine
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmone.compat import built_loops
from mmone.config import DATALOADERS
from mmone.errors import InputError

EVALUATORS = ('val_evaluator', 'test_evaluator')


class SampleError(InputError):
    """A sample that cannot be used: of all ranks, only the one that met it can tell."""
    on_all_ranks = False


@dataclass
class Situation:
    """What is known when something fails: the config, and the runner or data sets once built.

    ``loaders`` are the config's data loaders that are used, in the order they are built in.
    """
    cfg: mmengine.Config
    loaders: tuple[str, ...]
    runner: Runner | None = None
    datasets: dict[str, BaseDataset] = field(default_factory=dict)

    def built_datasets(self) -> dict[str, BaseDataset]:
        return {**self.datasets, **built_datasets(self.runner)}


@contextmanager
def translated(situation: Situation) -> Iterator[None]:
    """Raise InputError in place of what is known to be a user's mistake."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # A DataLoader worker's exception arrives as the same type, with the worker's whole
        # traceback for a message.
        message = str(error)
        if 'in DataLoader worker process' in message:
            message = message.strip().splitlines()[-1].partition(': ')[2]
        for types, pattern, explain in KNOWN_ERRORS:
            match = re.search(pattern, message)
            if types in _type_names(error) and match:
                explanation = explain(match, situation)
                if explanation is not None:
                    raise explanation from error
        raise


def _type_names(error: Exception) -> tuple[str, ...]:
    return tuple(cls.__name__ for cls in type(error).__mro__)


def _missing_file(match: re.Match, situation: Situation) -> InputError | None:
    path = match['path']
    keys = _keys_that_name(path, situation.cfg)
    return InputError(f'{path} does not exist: set {keys[0]} in the config') if keys else None


def _unreadable_image(match: re.Match, situation: Situation) -> InputError:
    return _undecodable(match['path'])


def _undecodable(path: str) -> InputError:
    return SampleError(f'image {path} cannot be decoded: replace it, or remove it from the data set')


def _unreadable_sample(match: re.Match, situation: Situation) -> InputError | None:
    for dataset in situation.built_datasets().values():
        print_log('A sample could not be decoded; looking for its file', logger='current')
        for path in _sample_files(dataset):
            if not _decodes(path):
                return _undecodable(path)
    return None


def _no_samples(match: re.Match, situation: Situation) -> InputError | None:
    for key, dataset in situation.built_datasets().items():
        if len(dataset) == 0:
            return no_samples(key, situation.cfg)
    return None


def _nothing_listed(match: re.Match, situation: Situation) -> InputError | None:
    built = situation.built_datasets()
    building = [key for key in situation.loaders if key not in built and situation.cfg.get(key)]
    return no_samples(building[0], situation.cfg) if building else None


def no_samples(key: str, cfg: mmengine.Config) -> InputError:
    return InputError(f'the data set of {key} has no samples: check its data_root='
                      f'{cfg[key].dataset.get("data_root")!r}, ann_file, data_prefix and filters')


# (exception, pattern of its message, what it means): the first that means something is raised.
KNOWN_ERRORS = (
    ('FileNotFoundError', r"No such file or directory: '(?P<path>.+?)'", _missing_file),
    ('AssertionError', r'Failed to load `ann_file` (?P<path>.+)', _missing_file),  # mmseg
    ('AssertionError', r'failed to load image: (?P<path>.+)', _unreadable_image),  # mmcv
    ('error', r'imdecode', _unreadable_sample),  # OpenCV, an empty file
    ('UnidentifiedImageError', r'', _unreadable_sample),  # Pillow
    ('OSError', r'image file is truncated|broken data stream', _unreadable_sample),  # Pillow
    ('SyntaxError', r'broken PNG|PNG file', _unreadable_sample),  # Pillow
    ('AttributeError', r"'NoneType' object has no attribute '(squeeze|shape|astype)'",
     _unreadable_sample),  # what mmcv.imfrombytes gave
    ('ValueError', r'need at least one array to concatenate', _nothing_listed),  # BaseDataset
    ('AssertionError', r'', _no_samples),  # a scheduler that counts iterations of no data
)


def _keys_that_name(path: str, cfg: mmengine.Config) -> list[str]:
    """Keys of ``cfg`` whose file or folder is ``path`` or above it, the closest first."""
    found: list[tuple[int, str]] = []

    def visit(node, key, root):
        if isinstance(node, dict):
            own_root = node.get('data_root') or root
            for name, value in node.items():
                # A transform's paths are not the data set's.
                if name != 'pipeline':
                    visit(value, f'{key}.{name}', '' if name == 'data_root' else own_root)
        elif isinstance(node, (list, tuple)):
            for index, value in enumerate(node):
                visit(value, f'{key}[{index}]', root)
        elif isinstance(node, str) and node:
            place = Path(os.path.abspath(os.path.join(root, node)))
            if place == missing or place in missing.parents:
                found.append((-len(place.parts), key))

    missing = Path(os.path.abspath(path))
    for name in DATALOADERS + EVALUATORS:
        if cfg.get(name):
            visit(cfg[name], name, '')
    return [key for _, key in sorted(found, key=lambda item: item[0])]


def built_datasets(runner: Runner | None) -> dict:
    """The data sets that ``runner`` has built so far, by the config key of their loader."""
    loops = built_loops(runner) if runner is not None else {}
    return {f'{phase}_dataloader': loop.dataloader.dataset for phase, loop in loops.items()}


def _sample_files(dataset: BaseDataset) -> Iterator[str]:
    """Images and masks that ``dataset`` lists, those of wrapped data sets included."""
    if hasattr(dataset, 'get_data_info'):
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            for key in ('img_path', 'seg_map_path'):
                if info.get(key):
                    yield info[key]


def _decodes(path: str) -> bool:
    try:
        for backend in ('pillow', 'cv2'):
            if mmcv.imread(path, flag='unchanged', backend=backend) is None:
                return False
    except Exception:  # whatever a decoder raises
        return False
    return True
