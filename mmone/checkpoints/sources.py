"""Other people's names for the same weights: one table a source, read in both directions."""
import difflib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from torch import Tensor

from mmone.errors import InputError

from .io import WRAPPERS, is_counter


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

# A backbone alone, which has the names that it has in a classifier, without "backbone.".
ALONE = MMPRETRAIN._replace(
    **{place: getattr(MMPRETRAIN, place).removeprefix('backbone.')
       for place in ('stem', 'stage1', 'stage2', 'stage3', 'stage4')}, head='')
# timm.create_model(…, features_only=True), which segmentation_models.pytorch has in its encoders.
_FEATURES = TIMM._replace(**{f'stage{i}': f'stages_{i - 1}' for i in range(1, 5)}, head='')

# What people's own models call the part, or the model, that is a MobileOne.
_COMMON_NAMES = re.compile(
    r'(?:(?:model|encoder|backbone|net|network|base_model|base|feature_extractor|trunk|classifier|'
    r'ema|ema_model|model_ema)\.)*')
_AVERAGED = re.compile(r'(?<![^.])\w*ema\w*\.')

# What a model is for, by a part that others do not have, in the libraries' and other people's names.
_TASKS = {'detector': re.compile(r'(?<![^.])(?:bbox_head|rpn_head|roi_head|mask_head|query_head|dense_heads?)\.'),
          'segmentor': re.compile(r'(?<![^.])(?:decode_head|auxiliary_head|segmentation_head|decoder)\.')}

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
    if source.head and path == source.head:
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


class Place(NamedTuple):
    """Where a state dict has a MobileOne.

    Attributes:
        prefix (str): What stands before each of its names, with its last dot, wrappers left out.
        source (Source): Whose names they are after that.
    """
    prefix: str
    source: Source

    @property
    def common(self) -> bool:
        """Whether the prefix is nothing, or what people commonly call a part that is all there is."""
        return bool(_COMMON_NAMES.fullmatch(self.prefix))


def find(state_dict: dict[str, Tensor]) -> list[Place]:
    """All places of a state dict that have a MobileOne, of any source, under whatever name."""
    state_dict = _without_wrappers(state_dict)
    found = []
    for source in (ALONE, APPLE, TIMM, _FEATURES, CVNETS):
        stem = re.compile(rf'(.*?)(?<![^.]){re.escape(source.stem)}\.')
        for prefix in dict.fromkeys(match[1] for key in state_dict if (match := stem.match(key))):
            inner = _under(prefix, state_dict)
            if any(_parse(key, source) for key in inner) and _has_depthwise(inner, source):
                whole = source is ALONE and re.search(r'(?<![^.])backbone\.$', prefix)
                found.append(Place(prefix[:-len('backbone.')], MMPRETRAIN) if whole else Place(prefix, source))
    return found


def the_one(places: Iterable[Place]) -> Place | None:
    """The place that is meant where nothing else is said: the only one, averaged weights first."""
    places = [place for place in places if place.common]
    averaged = [place for place in places if _AVERAGED.search(place.prefix)]
    chosen = averaged or places
    return chosen[0] if len(chosen) == 1 else None


def recognise(state_dict: dict[str, Tensor]) -> Source | None:
    """The source of a state dict by its keys, whatever wraps them; None if it is no MobileOne's."""
    place = the_one(find(state_dict))
    return None if place is None else SOURCES[place.source.name]


def taken_from(state_dict: dict[str, Tensor], place: Place) -> dict[str, Tensor]:
    """What a state dict has at a place, under mmone's names.

    Raises:
        InputError: If a key there is unknown to the source.
    """
    inner = _under(place.prefix, _without_wrappers(state_dict))
    return inner if place.source is MMPRETRAIN else rename(inner, place.source, MMPRETRAIN)


def task_of(keys: Iterable[str]) -> tuple[str, str] | None:
    """``'detector'`` or ``'segmentor'``, and the key that tells; None of weights that have no head of theirs."""
    return next(((task, key) for key in keys for task, pattern in _TASKS.items() if pattern.search(key)), None)


def _without_wrappers(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    if not any(isinstance(key, str) and WRAPPERS.search(key) for key in state_dict):
        return state_dict
    return {WRAPPERS.sub('', key): value for key, value in state_dict.items()}


def _under(prefix: str, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    if not prefix:
        return state_dict
    return {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}


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
    task = task_of(unknown)
    if task:
        raise InputError(f"the checkpoint is a {task[0]}'s ({task[1]}): expected a classifier's")
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
    """The MobileOne of a state dict, of any source and whatever wraps it, under mmone's names.

    What is no MobileOne's, or has mmone's names already, is returned as it is.

    Raises:
        InputError: If a key of a known source is unknown.
    """
    places = find(state_dict)
    place = the_one(places)
    if place is None:
        return state_dict
    prefixes = tuple(found.prefix for found in places)  # of weights that are not averaged, too
    outside = [key for key in _without_wrappers(state_dict)
               if not key.startswith(prefixes) and not is_counter(key, state_dict.get(key))]
    if outside:
        raise InputError(_describe_outside(outside, place))
    inner = taken_from(state_dict, place)
    return state_dict if inner.keys() == state_dict.keys() else inner


def _describe_outside(outside: Collection[str], place: Place) -> str:
    task = task_of(outside)
    kind = f"a {task[0]}'s ({task[1]})" if task else f'more than a classifier: {next(iter(outside))}'
    more = '' if task or len(outside) == 1 else f' and {len(outside) - 1} more'
    return (f"the checkpoint has {place.source.name}'s names after {place.prefix!r}, but is {kind}{more}: "
            "expected a classifier's")
