"""The branches of a block as one convolution while they train, exactly.

In training a BatchNorm normalizes by the mean and variance of its input over the batch. Every
branch is linear in the block's input x, so the normalized branches still sum to one convolution of
x (section 3.1 of https://arxiv.org/abs/2206.04040, with the batch's statistics for the running
ones). Its kernel depends on x through those statistics alone, and they are had without storing
what any branch computes, in the cheapest of three ways:

- :class:`Covariance`, for convolutions over all channels. With μ and Σ the mean and covariance of
  the patches that the kernels see, a branch w has mean ``w μ`` and variance ``wᵀ Σ w``: one product
  of x with itself serves all branches.
- :class:`DepthwiseCovariance`, for depthwise 3×3 ones: the same, with a 9×9 Σ for each channel. In
  one pass over x each way, compiled for CPUs (``csrc/depthwise.c``).
- :class:`Direct`, for depthwise ones where that was not compiled, and on GPUs: each branch is
  computed, reduced and thrown away, and computed once more in the backward pass.

The gradients are those of the branches, the parts that come through the statistics included.
Statistics are taken in float32 at least, whatever the input, and of centred values where a mean far
from zero would cancel them.
"""
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from . import reparam

try:
    from mmone import _depthwise
except ImportError:  # installed without a C compiler
    _depthwise = None

# Elements that are worked on at a time on a CPU: few enough for the caches, and for the allocator
# to use the same memory again, since new pages cost more than the arithmetic done in them.
CHUNK = 1 << 21
# Elements of a matrix from which on its product is a convolution's.
LARGE = 1 << 14
# Whether torch.compile understands what is defined here: since torch 2.3.
COMPILES = hasattr(getattr(torch, 'compiler', None), 'is_compiling')


class Branches(NamedTuple):
    """What the branches of a block have in common.

    Attributes:
        kernel_size (int): K of the convolution branches; 1×1 ones are padded to it.
        stride (int): Of all branches.
        dilation (int): Of the K×K branches.
        groups (int): 1, or as many as there are channels in and out.
        num_convs (int): Convolution branches, which come first, that are not 1×1 ones padded.
        skip (bool): Whether the input itself is the last branch.
        eps (float): Of the norms.
        process_group (Any): Of torch.distributed, over which the statistics are taken; None for
            those of this process alone.
    """
    kernel_size: int
    stride: int
    dilation: int
    groups: int
    num_convs: int
    skip: bool
    eps: float
    process_group: Any = None

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel_size // 2)

    @property
    def geometry(self) -> tuple[int, int, int, int]:
        """Stride, padding, dilation and groups, in the order of ``F.conv2d``."""
        return self.stride, self.padding, self.dilation, self.groups

    def output_size(self, x: Tensor, channels: int) -> torch.Size:
        """Of what a convolution of (N, C, H, W) gives: (N, channels, H', W')."""
        return torch.Size((x.shape[0], channels, *((size - 1) // self.stride + 1 for size in x.shape[2:])))

    def positions(self, x: Tensor) -> int:
        """How many values of a channel each norm sees."""
        return self.output_size(x, 1).numel()

    def strided(self, x: Tensor) -> Tensor:
        """The view of ``x`` that the centre taps see."""
        return x if self.stride == 1 else x[..., ::self.stride, ::self.stride]

    def own_taps(self, kernel: Tensor) -> Tensor:
        """The view (C,) of the centre taps through which channel c sees channel c."""
        centres = kernel[:, :, self.kernel_size // 2, self.kernel_size // 2]
        return centres.diagonal() if self.groups == 1 else centres[:, 0]


def chunks(x: Tensor, factor: int = 1) -> tuple[Tensor, ...]:
    """``x`` in parts of whole images on a CPU, smaller by ``factor`` for what is made of each."""
    return x.split(max(1, CHUNK // (x[0].numel() * max(1, factor)))) if x.device.type == 'cpu' else (x, )


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over N, H and W, each (C,): the first half of a BatchNorm."""
    return torch.batch_norm_update_stats(x, None, None, 0.0)


def _as_images(rows: Tensor) -> Tensor:
    """A view (B, M, K) → (B, K, h, w) of h w = M positions, channels_last."""
    height = 16 if rows.shape[1] % 16 == 0 else 1
    return rows.reshape(rows.shape[0], height, -1, rows.shape[2]).permute(0, 3, 1, 2)


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix``, (B, M, K) times (K, K).

    A large one on a CPU as a 1×1 convolution, since oneDNN's take a half of the time of a product.
    """
    if rows.device.type != 'cpu' or matrix.numel() < LARGE:
        return rows @ matrix
    out = F.conv2d(_as_images(rows), matrix.t()[:, :, None, None])
    return out.permute(0, 2, 3, 1).reshape(rows.shape)


def gram(a: Tensor, b: Tensor) -> Tensor:
    """Sum over N, H and W of the outer products of the channels of two (N, C, H, W): (C, C)."""
    if a.device.type == 'cpu':
        # The gradient of a 1×1 convolution's kernel.
        return torch.nn.grad.conv2d_weight(b, (a.shape[1], b.shape[1], 1, 1), a)[..., 0, 0]
    a, b = (values.transpose(0, 1).flatten(1) for values in (a, b))
    return a @ b.t()


class Covariance:
    """Statistics of convolutions over all channels, from the covariance Σ of the patches they see."""

    @staticmethod
    def patches(x: Tensor, of: Branches) -> Tensor:
        """(N, C, H, W) → (N, C K², H', W')"""
        if of.kernel_size == 1:
            return of.strided(x)
        return F.unfold(x, of.kernel_size, of.dilation, of.padding, of.stride)[..., None]

    @staticmethod
    def centre(of: Branches) -> slice:
        """Of the C K² taps of a patch, those of the centre."""
        return slice(of.kernel_size**2 // 2, None, of.kernel_size**2)

    @classmethod
    def moments(cls, x: Tensor, of: Branches) -> tuple[Tensor, Tensor]:
        """Σ (C K², C K²) and μ (C K²,) of the patches."""
        count = of.positions(x)
        # About the mean, since the variance of values far from zero would cancel; but only then.
        shift = x.mean((0, 2, 3)).repeat_interleave(of.kernel_size**2)
        exact = of.kernel_size == of.stride == 1
        if exact and x.device.type == 'cpu':
            covariance = torch.addr(gram(x, x) / count, shift, shift, alpha=-1)
            if (shift.square() <= 16 * covariance.diagonal()).all():
                return covariance, shift
        covariance = x.new_zeros(len(shift), len(shift))
        left = torch.zeros_like(shift)
        for chunk in chunks(x, of.kernel_size**2 // of.stride**2):
            centred = cls.patches(chunk, of) - shift.reshape(-1, 1, 1)
            covariance += gram(centred, centred)
            if not exact:
                left += centred.sum((0, 2, 3))
        left /= count
        return torch.addr(covariance / count, left, left, alpha=-1), shift + left

    @classmethod
    def forward(cls, x: Tensor, kernels: Tensor, of: Branches) -> tuple[Tensor, Tensor, tuple]:
        covariance, patch_mean = cls.moments(x, of)
        flat = kernels.flatten(2)
        products = product(flat, covariance)
        mean = flat @ patch_mean
        # Rounding may leave less than nothing of a constant output.
        var = (products * flat).sum(2).clamp_(min=0)
        if of.skip:
            centre = cls.centre(of)
            mean = torch.cat([mean, patch_mean[None, centre]])
            var = torch.cat([var, covariance.diagonal()[None, centre]])
        return mean, var, (products, patch_mean)

    @classmethod
    def backward(cls, x: Tensor, kernels: Tensor, of: Branches, mean: Tensor, saved: tuple,
                 grad_mean: Tensor, grad_var: Tensor, grad_kernels: Tensor, grad_x: Tensor | None):
        products, patch_mean = saved
        flat = kernels.flatten(2)
        of_mean, of_var = (grad[:len(kernels), :, None] for grad in (grad_mean, grad_var))
        grad_kernels.view(flat.shape).addcmul_(products, 2 * of_var).addcmul_(of_mean, patch_mean)
        if grad_x is None:
            return
        # Of a patch p: quadratic p + constant.
        count = of.positions(x)
        scaled = flat * (of_var * (2 / count))
        if patch_mean.numel()**2 < LARGE:
            quadratic = flat.flatten(0, 1).t() @ scaled.flatten(0, 1)
        else:
            quadratic = gram(_as_images(flat), _as_images(scaled))
        constant = (flat * of_mean).sum((0, 1)) / count
        if of.skip:
            centre = cls.centre(of)
            quadratic.diagonal()[centre].add_(grad_var[-1], alpha=2 / count)
            constant[centre].add_(grad_mean[-1], alpha=1 / count)
        constant -= quadratic @ patch_mean
        for chunk, grad in zip(chunks(x), chunks(grad_x)):
            of_patches = F.conv2d(cls.patches(chunk, of), quadratic[:, :, None, None], constant)
            if of.kernel_size > 1:
                grad += F.fold(of_patches[..., 0], x.shape[2:], of.kernel_size, of.dilation, of.padding,
                               of.stride)
            else:
                of.strided(grad).add_(of_patches)


class Direct:
    """Statistics of depthwise convolutions, each computed, reduced and thrown away."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, of: Branches) -> tuple[Tensor, Tensor, tuple]:
        own = [channel_statistics(F.conv2d(x, kernel, None, *of.geometry))
               for kernel in kernels[:of.num_convs]]
        mean, var = (list(values) for values in zip(*own))
        centre = ()
        if of.skip or len(kernels) > of.num_convs:
            centre = channel_statistics(of.strided(x))
        for kernel in kernels[of.num_convs:]:  # 1×1: multiples of the input
            factor = of.own_taps(kernel)
            mean.append(factor * centre[0])
            var.append(factor * factor * centre[1])
        if of.skip:
            mean.append(centre[0])
            var.append(centre[1])
        return torch.stack(mean), torch.stack(var), centre

    @staticmethod
    def backward(x: Tensor, kernels: Tensor, of: Branches, mean: Tensor, saved: tuple,
                 grad_mean: Tensor, grad_var: Tensor, grad_kernels: Tensor, grad_x: Tensor | None):
        # Of a value y that the statistics are taken of: slope y + offset.
        count = of.positions(x)
        slope = grad_var * (2 / count)
        offset = grad_mean / count - slope * mean
        scaled = kernels[:of.num_convs] * slope[:of.num_convs, :, None, None, None]
        centre_slope = centre_offset = 0
        if saved:
            centre_mean, centre_var = saved
            for i in range(of.num_convs, len(kernels)):
                factor = of.own_taps(kernels[i])
                of.own_taps(grad_kernels[i]).add_(
                    grad_mean[i] * centre_mean + 2 * grad_var[i] * factor * centre_var)
                centre_slope = centre_slope + slope[i] * factor * factor
                centre_offset = centre_offset + offset[i] * factor
            if of.skip:
                centre_slope = centre_slope + slope[-1]
                centre_offset = centre_offset + offset[-1]

        grads = (None, ) * len(chunks(x)) if grad_x is None else chunks(grad_x)
        for chunk, grad in zip(chunks(x), grads):
            for i in range(of.num_convs):
                grad_out = F.conv2d(chunk, scaled[i], offset[i], *of.geometry)
                part, grad_kernel, _ = convolution_backward(grad_out, chunk, kernels[i], of, grad is not None)
                grad_kernels[i].add_(grad_kernel)
                if grad is not None:
                    grad += part
            if saved and grad is not None:
                of.strided(grad).add_(torch.addcmul(
                    centre_offset.reshape(-1, 1, 1), of.strided(chunk), centre_slope.reshape(-1, 1, 1)))


def convolution_backward(grad_out: Tensor, x: Tensor, kernel: Tensor, of: Branches, with_input: bool,
                         with_bias: bool = False) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of a convolution's input, if asked for, its kernel, and its bias, if asked for."""
    return torch.ops.aten.convolution_backward(
        grad_out, x, kernel, [len(kernel)] if with_bias else None, (of.stride, ) * 2, (of.padding, ) * 2,
        (of.dilation, ) * 2, False, (0, 0), of.groups, (with_input, True, with_bias))


class DepthwiseCovariance:
    """Statistics of depthwise 3×3 convolutions, from the covariance Σ of each channel's patches."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, of: Branches) -> tuple[Tensor, Tensor, tuple]:
        x = x.contiguous(memory_format=torch.channels_last)
        # What sums are taken about: near the mean is enough for nothing to cancel.
        shift = x[:, :, ::4].mean((0, 2, 3))
        mean, var = x.new_empty(2, len(kernels) + of.skip, x.shape[1])
        products = x.new_empty(*kernels.shape[:2], 9, dtype=torch.float64)
        patch_mean = x.new_empty(x.shape[1], 9, dtype=torch.float64)
        _depthwise.statistics(
            x.dtype == torch.float64, (*x.shape, of.stride, of.dilation), x.data_ptr(), shift.data_ptr(),
            kernels.data_ptr(), len(kernels), of.skip, mean.data_ptr(), var.data_ptr(),
            products.data_ptr(), patch_mean.data_ptr())
        return mean, var, (products, patch_mean)

    @staticmethod
    def backward(x: Tensor, kernels: Tensor, of: Branches, mean: Tensor, saved: tuple,
                 grad_mean: Tensor, grad_var: Tensor, grad_kernels: Tensor, grad_x: Tensor | None):
        products, patch_mean = saved
        x = x.contiguous(memory_format=torch.channels_last)
        own = grad_x is None or (
            grad_x.dtype == x.dtype and grad_x.is_contiguous(memory_format=torch.channels_last))
        total = grad_x if own else torch.zeros_like(x)
        parts = [_parts(size, of.stride, of.dilation) for size in x.shape[2:]]
        _depthwise.add_gradient(
            x.dtype == torch.float64, (*x.shape, of.stride, of.dilation), x.data_ptr(),
            kernels.data_ptr(), len(kernels), of.skip, products.data_ptr(), patch_mean.data_ptr(),
            grad_mean.data_ptr(), grad_var.data_ptr(), grad_kernels.data_ptr(),
            0 if grad_x is None else total.data_ptr(),
            *((len(arrays[0]), *(array.data_ptr() for array in arrays)) for arrays in parts))
        if not own:
            grad_x += total


@lru_cache(maxsize=256)
def _parts(size: int, stride: int, dilation: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows or columns in parts, by the taps through which outputs see them.

    Returns:
        tuple[Tensor, ...]: int32: each part's taps, a bit for each; the part of each row or column;
        all in the order of their parts; where in that order each part starts, and its end.
    """
    outputs = (size - 1) // stride + 1
    seen_by = []
    for at in range(size):
        centres = [at - (tap - 1) * dilation for tap in range(3)]
        seen_by.append(sum(1 << tap for tap, centre in enumerate(centres)
                           if centre % stride == 0 and 0 <= centre // stride < outputs))
    taps, part, sizes = torch.unique(torch.tensor(seen_by), return_inverse=True, return_counts=True)
    order = torch.argsort(part, stable=True)
    return tuple(array.int() for array in (taps, part, order, F.pad(sizes.cumsum(0), (1, 0))))


def is_compiling() -> bool:
    """Whether torch.compile reads this; the compiled module is a closed book to it."""
    return torch.compiler.is_compiling() if COMPILES else torch._utils.is_compiling()


def way_of(x: Tensor, of: Branches) -> type:
    """How the statistics are had."""
    if of.groups == 1:
        return Covariance
    compiled = _depthwise is not None and x.device.type == 'cpu' and not is_compiling()
    return DepthwiseCovariance if compiled and of.kernel_size == 3 else Direct


def pays(x: Tensor, of: Branches) -> bool:
    """Whether the fused convolution was measured to be faster than the branches, for inputs like x.

    By ``benchmarks/train_step.py --blocks``, on a CPU; on a GPU it was not measured.
    """
    if x.device.type != 'cpu' or is_compiling():
        return False
    count, channels = of.positions(x), x.shape[1]
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
        tuple[Tensor, Tensor, Tensor]: The output (N, C_out, H', W'), and the mean and unbiased
        variance (branches, C_out) that running statistics are updated by.
    """
    dtype = _autocast_dtype(x)
    if dtype is not None and x.dtype != torch.float64:
        x = x.to(dtype)
    return FusedConvolution.apply(x, of, len(weights), *weights, *gammas, *betas)
