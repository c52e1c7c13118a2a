"""Other people's names for the same weights: one table a source, read in both directions."""
import difflib
import re
from typing import NamedTuple

from torch import Tensor

from mmone.errors import InputError


class Source(NamedTuple):
    """What a source calls the places and the parts of a MobileOne classifier.

    A key is a place, within a stage the number of the block, a part of that block, and a tensor:
    ``backbone.stage3.14.branch_conv_list.0.conv.weight``. ``{}`` stands for the number of a
    branch. Only ``mmpretrain`` is another name for mmone itself.

    Attributes:
        name (str): What users call it.
        stem, stage1, stage2, stage3, stage4, head (str): Places.
        conv, conv_norm, scale, scale_norm, skip, deployed, squeeze, excite (str): Parts.
    """
    name: str
    stem: str
    stage1: str
    stage2: str
    stage3: str
    stage4: str
    head: str
    conv: str
    conv_norm: str
    scale: str
    scale_norm: str
    skip: str
    deployed: str
    squeeze: str
    excite: str


MMPRETRAIN = Source(
    name='mmpretrain',
    stem='backbone.stage0',
    stage1='backbone.stage1',
    stage2='backbone.stage2',
    stage3='backbone.stage3',
    stage4='backbone.stage4',
    head='head.fc',
    conv='branch_conv_list.{}.conv',
    conv_norm='branch_conv_list.{}.norm',
    scale='branch_scale.conv',
    scale_norm='branch_scale.norm',
    skip='branch_norm',
    deployed='branch_reparam',
    squeeze='se.conv1.conv',
    excite='se.conv2.conv')

# https://github.com/apple/ml-mobileone
APPLE = Source(
    name='apple',
    stem='stage0',
    stage1='stage1',
    stage2='stage2',
    stage3='stage3',
    stage4='stage4',
    head='linear',
    conv='rbr_conv.{}.conv',
    conv_norm='rbr_conv.{}.bn',
    scale='rbr_scale.conv',
    scale_norm='rbr_scale.bn',
    skip='rbr_skip',
    deployed='reparam_conv',
    squeeze='se.reduce',
    excite='se.expand')

# timm/models/byobnet.py
TIMM = Source(
    name='timm',
    stem='stem',
    stage1='stages.0',
    stage2='stages.1',
    stage3='stages.2',
    stage4='stages.3',
    head='head.fc',
    conv='conv_kxk.{}.conv',
    conv_norm='conv_kxk.{}.bn',
    scale='conv_scale.conv',
    scale_norm='conv_scale.bn',
    skip='identity',
    deployed='reparam_conv',
    squeeze='attn.fc1',
    excite='attn.fc2')

# https://github.com/apple/ml-cvnets, whose layer_1 is empty
CVNETS = Source(
    name='cvnets',
    stem='conv_1',
    stage1='layer_2',
    stage2='layer_3',
    stage3='layer_4',
    stage4='layer_5',
    head='classifier.classifier_fc',
    conv='rbr_conv.{}.block.conv',
    conv_norm='rbr_conv.{}.block.norm',
    scale='rbr_scale.block.conv',
    scale_norm='rbr_scale.block.norm',
    skip='rbr_skip',
    deployed='reparam_conv',
    squeeze='se.se_layer.fc1.block.conv',
    excite='se.se_layer.fc2.block.conv')

SOURCES = {source.name: source for source in (MMPRETRAIN, APPLE, TIMM, CVNETS)}

_STAGES = ('stage1', 'stage2', 'stage3', 'stage4')
_NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
_AFFINE = ('weight', 'bias')
_TENSORS = dict(conv=('weight', ), conv_norm=_NORM, scale=('weight', ), scale_norm=_NORM, skip=_NORM,
                deployed=_AFFINE, squeeze=_AFFINE, excite=_AFFINE)


class _Name(NamedTuple):
    """A key of any source, in terms of the fields of :class:`Source`; part '' is the head's."""
    place: str
    block: str
    part: str
    branch: str
    tensor: str


def _parse(key: str, source: Source) -> _Name | None:
    path, _, tensor = key.rpartition('.')
    if path == source.head:
        return _Name('head', '', '', '', tensor) if tensor in _AFFINE else None
    for place in ('stem', *_STAGES):
        prefix = getattr(source, place) + '.'
        if not path.startswith(prefix):
            continue
        rest, block = path[len(prefix):], ''
        if place != 'stem':
            block, _, rest = rest.partition('.')
            if not block.isdigit():
                return None
        branch = re.search(r'\.(\d+)\.', rest)
        template = rest if branch is None else rest.replace(branch[0], '.{}.')
        for part, tensors in _TENSORS.items():
            if getattr(source, part) == template and tensor in tensors:
                return _Name(place, block, part, branch[1] if branch else '', tensor)
        return None
    return None


def _write(name: _Name, source: Source) -> str:
    part = getattr(source, name.part).format(name.branch) if name.part else ''
    return '.'.join(filter(None, (getattr(source, name.place), name.block, part, name.tensor)))


def recognise(state_dict: dict[str, Tensor]) -> Source | None:
    """The source of a state dict by its keys, None if it is no MobileOne's."""
    for source in SOURCES.values():
        stem = [key for key in state_dict if key.startswith(source.stem + '.')]
        if any(_parse(key, source) for key in stem) and _has_depthwise(state_dict, source):
            return source
    return None


def _has_depthwise(state_dict: dict[str, Tensor], source: Source) -> bool:
    """Whether stage1 has depthwise blocks: other families of timm's share MobileOne's names."""
    for key, value in state_dict.items():
        if key.startswith(source.stage1 + '.') and key.endswith('.weight') and getattr(value, 'ndim', 0) == 4:
            name = _parse(key, source)
            if name and name.part in ('conv', 'deployed') and value.shape[1] == 1:
                return True
    return False


def rename(state_dict: dict[str, Tensor], source: Source, target: Source) -> dict[str, Tensor]:
    """Give the tensors, untouched and in their order, the names of another source.

    Raises:
        InputError: If ``source`` has no such keys; names them and what they may be meant for.
    """
    names = {key: name for key in state_dict if (name := _parse(key, source))}
    unknown = [key for key in state_dict if key not in names]
    if unknown:
        raise InputError(_describe_unknown(unknown, state_dict, source))
    return {_write(name, target): state_dict[key] for key, name in names.items()}


def _describe_unknown(unknown: list[str], state_dict: dict[str, Tensor], source: Source) -> str:
    shown = []
    for key in unknown[:3]:
        # Every name that the source could have for numbers like this key's.
        numbers = re.findall(r'\.(\d+)(?=\.)', key) + ['0']
        known = {_write(_Name(place, '' if place == 'stem' else block, part, branch, tensor), source)
                 for place in ('stem', *_STAGES) for part, tensors in _TENSORS.items()
                 for tensor in tensors for block in numbers for branch in numbers}
        known |= {f'{source.head}.{tensor}' for tensor in _AFFINE}
        nearest = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0)
        shown.append(f'{key} (nearest known: {nearest[0]})')
    more = f' and {len(unknown) - len(shown)} more' if len(unknown) > len(shown) else ''
    return f"the checkpoint has {source.name}'s names but also unknown keys: {', '.join(shown)}{more}"


def to_mmone(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename what :func:`recognise` knows to mmone's names; anything else is returned as it is.

    Raises:
        InputError: If a key of a known source is unknown.
    """
    source = recognise(state_dict)
    if source is None or source is MMPRETRAIN:
        return state_dict
    return rename(state_dict, source, MMPRETRAIN)
