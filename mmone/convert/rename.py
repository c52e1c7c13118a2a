"""From a MobileOne classifier's checkpoint of any source to one of any other."""
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmone.checkpoints.io import meta_of, read_checkpoint, state_dict_of, write_checkpoint
from mmone.checkpoints.sources import MMPRETRAIN, SOURCES, find, recognise, rename, to_mmone
from mmone.errors import InputError
from mmone.files import check_output, sha256
from mmone.models import MobileOne
from mmone.models.backbones.archs import ARCHS, BASE_CHANNELS, variant_of
from mmone.version import __version__

BACKBONE, HEAD = 'backbone.', 'head.'


class Description(NamedTuple):
    """What is known of a checkpoint from its weights.

    Attributes:
        source (str): Whose names it has.
        variant (str | None): ``'s0'`` to ``'s4'`` by its widths, None if it is of another arch.
        deployed (bool): Whether its branches are fused.
        classes (int | None): Of its head, None if it has no head.
        sha256 (str): Of the file.
    """
    source: str
    variant: str | None
    deployed: bool
    classes: int | None
    sha256: str

    def __str__(self):
        head = f'{self.classes} classes' if self.classes else 'no head'
        variant = f'variant {self.variant}' if self.variant else 'an arch of its own'
        whose = 'mmone, mmpretrain' if self.source == MMPRETRAIN.name else self.source
        return (f'names of {whose}, {variant}, {"fused" if self.deployed else "with branches"}, '
                f'{head}, SHA-256 {self.sha256}')


def convert(source: str | Path,
            out: str | Path,
            to: str = MMPRETRAIN.name,
            deploy: bool = False,
            expand: Callable[[MobileOne], MobileOne] | None = None,
            drop_head: bool = False,
            trust: bool = False,
            overwrite: bool = False) -> tuple[Description, Description]:
    """Write a classifier's checkpoint under another source's names, whole or not at all.

    Args:
        source (str | Path): The checkpoint: ``.pth``, ``.pth.tar`` or ``.safetensors``, a state
            dict or a dict with one.
        out (str | Path): The file to write; a name in ``.safetensors`` gives that format.
        to (str): A name of :data:`SOURCES`. Defaults to mmpretrain's, which are mmone's.
        deploy (bool): Fuse the branches. Defaults to False.
        expand (Callable, optional): From a deployed backbone to one with branches, such as
            :func:`mmone.convert.calibrate.expand_for`. Defaults to None: the form is kept.
        drop_head (bool): Leave the classifier's head out. Defaults to False.
        trust (bool): Allow a pickle that can run code. Defaults to False.
        overwrite (bool): Replace ``out`` if it exists. Defaults to False.

    Returns:
        tuple[Description, Description]: What was read and what was written.

    Raises:
        InputError: If a file cannot be used, or the checkpoint is nobody's or not whole.
    """
    check_output(out, overwrite)
    checkpoint = read_checkpoint(source, trust)
    given = state_dict_of(checkpoint)
    names = recognise(given)
    if names is None:
        raise InputError(_describe_others(given, str(source)))
    backbone, head = _split(rename(to_mmone(given), MMPRETRAIN, MMPRETRAIN))
    arch, form = _arch_of(backbone, str(source))
    classes = len(head['head.fc.weight']) if 'head.fc.weight' in head else None
    before = Description(names.name, variant_of(backbone), form['deploy'], classes, sha256(source))

    if expand and not form['deploy']:
        raise InputError(f'{source} has its branches: there is nothing to expand', parameter='expand')
    if deploy or expand:
        model = _build(arch, dict(form, deploy=True), backbone).eval()  # folds branches
        backbone = (expand(model) if expand else model).state_dict()

    result: dict[str, Any] = {BACKBONE + key: value for key, value in backbone.items()}
    if not drop_head:
        result.update(head)
    result = rename(result, MMPRETRAIN, SOURCES[to])
    if to == MMPRETRAIN.name:
        meta = meta_of(checkpoint)
        kept = {key: meta[key] for key in ('dataset_meta', 'CLASSES') if key in meta}
        result = dict(state_dict=result, meta=dict(
            kept, source_checkpoint=str(source), mmone_version=__version__))
    write_checkpoint(result, out)
    after = before._replace(source=to, deployed=deploy or (form['deploy'] and not expand),
                            classes=None if drop_head else classes, sha256=sha256(out))
    return before, after


def _describe_others(state_dict: dict[str, Tensor], source: str) -> str:
    several = [f'{place.prefix!r}' for place in find(state_dict)]
    if several:
        return (f'{source} has {len(several)} MobileOne, after {" and ".join(several)}: expected one, with nothing '
                'or a common name before its keys')
    return (f'{source} holds no MobileOne classifier: its first key is {next(iter(state_dict), None)!r}, expected '
            'those of ' + ', '.join(f'{other.name} ({other.stem}.…)' for other in SOURCES.values()))


def _split(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The backbone's weights without their prefix, and the head's."""
    return ({key[len(BACKBONE):]: value for key, value in state_dict.items() if key.startswith(BACKBONE)},
            {key: value for key, value in state_dict.items() if key.startswith(HEAD)})


def _build(arch: dict, form: dict, backbone: dict[str, Tensor]) -> MobileOne:
    with torch.device('meta'):  # draws no initial values
        model = MobileOne(arch, **form)
    model.to_empty(device='cpu').load_state_dict(dict(backbone))
    return model


def _arch_of(backbone: dict[str, Tensor], source: str) -> tuple[dict, dict]:
    """The arch and the further arguments of the MobileOne whose weights these are, all of them."""
    blocks: dict[tuple[int, int], set[str]] = {}  # by the numbers of stage and block: the names of its tensors
    for key in backbone:
        (stage, block, name), = re.findall(r'^stage(\d)\.(?:(\d+)\.)?(.+)', key)
        blocks.setdefault((int(stage), int(block or 0)), set()).add(name)
    stages = range(1, 1 + len(BASE_CHANNELS))
    empty = [stage for stage in (0, *stages) if (stage, 0) not in blocks]
    if empty:
        raise InputError(f'{source} is not whole: it has no weights of stage{empty[0]}')
    deploy = _is_deployed(blocks.values(), source)
    last = {stage: max(block for of_stage, block in blocks if of_stage == stage) for stage in stages}
    arch: dict[str, Sequence] = dict(
        num_blocks=[last[stage] // 2 + 1 for stage in stages],
        num_conv_branches=[1 if deploy else _count_branches(blocks[stage, 0]) for stage in stages],
        num_se_blocks=[sum('se.conv1.conv.weight' in blocks.get((stage, block), ())
                           for block in range(0, last[stage] + 1, 2)) for stage in stages])
    kernel, bias = (('branch_reparam.weight', 'branch_reparam.bias') if deploy else
                    ('branch_conv_list.0.conv.weight', 'branch_conv_list.0.norm.bias'))
    try:
        arch['width_factor'] = [len(backbone[f'stage{stage}.{last[stage]}.{bias}']) / base
                                for stage, base in zip(stages, BASE_CHANNELS)]
        in_channels = backbone[f'stage0.{kernel}'].shape[1]
    except KeyError as error:
        raise InputError(f'{source} is not whole: it lacks {error.args[0]}') from None
    variant = variant_of(backbone)
    if variant and deploy:
        # Fused weights tell nothing of the number of branches; expanding gives the variant's.
        arch['num_conv_branches'] = ARCHS[variant]['num_conv_branches']
    form = dict(deploy=deploy, in_channels=in_channels,
                use_scale=deploy or 'branch_scale.conv.weight' in blocks[0, 0],
                use_skip=deploy or any('branch_norm.weight' in names for names in blocks.values()))
    _build(arch, form, backbone)  # says what is missing, left over or of another shape
    return arch, form


def _is_deployed(blocks: Iterable[set[str]], source: str) -> bool:
    """Whether blocks, given by the names of their tensors, are fused."""
    deployed = {any(name.startswith('branch_reparam.') for name in names) for names in blocks}
    if len(deployed) > 1:
        raise InputError(f'{source} mixes fused blocks with blocks that have branches: '
                         'save the whole model in one form')
    return deployed.pop()


def _count_branches(block: set[str]) -> int:
    return sum(bool(re.fullmatch(r'branch_conv_list\.\d+\.conv\.weight', name)) for name in block)
