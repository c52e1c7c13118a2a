"""The branches of a block as one convolution while they train, exactly.

In training a BatchNorm normalizes by the mean and variance of its input over the batch. Every branch is
linear in the block's input x, so the normalized branches sum to one convolution of x (section 3.3 of
https://arxiv.org/abs/2206.04040, with the batch's statistics for the running ones). Its kernel depends on x
through those statistics alone, which :mod:`mmone.models.blocks.branch_statistics` computes without storing
the branches' outputs. :class:`FusedConvolution` does this.

For a single 1×1 convolution the statistics would cost more than they save. :class:`NormalizedConvolution`
computes and stores its output, then normalizes it, adds the skip branch and applies the ReLU in one pass.

The gradients are those of the branches, including what comes through the statistics.
"""
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mmone.compat import is_compiling

from . import reparam
from .branch_statistics import (
    BranchSpec,
    DepthwiseCovariance,
    Direct,
    _ext,
    channel_statistics,
    convolution_backward,
    is_compiled,
    statistics_method,
)
from .running_statistics import update_running_statistics

if TYPE_CHECKING:
    from .mobileone_block import MobileOneBlock

# Norms with one of these forward passes compute what is computed here.
FUSABLE = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)
# Whether torch.compile can trace the autograd functions below.
TRACEABLE = digit_version(torch.__version__) >= digit_version('2.3')


def forward_block(block: 'MobileOneBlock', x: Tensor) -> Tensor | None:
    """The output of a :class:`MobileOneBlock` in training form, computed as one convolution.

    Updates the running statistics of the norms as the branches would.

    Args:
        block (MobileOneBlock): Its ``branch_mode`` is respected.
        x (Tensor): (N, C_in, H, W).

    Returns:
        Tensor | None: (N, C_out, H', W'), after SE and the activation. None where the branches are to be
        computed one by one: the norms compute something else, or ``'auto'`` expects no gain.
    """
    convs, norms = zip(*block.branches())
    if block.branch_mode == 'separate' or not _fusable(norms):
        return None
    relu = type(block.act) is nn.ReLU and isinstance(block.se, nn.Identity)
    spec = BranchSpec(block.kernel_size, block.stride, block.dilation, block.groups, block.num_convs,
                      convs[-1] is None, norms[0].eps, relu, _process_group(norms[0]))
    if block.branch_mode == 'auto' and not is_faster(x, spec):
        return None
    if spec.process_group is None and spec.num_values(x) == 1:
        # BatchNorm's own error: one value has no variance.
        raise ValueError('Expected more than 1 value per channel when training, got input size '
                         f'{spec.output_size(x, block.out_channels)}')
    out, mean, var = fused_convolution(x, [conv.weight for conv in convs if conv is not None],
                                       [norm.weight for norm in norms], [norm.bias for norm in norms], spec)
    update_running_statistics(norms, mean, var)
    return out if relu else block.act(block.se(out))


def _fusable(norms: tuple[Any, ...]) -> bool:
    """Whether all norms are BatchNorms of one kind that normalize by the batch's statistics."""
    if is_compiling() and not TRACEABLE:
        return False
    first = norms[0]
    return type(first).forward in FUSABLE and all(
        norm.training and type(norm) is type(first) and norm.eps == first.eps for norm in norms)


def _process_group(norm: Any) -> Any:
    """The processes over which a SyncBatchNorm takes its statistics; None if only over this one."""
    if isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        return norm.process_group or dist.group.WORLD
    return None


def is_faster(x: Tensor, spec: BranchSpec) -> bool:
    """Whether fused branches were measured to be faster than separate ones, for inputs like ``x``.

    Measured by ``benchmarks/train_step.py --blocks`` on a CPU; not on a GPU.
    """
    if x.device.type != 'cpu' or is_compiling():
        return False
    count, channels = spec.num_values(x), x.shape[1]
    if is_one_pass(x, spec):
        return count * channels >= 1 << 18
    method = statistics_method(x, spec)
    if method is DepthwiseCovariance:
        if spec.num_convs == 1 and spec.stride > 1 and not x.is_contiguous(memory_format=torch.channels_last):
            return False  # converting a large input costs more than is saved at a small output
        return spec.num_convs > 1 or count >= 1 << 10
    if method is Direct:
        return count >= 1 << 13
    if spec.kernel_size > 1:
        return count >= 1 << 16
    # Multiply-adds per output channel: those of Σ and of its products with the kernels, weighted by 3/2
    # because they run slower, against those of the convolutions that are saved.
    k = spec.num_convs
    return 3 * channels * (count + k * channels) < 3 * (k - 1) * count * channels


def fused_convolution(x: Tensor, weights: list[Tensor], gammas: list[Tensor], betas: list[Tensor],
                      spec: BranchSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve ``x`` by the sum of the branches, each normalized by its statistics over the batch.

    Args:
        x (Tensor): (N, C_in, H, W).
        weights (list[Tensor]): Kernels (C_out, C_in / groups, K or 1, K or 1), the K×K ones first.
        gammas, betas (list[Tensor]): Affine parameters (C_out,) of the norm of every branch.
        spec (BranchSpec): What the branches have in common.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The output (N, C_out, H', W'), after the ReLU if ``spec.relu``, and
        the mean and unbiased variance (branches, C_out) that running statistics are updated by.
    """
    if is_one_pass(x, spec):
        return NormalizedConvolution.apply(x, spec, *weights, *gammas, *betas)
    dtype = _autocast_dtype(x)
    if dtype is not None and x.dtype != torch.float64:
        x = x.to(dtype)
    out, mean, var = FusedConvolution.apply(x, spec, len(weights), *weights, *gammas, *betas)
    return out.relu_() if spec.relu else out, mean, var


class FusedConvolution(Function):
    """x (N, C_in, H, W) and the parameters of the branches → the sum of the normalized branches.

    Further outputs are the mean and unbiased variance (branches, C_out) over the batch.
    """

    @staticmethod
    def forward(ctx, x, spec, num_kernels, *parameters):
        with _no_autocast(x):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            weights, norms = parameters[:num_kernels], parameters[num_kernels:]
            kernels = torch.stack([reparam.pad_kernel(weight, spec.kernel_size) for weight in weights])
            kernels = kernels.to(wide.dtype).contiguous()
            gamma, beta = torch.stack(norms).to(wide.dtype).chunk(2)
            method = statistics_method(x, spec)
            own_mean, own_var, saved = method.forward(wide, kernels, spec)
            mean, var, count = own_mean, own_var, spec.num_values(x)
            if spec.process_group is not None:
                mean, var, count = _synchronize(own_mean, own_var, count, spec.process_group)
            invstd = (var + spec.eps).rsqrt()
            scale = gamma * invstd
            kernel = (kernels * scale[:num_kernels, :, None, None, None]).sum(0)
            if spec.skip:
                spec.identity_taps(kernel).add_(scale[-1])
            kernel, bias = (values.to(x.dtype) for values in (kernel, (beta - mean * scale).sum(0)))
            ctx.save_for_backward(x, kernel, kernels, gamma, own_mean, mean, invstd, *saved)
            ctx.spec, ctx.method, ctx.count = spec, method, count
            ctx.sizes = [weight.shape[-1] for weight in weights]
            var = var * (count / (count - 1))
            ctx.mark_non_differentiable(mean, var)
            return F.conv2d(x, kernel, bias, *spec.conv_args), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, *_):
        with _no_autocast(grad_out):
            return FusedConvolution._backward(ctx, grad_out)

    @staticmethod
    def _backward(ctx, grad_out):
        x, kernel, kernels, gamma, own_mean, mean, invstd, *saved = ctx.saved_tensors
        spec = ctx.spec
        # A depthwise convolution's backward sums grad_out for the bias faster than a pass of its own would.
        with_bias = spec.groups > 1 and grad_out.dtype == mean.dtype
        grad_x, grad_kernel, grad_bias = convolution_backward(
            grad_out, x, kernel, spec, ctx.needs_input_grad[0], with_bias)
        grad_kernel = grad_kernel.to(mean.dtype)
        if not with_bias:
            grad_bias = grad_out.sum((0, 2, 3), dtype=mean.dtype)

        scale = gamma * invstd
        grad_scale = (kernels * grad_kernel).flatten(2).sum(2)
        if spec.skip:
            grad_scale = torch.cat([grad_scale, spec.identity_taps(grad_kernel)[None]])
        grad_gamma = (grad_scale - mean * grad_bias) * invstd
        grad_mean = scale * -grad_bias
        grad_var = grad_gamma * scale * invstd * -0.5
        if spec.process_group is not None:
            # The loss of every process depends on the statistics, and these on the input of every process.
            both = torch.stack([grad_mean, grad_var])
            dist.all_reduce(both, group=spec.process_group)
            grad_mean, grad_var = both * (spec.num_values(x) / ctx.count)
            grad_mean = grad_mean + 2 * grad_var * (own_mean - mean)

        grad_kernels = (grad_kernel * scale[:len(kernels), :, None, None, None]).contiguous()
        ctx.method.backward(x.to(mean.dtype), kernels, spec, own_mean, tuple(saved), grad_mean, grad_var,
                            grad_kernels, grad_x)
        centre = spec.kernel_size // 2
        grad_weights = [grad if size == spec.kernel_size else grad[..., centre:centre + 1, centre:centre + 1]
                        for grad, size in zip(grad_kernels, ctx.sizes)]
        # Not expand(): the gradients of two parameters must not share memory.
        return (grad_x, None, None, *grad_weights, *grad_gamma, *grad_bias.repeat(len(gamma), 1))


class NormalizedConvolution(Function):
    """x (N, C_in, H, W) → norm(conv(x)), plus norm(x) if there is a skip branch, after the ReLU if any.

    Further outputs are the mean and unbiased variance (branches, C_out) over the batch. For one 1×1
    convolution, on a CPU, with all tensors channels_last.
    """

    @staticmethod
    def forward(ctx, x, spec, weight, *norms):
        y = _channels_last(F.conv2d(x, weight))
        branches = [y, x] if spec.skip else [y]
        count = spec.num_values(x)
        mean, var = (torch.stack(values) for values in zip(*map(channel_statistics, branches)))
        if spec.process_group is not None:
            mean, var, count = _synchronize(mean, var, count, spec.process_group)
        invstd = (var + spec.eps).rsqrt()
        gamma, beta = torch.stack(norms).to(x.dtype).chunk(2)
        scale, bias = gamma * invstd, beta.sum(0)
        out = torch.empty_like(y)
        _ext.norm_sum(*_norm_sum_args(x, y, mean, scale, bias, spec), out.data_ptr())
        ctx.save_for_backward(x, y, weight, mean, invstd, scale, bias)
        ctx.spec, ctx.count = spec, count
        var = var * (count / (count - 1))
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, *_):
        x, y, weight, mean, invstd, scale, bias = ctx.saved_tensors
        spec, grad_out = ctx.spec, _channels_last(grad_out)
        args = *_norm_sum_args(x, y, mean, scale, bias, spec), grad_out.data_ptr()
        # Sums over N, H and W of the gradient behind the ReLU, alone and times each centred branch.
        sums = x.new_empty(1 + len(mean), len(weight))
        _ext.norm_gradient_sums(*args, sums.data_ptr())
        grad_beta, grad_gamma = sums[0].repeat(len(mean), 1), sums[1:] * invstd
        if spec.process_group is not None:
            # The loss of every process depends on the statistics, and these on the input of every process.
            dist.all_reduce(sums, group=spec.process_group)
        slope = scale * invstd.square() * sums[1:] / -ctx.count
        offset = scale * sums[0] / -ctx.count
        grad_y = torch.empty_like(y)
        _ext.norm_gradient(*args, slope.data_ptr(), offset.data_ptr(), False, grad_y.data_ptr())
        grad_x, grad_weight, _ = convolution_backward(grad_y, x, weight, spec, ctx.needs_input_grad[0])
        if spec.skip and grad_x is not None:
            grad_x = _channels_last(grad_x)
            _ext.norm_gradient(*args, slope.data_ptr(), offset.data_ptr(), True, grad_x.data_ptr())
        return grad_x, None, grad_weight, *grad_gamma, *grad_beta


def is_one_pass(x: Tensor, spec: BranchSpec) -> bool:
    """Whether :class:`NormalizedConvolution` takes ``x``: its C code is for some types and one layout."""
    return (spec.kernel_size == spec.groups == spec.num_convs == spec.stride == 1 and is_compiled(x)
            and x.dtype in (torch.float32, torch.float64) and _autocast_dtype(x) in (None, x.dtype)
            and x.is_contiguous(memory_format=torch.channels_last))


def _norm_sum_args(x: Tensor, y: Tensor, mean: Tensor, scale: Tensor, bias: Tensor,
                   spec: BranchSpec) -> tuple[bool, tuple]:
    """The first arguments of the compiled ``norm_`` functions: whether double, and a NormSum of ``ext.c``."""
    return x.dtype == torch.float64, (
        spec.num_values(x), y.shape[1], y.data_ptr(), x.data_ptr() if spec.skip else 0, mean.data_ptr(),
        scale.data_ptr(), bias.data_ptr(), spec.relu)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _synchronize(mean: Tensor, var: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number of values over all processes, as ``nn.SyncBatchNorm`` computes them.

    Two vectors per branch are exchanged, not Σ: the variance over all processes is the mean of their
    variances plus the variance of their means.
    """
    own = torch.stack([mean, var, torch.full_like(mean, count)])
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, own, group=group)
    means, variances, counts = torch.stack(everyone, 1)
    total = counts[:, :1, :1].sum()
    weights = counts / total
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0), total


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast convolves in on the device of ``x``; None where autocast is off."""
    kind = x.device.type
    if hasattr(torch, 'get_autocast_dtype'):  # since torch 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def _no_autocast(x: Tensor) -> AbstractContextManager:
    """A context without autocast, so that nothing is rounded on the way to the statistics."""
    return nullcontext() if _autocast_dtype(x) is None else torch.autocast(x.device.type, enabled=False)
