"""Other people's names for the same weights: one table a source."""
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mmone.errors import InputError

from .io import check_output, read_checkpoint, write_checkpoint


class Source(NamedTuple):
    """How a source names what mmone names ``backbone.stage…`` and ``head.fc.…``.

    Attributes:
        name (str): The source's name.
        mark (str): What a key of each of its checkpoints begins with, and of no other source's.
        renames (tuple): (theirs, ours) fragments, applied in order to a whole key.
    """
    name: str
    mark: str
    renames: tuple[tuple[str, str], ...]


APPLE = Source('apple', 'stage0.r', (
    ('rbr_conv.', 'branch_conv_list.'),
    ('rbr_scale.', 'branch_scale.'),
    ('rbr_skip.', 'branch_norm.'),
    ('reparam_conv.', 'branch_reparam.'),
    ('.bn.', '.norm.'),
    ('.se.reduce.', '.se.conv1.conv.'),
    ('.se.expand.', '.se.conv2.conv.'),
    ('linear.', 'head.fc.'),
    ('stage', 'backbone.stage'),
))  # yapf: disable
SOURCES = (APPLE, )


def recognise(state_dict: dict[str, Tensor]) -> str:
    """Name the source of a state dict by its keys: ``'mmone'`` or one of :data:`SOURCES`.

    Raises:
        InputError: If the keys are nobody's.
    """
    if any(key.startswith('backbone.stage0.branch_') for key in state_dict):
        return 'mmone'
    for source in SOURCES:
        if any(key.startswith(source.mark) for key in state_dict):
            return source.name
    raise InputError(f'no MobileOne checkpoint: its first key is {next(iter(state_dict), None)!r}, '
                     'expected backbone.stage0.… (mmone, mmpretrain) or stage0.… (Apple)')


def to_mmone(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a source's keys to mmone's; the tensors are passed on untouched."""
    name = recognise(state_dict)
    source = next((source for source in SOURCES if source.name == name), None)
    if source is None:
        return dict(state_dict)
    renamed = {}
    for key, tensor in state_dict.items():
        for theirs, ours in source.renames:
            key = key.replace(theirs, ours)
        renamed[key] = tensor
    return renamed


def convert(source: str | Path, out: str | Path, trust: bool = False,
            overwrite: bool = False) -> str:
    """Write another source's checkpoint under mmone's names, whole or not at all.

    Args:
        source (str | Path): The checkpoint, a state dict or a dict with ``state_dict``.
        out (str | Path): The file to write.
        trust (bool): Allow a pickle that can run code. Defaults to False.
        overwrite (bool): Replace ``out`` if it exists. Defaults to False.

    Returns:
        str: The name of the source, as :func:`recognise` tells it.

    Raises:
        InputError: If a file cannot be used, or the checkpoint is nobody's.
    """
    check_output(out, overwrite)
    checkpoint = read_checkpoint(source, trust)
    state_dict = checkpoint.get('state_dict', checkpoint)
    name = recognise(state_dict)
    write_checkpoint(dict(state_dict=to_mmone(state_dict)), out)
    return name
