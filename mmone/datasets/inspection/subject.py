"""What the checks look at: a config, its data sets, the files of these, its model."""
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel

from mmone.checkpoints.io import meta_of, read_checkpoint
from mmone.checkpoints.loading import is_remote
from mmone.config import build_model, native_shape, type_name, walk

from .files import Facts
from .reading import Reader, Split


@dataclass
class Subject:
    """What the checks look at.

    Attributes:
        cfg (Config): The config.
        whole (bool): Whether everything is looked at, not what takes a second or two.
        trust (bool): Whether checkpoints may run code.
        reader (Reader): What reads annotations.
        splits (list[Split]): The data sets.
        facts (dict): What is in the files of images and masks that were looked at, by their paths.
    """
    cfg: Config
    whole: bool
    trust: bool
    reader: Reader
    splits: list[Split] = field(default_factory=list)
    facts: dict[str, Facts] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The library of the config."""
        return self.cfg.get('default_scope') or ''

    @property
    def training(self) -> list[Split]:
        """The data sets that are trained on."""
        return [split for split in self.splits if split.training]

    @cached_property
    def model(self) -> BaseModel:
        """The config's model, with random weights. Built when it is first asked for."""
        with warnings.catch_warnings():  # they come again when the training builds it
            warnings.simplefilter('ignore')
            return build_model(self.cfg)

    @cached_property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of what the model is given."""
        height, width = native_shape(self.cfg)
        return width, height

    @property
    def channels(self) -> int:
        """How many channels the model's images have."""
        backbone = self.cfg.model.get('backbone')
        return backbone.get('in_channels', 3) if isinstance(backbone, dict) else 3

    @cached_property
    def checkpoint_classes(self) -> tuple:
        """The names of classes in the checkpoint that is started from; empty if it does not say."""
        path = self.cfg.get('load_from')
        if not path or is_remote(path) or not os.path.isfile(os.path.expanduser(path)):
            return ()
        meta = meta_of(read_checkpoint(os.path.expanduser(path), self.trust)).get('dataset_meta')
        classes = meta.get('classes') or meta.get('CLASSES') if isinstance(meta, dict) else None
        return tuple(classes) if isinstance(classes, (list, tuple)) else ()

    @property
    def work_dir(self) -> Path:
        """The folder that results go to, or the closest above it that there is."""
        folder = Path(self.cfg.get('work_dir') or '.').absolute()
        return next(place for place in (folder, *folder.parents) if place.is_dir())

    @property
    def processes(self) -> int:
        """How many processes train."""
        launched = self.cfg.get('launcher', 'none') != 'none'
        return int(os.environ.get('WORLD_SIZE') or os.environ.get('SLURM_NTASKS') or 1) if launched else 1

    def samples_of_training(self) -> int | None:
        """How many samples an epoch has; None where wrappers or limits leave that open."""
        numbers = {split.key: len(split.samples) if split.complete else None for split in self.training}
        return _length((self.cfg.get('train_dataloader') or {}).get('dataset'), 'train_dataloader.dataset', numbers)

    def iterations(self) -> int | None:
        """How many iterations the whole training has; None if that is open."""
        loop, loader = self.cfg.get('train_cfg') or {}, self.cfg.get('train_dataloader') or {}
        if loop.get('max_iters'):
            return loop['max_iters']
        if loader.get('num_batch_per_epoch') and loop.get('max_epochs'):
            return loop['max_epochs'] * loader['num_batch_per_epoch']
        samples, batch = self.samples_of_training(), loader.get('batch_size')
        if not samples or not batch or not loop.get('max_epochs'):
            return None
        share = -(-samples // self.processes)
        return loop['max_epochs'] * (share // batch if loader.get('drop_last') else -(-share // batch))

    def hooks(self, *kinds: str) -> Iterator[ConfigDict]:
        """The config's hooks of some types."""
        given = [*(self.cfg.get('custom_hooks') or ()), *(self.cfg.get('default_hooks') or {}).values()]
        return (hook for hook in given if isinstance(hook, dict) and type_name(hook) in kinds)

    def metrics(self, loader: str) -> list[tuple[str, ConfigDict]]:
        """The metrics that a loader's results are given to, with their keys."""
        key = loader.replace('_dataloader', '_evaluator')
        given = self.cfg.get(key)
        if isinstance(given, dict) and given.get('metrics'):
            key, given = f'{key}.metrics', given['metrics']
        if isinstance(given, (list, tuple)):
            return [(f'{key}[{index}]', metric) for index, metric in enumerate(given) if isinstance(metric, dict)]
        return [(key, given)] if isinstance(given, dict) else []

    def heads(self) -> Iterator[tuple[str, ConfigDict]]:
        """The model's heads that predict the data set's classes, with their keys."""
        for name in ('head', 'bbox_head', 'mask_head', 'decode_head', 'auxiliary_head', 'roi_head.bbox_head',
                     'roi_head.mask_head'):
            node = self.cfg.model
            for part in name.split('.'):
                node = node.get(part) if isinstance(node, dict) else None
            if isinstance(node, dict):
                yield f'model.{name}', node
            elif isinstance(node, (list, tuple)):
                yield from ((f'model.{name}[{index}]', one) for index, one in enumerate(node) if isinstance(one, dict))

    def has_synced_norms(self) -> bool:
        """Whether BatchNorms share their statistics between processes."""
        return bool(self.cfg.get('sync_bn')) or any(type_name(node) in ('SyncBN', 'MMSyncBN')
                                                    for node in walk(self.cfg.model))

    def forward(self, run, training: bool):
        """Give a model of random weights one image of nothing."""
        width, height = self.input_size
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return run(self.model.train(training), torch.zeros(1, self.channels, height, width))

    def looked_at(self, paths: Iterable[str | None]) -> Iterator[Facts]:
        """The facts of those files that were looked at."""
        return (self.facts[path] for path in paths if path in self.facts)


def _length(node: dict | None, key: str, numbers: dict[str, int | None]) -> int | None:
    if not isinstance(node, dict):
        return None
    if node.get('datasets'):
        parts = [_length(one, f'{key}.datasets[{index}]', numbers) for index, one in enumerate(node['datasets'])]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None
    if node.get('dataset'):
        inner = _length(node['dataset'], f'{key}.dataset', numbers)
        kind = type_name(node)
        if inner is None or kind not in ('RepeatDataset', 'MultiImageMixDataset'):
            return None
        return inner * (node.get('times', 1) if kind == 'RepeatDataset' else 1)
    return numbers.get(key)
