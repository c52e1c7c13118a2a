"""What a checkpoint needs to become the state dict of a MobileOne backbone: names, stages, form."""
from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmengine.logging import print_log
from torch import Tensor

from mmone.checkpoints.io import WRAPPERS
from mmone.checkpoints.loading import is_initializing
from mmone.checkpoints.sources import MMPRETRAIN, find, taken_from, task_of, the_one
from mmone.errors import InputError

from .archs import ARCHS, STAGES, stage_channels, variant_of

if TYPE_CHECKING:
    from ..blocks import MobileOneBlock
    from .mobileone import MobileOne

# The names of a MobileOne's own weights. What else people have put into a backbone, such as adapters, is theirs.
_OWN = re.compile(r'stage\d+\.(?:\d+\.)?(?:branch_(?:conv_list|scale|norm|chains|reparam)|se\.conv[12])\.')
_HEADS = re.compile(r'(?:head|linear|classifier|fc|neck)\.')


def fit_state_dict(backbone: MobileOne, state_dict: dict[str, Tensor], prefix: str, whole: dict[str, Tensor],
                   strict: bool) -> None:
    """Bring ``state_dict`` to the backbone's names and form, in place.

    One that has nothing for the backbone is left to PyTorch, which says what is missing, and takes it where
    it is not strict: a head alone, or an adapter.

    Args:
        backbone (MobileOne): The backbone that will load it.
        state_dict (dict[str, Tensor]): Of a whole model, or of a classifier under ``prefix``.
        prefix (str): The backbone's name in the model with its dot, e.g. ``'backbone.'``.
        whole (dict[str, Tensor]): All that the file has from which it is loaded; empty if that is not known.
        strict (bool): Whether other networks' weights are an error where the backbone is all there is.

    Raises:
        InputError: If it has weights of a MobileOne, but not all and exactly what the backbone needs: of the
            other form, of another arch, a part of them, or under another name; or those of another network.
            The backbone is untouched then.
    """
    _take(state_dict, prefix)
    names = [key[len(prefix):] for key in state_dict if key.startswith(prefix) and _OWN.match(key[len(prefix):])]
    if not names:
        _refuse_others(backbone, state_dict, prefix, whole, strict)
        return
    _drop_stages_not_built(backbone, state_dict, prefix, names)
    _refuse_deployed_for_training(backbone, state_dict, prefix)
    to_fold = _blocks_to_fold(backbone, state_dict, prefix)
    _check(backbone, state_dict, prefix, to_fold)
    for name, block in to_fold.items():
        _fold(block, state_dict, f'{prefix}{name}.')


def refuse_left_over(state_dict: dict[str, Tensor]) -> None:
    """Raise InputError if a backbone is to load a whole model strictly: its head has no place there."""
    place = None if any(_OWN.match(key) for key in state_dict) else the_one(find(state_dict))
    left = [key for key in taken_from(state_dict, place) if not key.startswith('backbone.')] if place else []
    if left:
        raise InputError(f'the weights are those of a whole model, and {left[0]} has no place in a backbone: load '
                         'them with strict=False, or into the whole model')


def _take(state_dict: dict[str, Tensor], prefix: str) -> None:
    """Where weights under ``prefix`` are a whole model's, of another source or wrapped, move the backbone's there."""
    given = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    place = None if any(_OWN.match(key) for key in given) else the_one(find(given))
    if place is None:
        return
    taken = taken_from(given, place)
    for key in given:
        if WRAPPERS.sub('', key).startswith(place.prefix):
            del state_dict[prefix + key]
    for key, value in taken.items():
        state_dict[prefix + key.removeprefix('backbone.')] = value
    print_log(f"the weights are a whole model's with {place.source.name}'s names: its backbone is loaded",
              logger='current')


def _refuse_others(backbone: MobileOne, state_dict: dict[str, Tensor], prefix: str, whole: dict[str, Tensor],
                   strict: bool) -> None:
    given = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
    message = f'the checkpoint has no weights for the MobileOne backbone ({prefix}stage0.…)'
    places = find(given or whole)
    if places:
        names = ' and '.join(f'{place.prefix}{place.source.stem}.…' for place in places)
        found = places[0].prefix + ('backbone.' if places[0].source is MMPRETRAIN else '')
        raise InputError(f"{message} but has {names}: set prefix={found!r} where it is loaded with "
                         "init_cfg=dict(type='Pretrained', …)")
    own = backbone.state_dict()
    others = [key for key in given if prefix or not (_HEADS.match(key) or task_of([key]))]
    is_others = others and (strict or prefix) and not any(key in own for key in given)
    if is_others or is_initializing():
        raise InputError(message + ': give a MobileOne checkpoint')


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
    own = {key: tuple(value.shape) for key, value in backbone.state_dict().items() if _OWN.match(key)}
    for name, block in to_fold.items():
        del own[f'{name}.branch_reparam.weight'], own[f'{name}.branch_reparam.bias']
        own.update({f'{name}.{key}': shape for key, shape in block.branch_shapes().items()})
    own = {prefix + key: shape for key, shape in own.items()}
    given = {key: tuple(value.shape) for key, value in state_dict.items()
             if key.startswith(prefix) and _OWN.match(key[len(prefix):])}

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
        remedy = f'its widths are those of arch={variant!r}' if other else 'give one of the same arch and branches'
        if not other and variant and any(ARCHS[variant]['num_se_blocks']) != any(backbone.arch['num_se_blocks']):
            remedy = f'its squeeze-excite layers are those of arch={variant!r}'
        raise InputError(f'the checkpoint does not fit the MobileOne backbone ({"; ".join(problems)}): {remedy}')


def _fold(block: MobileOneBlock, state_dict: dict[str, Tensor], prefix: str) -> None:
    """Replace the block's branches in ``state_dict`` by its deployed weights."""
    names = [key for key in state_dict if key.startswith(prefix + 'branch_')]
    branches = {name[len(prefix):]: state_dict.pop(name) for name in names}
    state_dict.update({prefix + name: value for name, value in block.fold_state_dict(branches).items()})
