"""The ablations of the MobileOne paper as one table: what is changed in a classifier's config, row by row.

Beside each row stands what the paper has for it on ImageNet (https://arxiv.org/abs/2206.04040v2).
"""
import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from mmone.config import dataset_of, several, type_name
from mmone.errors import InputError
from mmone.models.backbones.archs import STAGES, check_arch


class Row(NamedTuple):
    """A row of an ablation.

    Attributes:
        label (str): Its name.
        change (Callable): Changes a config in place; returns whether there was something to change.
        paper (str): What the paper has for it. Defaults to nothing.
    """
    label: str
    change: Callable[[Config], bool]
    paper: str = ''


class Ablation(NamedTuple):
    """What is varied, and its rows, the first of which the others are compared with."""
    title: str
    rows: Sequence[Row]


def _as_it_is(cfg: Config) -> bool:
    return True


def _backbone(k: int | None = None, se: bool = False, **arguments: Any) -> Callable[[Config], bool]:
    """Set arguments of the backbone; ``k`` and ``se`` are those of all blocks, in the arch."""

    def change(cfg: Config) -> bool:
        arch = dict(check_arch(cfg.model.backbone.get('arch', 's0')))
        if k is not None:
            arch['num_conv_branches'] = (k, ) * len(STAGES)
        if se:
            arch['num_se_blocks'] = arch['num_blocks']
        cfg.model.backbone.update(copy.deepcopy(arguments), arch=arch)
        return True

    return change


def _without(key: str, matches: Callable[[ConfigDict], bool]) -> Callable[[Config], bool]:
    """Leave entries out of one of the config's lists."""

    def change(cfg: Config) -> bool:
        given = several(cfg.get(key))
        cfg[key] = [entry for entry in given if not matches(entry)]
        return len(cfg[key]) < len(given)

    return change


def _is(kind: str, entry: ConfigDict) -> bool:
    return type_name(entry) == kind


def _anneals_weight_decay(entry: ConfigDict) -> bool:
    return entry.get('param_name') == 'weight_decay'


def _without_curriculum(cfg: Config) -> bool:
    """Train by the curriculum's last pipeline from the start."""
    switch = next((hook for hook in cfg.get('custom_hooks') or [] if _is('SwitchRecipeHook', hook)), None)
    if switch is None:
        return False
    pipelines = [step.pipeline for step in switch.schedule if step.get('pipeline')]
    if pipelines:
        dataset_of(cfg.train_dataloader).pipeline = pipelines[-1]
    return _without('custom_hooks', partial(_is, 'SwitchRecipeHook'))(cfg)


def _without_label_smoothing(cfg: Config) -> bool:
    loss = cfg.model.head.get('loss') or {}
    smoothed = type_name(loss) == 'LabelSmoothLoss'
    if smoothed:
        cfg.model.head.loss = dict(type='CrossEntropyLoss', loss_weight=loss.get('loss_weight', 1.0))
    return smoothed


# The paper's Table 8, of S2's training, is not public, but that annealing is worth 0.5; rows here leave one out each.
# Its Table 4 has other networks than MobileOne with its rivals' blocks.
ABLATIONS = {
    'branches': Ablation('Train-time branches (Table 5)', (
        Row('with', _as_it_is, 'S0 71.4, S1 75.9, S3 78.1'),
        Row('without', _backbone(k=1, use_scale=False, use_skip=False), 'S0 69.6, S1 74.6, S3 77.2'))),
    'k': Ablation('Number k of convolution branches (Table 6)', tuple(
        Row(f'k={k}', _backbone(k=k), f'S0 {s0}, S1 {s1}') for k, s0, s1 in (
            (1, 70.9, 75.9), (2, 70.7, 75.7), (3, 71.3, 75.6), (4, 71.4, 75.6), (5, 71.1, 75.2)))),
    'scale-skip': Ablation('Scale and skip branches', (
        Row('both', _backbone(use_scale=True, use_skip=True)),
        Row('scale', _backbone(use_scale=True, use_skip=False)),
        Row('skip', _backbone(use_scale=False, use_skip=True)),
        Row('none', _backbone(use_scale=False, use_skip=False)))),
    'settings': Ablation('Train settings, each left out (Table 8)', (
        Row('all', _as_it_is, 'S2 77.4'),
        Row('no weight-decay annealing', _without('param_scheduler', _anneals_weight_decay), 'S2: 0.5 lower'),
        Row('no EMA', _without('custom_hooks', partial(_is, 'EMAHook'))),
        Row('no curriculum', _without_curriculum),
        Row('no label smoothing', _without_label_smoothing))),
    'activation': Ablation('Activation', (
        Row('ReLU', _backbone(act_cfg=dict(type='ReLU', inplace=True))),
        Row('GELU', _backbone(act_cfg=dict(type='GELU'))),
        Row('SiLU', _backbone(act_cfg=dict(type='SiLU'))),
        Row('SE-ReLU', _backbone(se=True)))),
    'rivals': Ablation("Branches of MobileOne's rivals (Table 4)", (
        Row('mobileone', _backbone(branches='mobileone')),
        Row('repvgg', _backbone(k=1, branches='mobileone'), 'RepVGG-A0 72.4, A1 74.5, B0 75.1'),
        Row('acnet', _backbone(branches='acnet'), 'MobileNetV1 72.1, ResNet-18 71.1'),
        Row('dbb', _backbone(branches='dbb'), 'MobileNetV1 72.9, ResNet-18 71.0'),
        Row('expandnet', _backbone(branches='expandnet'), 'MobileNetV1 69.4'))),
}


def find_ablation(name: str) -> Ablation:
    """An ablation by its name; raises InputError that lists the names for one that is unknown."""
    if name not in ABLATIONS:
        raise InputError(f'unknown ablation {name!r}: expected one of {", ".join(ABLATIONS)}')
    return ABLATIONS[name]


def row_configs(ablation: Ablation, cfg: Config) -> dict[Row, Config]:
    """The config of each row, without those of which the config has nothing to leave out.

    Beside the changes of the row, every epoch leaves a checkpoint to go on from, the training loss that is logged is
    the mean of the epoch until then, and a validation has a loss too.

    Args:
        ablation (Ablation): From :data:`ABLATIONS`.
        cfg (Config): A classifier's with a MobileOne that trains from scratch by epochs; left as it is.

    Raises:
        InputError: If it is another.
    """
    _check(cfg)
    found = {}
    for row in ablation.rows:
        changed = copy.deepcopy(cfg)
        if not row.change(changed):
            continue
        changed.merge_from_dict({
            'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best=None),
            'default_hooks.logger': dict(type='LoggerHook', ignore_last=False),
            'log_processor.custom_cfg': [dict(data_src='loss', method_name='mean', window_size='epoch')]})
        changed.val_evaluator = [*several(changed.val_evaluator), dict(type='mmone.CrossEntropy')]
        found[row] = changed
    return found


def _check(cfg: Config) -> None:
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    evaluators = several(cfg.get('val_evaluator'))
    if type_name(backbone) != 'MobileOne' or not any(_is('Accuracy', one) for one in evaluators):
        raise InputError(f'config {cfg.filename} has no classifier with a MobileOne whose Accuracy is validated: '
                         'ablations compare top-1')
    if cfg.get('load_from') or backbone.get('deploy') or _is('Pretrained', backbone.get('init_cfg') or {}):
        raise InputError(f'config {cfg.filename} starts from weights, or from the deployed form: ablations train '
                         'blocks of other branches from scratch')
    if not (cfg.get('train_cfg') or {}).get('max_epochs'):
        raise InputError(f'config {cfg.filename} has no train_cfg.max_epochs: ablations train by epochs')
