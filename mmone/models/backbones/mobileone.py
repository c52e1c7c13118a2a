"""The MobileOne backbone: the table of variants and the stages."""
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, Sequential
from torch import Tensor

from mmone.checkpoints.sources import recognise, to_mmone
from mmone.errors import InputError
from mmone.registry import MODELS

from ..blocks import MobileOneBlock

NUM_STAGES = 5  # the stem, stage0, and the paper's four
BASE_CHANNELS = (64, 128, 256, 512)

# Table 2 of the paper and its released code; every entry is for stage1 to stage4.
ARCHS = {
    's0': dict(num_blocks=(2, 8, 10, 1), width_factor=(0.75, 1.0, 1.0, 2.0),
               num_conv_branches=(4, 4, 4, 4), num_se_blocks=(0, 0, 0, 0)),
    's1': dict(num_blocks=(2, 8, 10, 1), width_factor=(1.5, 1.5, 2.0, 2.5),
               num_conv_branches=(1, 1, 1, 1), num_se_blocks=(0, 0, 0, 0)),
    's2': dict(num_blocks=(2, 8, 10, 1), width_factor=(1.5, 2.0, 2.5, 4.0),
               num_conv_branches=(1, 1, 1, 1), num_se_blocks=(0, 0, 0, 0)),
    's3': dict(num_blocks=(2, 8, 10, 1), width_factor=(2.0, 2.5, 3.0, 4.0),
               num_conv_branches=(1, 1, 1, 1), num_se_blocks=(0, 0, 0, 0)),
    's4': dict(num_blocks=(2, 8, 10, 1), width_factor=(3.0, 3.5, 3.5, 4.0),
               num_conv_branches=(1, 1, 1, 1), num_se_blocks=(0, 0, 5, 1)),
}  # yapf: disable


def stage_channels(arch: dict[str, Sequence]) -> tuple[int, ...]:
    """Output channels of stage0 (the stem) to stage4."""
    widths = [int(base * factor) for base, factor in zip(BASE_CHANNELS, arch['width_factor'])]
    return (min(64, widths[0]), *widths)


def variant_of(state_dict: dict[str, Tensor]) -> str | None:
    """The variant whose stage widths a backbone's weights have, in either form; None if none has.

    Args:
        state_dict (dict[str, Tensor]): With keys ``stage0.…``; later stages may be missing.
    """
    widths = []
    for i in range(NUM_STAGES):
        # Every form ends a stage's blocks with per-channel vectors: biases.
        biases = [value for key, value in state_dict.items()
                  if key.startswith(f'stage{i}.') and '.se.' not in key and key.endswith('.bias')]
        widths.append(len(biases[-1]) if biases else None)
    return next((name for name, arch in ARCHS.items()
                 if all(width in (None, channels)
                        for width, channels in zip(widths, stage_channels(arch)))), None)


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
        if not isinstance(values, (list, tuple)) or len(values) != len(BASE_CHANNELS):
            raise InputError(f'arch[{key!r}] must be a list of {len(BASE_CHANNELS)} numbers, one '
                             f'for each of stage1 to stage4, got {values!r}')
        kind, minimum = {'width_factor': (Real, 0), 'num_se_blocks': (Integral, 0)}.get(
            key, (Integral, 1))
        for value in values:
            if isinstance(value, bool) or not isinstance(value, kind) or not value >= minimum:
                raise InputError(f'arch[{key!r}] has the value {value!r}: expected '
                                 f'{"an integer" if kind is Integral else "a number"} of '
                                 f'at least {minimum}')
    for index, (depth, se) in enumerate(zip(arch['num_blocks'], arch['num_se_blocks'])):
        if se > depth:
            raise InputError(f"arch['num_se_blocks'][{index}] is {se}, more than the {depth} "
                             f"blocks of stage{index + 1} in arch['num_blocks']")
    if min(stage_channels(arch)) < 1:
        raise InputError(f"arch['width_factor']={arch['width_factor']!r} gives a stage without "
                         f'channels: {stage_channels(arch)}')
    return {key: tuple(values) for key, values in arch.items()}


def _check_per_stage(name: str, values: Sequence[int], allowed: tuple | None = None) -> tuple:
    if (not isinstance(values, (list, tuple)) or len(values) != NUM_STAGES or not all(
            isinstance(v, Integral) and v >= 1 and (not allowed or v in allowed)
            for v in values)):
        what = f'one of {allowed}' if allowed else 'a positive integer'
        raise InputError(f'{name} must be {NUM_STAGES} values, for stage0 (the stem) to stage4, '
                         f'each {what}, got {values!r}')
    return tuple(values)


@MODELS.register_module()
class MobileOne(BaseModule):
    """MobileOne (`An Improved One millisecond Mobile Backbone
    <https://arxiv.org/abs/2206.04040>`_).

    Parameter names are mmpretrain's, so its released checkpoints load as they are. Stages are
    numbered as the parameters name them: ``stage0`` is the stem, ``stage1`` to ``stage4`` the
    paper's four. Stages after the last of ``out_indices`` are not built.

    Loading weights never goes silently wrong, whatever ``strict`` is: training-form weights are
    reparameterized while they load into a deployed backbone; deployed weights for a training-form
    backbone, and missing, unexpected or wrongly shaped weights of the backbone, are errors.

    Args:
        arch (str | dict): ``'s0'`` to ``'s4'``, or a dict whose values are lists or tuples for
            stage1 to stage4:

            - ``num_blocks``: depthwise + pointwise pairs of blocks.
            - ``width_factor``: factors on 64, 128, 256 and 512 channels.
            - ``num_conv_branches``: branches k of every block.
            - ``num_se_blocks``: how many of the stage's last pairs have SE layers.

            Defaults to ``'s0'``.
        in_channels (int): Channels of the input. Defaults to 3.
        out_indices (int | Sequence[int]): Stages to return, in ascending order; negative ones
            count from the end. Defaults to ``(-1, )``, stage4.
        strides (Sequence[int]): Strides of stage0 to stage4, each 1 or 2. Output stride 16 is
            ``(2, 2, 2, 2, 1)``, 8 is ``(2, 2, 2, 1, 1)``. Parameters are the same at any
            strides, so a classifier's checkpoint fits. Defaults to ``(2, 2, 2, 2, 2)``.
        dilations (Sequence[int]): Dilation of stage0 to stage4. The first block of a stage keeps
            the previous stage's rate, since its input was computed at that rate (as torchvision's
            and mmseg's dilated ResNets do). Defaults to ``(1, 1, 1, 1, 1)``.
        use_scale (bool): Whether blocks have the 1×1 scale branch. Defaults to True.
        use_skip (bool): Whether blocks have the BatchNorm skip branch. Defaults to True.
        se_cfg (dict): Arguments of the SE layers. Defaults to ``dict(ratio=16)``.
        frozen_stages (int): Freeze stage0 up to this stage, in eval mode; -1 freezes nothing.
            Defaults to -1.
        norm_eval (bool): Keep all BatchNorms in eval mode while training. Defaults to False.
        norm_cfg (dict): Any BatchNorm, e.g. ``dict(type='SyncBN', eps=1e-3)``. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict): Defaults to ``dict(type='ReLU', inplace=True)``.
        with_cp (bool): Trade compute for memory: recompute each block in the backward pass.
            Defaults to False.
        channels_last (bool): Compute in the channels_last memory format, from the input on: the
            same values, on a CPU in about 0.6 of the time. Defaults to False.
        init_gamma (float): Initial BatchNorm weight of the convolution branches, next to 1 of the
            skip branch. At 0.1, blocks start near the identity and a short training gets under way
            in a fraction of the time (the idea of https://arxiv.org/abs/1706.02677, section 5.1);
            the paper's long ones start at 1. Defaults to 1.
        branch_mode (str): How the branches of each block are computed in training: ``'separate'``,
            ``'fused'`` into one convolution, exactly, or ``'auto'``, whichever was measured to be
            faster. Checkpoints are the same, so a resumed run may change it. See
            :class:`~mmone.models.blocks.mobileone_block.MobileOneBlock`. Defaults to ``'auto'``.
        deploy (bool): Build the deployed form, a plain chain of convolutions. Defaults to False.
        init_cfg (dict | list[dict]): Defaults to Kaiming for convolutions, 1 for BatchNorms.

    Raises:
        InputError: If an argument, or a checkpoint given to it, does not fit.

    Example:
        >>> import torch
        >>> from mmone.models import MobileOne
        >>> model = MobileOne('s0', out_indices=(0, 1, 2, 3, 4)).eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 224, 224))]
        [(1, 48, 112, 112), (1, 48, 56, 56), (1, 128, 28, 28), (1, 256, 14, 14), (1, 1024, 7, 7)]
    """

    def __init__(self,
                 arch: str | dict = 's0',
                 in_channels: int = 3,
                 out_indices: int | Sequence[int] = (-1, ),
                 strides: Sequence[int] = (2, 2, 2, 2, 2),
                 dilations: Sequence[int] = (1, 1, 1, 1, 1),
                 use_scale: bool = True,
                 use_skip: bool = True,
                 se_cfg: dict = dict(ratio=16),
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 norm_cfg: dict = dict(type='BN'),
                 act_cfg: dict = dict(type='ReLU', inplace=True),
                 with_cp: bool = False,
                 channels_last: bool = False,
                 init_gamma: float = 1.0,
                 branch_mode: str = 'auto',
                 deploy: bool = False,
                 init_cfg: dict | list[dict] | None = [
                     dict(type='Kaiming', layer=['Conv2d']),
                     dict(type='Constant', val=1, layer=['_BatchNorm'])
                 ]):
        super().__init__(init_cfg)
        self.arch = check_arch(arch)
        self.in_channels = in_channels
        self.out_indices = self._check_out_indices(out_indices)
        strides = _check_per_stage('strides', strides, allowed=(1, 2))
        dilations = _check_per_stage('dilations', dilations)
        if not isinstance(frozen_stages, Integral) or not -1 <= frozen_stages < NUM_STAGES:
            raise InputError(f'frozen_stages must be -1 (none) to {NUM_STAGES - 1} (all), got '
                             f'{frozen_stages!r}')
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.channels_last = channels_last
        self.deploy = deploy

        common = dict(use_scale=use_scale, norm_cfg=norm_cfg, act_cfg=act_cfg,
                      with_cp=with_cp, init_gamma=init_gamma, branch_mode=branch_mode, deploy=deploy)  # yapf: disable
        channels = stage_channels(self.arch)
        self.stage0 = MobileOneBlock(in_channels, channels[0], kernel_size=3, num_convs=1,
                                     stride=strides[0], dilation=dilations[0], use_skip=False, **common)
        for i in range(1, self.out_indices[-1] + 1):
            depth, k, num_se = (self.arch[key][i - 1] for key in
                                ('num_blocks', 'num_conv_branches', 'num_se_blocks'))
            blocks = []
            for j in range(depth):
                first = j == 0
                width = channels[i - 1] if first else channels[i]
                se = dict(se_cfg=se_cfg if j >= depth - num_se else None)
                blocks.append(MobileOneBlock(
                    width, width, kernel_size=3, num_convs=k, groups=width,
                    stride=strides[i] if first else 1,
                    dilation=dilations[i - 1] if first else dilations[i],
                    # Where the classifier has stride 2 there is none, so that its checkpoints
                    # fit at any strides.
                    use_skip=use_skip and not first, **se, **common))
                blocks.append(MobileOneBlock(
                    width, channels[i], kernel_size=1, num_convs=k, use_skip=use_skip, **se,
                    **common))
            self.add_module(f'stage{i}', Sequential(*blocks))
        self._freeze_stages()

    @staticmethod
    def _check_out_indices(out_indices: int | Sequence[int]) -> tuple[int, ...]:
        given = (out_indices, ) if isinstance(out_indices, Integral) else tuple(out_indices)
        for index in given:
            if not isinstance(index, Integral) or not -NUM_STAGES <= index < NUM_STAGES:
                raise InputError(f'out_indices has {index!r}: expected {-NUM_STAGES} to '
                                 f'{NUM_STAGES - 1} (0 is the stem, 4 and -1 the last stage)')
        indices = tuple(index % NUM_STAGES for index in given)
        if not indices or list(indices) != sorted(set(indices)):
            raise InputError(f'out_indices must name stages in ascending order, each once, got '
                             f'{out_indices!r}')
        return indices

    @property
    def stages(self) -> list[BaseModule]:
        """The stages that are built, the stem first."""
        return [getattr(self, f'stage{i}') for i in range(self.out_indices[-1] + 1)]

    def blocks(self) -> dict[str, MobileOneBlock]:
        """Every block by its name, e.g. ``stage3.14``."""
        return {name: module for name, module in self.named_modules()
                if isinstance(module, MobileOneBlock)}  # yapf: disable

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) → the outputs of ``out_indices``, each (N, C, H', W')."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        for stage in self.stages[:self.frozen_stages + 1]:
            stage.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> 'MobileOne':
        """Set the training mode; frozen stages, and norms under ``norm_eval``, stay in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval and not self.deploy:
            for block in self.blocks().values():
                for _, norm in block.branches():
                    norm.eval()
        return self

    def switch_to_deploy(self) -> None:
        """Reparameterize every block, in place."""
        for block in self.blocks().values():
            block.switch_to_deploy()
        self.deploy = True

    def switch_to_branches(self, noise: float = 0.5, seed: int = 0) -> None:
        """Give every deployed block its branches back, in place; see ``mmone.convert.expand``.

        Args:
            noise (float): How different the convolution branches of a block start. Defaults to
                0.5 of each output channel's standard deviation.
            seed (int): Seed of the noise. Defaults to 0.
        """
        generator = torch.Generator().manual_seed(seed)
        for block in self.blocks().values():
            block.switch_to_branches(noise, generator)
        self.deploy = False

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys,
                              unexpected_keys, error_msgs):
        # Raising here, not appending to error_msgs, is what makes mmengine's non-strict
        # load_state_dict (load_from, Pretrained, Runner.load_checkpoint) stop as well.
        self._fit_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys,
                                      unexpected_keys, error_msgs)

    def _fit_state_dict(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Bring ``state_dict`` to this backbone's names and form, in place, or raise InputError."""
        self._take_classifier(state_dict, prefix)
        names = [key[len(prefix):] for key in state_dict if key.startswith(prefix + 'stage')]
        if not names:
            raise InputError(self._describe_absence(state_dict, prefix))

        not_built = tuple(f'stage{i}.' for i in range(self.out_indices[-1] + 1, NUM_STAGES))
        skipped = [name for name in names if name.startswith(not_built)]
        if skipped:
            print_log(f'{len(skipped)} weights of stages after out_indices={self.out_indices}, '
                      'which are not built, are left out', logger='current')
            for name in skipped:
                del state_dict[prefix + name]

        given = {name: state_dict[prefix + name] for name in names if name not in skipped}
        variant = variant_of(given)
        other = variant and stage_channels(ARCHS[variant]) != stage_channels(self.arch)
        remedy = f'its widths are those of arch={variant!r}' if other else 'give one of the same arch'

        for name, block in self.blocks().items():
            weight = f'{prefix}{name}.branch_reparam.weight'
            if not block.deploy and weight in state_dict:
                raise InputError(f'checkpoint has deployed weights ({weight}) but the model is in '
                                 'training form: set model.backbone.deploy=True')
            if (block.deploy and weight not in state_dict
                    and any(key.startswith(f'{name}.branch_') for key in given)):
                try:
                    block.fold_state_dict(state_dict, f'{prefix}{name}.')
                except InputError as error:
                    raise InputError('the checkpoint does not fit the MobileOne backbone '
                                     f'({error}): {remedy}') from None

        own = {prefix + key: tuple(value.shape) for key, value in self.state_dict().items()}
        given = {key: tuple(value.shape) for key, value in state_dict.items()
                 if key.startswith(prefix + 'stage')}  # yapf: disable
        mismatches = {
            'missing': [key for key in own
                        if key not in given and not key.endswith('num_batches_tracked')],
            'unexpected': [key for key in given if key not in own],
            'wrong shape': [f'{key} {given[key]} where the model has {own[key]}'
                            for key in own if key in given and given[key] != own[key]],
        }  # yapf: disable
        problems = [f'{label}: {keys[0]}' + (f' and {len(keys) - 1} more' if keys[1:] else '')
                    for label, keys in mismatches.items() if keys]
        if problems:
            raise InputError('the checkpoint does not fit the MobileOne backbone '
                             f'({"; ".join(problems)}): {remedy}')

    @staticmethod
    def _take_classifier(state_dict: dict[str, Tensor], prefix: str) -> None:
        """Where a whole classifier of any source was given, move its backbone to ``prefix``."""
        given = {key[len(prefix):]: value for key, value in state_dict.items()
                 if key.startswith(prefix)}  # yapf: disable
        source = recognise(given)
        if source is None:
            return
        for key in given:
            del state_dict[prefix + key]
        for key, value in to_mmone(given).items():
            state_dict[prefix + key.removeprefix('backbone.')] = value
        print_log(f"the weights are a classifier's with {source.name}'s names: its backbone is "
                  'loaded', logger='current')  # yapf: disable

    @staticmethod
    def _describe_absence(state_dict: dict[str, Tensor], prefix: str) -> str:
        message = f'the checkpoint has no weights for the MobileOne backbone ({prefix}stage0.…)'
        found = next((key for key in state_dict if 'stage0.' in key), None)
        if found is None:
            return message + ': give a MobileOne checkpoint'
        elsewhere = found.partition('stage0.')[0]
        return message + (f' but has {found}: set prefix={elsewhere!r} where it is loaded with '
                          "init_cfg=dict(type='Pretrained', …)")

