"""The MobileOne backbone."""
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from mmengine.model import BaseModule, Sequential
from torch import Tensor

from mmone.checkpoints.loading import initializing, rename_while_loading, whole_of
from mmone.errors import InputError
from mmone.registry import MODELS

from ..blocks import MobileOneBlock
from .archs import STAGES, check_arch, stage_channels
from .loading import fit_state_dict, refuse_left_over


@MODELS.register_module()
class MobileOne(BaseModule):
    """MobileOne (`An Improved One millisecond Mobile Backbone
    <https://arxiv.org/abs/2206.04040>`_).

    A drop-in for mmpretrain's: the same arguments with the same meanings, then our own; the same
    parameter names, so its released checkpoints load as they are. Stages are counted from 0 as in
    mmpretrain's, mmdet's and mmseg's ResNets: 0 to 3 are ``stage1`` to ``stage4``, of strides 4 to
    32; the stem before them, of stride 2, is ``stage0``. Stages after the last of ``out_indices``
    are not built.

    Loading weights never goes silently wrong, whatever ``strict`` is: training-form weights are
    reparameterized while they load into a deployed backbone; deployed weights for a training-form
    backbone, and missing, unexpected or wrongly shaped weights of the backbone, are errors. Where there
    are none for the backbone, as in a head alone, ``strict`` means what it means in PyTorch.

    Args:
        arch (str | dict): ``'s0'`` to ``'s4'``; ``'s4_no_se'``, the S4 without squeeze-excite of the paper's
            segmentors; ``'micro214'``, ``'micro139'`` or ``'micro68'``, whose shapes are ours and fit the
            published counts of the paper's micro variants; or a dict whose values are lists or tuples for stage1
            to stage4:

            - ``num_blocks``: depthwise + pointwise pairs of blocks.
            - ``width_factor``: factors on 64, 128, 256 and 512 channels.
            - ``num_conv_branches``: branches k of every block.
            - ``num_se_blocks``: how many of the stage's last pairs have SE layers.

            Defaults to ``'s0'``.
        in_channels (int): Channels of the input. Defaults to 3.
        out_indices (int | str | Sequence[int | str]): Stages to return, 0 to 3 for stage1 to
            stage4; negative ones count from the end; ``'stem'`` is the stem's output. Outputs come
            in the order of the stages, whatever the order here. Defaults to ``(3, )``, stage4.
        frozen_stages (int): Freeze, and keep in eval mode, the stem (0) or the stem and stage1 to
            this stage (1 to 4); -1 freezes nothing. Defaults to -1.
        conv_cfg (dict | None): None or ``dict(type='Conv2d')``: only plain convolutions can be
            folded. Defaults to None.
        norm_cfg (dict): Any BatchNorm, e.g. ``dict(type='SyncBN', eps=1e-3)``. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict): Defaults to ``dict(type='ReLU', inplace=True)``.
        se_cfg (dict): Arguments of the SE layers. Defaults to ``dict(ratio=16)``.
        deploy (bool): Build the deployed form, a plain chain of convolutions. Defaults to False.
        norm_eval (bool): Keep all BatchNorms in eval mode while training. Defaults to False.
        init_cfg (dict | list[dict]): Defaults to Kaiming for convolutions, 1 for BatchNorms.
        strides (Sequence[int]): Strides of stage1 to stage4, each 1 or 2. Output stride 16 is
            ``(2, 2, 2, 1)``, 8 is ``(2, 2, 1, 1)``. Parameters are the same at any strides, so a
            classifier's checkpoint fits. Defaults to ``(2, 2, 2, 2)``.
        dilations (Sequence[int]): Dilations of stage1 to stage4. The first block of a stage keeps
            the previous stage's rate, since its input was computed at that rate (as torchvision's
            and mmseg's dilated ResNets do). Defaults to ``(1, 1, 1, 1)``.
        stem_stride (int): 1 or 2; 1 for small images. Defaults to 2.
        use_scale (bool): Whether blocks have the 1×1 scale branch. Defaults to True.
        use_skip (bool): Whether blocks have the BatchNorm skip branch. Defaults to True.
        with_cp (bool): Trade compute for memory: recompute each block in the backward pass.
            Defaults to False.
        channels_last (bool): Compute in the channels_last memory format, from the input on: the
            same values, on a CPU in about 0.6 of the time. The outputs are in that format
            too, which some of mmcv's operators misread (:mod:`mmone.models.memory_format`). Defaults to False.
        init_gamma (float): Initial BatchNorm weight of the convolution branches, next to 1 of the
            skip branch. At 0.1, blocks start near the identity and a short training gets under way
            in a fraction of the time (the idea of https://arxiv.org/abs/1706.02677, section 5.1);
            the paper's long ones start at 1. Defaults to 1.
        branch_mode (str): How the branches of each block are computed in training: ``'separate'``,
            ``'fused'`` into one convolution, exactly, or ``'auto'``, whichever was measured to be
            faster. Checkpoints are the same, so a resumed run may change it. See
            :class:`~mmone.models.blocks.mobileone_block.MobileOneBlock`. Defaults to ``'auto'``.
        branches (str): Whose branches the blocks have: ``'mobileone'``, or one of the paper's rivals, ``'acnet'``,
            ``'dbb'`` or ``'expandnet'``, for which ``num_conv_branches``, ``use_scale`` and ``use_skip`` are not
            (:mod:`mmone.models.blocks.rivals`). RepVGG's are MobileOne's with ``num_conv_branches`` of 1.
            Defaults to ``'mobileone'``.

    Attributes:
        deploy (bool): Whether all blocks are in their deployed form.
        stages (list[str]): Names of the stages that are built, without the stem.
        out_indices (tuple): What is returned, in the order of the outputs.

    Raises:
        InputError: If an argument, or a checkpoint given to it, does not fit.

    Examples:
        >>> import torch
        >>> from mmone.models import MobileOne
        >>> model = MobileOne('s0', out_indices=(0, 1, 2, 3)).eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 224, 224))]
        [(1, 48, 56, 56), (1, 128, 28, 28), (1, 256, 14, 14), (1, 1024, 7, 7)]
    """

    _loads_strictly = True  # other than by load_state_dict(…, strict=False) of the backbone itself

    def __init__(self,
                 arch: str | dict = 's0',
                 in_channels: int = 3,
                 out_indices: int | str | Sequence[int | str] = (3, ),
                 frozen_stages: int = -1,
                 conv_cfg: dict | None = None,
                 norm_cfg: dict = dict(type='BN'),
                 act_cfg: dict = dict(type='ReLU', inplace=True),
                 se_cfg: dict = dict(ratio=16),
                 deploy: bool = False,
                 norm_eval: bool = False,
                 init_cfg: dict | list[dict] | None = [
                     dict(type='Kaiming', layer=['Conv2d']),
                     dict(type='Constant', val=1, layer=['_BatchNorm'])
                 ],
                 strides: Sequence[int] = (2, 2, 2, 2),
                 dilations: Sequence[int] = (1, 1, 1, 1),
                 stem_stride: int = 2,
                 use_scale: bool = True,
                 use_skip: bool = True,
                 with_cp: bool = False,
                 channels_last: bool = False,
                 init_gamma: float = 1.0,
                 branch_mode: str = 'auto',
                 branches: str = 'mobileone'):
        super().__init__(init_cfg)
        rename_while_loading()  # also by loaders that were registered since the last one was built
        self.arch = check_arch(arch)
        self.in_channels = in_channels
        self.out_indices = _check_out_indices(out_indices)
        self.frozen_stages = _check_frozen_stages(frozen_stages)
        self.norm_eval = norm_eval
        self.channels_last = channels_last
        strides = _check_per_stage('strides', strides, allowed=(1, 2))
        dilations = _check_per_stage('dilations', dilations)
        if stem_stride not in (1, 2):
            raise InputError(f'stem_stride must be 1 or 2, got {stem_stride!r}')

        common: dict[str, Any] = dict(
            use_scale=use_scale, use_skip=use_skip, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg,
            with_cp=with_cp, init_gamma=init_gamma, branch_mode=branch_mode, branches=branches, deploy=deploy)
        width = stage_channels(self.arch)[0]
        self.stage0 = MobileOneBlock(in_channels, width, kernel_size=3, num_convs=1, stride=stem_stride,
                                     **dict(common, use_skip=False))
        last = max((index for index in self.out_indices if isinstance(index, int)), default=-1)
        self.stages = list(STAGES[:last + 1])
        rates = (1, *dilations)
        for i, stage in enumerate(self.stages):
            self.add_module(stage, self._build_stage(i, strides[i], rates[i], rates[i + 1], se_cfg, common))
        self._freeze_stages()

    def _build_stage(self, i: int, stride: int, first_dilation: int, dilation: int, se_cfg: dict,
                     common: dict) -> Sequential:
        """Depthwise and pointwise blocks in turn.

        Args:
            i (int): Index of the stage, 0 to 3.
            stride (int): Stride of the first block.
            first_dilation (int): Dilation of the first block.
            dilation (int): Dilation of the other depthwise blocks.
            se_cfg (dict): Arguments of the SE layers, where there are any.
            common (dict): Arguments of all blocks.
        """
        width, out_channels = stage_channels(self.arch)[i:i + 2]
        depth, k, num_se = (self.arch[key][i] for key in ('num_blocks', 'num_conv_branches', 'num_se_blocks'))
        blocks = []
        for j in range(depth):
            own = dict(common, num_convs=k, se_cfg=se_cfg if j >= depth - num_se else None)
            depthwise = dict(own, kernel_size=3, groups=width, dilation=dilation)
            if j == 0:
                # Where the classifier has stride 2 there is no skip, so that its checkpoints fit at any strides.
                depthwise.update(stride=stride, dilation=first_dilation, use_skip=False)
            blocks.append(MobileOneBlock(width, width, **depthwise))
            blocks.append(MobileOneBlock(width, out_channels, kernel_size=1, **own))
            width = out_channels
        return Sequential(*blocks)

    @property
    def deploy(self) -> bool:
        return all(block.deploy for block in self.blocks().values())

    def blocks(self) -> dict[str, MobileOneBlock]:
        """Every block by its name, e.g. ``stage3.14``."""
        return {name: module for name, module in self.named_modules()
                if isinstance(module, MobileOneBlock)}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) → the outputs of ``out_indices``, each (N, C, H', W')."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.stage0(x)
        outs = [x] if 'stem' in self.out_indices else []
        for i, stage in enumerate(self.stages):
            x = getattr(self, stage)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        for stage in ('stage0', *self.stages)[:self.frozen_stages + 1]:
            getattr(self, stage).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> 'MobileOne':
        """Set the training mode; frozen stages, and norms under ``norm_eval``, stay in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if hasattr(module, 'running_mean'):
                    module.eval()
        return self

    def switch_to_deploy(self) -> None:
        """Reparameterize every block, in place."""
        for block in self.blocks().values():
            block.switch_to_deploy()

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
        self.train(self.training)  # the new norms, too

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says, whose weights may be of any source that mmone knows."""
        with initializing(self.init_cfg):
            super().init_weights()

    def load_state_dict(self, state_dict, strict: bool = True, *args, **kwargs):
        """As PyTorch's, and takes weights of the other names and forms that mmone knows."""
        if strict:
            refuse_left_over(state_dict)
        self._loads_strictly = strict
        try:
            return super().load_state_dict(state_dict, strict, *args, **kwargs)
        finally:
            del self._loads_strictly

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys,
                              unexpected_keys, error_msgs):
        # Raising here, not appending to error_msgs, is what makes mmengine's non-strict
        # load_state_dict (load_from, Pretrained, Runner.load_checkpoint) stop as well. PyTorch and mmengine
        # always say that it is strict.
        fit_state_dict(self, state_dict, prefix, whole_of(local_metadata), self._loads_strictly)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys,
                                      unexpected_keys, error_msgs)


def _check_out_indices(out_indices: int | str | Sequence[int | str]) -> tuple[int | str, ...]:
    """The stages to return, each once and in their order, counted from the front."""
    given = [out_indices] if isinstance(out_indices, (Integral, str)) else out_indices
    if not isinstance(given, Sequence) or not given:
        raise InputError(f'out_indices must be a stage or a list of stages, got {out_indices!r}')
    count = len(STAGES)
    for index in given:
        if index != 'stem' and not (isinstance(index, Integral) and index in range(-count, count)):
            raise InputError(f"out_indices has {index!r}: expected 0 to {count - 1} for stage1 to stage4, "
                             f"-{count} to -1 counted from the end, or 'stem'")
    stages = sorted({int(index) % count for index in given if index != 'stem'})
    return (*(['stem'] if 'stem' in given else []), *stages)


def _check_frozen_stages(frozen_stages: int) -> int:
    if not isinstance(frozen_stages, Integral) or frozen_stages not in range(-1, len(STAGES) + 1):
        raise InputError(f'frozen_stages must be -1 (none), 0 (the stem) or 1 to {len(STAGES)} (and stage1 to '
                         f'that stage), got {frozen_stages!r}')
    return frozen_stages


def _check_per_stage(name: str, values: Sequence[int], allowed: tuple | None = None) -> tuple[int, ...]:
    if (not isinstance(values, (list, tuple)) or len(values) != len(STAGES) or not all(
            isinstance(v, Integral) and int(v) >= 1 and (not allowed or v in allowed) for v in values)):
        each = f'one of {allowed}' if allowed else 'a positive integer'
        raise InputError(f'{name} must be {len(STAGES)} values, for stage1 to stage4, each {each}, got {values!r}')
    return tuple(values)
