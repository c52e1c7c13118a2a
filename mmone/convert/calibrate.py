"""Fused weights given branches for the training that a config describes."""
import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from mmone.config import build_model, default_scope, set_collate, type_name, walk
from mmone.errors import InputError
from mmone.models import MobileOne

from .expand import expand


def training_loader(cfg: Config) -> DataLoader:
    """The data loader of a config's training.

    Raises:
        InputError: If the config has no training data.
    """
    if not cfg.get('train_dataloader'):
        raise InputError(f'config {cfg.filename} has no train_dataloader to take images from')
    cfg = copy.deepcopy(cfg)
    set_collate(cfg)
    with default_scope(cfg):
        return Runner.build_dataloader(cfg.train_dataloader, seed=0)


def training_images(cfg: Config, loader: DataLoader, batches: int) -> Iterator[Tensor]:
    """Batches of a config's training data, augmented and normalized as in training.

    Always the same ones: random numbers are drawn from a state of its own, and what the caller draws
    between two batches does not depend on it.

    Args:
        cfg (Config): Of any task.
        loader (DataLoader): From :func:`training_loader`.
        batches (int): How many, or as many as an epoch has.

    Yields:
        Tensor: (N, C, H, W).
    """
    preprocessor = build_model(cfg).data_preprocessor
    state = _RandomState(seed=0)
    with state.in_use(), default_scope(cfg):
        iterator = iter(loader)
    for _ in range(min(batches, len(loader))):
        with state.in_use(), default_scope(cfg):
            images = preprocessor(next(iterator), training=True)['inputs']
        yield images


def expand_for(cfg: Config, backbone: MobileOne, images: Iterable[Tensor]) -> tuple[MobileOne, int]:
    """Give a deployed backbone branches whose statistics are those that a training will see.

    Args:
        cfg (Config): The training's, of any task: the statistics depend on its backbone's strides
            and dilations too.
        backbone (MobileOne): Deployed; it is left as it is.
        images (Iterable[Tensor]): From :func:`training_images`.

    Returns:
        tuple[MobileOne, int]: In training form, and how many images the statistics are of.

    Raises:
        InputError: If there are no images.
    """
    own = next((node for node in walk(cfg.model) if type_name(node) == 'MobileOne'), ConfigDict())
    places = {key: own[key] for key in ('strides', 'dilations', 'stem_stride', 'branches') if key in own}
    with torch.device('meta'):  # draws no initial values
        expanded = MobileOne(backbone.arch, backbone.in_channels, deploy=True, **places)
    expanded.to_empty(device='cpu')
    expanded.load_state_dict(backbone.state_dict())
    return expanded, expand(expanded, images)


class _RandomState:
    """Random numbers of Python, NumPy and PyTorch that nobody else draws from."""

    def __init__(self, seed: int):
        self._own = (random.Random(seed).getstate(), np.random.RandomState(seed).get_state(),
                     torch.Generator().manual_seed(seed).get_state())

    @contextmanager
    def in_use(self) -> Iterator[None]:
        outside = self._get()
        self._set(self._own)
        try:
            yield
        finally:
            self._own = self._get()
            self._set(outside)

    @staticmethod
    def _get() -> tuple:
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    @staticmethod
    def _set(state: tuple) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
