"""Models under the 15 corruptions of ImageNet-C, each at five severities, on a config's test set.

The protocol is that of ImageNet-C (arXiv 1903.12261) for classifiers and of its successor (arXiv 1907.07484) for
detectors, which segmentors share: classifiers see the corruption of what the pipeline has cropped, since ImageNet-C is
made of crops, the others that of the whole image.
"""
import copy
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from PIL import Image
from torch.utils.data import DataLoader

from mmone.apis import get_model
from mmone.checkpoints.loading import is_remote
from mmone.config import dataset_of, load_config, set_collate
from mmone.datasets.corrupt import CORRUPTIONS, SEVERITIES, Corrupt
from mmone.devices import computing_on
from mmone.engine.launch import prepare, running
from mmone.engine.test import check_task
from mmone.errors import InputError
from mmone.experiments.corruption_error import CLEAN, Cell
from mmone.export.exported import ExportedModel
from mmone.files import sha256, written_whole
from mmone.pipeline import split
from mmone.runtime import is_exported
from mmone.zoo import root

RESULTS, EXAMPLE = 'results.json', 'example.png'
# The figure of each task's usual metric, and what brings it to percent. The first that an evaluator gives is taken.
FIGURES = {'accuracy/top1': 1.0, 'coco/bbox_mAP': 100.0, 'pascal_voc/mAP': 100.0, 'mIoU': 1.0}


class Progress(NamedTuple):
    """How far an evaluation is.

    Attributes:
        done (int): Cells evaluated so far, by earlier runs too.
        total (int): Cells in all.
        text (str): What has just been done.
        seconds (float): How long the rest will take, if all cells take as long as those so far.
    """
    done: int
    total: int
    text: str
    seconds: float


@dataclass
class Results:
    """What was evaluated of a test set, kept in a folder.

    Args:
        folder (Path): Has it as :data:`RESULTS`.
        test_set (str): A digest of what configs say of the test set and its evaluator.
        images (int): How many images the test set has.
        classes (int): How many classes.
        figure (str): One of :data:`FIGURES`.
        weights (dict): By a model's name, a digest of its file and of how its images are prepared.
        cells (dict): By a model's name, then by ``'clean'``, ``'fog/3'`` or the name of another test set, the
            evaluator's figures.
    """
    folder: Path
    test_set: str = ''
    images: int = 0
    classes: int = 0
    figure: str = ''
    weights: dict[str, str] = field(default_factory=dict)
    cells: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> 'Results':
        """What a folder has; nothing if it has none.

        Raises:
            InputError: If its file is something else.
        """
        path = folder / RESULTS
        if not path.exists():
            return cls(folder)
        try:
            return cls(folder, **json.loads(path.read_text(encoding='utf-8')))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f'{path} has no results of mmone robustness ({error}): give another folder',
                             parameter='out') from None

    def save(self) -> None:
        kept = {key: value for key, value in vars(self).items() if key != 'folder'}
        with written_whole(self.folder / RESULTS) as made:
            made.write_text(json.dumps(kept, indent=1) + '\n', encoding='utf-8')

    def percent(self, model: str) -> dict[Cell, float]:
        """A model's figure in percent, by corruption and severity; :data:`CLEAN` is without."""
        return {cell: value for name, value in self._percent(model).items() if (cell := _cell_of(name))}

    def sets(self, model: str) -> dict[str, float]:
        """A model's figure in percent, by the names of other test sets."""
        return {name: value for name, value in self._percent(model).items() if not _cell_of(name)}

    def _percent(self, model: str) -> dict[str, float]:
        return {name: figures[self.figure] * FIGURES[self.figure] for name, figures in self.cells[model].items()}


def _name_of(cell: Cell) -> str:
    return '/'.join(map(str, cell)) if cell != CLEAN else 'clean'


def _cell_of(name: str) -> Cell | None:
    corruption, slash, severity = name.partition('/')
    return (corruption, int(severity)) if slash else CLEAN if name == 'clean' else None


def evaluate(config: str,
             models: Sequence[str],
             folder: str | Path,
             corruptions: Sequence[str] = CORRUPTIONS,
             severities: Sequence[int] = SEVERITIES,
             sets: Sequence[str] = (),
             cfg_options: Sequence[str] = (),
             trust: bool = False,
             listen: Callable[[Progress], None] = lambda progress: None) -> Results:
    """Evaluate models with and without corruptions.

    All models see the same corrupted images, which are made once. Each corruption and severity is kept when it is
    evaluated, and what the folder has already is not evaluated again; models of another config with the same test
    set can be added later.

    Args:
        config (str): The config file, of a classifier, detector or segmentor.
        models (Sequence[str]): Checkpoints of the config's model, which is deployed, and exported files.
        folder (str | Path): Where the results are kept; made if it is not there.
        corruptions (Sequence[str]): Defaults to all 15.
        severities (Sequence[int]): Defaults to 1 to 5.
        sets (Sequence[str]): Configs of other test sets to evaluate on without corruptions: files, or names of those
            in ``configs/_base_/datasets``. One whose ``data_prefix`` has ``{corruption}`` and ``{severity}`` in it has
            corrupted images in files, which are evaluated in place of those that are made. Defaults to none.
        cfg_options (Sequence[str]): Overrides as ``key=value``.
        trust (bool): Load checkpoints that can run code. Defaults to False.
        listen (Callable): Is given a :class:`Progress` when the models are loaded, and after each cell.

    Returns:
        Results: All that the folder has.

    Raises:
        InputError: For what a user can mend.
    """
    cfg = prepare(config, None, cfg_options, 'none')
    _check_test(cfg, config)
    others = {Path(name).stem: _test_set(name, cfg) for name in sets}
    corrupted = next((other for other in others.values() if _has_corruptions(other)), cfg)
    asked: dict[str, tuple[Config, dict]] = {'clean': (cfg, cfg.test_dataloader)}
    asked |= {name: (other, other.test_dataloader) for name, other in others.items() if not _has_corruptions(other)}
    asked |= {_name_of((corruption, severity)): (corrupted, corrupted_loader(corrupted, corruption, severity))
              for corruption in corruptions for severity in severities}

    if corrupted is cfg:
        for corruption in corruptions:
            for severity in severities:
                Corrupt(corruption, severity)  # raises what is wrong before anything is computed
    results = Results.read(Path(folder))
    _admit(results, cfg, models, None if corrupted is cfg else corrupted.test_dataloader)
    missing = {name: lacking for name in asked
               if (lacking := [model for model in models if name not in results.cells[model]])}
    set_multi_processing(**(cfg.get('env_cfg') or {}).get('mp_cfg') or {})
    with running(cfg, ('test_dataloader', ), trust) as situation:
        nets = {model: _load(cfg, model, trust) for model in models if any(model in some for some in missing.values())}
        done, started = len(asked) - len(missing), time.monotonic()
        text = f'models loaded: {len(nets)}' if nets else 'everything was evaluated before'
        listen(Progress(done, len(asked), text, 0.0))
        for count, (name, lacking) in enumerate(missing.items(), 1):
            test, loader_cfg = asked[name]
            # Workers, if any, are started anew each time: those of one corruption have nothing for the next.
            loader = Runner.build_dataloader({**loader_cfg, 'persistent_workers': False}, seed=0)
            dataset: Any = loader.dataset
            situation.add('test_dataloader', dataset)
            found = _evaluate(loader, test.test_evaluator, {model: nets[model] for model in lacking})
            results.figure = _figure(found[lacking[0]], results.figure)
            for model, figures in found.items():
                results.cells[model][name] = figures
            if name == 'clean':
                results.images, results.classes = len(dataset), len(dataset.metainfo.get('classes') or ())
                if corrupted is cfg and corruptions:
                    _keep(dataset[0]['inputs'], results.folder / EXAMPLE)
            results.save()
            rest = (time.monotonic() - started) / count * (len(missing) - count)
            shown = ', '.join(f'{found[model][results.figure] * FIGURES[results.figure]:.2f}' for model in lacking)
            listen(Progress(done + count, len(asked), f'{name}: {shown}', rest))
    return results


def corrupted_loader(cfg: Config, corruption: str, severity: int) -> ConfigDict:
    """A config's ``test_dataloader`` with a corruption, which its pipeline makes unless there are files of it."""
    loader = copy.deepcopy(cfg.test_dataloader)
    dataset = dataset_of(loader)
    if _has_corruptions(cfg):
        dataset.data_prefix = dataset.data_prefix.format(corruption=corruption, severity=severity)
        return loader
    pipeline, readers = dataset.pipeline, split(cfg)[0]
    behind = len(pipeline) - 1 if cfg.get('default_scope') == 'mmpretrain' else (
        pipeline.index(readers[-1]) + 1 if readers else 0)
    pipeline.insert(behind, ConfigDict(type='mmone.Corrupt', corruption=corruption, severity=severity))
    return loader


def _has_corruptions(cfg: Config) -> bool:
    """Whether a test set's corrupted images are in files."""
    return '{corruption}' in str(dataset_of(cfg.test_dataloader).get('data_prefix'))


def _check_test(cfg: Config, name: str) -> None:
    for key in ('test_dataloader', 'test_evaluator'):
        if not cfg.get(key):
            raise InputError(f'config {name} has no {key} to test by')


def _test_set(name: str, cfg: Config) -> Config:
    """Another test set for the model of ``cfg``."""
    own = root() / 'configs' / '_base_' / 'datasets'
    path = Path(name) if Path(name).exists() else own / f'{name}.py'
    if not path.is_file():
        there = sorted(path.stem for path in own.glob('imagenet_*.py'))
        raise InputError(f'there is no test set {name}: give a config file, or one of {", ".join(there)}',
                         parameter='sets')
    other = load_config(str(path))
    _check_test(other, str(path))
    folder = dataset_of(other.test_dataloader).get('data_root') or '.'
    if '://' not in folder and not Path(folder).is_dir():
        raise InputError(f'test set {name} has no folder {folder}: unpack its archive there, or give a config with '
                         'another data_root', parameter='sets')
    other.default_scope = cfg.get('default_scope')
    set_collate(other)
    return other


def _admit(results: Results, cfg: Config, models: Sequence[str], files: dict | None) -> None:
    """Give models a place in the results; raise InputError where these are of something else.

    ``files`` is the loader of the corrupted images that are in files, if they are.
    """
    dataset = copy.deepcopy(cfg.test_dataloader.dataset)
    pipeline = dataset_of(dict(dataset=dataset)).pop('pipeline', None)
    test_set = _digest(dataset, cfg.test_evaluator, files)
    if results.test_set not in ('', test_set):
        raise InputError(f'{results.folder} has results of another test set, or of other corruptions: give another '
                         'folder', parameter='out')
    results.test_set = test_set
    for model in models:
        if not Path(model).exists() and not is_remote(model):
            raise InputError(f'{model} does not exist: expected a checkpoint or an exported model')
        if is_exported(model):
            check_task(cfg, model)
        weights = _digest(sha256(model) if Path(model).is_file() else model, pipeline)
        if results.weights.setdefault(model, weights) != weights:
            raise InputError(f'{results.folder} has results of another {model}, or of one whose images were prepared '
                             'otherwise: give another folder', parameter='out')
        results.cells.setdefault(model, {})
    results.folder.mkdir(parents=True, exist_ok=True)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _load(cfg: Config, model: str, trust: bool) -> BaseModel:
    if is_exported(model):
        return ExportedModel(model, cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')).eval()
    return get_model(cfg, model, trust=trust)


def _evaluate(loader: DataLoader, evaluator: Any, nets: dict[str, BaseModel]) -> dict[str, dict[str, float]]:
    """The figures of each model, of the same images."""
    dataset: Any = loader.dataset
    evaluators = {}
    for model in nets:
        evaluators[model] = Evaluator(copy.deepcopy(evaluator))
        evaluators[model].dataset_meta = dataset.metainfo
    with torch.no_grad():
        for batch in loader:
            for model, net in nets.items():
                own = copy.deepcopy(batch)  # models write into the samples
                with computing_on(net.data_preprocessor.device):
                    samples = net.test_step(own)
                evaluators[model].process(samples, own)
    with _silent():
        return {model: {name: float(value) for name, value in one.evaluate(len(dataset)).items()
                        if isinstance(value, Real)} for model, one in evaluators.items()}


@contextmanager
def _silent() -> Iterator[None]:
    """No table of each class for each corruption, from the evaluators' logger and from pycocotools."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _keep(inputs: torch.Tensor, path: Path) -> None:
    """Write an image, (3, H, W) in BGR or (1, H, W), for the report to show what the corruptions are."""
    image = inputs.numpy()[::-1].transpose(1, 2, 0)
    with written_whole(path) as made:
        Image.fromarray(image.squeeze()).save(made)


def _figure(figures: dict[str, float], known: str) -> str:
    """Which figure is shown: the one that is known already, or the first of :data:`FIGURES`."""
    found = next((name for name in ([known] if known else FIGURES) if name in figures), None)
    if found is None:
        raise InputError(f'the test_evaluator of the config gives {", ".join(figures) or "nothing"}: expected '
                         f'{known or " or ".join(FIGURES)}')
    return found
