"""The variants of MobileOne as data."""
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

from torch import Tensor

from mmone.errors import InputError

STAGES = ('stage1', 'stage2', 'stage3', 'stage4')
BASE_CHANNELS = (64, 128, 256, 512)

# Every entry is for stage1 to stage4. S0 to S4 are Table 7 of the paper (https://arxiv.org/abs/2206.04040v2).
# The micro variants are ours, not the paper's μ0 to μ2, whose shapes are not public: they have the parameters and
# multiply-adds that its Table 13 publishes, the latter of which name them, in millions. Of the shapes that have, in
# steps of 1/8 of the widths and with at most S0's depths, each is the fastest (benchmarks/micro_shapes.py); k is S0's.
ARCHS = {
    's0': dict(
        num_blocks=(2, 8, 10, 1),
        width_factor=(0.75, 1.0, 1.0, 2.0),
        num_conv_branches=(4, 4, 4, 4),
        num_se_blocks=(0, 0, 0, 0)),
    's1': dict(
        num_blocks=(2, 8, 10, 1),
        width_factor=(1.5, 1.5, 2.0, 2.5),
        num_conv_branches=(1, 1, 1, 1),
        num_se_blocks=(0, 0, 0, 0)),
    's2': dict(
        num_blocks=(2, 8, 10, 1),
        width_factor=(1.5, 2.0, 2.5, 4.0),
        num_conv_branches=(1, 1, 1, 1),
        num_se_blocks=(0, 0, 0, 0)),
    's3': dict(
        num_blocks=(2, 8, 10, 1),
        width_factor=(2.0, 2.5, 3.0, 4.0),
        num_conv_branches=(1, 1, 1, 1),
        num_se_blocks=(0, 0, 0, 0)),
    's4': dict(
        num_blocks=(2, 8, 10, 1),
        width_factor=(3.0, 3.5, 3.5, 4.0),
        num_conv_branches=(1, 1, 1, 1),
        num_se_blocks=(0, 0, 5, 1)),
    'micro214': dict(
        num_blocks=(2, 6, 8, 1),
        width_factor=(0.75, 1.0, 1.0, 1.0),
        num_conv_branches=(4, 4, 4, 4),
        num_se_blocks=(0, 0, 0, 0)),
    'micro139': dict(
        num_blocks=(2, 6, 6, 1),
        width_factor=(0.75, 0.75, 0.875, 1.0),
        num_conv_branches=(4, 4, 4, 4),
        num_se_blocks=(0, 0, 0, 0)),
    'micro68': dict(
        num_blocks=(2, 8, 6, 1),
        width_factor=(0.5, 0.5, 0.5, 0.75),
        num_conv_branches=(4, 4, 4, 4),
        num_se_blocks=(0, 0, 0, 0)),
}
# The S4 of the paper's segmentors, its Table 11b.
ARCHS['s4_no_se'] = dict(ARCHS['s4'], num_se_blocks=(0, 0, 0, 0))


def stage_channels(arch: Mapping[str, Sequence]) -> tuple[int, ...]:
    """Output channels of the stem and of stage1 to stage4.

    The table writes the stem's as 64 times the first factor; the released code and weights, whose
    parameters the paper counts, have at most 64.
    """
    widths = [int(base * factor) for base, factor in zip(BASE_CHANNELS, arch['width_factor'])]
    return (min(64, widths[0]), *widths)


def variant_of(state_dict: dict[str, Tensor]) -> str | None:
    """The variant whose stage widths a backbone's weights have, in either form; None if none has.

    Of two with the same widths it is the one that has squeeze-excite layers if the weights have some, else the other.

    Args:
        state_dict (dict[str, Tensor]): With keys ``stage0.…``; later stages may be missing.
    """
    widths = []
    for stage in ('stage0', *STAGES):
        # Either form ends the blocks of a stage with per-channel vectors: biases.
        biases = [value for key, value in state_dict.items()
                  if key.startswith(f'{stage}.') and '.se.' not in key and key.endswith('.bias')]
        widths.append(len(biases[-1]) if biases else None)
    fitting = [name for name, arch in ARCHS.items()
               if all(width in (None, channels) for width, channels in zip(widths, stage_channels(arch)))]
    with_se = any('.se.' in key for key in state_dict)
    return min(fitting, key=lambda name: any(ARCHS[name]['num_se_blocks']) != with_se, default=None)


def check_arch(arch: str | dict) -> dict[str, tuple]:
    """Look up or validate an ``arch``.

    Returns:
        dict[str, tuple]: ``num_blocks``, ``width_factor``, ``num_conv_branches`` and
        ``num_se_blocks``, each for stage1 to stage4.

    Raises:
        InputError: If the name is unknown or a key, length or value is wrong.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise InputError(f'unknown arch {arch!r}: expected one of {", ".join(ARCHS)}, or a '
                             'dict of the keys that MobileOne documents')
        return ARCHS[arch]
    if not isinstance(arch, dict):
        raise InputError(f'arch must be a name or a dict, got {type(arch).__name__}: {arch!r}')

    keys = ARCHS['s0'].keys()
    if arch.keys() != keys:
        wrong = [f'{key!r} is missing' for key in keys if key not in arch]
        wrong += [f'{key!r} is unknown' for key in arch if key not in keys]
        raise InputError(f'arch: {", ".join(wrong)}; expected the keys {", ".join(keys)}')
    for key, values in arch.items():
        _check_values(key, values)
    for stage, depth, se in zip(STAGES, arch['num_blocks'], arch['num_se_blocks']):
        if se > depth:
            raise InputError(f"arch['num_se_blocks'] has {se} for {stage}, more than its {depth} "
                             "blocks in arch['num_blocks']")
    if min(stage_channels(arch)) < 1:
        raise InputError(f"arch['width_factor']={arch['width_factor']!r} gives a stage without "
                         f'channels: {stage_channels(arch)}')
    return {key: tuple(values) for key, values in arch.items()}


def _check_values(key: str, values: Sequence) -> None:
    if not isinstance(values, (list, tuple)) or len(values) != len(STAGES):
        raise InputError(f'arch[{key!r}] must be a list of {len(STAGES)} numbers, one for each of '
                         f'stage1 to stage4, got {values!r}')
    kind = Real if key == 'width_factor' else Integral
    minimum = 0 if key in ('width_factor', 'num_se_blocks') else 1
    for value in values:
        if isinstance(value, bool) or not isinstance(value, kind) or not float(value) >= minimum:
            raise InputError(f'arch[{key!r}] has the value {value!r}: expected '
                             f'{"an integer" if kind is Integral else "a number"} of '
                             f'at least {minimum}')
