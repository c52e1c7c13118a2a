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
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.utils import digit_version
from torch import Tensor, nn
from torch.autograd import Function

from mmone.compat import dispatch_keys, is_compiling, is_exporting, ordinary_keys

from . import compiled, inputs, obstacles, reparam
from .branch_statistics import (
    BranchSpec,
    DepthwiseCovariance,
    Direct,
    channel_statistics,
    convolution_backward,
    statistics_method,
)
from .running_statistics import update_running_statistics

if TYPE_CHECKING:
    from .mobileone_block import MobileOneBlock

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
        computed one by one: something is in the way, or ``'auto'`` expects no gain.

    Warns:
        UserWarning: If ``branch_mode`` is ``'fused'`` and something is in the way.
    """
    # Of a function with a backward pass of its own, torch.export writes down the forward pass alone.
    if block.branch_mode == 'separate' or is_exporting() or (
            is_compiling() and (block.branch_mode == 'auto' or not TRACEABLE)):
        return None
    obstacle = obstacles.to_fusing(block, x) or inputs.obstacle(block, x, _autocast_dtype(x))
    if obstacle:
        if block.branch_mode == 'fused' and not is_compiling():
            warnings.warn(f"branch_mode='fused', but branches are computed separately: {obstacle}", stacklevel=2)
        return None
    convs, norms = zip(*block.branches())
    relu = obstacles.is_plain(block.act, nn.ReLU) and obstacles.is_plain(block.se, nn.Identity)
    spec = BranchSpec(block.kernel_size, block.stride, block.dilation, block.groups, len(block.branch_conv_list),
                      convs[-1] is None, norms[0].eps, relu, _process_group(norms[0]))
    if spec.process_group is None:
        if not spec.num_values(x) or block.branch_mode == 'auto' and not is_faster(x, spec):
            return None
    elif is_compiling() or block.branch_mode == 'auto' and x.device.type != 'cpu':
        return None  # on a CPU 'auto' has no choice: PyTorch's synchronized norm is for GPUs
    if spec.process_group is None and spec.num_values(x) == 1:
        # BatchNorm's own error: one value has no variance.
        raise ValueError('Expected more than 1 value per channel when training, got input size '
                         f'{spec.output_size(x, block.out_channels)}')
    out, mean, var = fused_convolution(x, [conv.weight for conv in convs if conv is not None],
                                       [norm.weight for norm in norms], [norm.bias for norm in norms], spec)
    if mean is not None and var is not None:
        update_running_statistics(norms, mean, var)
    return out if relu else block.act(block.se(out))


def _process_group(norm: Any) -> Any:
    """The processes over which a SyncBatchNorm takes its statistics; None if only over this one."""
    if isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        return norm.process_group or dist.group.WORLD
    return None


def is_faster(x: Tensor, spec: BranchSpec) -> bool:
    """Whether fused branches were measured to be faster than separate ones, for inputs like ``x``.

    Measured by ``benchmarks/train_step.py --blocks`` on a CPU; not on a GPU.
    """
    if x.device.type != 'cpu':
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
                      spec: BranchSpec) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Convolve ``x`` by the sum of the branches, each normalized by its statistics over the batch.

    Args:
        x (Tensor): (N, C_in, H, W).
        weights (list[Tensor]): Kernels (C_out, C_in / groups, K or 1, K or 1), the K×K ones first.
        gammas, betas (list[Tensor]): Affine parameters (C_out,) of the norm of every branch.
        spec (BranchSpec): What the branches have in common.

    Returns:
        tuple[Tensor, Tensor | None, Tensor | None]: The output (N, C_out, H', W'), after the ReLU if
        ``spec.relu``, and the mean and unbiased variance (branches, C_out) that running statistics are
        updated by; None for both if the batches of all processes are empty.
    """
    if is_one_pass(x, spec):
        return NormalizedConvolution.apply(x, spec, len(weights), *weights, *gammas, *betas)
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
            out, kernel = _convolve(x, wide, kernel, (beta - mean * scale).sum(0), spec)
            ctx.save_for_backward(x, *parameters, kernel, kernels, gamma, own_mean, mean, invstd, *saved)
            ctx.spec, ctx.method, ctx.count, ctx.num_kernels = spec, method, count, num_kernels
            ctx.relu = False  # that is done outside
            return out, *_for_running_statistics(ctx, mean, var)

    @staticmethod
    def backward(ctx, grad_out, *_):
        with _no_autocast(grad_out):
            if _needs_separate_gradients(grad_out):
                return _separate_gradients(ctx, grad_out)
            return FusedConvolution._backward(ctx, grad_out)

    @staticmethod
    def _backward(ctx, grad_out):
        (x, *parameters), (kernel, kernels, gamma, own_mean, mean, invstd, *saved) = _saved(ctx)
        spec, grad_beta = ctx.spec, None
        if grad_out.dtype != mean.dtype:
            grad_beta = grad_out.sum((0, 2, 3), dtype=mean.dtype)
            grad_out = _centred(grad_out, grad_beta, ctx)
        # A depthwise convolution's backward sums grad_out for the bias faster than a pass of its own would.
        with_bias = spec.groups > 1 and grad_beta is None
        grad_x, grad_kernel, grad_bias = convolution_backward(
            grad_out, x, kernel, spec, ctx.needs_input_grad[0], with_bias)
        grad_kernel = grad_kernel.to(mean.dtype)
        if not with_bias:
            grad_bias = grad_out.sum((0, 2, 3), dtype=mean.dtype)
        if grad_beta is None:
            grad_beta = grad_bias

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
            grad_mean, grad_var = both * (spec.num_values(x) / max(ctx.count, 1))
            grad_mean = grad_mean + 2 * grad_var * (own_mean - mean)

        grad_kernels = (grad_kernel * scale[:len(kernels), :, None, None, None]).contiguous()
        ctx.method.backward(x.to(mean.dtype), kernels, spec, own_mean, tuple(saved), grad_mean, grad_var,
                            grad_kernels, grad_x)
        centre = spec.kernel_size // 2
        grad_weights = [
            grad if weight.shape == grad.shape else grad[..., centre:centre + 1, centre:centre + 1]
            for grad, weight in zip(grad_kernels, parameters)]
        # Not expand(): the gradients of two parameters must not share memory.
        return (grad_x, None, None, *grad_weights, *grad_gamma, *grad_beta.repeat(len(gamma), 1))


def _convolve(x: Tensor, wide: Tensor, kernel: Tensor, bias: Tensor, spec: BranchSpec) -> tuple[Tensor, Tensor]:
    """Convolve ``x``, and give the kernel in its dtype, too.

    Where that is narrower than the statistics', what rounding the kernel does to the mean of the output is taken
    back by the bias, and the bias is added in two parts: of inputs far from zero, or of channels that hardly vary,
    kernel and bias are large, and cancel.

    Args:
        x (Tensor): (N, C_in, H, W).
        wide (Tensor): The same in the dtype of kernel and bias.
        kernel (Tensor): (C_out, C_in / groups, K, K).
        bias (Tensor): (C_out,).
        spec (BranchSpec): Of the convolution.
    """
    if x.dtype == wide.dtype:
        return F.conv2d(x, kernel, bias, *spec.conv_args), kernel
    rounded = kernel.to(x.dtype)
    # The mean over the outputs is that of the outputs of the mean image.
    bias = bias - F.conv2d(wide.mean(0, keepdim=True), rounded - kernel, None, *spec.conv_args).mean((0, 2, 3))
    first = bias.to(x.dtype)
    rest = (bias - first).to(x.dtype)
    return F.conv2d(x, rounded, first, *spec.conv_args).add_(rest[:, None, None]), rounded


def _centred(grad_out: Tensor, total: Tensor, ctx) -> Tensor:
    """``grad_out`` less its mean over all processes, which reaches the gradients of the β and of nothing else.

    So sums of its products with values far from zero cancel before they are rounded.

    Args:
        grad_out (Tensor): (N, C_out, H', W').
        total (Tensor): Its sum (C_out,).
    """
    if ctx.spec.process_group is not None:
        total = total.clone()
        dist.all_reduce(total, group=ctx.spec.process_group)
    return grad_out - (total / max(ctx.count, 1)).to(grad_out.dtype)[:, None, None]


class NormalizedConvolution(Function):
    """x (N, C_in, H, W) → norm(conv(x)), plus norm(x) if there is a skip branch, after the ReLU if any.

    Further outputs are the mean and unbiased variance (branches, C_out) over the batch. For one 1×1
    convolution, on a CPU, with all tensors channels_last.
    """

    @staticmethod
    def forward(ctx, x, spec, num_kernels, weight, *norms):
        y = compiled.channels_last(F.conv2d(x, weight))
        branches = [y, x] if spec.skip else [y]
        count = spec.num_values(x)
        mean, var = (torch.stack(values) for values in zip(*map(channel_statistics, branches)))
        if spec.process_group is not None:
            mean, var, count = _synchronize(mean, var, count, spec.process_group)
        invstd = (var + spec.eps).rsqrt()
        gamma, beta = torch.stack(norms).to(x.dtype).chunk(2)
        scale, bias = gamma * invstd, beta.sum(0)
        out = compiled.NormSum(branches, mean, scale, bias, spec.relu).output()
        ctx.save_for_backward(x, weight, *norms, y, mean, invstd, scale, bias)
        ctx.spec, ctx.count, ctx.num_kernels, ctx.relu = spec, count, num_kernels, spec.relu
        return out, *_for_running_statistics(ctx, mean, var)

    @staticmethod
    def backward(ctx, grad_out, *_):
        if _needs_separate_gradients(grad_out):
            return _separate_gradients(ctx, grad_out)
        (x, weight, *_norms), (y, mean, invstd, scale, bias) = _saved(ctx)
        spec, grad_out = ctx.spec, compiled.channels_last(grad_out)
        norm_sum = compiled.NormSum([y, x] if spec.skip else [y], mean, scale, bias, spec.relu)
        sums = norm_sum.gradient_sums(grad_out)
        grad_beta, grad_gamma = sums[0].repeat(len(mean), 1), sums[1:] * invstd
        # Gradients of the means and variances; in FusedConvolution, which other processes may take, they are these.
        both = torch.stack([scale * -sums[0], scale * invstd.square() * sums[1:] * -0.5])
        if spec.process_group is not None:
            # The loss of every process depends on the statistics, and these on the input of every process.
            dist.all_reduce(both, group=spec.process_group)
        offset, slope = both[0] / ctx.count, both[1] * (2 / ctx.count)
        grad_y = norm_sum.gradient_of_y(grad_out, slope, offset)
        grad_x, grad_weight, _ = convolution_backward(grad_y, x, weight, spec, ctx.needs_input_grad[0])
        if spec.skip and grad_x is not None:
            grad_x = compiled.channels_last(grad_x)
            norm_sum.add_gradient_of_x(grad_out, slope, offset, grad_x)
        return grad_x, None, None, grad_weight, *grad_gamma, *grad_beta


def _saved(ctx) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What ``forward`` saved: x and the parameters, and the rest."""
    saved = ctx.saved_tensors  # a checkpoint lets them be read once
    num_inputs = 1 + ctx.num_kernels + 2 * (ctx.num_kernels + ctx.spec.skip)
    return saved[:num_inputs], saved[num_inputs:]


def _for_running_statistics(ctx, mean: Tensor, var: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Mean and unbiased variance, marked as constants; None without values to take them of."""
    if not ctx.count:
        return None, None
    var = var * (ctx.count / (ctx.count - 1))
    ctx.mark_non_differentiable(mean, var)
    return mean, var


def _needs_separate_gradients(grad_out: Tensor) -> bool:
    """Whether a backward pass is to leave a graph (``create_graph=True``), or is of a gradient that is no ordinary
    tensor, such as a batch of gradients in one (``is_grads_batched=True``)."""
    return not is_compiling() and (
        torch.is_grad_enabled() or dispatch_keys(grad_out) not in ordinary_keys(grad_out.device.type))


def _separate_gradients(ctx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the inputs by way of the branches one by one, by operators that PyTorch can differentiate."""
    spec, again = ctx.spec, torch.is_grad_enabled()
    if spec.process_group is not None:
        raise RuntimeError('gradients of gradients are not defined for synchronized BatchNorms' if again else
                           'synchronized BatchNorms have gradients for ordinary dense ones of their output only')
    inputs, _ = _saved(ctx)
    with torch.enable_grad():
        out = _separate(inputs[0], spec, ctx.num_kernels, *inputs[1:])
        out = (out.relu() if ctx.relu else out).to(grad_out.dtype)
    needed = [needed for i, needed in enumerate(ctx.needs_input_grad) if i not in (1, 2)]
    grads = iter(torch.autograd.grad(out, [value for value, need in zip(inputs, needed) if need], grad_out,
                                     create_graph=again))
    grad_x, *rest = (next(grads) if need else None for need in needed)
    return grad_x, None, None, *rest


def _separate(x: Tensor, spec: BranchSpec, num_kernels: int, *parameters: Tensor) -> Tensor:
    """The sum of the branches, by PyTorch's operators alone. Arguments are those of :class:`FusedConvolution`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, *cast = (value.to(dtype) for value in (x, *parameters))
    weights, norms = cast[:num_kernels], cast[num_kernels:]
    outs = [F.conv2d(x, weight, None, *spec.conv_args) for weight in weights[:spec.num_convs]]
    outs += [F.conv2d(spec.centre_pixels(x), weight, groups=spec.groups) for weight in weights[spec.num_convs:]]
    outs += [x] * spec.skip
    total: Any = sum(F.batch_norm(out, None, None, gamma, beta, training=True, eps=spec.eps)
                     for out, gamma, beta in zip(outs, norms, norms[len(outs):]))
    return total


def is_one_pass(x: Tensor, spec: BranchSpec) -> bool:
    """Whether :class:`NormalizedConvolution` takes ``x``: its C code is for some types and one layout."""
    return (spec.kernel_size == spec.groups == spec.num_convs == spec.stride == 1 and compiled.takes(x)
            and x.dtype in compiled.DTYPES and _autocast_dtype(x) in (None, x.dtype)
            and x.is_contiguous(memory_format=torch.channels_last))


def _synchronize(mean: Tensor, var: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance and number of values over all processes, as ``nn.SyncBatchNorm`` computes them.

    Two vectors per branch are exchanged, not Σ: the variance over all processes is the mean of their
    variances plus the variance of their means. An empty batch has no weight.

    Raises:
        ValueError: On all processes, if they have one value for each channel in all.
    """
    own = torch.stack([mean, var, torch.full_like(mean, count)])
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, own, group=group)
    means, variances, counts = torch.stack(everyone, 1)
    total = int(counts[:, 0, 0].sum())
    if total == 1:
        raise ValueError('Expected more than 1 value per channel when training, got 1 in all processes')
    weights = counts / max(total, 1)
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0), total


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast convolves in on the device of ``x``; None where autocast is off."""
    kind = x.device.type
    if hasattr(torch, 'get_autocast_dtype'):  # since torch 2.4
        # torch.compile cannot trace the first question, and compiles for devices that have autocast.
        on = (is_compiling() or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)
        return torch.get_autocast_dtype(kind) if on else None
    if kind == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


def _no_autocast(x: Tensor) -> AbstractContextManager:
    """A context without autocast, so that nothing is rounded on the way to the statistics."""
    return nullcontext() if _autocast_dtype(x) is None else torch.autocast(x.device.type, enabled=False)
