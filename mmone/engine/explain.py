"""What other libraries raise for a user's mistake, told as an :class:`InputError`."""
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmengine
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.runner import Runner

from mmone import devices
from mmone.compat import built_loops
from mmone.config import DATALOADERS
from mmone.errors import InputError
from mmone.runtime.images import check_size

EVALUATORS = ('val_evaluator', 'test_evaluator')


class SampleError(InputError):
    """A sample that cannot be used: of all ranks, only the one that met it can tell."""
    on_all_ranks = False


class LostProcessError(InputError):
    """Another process of the run has gone: of all ranks, each that is left says so."""
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

    def add(self, key: str, dataset: BaseDataset) -> None:
        """Tell of a data set that was built without a runner."""
        name_broken_files(dataset)
        self.datasets[key] = dataset

    def built_datasets(self) -> dict[str, BaseDataset]:
        return {**self.datasets, **built_datasets(self.runner)}


@contextmanager
def translated(situation: Situation) -> Iterator[None]:
    """Raise InputError in place of what is known to be a user's mistake; anything else as it is, at once."""
    try:
        yield
    except Exception as error:
        explanation = _explanation(error, situation)
        if explanation is None:
            raise
        raise explanation from error


def _explanation(error: Exception, situation: Situation) -> InputError | None:
    """An InputError for what is known to be a user's mistake; None for one that needs no explanation."""
    # A DataLoader worker's exception arrives as the same type, with the worker's whole traceback
    # for a message.
    message, of_worker = str(error), 'in DataLoader worker process' in str(error)
    if isinstance(error, InputError):
        return _without_traceback(error) if of_worker else None
    if of_worker:
        message = message.strip().splitlines()[-1].partition(': ')[2]
    for types, pattern, explain in KNOWN_ERRORS:
        match = re.search(pattern, message)
        if types in _type_names(error) and match:
            explanation = explain(match, situation)
            if explanation is not None:
                return explanation
    return devices.explain(error, get_device())


def _without_traceback(error: InputError) -> InputError:
    """A worker's InputError as the worker raised it."""
    kind = type(error)
    message = error.message.rpartition(f'{kind.__module__}.{kind.__qualname__}: ')[2].strip()
    match = re.fullmatch(r"(.*) \(parameter '(\w+)'\)", message, re.DOTALL)
    return kind(*match.groups()) if match else kind(message)


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


def _sizes_in_a_batch(match: re.Match, situation: Situation) -> InputError:
    loaders = ' and '.join(key for key in situation.loaders if key != 'train_dataloader')
    return InputError('images of several sizes are in one batch, which mmsegmentation tests in one size only: set '
                      f'batch_size=1 in {loaders}')


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


def _lost_process(match: re.Match, situation: Situation) -> InputError:
    return LostProcessError(f'another process of this run ended or cannot be reached any more ({match[0]}): its own '
                            'log says why; then start all processes again, a training with --resume')


# (exception, pattern of its message, what it means): the first that means something is raised.
KNOWN_ERRORS = (
    ('FileNotFoundError', r"No such file or directory: '(?P<path>.+?)'", _missing_file),
    ('AssertionError', r'Failed to load `ann_file` (?P<path>.+)', _missing_file),  # mmseg
    ('AssertionError', r'failed to load image: (?P<path>.+)', _unreadable_image),  # mmcv
    ('AssertionError', r'image size in a batch should be the same', _sizes_in_a_batch),  # mmseg
    ('ValueError', r'need at least one array to concatenate', _nothing_listed),  # BaseDataset
    ('RuntimeError', r'Connection (closed|reset|refused) by peer( \[.*?\])?|Timed out waiting .*? to complete|'
     r'remote process exited or there was a network error|Broken pipe', _lost_process),  # gloo's and NCCL's words
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


def name_broken_files(dataset: Any) -> None:
    """Let a data set, and those that it wraps, name the file of a sample that cannot be decoded.

    Of the sample that failed only the data set knows it, in whichever process that is: what arrives from a
    DataLoader's worker is a text.
    """
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None:
            name_broken_files(inner)
    if hasattr(dataset, 'prepare_data') and 'prepare_data' not in vars(dataset):
        dataset.prepare_data = _NamesBrokenFiles(dataset)


class _NamesBrokenFiles:
    """A data set's ``prepare_data`` that raises SampleError for a file that cannot be decoded.

    A class, so that it goes by pickle to workers that are not forked.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __call__(self, *args, **kwargs):
        try:
            return type(self.dataset).prepare_data(self.dataset, *args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            for path in _files_being_loaded(error):
                _check_decodes(path, error)
            raise


def _files_being_loaded(error: Exception) -> list[str]:
    """The files of a sample whose loading failed; none if it was something else that failed."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        loader, sample = (frame.f_locals.get(name) for name in ('self', 'results'))
        if 'Load' in type(loader).__name__ and isinstance(sample, dict):  # OpenMMLab calls its loaders so
            return [path for key, path in sample.items()
                    if str(key).endswith('_path') and isinstance(path, str) and os.path.isfile(path)]
    return []


def _check_decodes(path: str, error: Exception) -> None:
    """Raise SampleError if a file is no image to one of the libraries that read them."""
    import mmcv  # here, because whoever trains with mmengine alone has none
    content = Path(path).read_bytes()
    try:
        check_size(content, path)
    except InputError as too_large:
        raise SampleError(too_large.message) from error
    for backend in ('pillow', 'cv2'):
        try:
            decoded = mmcv.imfrombytes(content, flag='unchanged', backend=backend) is not None
        except Exception:  # whatever a decoder raises
            decoded = False
        if not decoded:
            raise _undecodable(path) from error
