"""What a checkpoint needs to become the state dict of a MobileOne backbone: names, stages, form."""
from __future__ import annotations

from typing import TYPE_CHECKING

from mmengine.logging import print_log
from torch import Tensor

from mmone.checkpoints.sources import recognise, to_mmone
from mmone.errors import InputError

from .archs import ARCHS, STAGES, stage_channels, variant_of

if TYPE_CHECKING:
    from ..blocks import MobileOneBlock
    from .mobileone import MobileOne


def fit_state_dict(backbone: MobileOne, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Bring ``state_dict`` to the backbone's names and form, in place.

    Args:
        backbone (MobileOne): The backbone that will load it.
        state_dict (dict[str, Tensor]): Of a whole model, or of a classifier under ``prefix``.
        prefix (str): The backbone's name in the model with its dot, e.g. ``'backbone.'``.

    Raises:
        InputError: If what it has for the backbone is not all and exactly what the backbone needs.
            The backbone is untouched then.
    """
    _take_classifier(state_dict, prefix)
    names = [key[len(prefix):] for key in state_dict if key.startswith(prefix + 'stage')]
    if not names:
        raise InputError(_describe_absence(state_dict, prefix))
    _drop_stages_not_built(backbone, state_dict, prefix, names)
    _refuse_deployed_for_training(backbone, state_dict, prefix)
    to_fold = _blocks_to_fold(backbone, state_dict, prefix)
    _check(backbone, state_dict, prefix, to_fold)
    for name, block in to_fold.items():
        _fold(block, state_dict, f'{prefix}{name}.')


def _take_classifier(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Where a whole classifier of any source was given, move its backbone to ``prefix``."""
    given = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    source = recognise(given)
    if source is None:
        return
    for key in given:
        del state_dict[prefix + key]
    for key, value in to_mmone(given).items():
        state_dict[prefix + key.removeprefix('backbone.')] = value
    print_log(f"the weights are a classifier's with {source.name}'s names: its backbone is loaded", logger='current')


def _describe_absence(state_dict: dict[str, Tensor], prefix: str) -> str:
    message = f'the checkpoint has no weights for the MobileOne backbone ({prefix}stage0.…)'
    found = next((key for key in state_dict if 'stage0.' in key), None)
    if found is None:
        return message + ': give a MobileOne checkpoint'
    elsewhere = found.partition('stage0.')[0]
    return message + (f' but has {found}: set prefix={elsewhere!r} where it is loaded with '
                      "init_cfg=dict(type='Pretrained', …)")


def _drop_stages_not_built(backbone: MobileOne, state_dict: dict[str, Tensor], prefix: str, names: list[str]) -> None:
    not_built = tuple(f'{stage}.' for stage in STAGES if stage not in backbone.stages)
    dropped = [name for name in names if name.startswith(not_built)]
    for name in dropped:
        del state_dict[prefix + name]
    if dropped:
        print_log(f'{len(dropped)} weights of stages after out_indices={backbone.out_indices}, which are not '
                  'built, are left out', logger='current')


def _refuse_deployed_for_training(backbone: MobileOne, state_dict: dict[str, Tensor], prefix: str) -> None:
    for name, block in backbone.blocks().items():
        weight = f'{prefix}{name}.branch_reparam.weight'
        if not block.deploy and weight in state_dict:
            raise InputError(f'checkpoint has deployed weights ({weight}) but the model is in '
                             'training form: set model.backbone.deploy=True')


def _blocks_to_fold(backbone: MobileOne, state_dict: dict[str, Tensor], prefix: str) -> dict[str, MobileOneBlock]:
    """The deployed blocks that branches are given for, by their names."""
    with_branches = {key.partition('.branch_')[0] for key in state_dict
                     if '.branch_' in key and '.branch_reparam.' not in key}
    return {name: block for name, block in backbone.blocks().items()
            if block.deploy and prefix + name in with_branches}


def _check(backbone: MobileOne, state_dict: dict[str, Tensor], prefix: str,
           to_fold: dict[str, MobileOneBlock]) -> None:
    """Raise InputError unless keys and shapes are those of the backbone with branches in ``to_fold``."""
    own = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    for name, block in to_fold.items():
        del own[f'{name}.branch_reparam.weight'], own[f'{name}.branch_reparam.bias']
        own.update({f'{name}.{key}': shape for key, shape in block.branch_shapes().items()})
    own = {prefix + key: shape for key, shape in own.items()}
    given = {key: tuple(value.shape) for key, value in state_dict.items() if key.startswith(prefix + 'stage')}

    mismatches = {
        # Old checkpoints lack the counters.
        'missing': [key for key in own if key not in given and not key.endswith('num_batches_tracked')],
        'unexpected': [key for key in given if key not in own],
        'wrong shape': [f'{key} {given[key]} where the model has {own[key]}'
                        for key in own if key in given and given[key] != own[key]],
    }
    problems = [f'{label}: {keys[0]}' + (f' and {len(keys) - 1} more' if keys[1:] else '')
                for label, keys in mismatches.items() if keys]
    if problems:
        variant = variant_of({key[len(prefix):]: state_dict[key] for key in given})
        other = variant and stage_channels(ARCHS[variant]) != stage_channels(backbone.arch)
        remedy = f'its widths are those of arch={variant!r}' if other else 'give one of the same arch'
        raise InputError(f'the checkpoint does not fit the MobileOne backbone ({"; ".join(problems)}): {remedy}')


def _fold(block: MobileOneBlock, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Replace the block's branches in ``state_dict`` by its deployed weights."""
    names = [key for key in state_dict if key.startswith(prefix + 'branch_')]
    branches = {name[len(prefix):]: state_dict.pop(name) for name in names}
    state_dict.update({prefix + name: value for name, value in block.fold_state_dict(branches).items()})
