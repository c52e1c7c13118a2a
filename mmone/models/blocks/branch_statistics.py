"""Mean and variance of every branch of a block over the batch, without the branches' outputs.

Every branch is linear in the block's input x, so its statistics are functions of those of x. They are
had in the cheapest of three ways, each with the gradients that come through them:

- :class:`Covariance`, for convolutions over all channels. With μ and Σ the mean and covariance of
  the patches that the kernels see, a branch w has mean ``w μ`` and variance ``wᵀ Σ w``: one product
  of x with itself serves all branches.
- :class:`DepthwiseCovariance`, for depthwise 3×3 ones: the same, with a 9×9 Σ for each channel. In
  one pass over x each way, compiled for CPUs (``csrc/depthwise.h``).
- :class:`Direct`, for depthwise ones where that was not compiled, and on GPUs: each branch is
  computed, reduced and thrown away, and computed once more in the backward pass.

Statistics are taken in float32 at least, whatever the input, and of centred values where a mean far
from zero would cancel them.
"""
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from mmone import _ext
except ImportError:  # installed without GCC, or not on Linux
    _ext = None

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
        relu (bool): Whether a ReLU follows their sum, which may be had in the same pass.
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
    relu: bool = False
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
        mean, var = x.new_empty(2, len(kernels) + of.skip, x.shape[1])
        products = x.new_empty(*kernels.shape[:2], 9, dtype=torch.float64)
        patch_mean = x.new_empty(x.shape[1], 9, dtype=torch.float64)
        _ext.depthwise_statistics(
            x.dtype == torch.float64, (*x.shape, of.stride, of.dilation), x.data_ptr(), kernels.data_ptr(),
            len(kernels), of.skip, mean.data_ptr(), var.data_ptr(), products.data_ptr(), patch_mean.data_ptr())
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
        _ext.depthwise_gradient(
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


def is_compiled(x: Tensor) -> bool:
    """Whether there is a compiled module for where ``x`` is."""
    return _ext is not None and x.device.type == 'cpu' and not is_compiling()


def way_of(x: Tensor, of: Branches) -> type:
    """How the statistics are had."""
    if of.groups == 1:
        return Covariance
    return DepthwiseCovariance if of.kernel_size == 3 and is_compiled(x) else Direct
