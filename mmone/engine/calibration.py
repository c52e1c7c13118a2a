"""Fused weights given branches for the training that a config describes."""
from collections.abc import Iterator, Sequence
from itertools import islice

from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed
from mmengine.utils import track_iter_progress
from torch import Tensor

from mmone.config import type_name, walk
from mmone.deploy import expand
from mmone.errors import InputError
from mmone.models import MobileOne

from .runner import load_config, set_collate
from .translate import Situation, translated


def training_images(config: str, batches: int, options: Sequence[str] = ()) -> Iterator[Tensor]:
    """Batches of a config's training data, augmented and normalized as in training.

    Args:
        config (str): The config file, of any task.
        batches (int): How many, or as many as an epoch has.
        options (Sequence[str]): Overrides as ``key=value``.

    Yields:
        Tensor: (N, C, H, W).

    Raises:
        InputError: If the config has no training data, or they cannot be read.
    """
    cfg = load_config(config, options)
    if not cfg.get('train_dataloader'):
        raise InputError(f'config {config} has no train_dataloader to take images from')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    set_random_seed(0)
    set_collate(cfg)
    situation = Situation(cfg, ('train_dataloader', ))
    with translated(situation):
        # As mmengine's runner does; the model knows the default type of its library's.
        cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
        preprocessor = MODELS.build(cfg.model).data_preprocessor
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        situation.datasets['train_dataloader'] = loader.dataset
        count = min(batches, len(loader))
        for batch in track_iter_progress((islice(loader, count), count)):
            yield preprocessor(batch, training=True)['inputs']


def expand_for(config: str, backbone: MobileOne, batches: int,
               options: Sequence[str] = ()) -> tuple[MobileOne, int]:
    """Give a deployed backbone branches whose statistics are those that a training will see.

    Args:
        config (str): The training's config file, of any task: its images, and its backbone's
            strides and dilations, on which the statistics depend too.
        backbone (MobileOne): Deployed; it is left as it is.
        batches (int): How many, or as many as an epoch has.
        options (Sequence[str]): Overrides as ``key=value``.

    Returns:
        tuple[MobileOne, int]: In training form, and how many images the statistics are of.

    Raises:
        InputError: If the config has no training data, or they cannot be read.
    """
    cfg = load_config(config, options)
    own = next((node for node in walk(cfg.model) if type_name(node) == 'MobileOne'), {})
    places = {key: own[key] for key in ('strides', 'dilations') if key in own}
    expanded = MobileOne(backbone.arch, backbone.in_channels, deploy=True, **places)
    expanded.load_state_dict(backbone.state_dict())
    return expanded, expand(expanded, training_images(config, batches, options))
