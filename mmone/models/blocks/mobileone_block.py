"""The MobileOne block: many linear branches while training, one convolution deployed."""
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleDict, ModuleList, Sequential
from torch import Generator, Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.checkpoint import checkpoint

from mmone.compat import is_compiling, is_exporting, is_transforming
from mmone.errors import InputError

from . import obstacles, reparam, rivals
from .fused_branches import forward_block
from .layers import build_activation_layer, build_norm_layer
from .pointwise_conv import PointwiseConv2d
from .running_statistics import BufferSnapshot
from .se_layer import SELayer

BRANCH_MODES = ('auto', 'separate', 'fused')
OWN = 'mobileone'


class MobileOneBlock(BaseModule):
    """One block of MobileOne (section 3.3 of https://arxiv.org/abs/2206.04040v2).

    Training form: ``num_convs`` K×K conv-BN branches, a 1×1 conv-BN "scale" branch where K > 1 and
    a BN "skip" branch where input and output shapes agree, summed. Deployed form: one convolution
    with bias. Both are followed by SE, if any, and the activation.

    A drop-in for mmpretrain's: the same arguments with the same meanings, then our own; the same
    parameter names: ``branch_conv_list.{i}.{conv,norm}``, ``branch_scale.{conv,norm}``,
    ``branch_norm``, ``branch_reparam`` and ``se.conv{1,2}.conv``.

    Args:
        in_channels (int): Channels of the (N, C, H, W) input.
        out_channels (int): Channels of the output.
        kernel_size (int): K, odd: an even kernel has no centre tap for the other branches.
        num_convs (int): Number of K×K branches (k in the paper).
        stride (int): Defaults to 1.
        padding (int | None): ``dilation * (K // 2)``, which aligns the K×K branches with the others;
            None stands for it. Defaults to None.
        dilation (int): Dilation of the K×K branches. Defaults to 1.
        groups (int): Defaults to 1.
        se_cfg (dict | None): Arguments of :class:`~mmone.models.blocks.se_layer.SELayer`; None for
            no SE. Defaults to None.
        conv_cfg (dict | None): None or ``dict(type='Conv2d')``. Defaults to None.
        norm_cfg (dict): Any BatchNorm. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Defaults to ``dict(type='ReLU', inplace=True)``.
        deploy (bool): Build the deployed form. Defaults to False.
        init_cfg (dict | list[dict] | None): Defaults to None.
        use_scale (bool): Whether to build the scale branch where K > 1. Defaults to True.
        use_skip (bool): Whether to build the skip branch where shapes agree. Defaults to True.
        with_cp (bool): Recompute the block in the backward pass instead of storing its
            activations. Running statistics are updated once, as without it. Defaults to False.
        init_gamma (float): What ``init_weights()`` sets the BatchNorm weights of the convolution
            branches to; the skip branch starts at 1. Defaults to 1.
        branch_mode (str): How the branches are computed while the norms take the batch's statistics:
            ``'separate'``, one by one; ``'fused'``, as the one convolution that they sum to
            (:mod:`mmone.models.blocks.fused_branches`); ``'auto'``, whichever was measured to be faster
            for the input. Parameters are the same, and so are outputs, gradients and running statistics
            to rounding. Where fusing would compute something else or overlook something, such as a hook
            in a branch (:mod:`mmone.models.blocks.obstacles`), branches are separate in every mode, and
            ``'fused'`` warns of the reason. Defaults to ``'auto'``.
        branches (str): Whose branches: ``'mobileone'``, as above (RepVGG's are those with ``num_convs=1``); or
            ``'acnet'``, ``'dbb'`` or ``'expandnet'`` (:mod:`mmone.models.blocks.rivals`), which are named
            ``branch_chains``, are computed separately and cannot be given back to a deployed block. Those have a
            number and kinds of branches of their own: ``num_convs``, ``use_scale`` and ``use_skip`` are not
            for them. Where K is 1 each is one convolution and its norm. Defaults to ``'mobileone'``.

    Attributes:
        deploy (bool): Whether the block is in its deployed form.

    Raises:
        InputError: If ``norm_cfg`` builds a layer that has no running statistics to fold,
            ``conv_cfg``, ``kernel_size`` or ``padding`` is none that can be folded, ``branch_mode``
            is ``'fused'`` and the block cannot be, or ``branches`` is unknown.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 kernel_size: int,
                 num_convs: int,
                 stride: int = 1,
                 padding: int | None = None,
                 dilation: int = 1,
                 groups: int = 1,
                 se_cfg: dict | None = None,
                 conv_cfg: dict | None = None,
                 norm_cfg: dict = dict(type='BN'),
                 act_cfg: dict = dict(type='ReLU', inplace=True),
                 deploy: bool = False,
                 init_cfg: dict | list[dict] | None = None,
                 use_scale: bool = True,
                 use_skip: bool = True,
                 with_cp: bool = False,
                 init_gamma: float = 1.0,
                 branch_mode: str = 'auto',
                 branches: str = OWN):
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.num_convs = num_convs
        self.stride = stride
        self.dilation = dilation
        self.groups = groups
        self.use_scale = use_scale and kernel_size > 1
        self.use_skip = use_skip and in_channels == out_channels and stride == 1
        self.se_cfg = se_cfg
        self.norm_cfg = norm_cfg
        self.with_cp = with_cp
        self.init_gamma = init_gamma
        if branches not in (OWN, *rivals.RIVALS):
            raise InputError(f'branches must be one of {", ".join((OWN, *rivals.RIVALS))}, got {branches!r}')
        self.branches_of = branches
        self.branch_mode = self._check_branch_mode(branch_mode)
        self._check_foldable(padding, conv_cfg)

        if deploy:
            self.branch_reparam: Any = self._deployed_conv()
        else:
            self._add_branches()
        self.se = nn.Identity() if se_cfg is None else SELayer(out_channels, **se_cfg)
        self.act = build_activation_layer(act_cfg)

    @property
    def deploy(self) -> bool:
        return 'branch_reparam' in self._modules

    def _check_foldable(self, padding: int | None, conv_cfg: dict | None) -> None:
        if self.kernel_size % 2 == 0:
            raise InputError(f'kernel_size={self.kernel_size} has no centre tap for the other branches to be added '
                             'to: expected an odd one')
        aligned = self.dilation * (self.kernel_size // 2)
        if padding not in (None, aligned):
            raise InputError(f'padding={padding} does not align convolutions of kernel size {self.kernel_size} and '
                             f'dilation {self.dilation} with the other branches: expected {aligned}, or None for it')
        plain = ('Conv', 'Conv2d', nn.Conv2d)
        if conv_cfg is not None and (conv_cfg.keys() != {'type'} or conv_cfg['type'] not in plain):
            raise InputError(f'conv_cfg={dict(conv_cfg)} is no plain convolution, which alone can be folded: expected '
                             "None or dict(type='Conv2d')")

    def new_conv(self, size: tuple[int, int], in_channels: int | None = None, out_channels: int | None = None,
                 stride: int | None = None, padding: int | None = None) -> nn.Conv2d:
        """A convolution of a branch, bias-free, with the block's channels, stride and aligned padding by default."""
        height, width = (self.dilation if length > 1 else 1 for length in size)
        conv_type = nn.Conv2d if max(size) > 1 else PointwiseConv2d
        return conv_type(
            self.in_channels if in_channels is None else in_channels,
            self.out_channels if out_channels is None else out_channels,
            size,
            stride=self.stride if stride is None else stride,
            padding=(height * (size[0] // 2), width * (size[1] // 2)) if padding is None else padding,
            dilation=(height, width),
            groups=self.groups,
            bias=False)

    def _deployed_conv(self) -> nn.Conv2d:
        return nn.Conv2d(
            self.in_channels, self.out_channels, self.kernel_size, stride=self.stride,
            padding=self.dilation * (self.kernel_size // 2), dilation=self.dilation if self.kernel_size > 1 else 1,
            groups=self.groups)

    def new_norm(self, channels: int | None = None) -> Any:
        """A norm of a branch, of the block's output channels by default."""
        norm = build_norm_layer(self.norm_cfg, self.out_channels if channels is None else channels)[1]
        # mmcv's SyncBatchNorm is no _NormBase: what counts is what folding needs.
        tensors = (getattr(norm, name, None)
                   for name in ('running_mean', 'running_var', 'weight', 'bias'))
        if isinstance(norm, _InstanceNorm) or any(tensor is None for tensor in tensors):
            raise InputError(
                f'norm_cfg={dict(self.norm_cfg)} builds a {type(norm).__name__} without running '
                'statistics or without affine parameters, which cannot be folded into a '
                "convolution: use a BatchNorm, e.g. norm_cfg=dict(type='BN')")
        return norm

    def _conv_norm(self, kernel_size: int) -> Sequential:
        branch = Sequential()
        branch.add_module('conv', self.new_conv((kernel_size, kernel_size)))
        branch.add_module('norm', self.new_norm())
        return branch

    def _check_branch_mode(self, branch_mode: str) -> str:
        if branch_mode not in BRANCH_MODES:
            raise InputError(f'branch_mode must be one of {", ".join(BRANCH_MODES)}, got {branch_mode!r}')
        fusable = self.groups == 1 or self.groups == self.in_channels == self.out_channels
        if branch_mode == 'fused' and self.branches_of != OWN:
            raise InputError(f"branch_mode='fused' is for the branches of MobileOne, not for "
                             f"branches={self.branches_of!r}: use branch_mode='auto'")
        if branch_mode == 'fused' and not fusable:
            raise InputError(f"branch_mode='fused' takes convolutions over all channels and depthwise ones, not "
                             f"{self.groups} groups of {self.in_channels} channels: use branch_mode='auto'")
        return branch_mode if fusable and self.branches_of == OWN else 'separate'

    def _new_branches(self) -> dict[str, Any]:
        """The parts of the training form by their names, None for what the block does without."""
        if self.branches_of != OWN:
            return dict(branch_chains=ModuleDict(rivals.build(self.branches_of, self)))
        return dict(
            branch_conv_list=ModuleList(self._conv_norm(self.kernel_size) for _ in range(self.num_convs)),
            branch_scale=self._conv_norm(1) if self.use_scale else None,
            branch_norm=self.new_norm() if self.use_skip else None)

    def _add_branches(self) -> None:
        for name, part in self._new_branches().items():
            setattr(self, name, part)

    def branches_as_built(self) -> nn.ModuleDict:
        """The parts of the training form, whichever form the block has, on the meta device."""
        with torch.device('meta'):  # draws no initial values
            return nn.ModuleDict({name: part for name, part in self._new_branches().items() if part is not None})

    def init_weights(self) -> None:
        super().init_weights()
        if self.init_gamma != 1 and not self.deploy:
            for name, branch in self.named_branches():
                if name != 'branch_norm':
                    nn.init.constant_([*rivals.layers_of(branch).values()][-1].weight, self.init_gamma)

    def named_branches(self, parts: Any = None) -> Iterator[tuple[str, Any]]:
        """Every branch by its name: what the forward pass sums, the last one first, and what folding reads.

        Args:
            parts (nn.Module): With the parts of the training form. Defaults to the block itself.
        """
        parts = self if parts is None else parts
        if self.branches_of != OWN:
            for name, branch in parts.branch_chains.items():
                yield f'branch_chains.{name}', branch
            return
        for i, branch in enumerate(parts.branch_conv_list):
            yield f'branch_conv_list.{i}', branch
        for name in ('branch_scale', 'branch_norm'):
            branch = getattr(parts, name, None)
            if branch is not None:
                yield name, branch

    def branches(self) -> Iterator[tuple[nn.Conv2d | None, Any]]:
        """The (convolution, norm) of every branch of MobileOne; None stands for the identity."""
        for name, branch in self.named_branches():
            yield (None, branch) if name == 'branch_norm' else (branch.conv, branch.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) → (N, C_out, ceil(H / stride), ceil(W / stride))."""
        if not (self.with_cp and isinstance(x, Tensor) and x.requires_grad) or is_transforming():
            return self._forward(x)
        if is_exporting():  # a program that is written down recomputes nothing
            return self._forward(x)
        if is_compiling():  # what is recomputed then has no side effects
            return checkpoint(self._forward, x, use_reentrant=False)
        return checkpoint(self._forward, x, use_reentrant=False,
                          context_fn=lambda: (nullcontext(), BufferSnapshot(self)))

    def _forward(self, x: Tensor) -> Tensor:
        if self.deploy:
            out = self.branch_reparam(x)
        else:
            out = forward_block(self, x) if self.training else None
            if out is not None:
                return out
            # The last branch first: this way the gradients of x add up a tenth faster.
            outs = (branch(x) for _, branch in reversed(list(self.named_branches())))
            # Branches, and hooks in them, may keep what they return: what is added to is ours.
            out = next(outs)
            for i, other in enumerate(outs):
                out = out.add_(other) if i else out + other
        return self.act(self.se(out))

    def equivalent_kernel_bias(self) -> tuple[Tensor, Tensor]:
        """The kernel (C_out, C_in / groups, K, K) and bias (C_out,) equal to the branches.

        Equal in eval mode, that is with the running statistics. Differentiable, in the
        parameters' dtype or float32, whichever is wider.

        Raises:
            InputError: If a branch is no convolution and norm that can be folded.
        """
        if self.deploy:
            return self.branch_reparam.weight, self.branch_reparam.bias
        obstacle = obstacles.to_folding(self)
        if obstacle:
            raise InputError(f'the branches cannot be folded: {obstacle}')
        return self._fold(self)

    def _fold(self, parts: nn.Module) -> tuple[Tensor, Tensor]:
        return reparam.fold_branches(
            (rivals.tensors_of(branch, self.groups) for _, branch in self.named_branches(parts)),
            self.kernel_size, self.groups)

    def switch_to_deploy(self) -> None:
        """Replace the branches by their one convolution, in place; does nothing the second time.

        Device, dtype, training mode and whether the parameters require gradients are kept, so
        that a deployed block fine-tunes, or stays frozen, like any convolution.
        """
        if self.deploy:
            return
        kernel, bias = self.equivalent_kernel_bias()
        like = next(iter(rivals.layers_of(next(self.named_branches())[1]).values())).weight
        with torch.device('meta'):  # draws no initial values
            conv, parts = self._deployed_conv(), self._new_branches()
        conv = conv.to(like.dtype).to_empty(device=like.device)
        conv.load_state_dict(dict(weight=kernel.detach(), bias=bias.detach()))
        conv.requires_grad_(like.requires_grad).train(self.training)
        for name in parts:
            delattr(self, name)
        self.branch_reparam = conv

    def switch_to_branches(self, noise: float, generator: Generator) -> None:
        """Replace the one convolution by branches of the same function in eval mode, in place.

        The reverse of :meth:`switch_to_deploy`: the norms get mean 0 and variance 1, which are
        not those of any data yet. Does nothing to a block that has branches.

        Args:
            noise (float): How different the convolution branches start, see
                :func:`~mmone.models.blocks.reparam.split_kernel`.
            generator (torch.Generator): What draws the noise.

        Raises:
            InputError: If the branches are a rival's.
        """
        if not self.deploy:
            return
        if self.branches_of != OWN:
            raise InputError(f'deployed weights cannot be given branches={self.branches_of!r}, only those of '
                             f'MobileOne: set branches={OWN!r}')
        conv = self.branch_reparam
        weights = reparam.split_state_dict(
            conv.weight.detach(), conv.bias.detach(), self.num_convs, self.use_scale, self.use_skip, self.groups,
            noise, generator, self.new_norm().eps)
        del self.branch_reparam
        with torch.device('meta'):  # draws no initial values
            self._add_branches()
        self.load_state_dict(weights, strict=False, assign=True)  # has nothing for SE
        self.requires_grad_(conv.weight.requires_grad).train(self.training)

    def branch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights of the branches, of which a deployed block has none, by their names."""
        return {name: tuple(value.shape) for name, value in self.branches_as_built().state_dict().items()}

    def fold_state_dict(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The deployed weights that branches fold to.

        Args:
            weights (dict[str, Tensor]): Of :meth:`branch_shapes`.
        """
        parts = self.branches_as_built()
        parts.load_state_dict(weights, strict=False, assign=True)  # old checkpoints lack the counters
        kernel, bias = self._fold(parts)
        return {'branch_reparam.weight': kernel.detach(), 'branch_reparam.bias': bias.detach()}
