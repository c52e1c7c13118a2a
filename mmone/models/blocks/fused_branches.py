"""The branches of a block as one convolution while they train, exactly.

In training a BatchNorm normalizes by the mean and variance of its input over the batch. Every
branch is linear in the block's input x, so the normalized branches still sum to one convolution of
x (section 3.1 of https://arxiv.org/abs/2206.04040, with the batch's statistics for the running
ones). Its kernel depends on x through those statistics alone, which
:mod:`mmone.models.blocks.branch_statistics` has without storing what any branch computes. That is
:class:`FusedConvolution`.

Of a single 1×1 convolution the statistics cost more than they save. :class:`NormalizedConvolution`
computes it, and normalizes, adds the skip branch and takes the ReLU in one pass.

The gradients are those of the branches, the parts that come through the statistics included.
"""
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import reparam
from .branch_statistics import (
    COMPILES,
    Branches,
    DepthwiseCovariance,
    Direct,
    _ext,
    channel_statistics,
    convolution_backward,
    is_compiled,
    is_compiling,
    way_of,
)
from .running_statistics import update_running_statistics

# The forward passes of norms that are computed here.
FUSABLE = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)


def _synchronize(mean: Tensor, var: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values over all processes, as ``nn.SyncBatchNorm`` does.

    Two vectors for each branch are exchanged, not Σ: the variance over all is the mean of the variances and
    the variance of the means.
    """
    own = torch.stack([mean, var, torch.full_like(mean, count)])
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, own, group=group)
    means, variances, counts = torch.stack(everyone, 1)
    total = counts[:, :1, :1].sum()
    weights = counts / total
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0), total


class FusedConvolution(Function):
    """(N, C_in, H, W) and the parameters of the branches → what the normalized branches sum to.

    With it come the mean and unbiased variance (branches, C_out) over the batch.
    """

    @staticmethod
    def forward(ctx, x, of, num_kernels, *parameters):
        with _no_autocast(x):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            weights, norms = parameters[:num_kernels], parameters[num_kernels:]
            kernels = torch.stack([reparam.pad_kernel(weight, of.kernel_size) for weight in weights])
            kernels = kernels.to(wide.dtype).contiguous()
            gamma, beta = torch.stack(norms).to(wide.dtype).chunk(2)
            way = way_of(x, of)
            own_mean, own_var, saved = way.forward(wide, kernels, of)
            mean, var, count = own_mean, own_var, of.positions(x)
            if of.process_group is not None:
                mean, var, count = _synchronize(own_mean, own_var, count, of.process_group)
            invstd = (var + of.eps).rsqrt()
            scale = gamma * invstd
            kernel = (kernels * scale[:num_kernels, :, None, None, None]).sum(0)
            if of.skip:
                of.own_taps(kernel).add_(scale[-1])
            kernel, bias = (values.to(x.dtype) for values in (kernel, (beta - mean * scale).sum(0)))
            ctx.save_for_backward(x, kernel, kernels, gamma, own_mean, mean, invstd, *saved)
            ctx.of, ctx.way, ctx.count = of, way, count
            ctx.sizes = [weight.shape[-1] for weight in weights]
            var = var * (count / (count - 1))
            ctx.mark_non_differentiable(mean, var)
            return F.conv2d(x, kernel, bias, *of.geometry), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, *_):
        with _no_autocast(grad_out):
            return FusedConvolution._backward(ctx, grad_out)

    @staticmethod
    def _backward(ctx, grad_out):
        x, kernel, kernels, gamma, own_mean, mean, invstd, *saved = ctx.saved_tensors
        of = ctx.of
        # A depthwise convolution has the bias's gradient for less than a pass over the output's.
        with_bias = of.groups > 1 and grad_out.dtype == mean.dtype
        grad_x, grad_kernel, grad_bias = convolution_backward(
            grad_out, x, kernel, of, ctx.needs_input_grad[0], with_bias)
        grad_kernel = grad_kernel.to(mean.dtype)
        if not with_bias:
            grad_bias = grad_out.sum((0, 2, 3), dtype=mean.dtype)

        scale = gamma * invstd
        grad_scale = (kernels * grad_kernel).flatten(2).sum(2)
        if of.skip:
            grad_scale = torch.cat([grad_scale, of.own_taps(grad_kernel)[None]])
        grad_gamma = (grad_scale - mean * grad_bias) * invstd
        grad_mean = scale * -grad_bias
        grad_var = grad_gamma * scale * invstd * -0.5
        if of.process_group is not None:
            # Every process's loss depends on the statistics, and they on every process's input.
            both = torch.stack([grad_mean, grad_var])
            dist.all_reduce(both, group=of.process_group)
            grad_mean, grad_var = both * (of.positions(x) / ctx.count)
            grad_mean = grad_mean + 2 * grad_var * (own_mean - mean)

        grad_kernels = (grad_kernel * scale[:len(kernels), :, None, None, None]).contiguous()
        ctx.way.backward(x.to(mean.dtype), kernels, of, own_mean, tuple(saved), grad_mean, grad_var,
                         grad_kernels, grad_x)
        centre = of.kernel_size // 2
        grad_weights = [grad if size == of.kernel_size else grad[..., centre:centre + 1, centre:centre + 1]
                        for grad, size in zip(grad_kernels, ctx.sizes)]
        # Not expand(): the gradients of two parameters must not share memory.
        return (grad_x, None, None, *grad_weights, *grad_gamma, *grad_bias.repeat(len(gamma), 1))


class NormalizedConvolution(Function):
    """(N, C_in, H, W) → what a normalized 1×1 convolution of it, and its normalized self where there is a
    skip branch, sum to; after the ReLU, if any.

    With it come the mean and unbiased variance (branches, C_out) over the batch. All is channels_last.
    """

    @staticmethod
    def forward(ctx, x, of, weight, *norms):
        y = _channels_last(F.conv2d(x, weight))
        branches = [y, x] if of.skip else [y]
        count = of.positions(x)
        mean, var = (torch.stack(values) for values in zip(*map(channel_statistics, branches)))
        if of.process_group is not None:
            mean, var, count = _synchronize(mean, var, count, of.process_group)
        invstd = (var + of.eps).rsqrt()
        gamma, beta = torch.stack(norms).to(x.dtype).chunk(2)
        scale, bias = gamma * invstd, beta.sum(0)
        out = torch.empty_like(y)
        _ext.norm_sum(*_sum(x, y, mean, scale, bias, of), out.data_ptr())
        ctx.save_for_backward(x, y, weight, mean, invstd, scale, bias)
        ctx.of, ctx.count = of, count
        var = var * (count / (count - 1))
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, *_):
        x, y, weight, mean, invstd, scale, bias = ctx.saved_tensors
        of, grad_out = ctx.of, _channels_last(grad_out)
        given = *_sum(x, y, mean, scale, bias, of), grad_out.data_ptr()
        # Over all positions, of the gradient after the ReLU, and of it times each centred branch.
        sums = x.new_empty(1 + len(mean), len(weight))
        _ext.norm_gradient_sums(*given, sums.data_ptr())
        grad_beta, grad_gamma = sums[0].repeat(len(mean), 1), sums[1:] * invstd
        if of.process_group is not None:
            # Every process's loss depends on the statistics, and they on every process's input.
            dist.all_reduce(sums, group=of.process_group)
        slope = scale * invstd.square() * sums[1:] / -ctx.count
        offset = scale * sums[0] / -ctx.count
        grad_y = torch.empty_like(y)
        _ext.norm_gradient(*given, slope.data_ptr(), offset.data_ptr(), False, grad_y.data_ptr())
        grad_x, grad_weight, _ = convolution_backward(grad_y, x, weight, of, ctx.needs_input_grad[0])
        if of.skip and grad_x is not None:
            grad_x = _channels_last(grad_x)
            _ext.norm_gradient(*given, slope.data_ptr(), offset.data_ptr(), True, grad_x.data_ptr())
        return grad_x, None, grad_weight, *grad_gamma, *grad_beta


def _sum(x: Tensor, y: Tensor, mean: Tensor, scale: Tensor, bias: Tensor, of: Branches) -> tuple[bool, tuple]:
    """What the compiled functions begin with."""
    return x.dtype == torch.float64, (
        of.positions(x), y.shape[1], y.data_ptr(), x.data_ptr() if of.skip else 0, mean.data_ptr(),
        scale.data_ptr(), bias.data_ptr(), of.relu)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def in_one_pass(x: Tensor, of: Branches) -> bool:
    """Whether :class:`NormalizedConvolution` takes ``x``; its compiled part is for these types and layout."""
    return (of.kernel_size == of.groups == of.num_convs == of.stride == 1 and is_compiled(x)
            and x.dtype in (torch.float32, torch.float64) and _autocast_dtype(x) in (None, x.dtype)
            and x.is_contiguous(memory_format=torch.channels_last))


def pays(x: Tensor, of: Branches) -> bool:
    """Whether the fused convolution was measured to be faster than the branches, for inputs like x.

    By ``benchmarks/train_step.py --blocks``, on a CPU; on a GPU it was not measured.
    """
    if x.device.type != 'cpu' or is_compiling():
        return False
    count, channels = of.positions(x), x.shape[1]
    if in_one_pass(x, of):
        return count * channels >= 1 << 18
    way = way_of(x, of)
    if way is DepthwiseCovariance:
        if of.num_convs == 1 and of.stride > 1 and not x.is_contiguous(memory_format=torch.channels_last):
            return False  # a large input to convert, for a small output
        return of.num_convs > 1 or count >= 1 << 10
    if way is Direct:
        return count >= 1 << 13
    if of.kernel_size > 1:
        return count >= 1 << 16
    # Multiply-adds for each output channel: Σ and what follows from it, half again for what is
    # slower about them, against the convolutions that are saved.
    k = of.num_convs
    return 3 * channels * (count + k * channels) < 3 * (k - 1) * count * channels


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast makes convolutions compute in on the device of ``x``; None where it is off."""
    kind = x.device.type
    if hasattr(torch, 'get_autocast_dtype'):  # since torch 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def _no_autocast(x: Tensor):
    """A context in which nothing rounds what makes the statistics."""
    return nullcontext() if _autocast_dtype(x) is None else torch.autocast(x.device.type, enabled=False)


def fused_convolution(x: Tensor, weights: list[Tensor], gammas: list[Tensor], betas: list[Tensor],
                      of: Branches) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve ``x`` by the sum of the branches, each normalized by its statistics over the batch.

    Args:
        x (Tensor): (N, C_in, H, W).
        weights (list[Tensor]): Kernels (C_out, C_in / groups, K or 1, K or 1), the K×K ones first.
        gammas, betas (list[Tensor]): Affine parameters (C_out,) of the norm of every branch.
        of (Branches): What they have in common.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The output (N, C_out, H', W'), after the ReLU if ``of.relu``, and the
        mean and unbiased variance (branches, C_out) that running statistics are updated by.
    """
    if in_one_pass(x, of):
        return NormalizedConvolution.apply(x, of, *weights, *gammas, *betas)
    dtype = _autocast_dtype(x)
    if dtype is not None and x.dtype != torch.float64:
        x = x.to(dtype)
    out, mean, var = FusedConvolution.apply(x, of, len(weights), *weights, *gammas, *betas)
    return out.relu_() if of.relu else out, mean, var


def forward_block(block: nn.Module, x: Tensor) -> Tensor | None:
    """The output of a :class:`MobileOneBlock` in training form, computed as one convolution.

    Updates the running statistics of the norms as the branches would.

    Args:
        block (MobileOneBlock): Its ``branch_mode`` is heeded.
        x (Tensor): (N, C_in, H, W).

    Returns:
        Tensor | None: (N, C_out, H', W'), after SE and the activation; None where the branches are to be
        computed one by one: fused ones were not measured to be faster, or the norms compute something else.
    """
    convs, norms = zip(*block.branches())
    if block.branch_mode == 'separate' or not _fusable(norms):
        return None
    relu = type(block.act) is nn.ReLU and isinstance(block.se, nn.Identity)
    spec = Branches(block.kernel_size, block.stride, block.dilation, block.groups, block.num_convs,
                    convs[-1] is None, norms[0].eps, relu, _process_group(norms[0]))
    if block.branch_mode == 'auto' and not pays(x, spec):
        return None
    size = spec.output_size(x, block.out_channels)
    if spec.process_group is None and spec.positions(x) == 1:
        # In the words of BatchNorm, which has no variance of one value either.
        raise ValueError(f'Expected more than 1 value per channel when training, got input size {size}')
    out, mean, var = fused_convolution(x, [conv.weight for conv in convs if conv is not None],
                                       [norm.weight for norm in norms], [norm.bias for norm in norms], spec)
    update_running_statistics(norms, mean, var)
    return out if relu else block.act(block.se(out))


def _fusable(norms: tuple[nn.Module, ...]) -> bool:
    """Whether all norms are BatchNorms of one kind that take the statistics of the batch."""
    first = norms[0]
    if is_compiling() and not COMPILES:
        return False
    return type(first).forward in FUSABLE and all(
        norm.training and type(norm) is type(first)
        and (norm.eps, norm.momentum) == (first.eps, first.momentum) for norm in norms)


def _process_group(norm: nn.Module) -> Any:
    """What a SyncBatchNorm takes its statistics over; None for those of this process alone."""
    if isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        return norm.process_group or dist.group.WORLD
    return None
