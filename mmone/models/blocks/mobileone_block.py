"""The MobileOne block: many linear branches while training, one convolution deployed."""
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleList, Sequential
from torch import Generator, Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.checkpoint import checkpoint

from mmone.compat import is_compiling, is_exporting, is_transforming
from mmone.errors import InputError

from . import obstacles, reparam
from .fused_branches import forward_block
from .layers import build_activation_layer, build_norm_layer
from .pointwise_conv import PointwiseConv2d
from .running_statistics import BufferSnapshot
from .se_layer import SELayer

BRANCH_MODES = ('auto', 'separate', 'fused')


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

    Attributes:
        deploy (bool): Whether the block is in its deployed form.

    Raises:
        InputError: If ``norm_cfg`` builds a layer that has no running statistics to fold,
            ``conv_cfg``, ``kernel_size`` or ``padding`` is none that can be folded, or ``branch_mode``
            is ``'fused'`` and the block cannot be.
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
                 branch_mode: str = 'auto'):
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
        self.branch_mode = self._check_branch_mode(branch_mode)
        self._check_foldable(padding, conv_cfg)

        if deploy:
            self.branch_reparam: Any = self._conv(nn.Conv2d, kernel_size, bias=True)
        else:
            self._build_branches()
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

    def _conv(self, conv_type: type, kernel_size: int, bias: bool = False) -> nn.Conv2d:
        dilation = self.dilation if kernel_size > 1 else 1
        return conv_type(
            self.in_channels,
            self.out_channels,
            kernel_size,
            stride=self.stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=self.groups,
            bias=bias)

    def _norm(self) -> Any:
        norm = build_norm_layer(self.norm_cfg, self.out_channels)[1]
        # mmcv's SyncBatchNorm is no _NormBase: what counts is what folding needs.
        tensors = (getattr(norm, name, None)
                   for name in ('running_mean', 'running_var', 'weight', 'bias'))
        if isinstance(norm, _InstanceNorm) or any(tensor is None for tensor in tensors):
            raise InputError(
                f'norm_cfg={dict(self.norm_cfg)} builds a {type(norm).__name__} without running '
                'statistics or without affine parameters, which cannot be folded into a '
                "convolution: use a BatchNorm, e.g. norm_cfg=dict(type='BN')")
        return norm

    def _conv_norm(self, conv_type: type, kernel_size: int) -> Sequential:
        branch = Sequential()
        branch.add_module('conv', self._conv(conv_type, kernel_size))
        branch.add_module('norm', self._norm())
        return branch

    def _check_branch_mode(self, branch_mode: str) -> str:
        if branch_mode not in BRANCH_MODES:
            raise InputError(f'branch_mode must be one of {", ".join(BRANCH_MODES)}, got {branch_mode!r}')
        fusable = self.groups == 1 or self.groups == self.in_channels == self.out_channels
        if branch_mode == 'fused' and not fusable:
            raise InputError(f"branch_mode='fused' takes convolutions over all channels and depthwise ones, not "
                             f"{self.groups} groups of {self.in_channels} channels: use branch_mode='auto'")
        return branch_mode if fusable else 'separate'

    def _build_branches(self) -> None:
        conv_type = nn.Conv2d if self.kernel_size > 1 else PointwiseConv2d
        self.branch_conv_list = ModuleList(
            self._conv_norm(conv_type, self.kernel_size) for _ in range(self.num_convs))
        self.branch_scale = self._conv_norm(PointwiseConv2d, 1) if self.use_scale else None
        self.branch_norm = self._norm() if self.use_skip else None

    def init_weights(self) -> None:
        super().init_weights()
        if self.init_gamma != 1 and not self.deploy:
            for conv, norm in self.branches():
                if conv is not None:
                    nn.init.constant_(norm.weight, self.init_gamma)

    def named_branches(self) -> Iterator[tuple[str, Any]]:
        """Every branch by its name: what the forward pass sums, the last one first."""
        for i, branch in enumerate(self.branch_conv_list):
            yield f'branch_conv_list.{i}', branch
        if self.branch_scale is not None:
            yield 'branch_scale', self.branch_scale
        if self.branch_norm is not None:
            yield 'branch_norm', self.branch_norm

    def branches(self) -> Iterator[tuple[nn.Conv2d | None, Any]]:
        """The (convolution, norm) of every branch; None stands for the identity.

        What folding reads, of the same list.
        """
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
        return reparam.fold_branches(
            ((None if conv is None else conv.weight, norm.running_mean, norm.running_var, norm.weight, norm.bias,
              norm.eps) for conv, norm in self.branches()), self.kernel_size, self.groups)

    def switch_to_deploy(self) -> None:
        """Replace the branches by their one convolution, in place; does nothing the second time.

        Device, dtype, training mode and whether the parameters require gradients are kept, so
        that a deployed block fine-tunes, or stays frozen, like any convolution.
        """
        if self.deploy:
            return
        kernel, bias = self.equivalent_kernel_bias()
        like = self.branch_conv_list[0].conv.weight
        with torch.device('meta'):  # draws no initial values
            conv = self._conv(nn.Conv2d, self.kernel_size, bias=True)
        conv = conv.to(like.dtype).to_empty(device=like.device)
        conv.load_state_dict(dict(weight=kernel.detach(), bias=bias.detach()))
        conv.requires_grad_(like.requires_grad).train(self.training)
        self.branch_reparam = conv
        del self.branch_conv_list, self.branch_scale, self.branch_norm

    def switch_to_branches(self, noise: float, generator: Generator) -> None:
        """Replace the one convolution by branches of the same function in eval mode, in place.

        The reverse of :meth:`switch_to_deploy`: the norms get mean 0 and variance 1, which are
        not those of any data yet. Does nothing to a block that has branches.

        Args:
            noise (float): How different the convolution branches start, see
                :func:`~mmone.models.blocks.reparam.split_kernel`.
            generator (torch.Generator): What draws the noise.
        """
        if not self.deploy:
            return
        conv = self.branch_reparam
        weights = reparam.split_state_dict(
            conv.weight.detach(), conv.bias.detach(), self.num_convs, self.use_scale, self.use_skip, self.groups,
            noise, generator, self._norm().eps)
        del self.branch_reparam
        with torch.device('meta'):  # draws no initial values
            self._build_branches()
        self.load_state_dict(weights, strict=False, assign=True)  # has nothing for SE
        self.requires_grad_(conv.weight.requires_grad).train(self.training)

    def branch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights of the branches that a deployed block stands for, by their names."""
        return reparam.branch_shapes(
            tuple(self.branch_reparam.weight.shape), self.num_convs, self.use_scale, self.use_skip)

    def fold_state_dict(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The deployed weights that branches fold to.

        Args:
            weights (dict[str, Tensor]): Of :meth:`branch_shapes`.
        """
        return reparam.fold_state_dict(weights, self.kernel_size, self.groups, self._norm().eps)
