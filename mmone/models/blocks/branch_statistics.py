"""Batch mean and variance of every branch of a block, without storing the branches' outputs.

Every branch is linear in the block's input x, so the mean and variance of its output are functions of
statistics of x. Three classes compute them; :func:`statistics_method` chooses by the shape of the block:

- :class:`Covariance`, for convolutions over all channels. With μ and Σ the mean and covariance of the
  patches of x (im2col), the output of a branch with kernel w has mean ``w μ`` and variance ``wᵀ Σ w``:
  one product of x with itself serves all branches.
- :class:`DepthwiseCovariance`, for depthwise 3×3 convolutions on a CPU: the same, with one 9×9 Σ for
  each channel. Compiled (``csrc/depthwise.h``): one pass over x forward, and one backward.
- :class:`Direct`, for other depthwise convolutions: each branch is computed, reduced to its mean and
  variance and thrown away; the backward pass computes it again.

Each has two functions. ``forward(x, kernels, spec)`` returns the means and biased variances, both
(branches, C_out), and the tensors that the backward pass needs. ``backward(x, kernels, spec, mean, saved,
grad_mean, grad_var, grad_kernels, grad_x)`` adds to ``grad_kernels`` and ``grad_x`` what comes through the
statistics. ``x`` is (N, C_in, H, W) in float32 or float64; ``kernels`` is (convolution branches, C_out,
C_in / groups, K, K).

Variances are computed from values centred near their mean: of values far from zero, E[x²] - E[x]² cancels.
"""
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from mmone.compat import is_compiling

from . import compiled

# Elements that are processed at a time on a CPU: few enough for the caches, and for the allocator to
# use the same memory again, since the first write to a new page costs more than the arithmetic.
CHUNK = 1 << 21
# Matrices of at least so many elements are multiplied as convolutions, which is faster on a CPU.
LARGE = 1 << 14


class BranchSpec(NamedTuple):
    """What the branches of a block have in common.

    Branches are ordered: K×K convolutions, the 1×1 convolution, the skip branch.

    Attributes:
        kernel_size (int): K of the convolution branches; a 1×1 kernel is zero-padded to it.
        stride (int): Of all branches.
        dilation (int): Of the K×K branches.
        groups (int): 1, or the number of channels for depthwise convolutions.
        num_convs (int): Number of K×K branches.
        skip (bool): Whether there is a skip branch, which normalizes the input itself.
        eps (float): Of the norms.
        relu (bool): Whether a ReLU follows the sum of the branches.
        process_group (Any): The torch.distributed group over which the statistics are taken; None for
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
    def conv_args(self) -> tuple[int, int, int, int]:
        """Stride, padding, dilation and groups, in the order of ``F.conv2d``."""
        return self.stride, self.padding, self.dilation, self.groups

    def output_size(self, x: Tensor, channels: int) -> torch.Size:
        """Size (N, channels, H', W') of a convolution's output for an input (N, C, H, W)."""
        return torch.Size((x.shape[0], channels, *((size - 1) // self.stride + 1 for size in x.shape[2:])))

    def num_values(self, x: Tensor) -> int:
        """N · H' · W': the number of values per channel that the statistics are taken of."""
        return self.output_size(x, 1).numel()

    def centre_pixels(self, x: Tensor) -> Tensor:
        """The view (N, C, H', W') of ``x`` under the centre tap of the kernels."""
        return x if self.stride == 1 else x[..., ::self.stride, ::self.stride]

    def identity_taps(self, kernel: Tensor) -> Tensor:
        """The view (C,) of the taps that are 1 in an identity kernel: at the centre, channel c from channel c."""
        centres = kernel[:, :, self.kernel_size // 2, self.kernel_size // 2]
        return centres.diagonal() if self.groups == 1 else centres[:, 0]


def chunks(x: Tensor, factor: int = 1) -> tuple[Tensor, ...]:
    """``x`` split along N for work in cache, on a CPU.

    Args:
        x (Tensor): (N, C, H, W).
        factor (int): How many times larger than ``x`` the intermediate results are.
    """
    return x.split(max(1, CHUNK // (x[0].numel() * max(1, factor)))) if x.device.type == 'cpu' else (x, )


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over N, H and W, each (C,): the first half of a BatchNorm."""
    if is_compiling():  # the faster operator below is unknown to torch.compile
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return mean, var
    return torch.batch_norm_update_stats(x, None, None, 0.0)


def _as_images(rows: Tensor) -> Tensor:
    """A channels_last view (B, K, h, w) of (B, M, K), with h w = M."""
    height = 16 if rows.shape[1] % 16 == 0 else 1
    return rows.reshape(rows.shape[0], height, -1, rows.shape[2]).permute(0, 3, 1, 2)


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows @ matrix``, (B, M, K) times (K, K).

    A large one on a CPU as a 1×1 convolution: oneDNN takes half the time of a matrix product for it.
    """
    if rows.device.type != 'cpu' or matrix.numel() < LARGE:
        return rows @ matrix
    out = F.conv2d(_as_images(rows), matrix.t()[:, :, None, None])
    return out.permute(0, 2, 3, 1).reshape(rows.shape)


def gram(a: Tensor, b: Tensor) -> Tensor:
    """Σ a bᵀ over N, H and W of the channel vectors of two (N, C, H, W): (C, C)."""
    if a.device.type == 'cpu':
        # The gradient of a 1×1 convolution's kernel.
        return conv2d_weight(b, (a.shape[1], b.shape[1], 1, 1), a)[..., 0, 0]
    a, b = (values.transpose(0, 1).flatten(1) for values in (a, b))
    return a @ b.t()


class Covariance:
    """Statistics of convolutions over all channels, from the covariance Σ of the patches of x."""

    @staticmethod
    def patches(x: Tensor, spec: BranchSpec) -> Tensor:
        """(N, C, H, W) → (N, C K², H', W'), up to the shape of the last two dimensions."""
        if spec.kernel_size == 1:
            return spec.centre_pixels(x)
        return F.unfold(x, spec.kernel_size, spec.dilation, spec.padding, spec.stride)[..., None]

    @staticmethod
    def centre_taps(spec: BranchSpec) -> slice:
        """The C centre taps among the C K² taps of a patch."""
        return slice(spec.kernel_size**2 // 2, None, spec.kernel_size**2)

    @classmethod
    def moments(cls, x: Tensor, spec: BranchSpec) -> tuple[Tensor, Tensor]:
        """Covariance Σ (C K², C K²) and mean μ (C K²,) of the patches."""
        count = spec.num_values(x)
        shift = x.mean((0, 2, 3)).repeat_interleave(spec.kernel_size**2)
        shift_is_mean = spec.kernel_size == spec.stride == 1
        if shift_is_mean and x.device.type == 'cpu' and not is_compiling():
            # No centred copy of x where the means are small enough for nothing to cancel. torch.compile
            # would have to read the values to know.
            covariance = torch.addr(gram(x, x) / count, shift, shift, alpha=-1)
            if (shift.square() <= 16 * covariance.diagonal()).all():
                return covariance, shift
        covariance = x.new_zeros(len(shift), len(shift))
        # With padding or a stride the mean of a tap is not exactly that of its channel.
        rest = torch.zeros_like(shift)
        for chunk in chunks(x, spec.kernel_size**2 // spec.stride**2):
            centred = cls.patches(chunk, spec) - shift.reshape(-1, 1, 1)
            covariance += gram(centred, centred)
            if not shift_is_mean:
                rest += centred.sum((0, 2, 3))
        rest /= count
        return torch.addr(covariance / count, rest, rest, alpha=-1), shift + rest

    @classmethod
    def forward(cls, x: Tensor, kernels: Tensor, spec: BranchSpec) -> tuple[Tensor, Tensor, tuple]:
        covariance, patch_mean = cls.moments(x, spec)
        flat = kernels.flatten(2)
        products = product(flat, covariance)
        mean = flat @ patch_mean
        # Rounding may leave a negative variance of a constant output.
        var = (products * flat).sum(2).clamp_(min=0)
        if spec.skip:
            centre = cls.centre_taps(spec)
            mean = torch.cat([mean, patch_mean[None, centre]])
            var = torch.cat([var, covariance.diagonal()[None, centre]])
        return mean, var, (products, patch_mean)

    @classmethod
    def backward(cls, x: Tensor, kernels: Tensor, spec: BranchSpec, mean: Tensor, saved: tuple,
                 grad_mean: Tensor, grad_var: Tensor, grad_kernels: Tensor, grad_x: Tensor | None) -> None:
        products, patch_mean = saved
        flat = kernels.flatten(2)
        conv_grad_mean, conv_grad_var = (grad[:len(kernels), :, None] for grad in (grad_mean, grad_var))
        grad_kernels.view(flat.shape).addcmul_(products, 2 * conv_grad_var).addcmul_(conv_grad_mean, patch_mean)
        if grad_x is None:
            return
        # The gradient of a patch p is quadratic @ p + constant.
        count = spec.num_values(x)
        scaled = flat * (conv_grad_var * (2 / count))
        if patch_mean.numel()**2 < LARGE:
            quadratic = flat.flatten(0, 1).t() @ scaled.flatten(0, 1)
        else:
            quadratic = gram(_as_images(flat), _as_images(scaled))
        constant = (flat * conv_grad_mean).sum((0, 1)) / count
        if spec.skip:
            centre = cls.centre_taps(spec)
            quadratic.diagonal()[centre].add_(grad_var[-1], alpha=2 / count)
            constant[centre].add_(grad_mean[-1], alpha=1 / count)
        constant -= quadratic @ patch_mean
        for chunk, grad in zip(chunks(x), chunks(grad_x)):
            grad_patches = F.conv2d(cls.patches(chunk, spec), quadratic[:, :, None, None], constant)
            if spec.kernel_size > 1:
                grad += F.fold(grad_patches[..., 0], x.shape[2:], spec.kernel_size, spec.dilation, spec.padding,
                               spec.stride)
            else:
                spec.centre_pixels(grad).add_(grad_patches)


class Direct:
    """Statistics of depthwise convolutions, each computed, reduced and thrown away."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, spec: BranchSpec) -> tuple[Tensor, Tensor, tuple]:
        statistics = [channel_statistics(F.conv2d(x, kernel, None, *spec.conv_args))
                      for kernel in kernels[:spec.num_convs]]
        mean, var = (list(values) for values in zip(*statistics))
        centre: tuple = ()
        if spec.skip or len(kernels) > spec.num_convs:
            centre = channel_statistics(spec.centre_pixels(x))
        for kernel in kernels[spec.num_convs:]:  # 1×1: multiples of the input
            factor = spec.identity_taps(kernel)
            mean.append(factor * centre[0])
            var.append(factor * factor * centre[1])
        if spec.skip:
            mean.append(centre[0])
            var.append(centre[1])
        return torch.stack(mean), torch.stack(var), centre

    @staticmethod
    def backward(x: Tensor, kernels: Tensor, spec: BranchSpec, mean: Tensor, saved: tuple,
                 grad_mean: Tensor, grad_var: Tensor, grad_kernels: Tensor, grad_x: Tensor | None) -> None:
        # The gradient of a value y of a branch's output is slope * y + offset.
        count = spec.num_values(x)
        slope = grad_var * (2 / count)
        # Each by itself: Inductor takes no row of a tensor for a bias (seen in PyTorch 2.11).
        offset = [a / count - b * c for a, b, c in zip(grad_mean, slope, mean)]
        scaled = kernels[:spec.num_convs] * slope[:spec.num_convs, :, None, None, None]
        # The 1×1 and the skip branch together: centre_slope * x + centre_offset.
        centre_slope, centre_offset = slope.new_zeros(2, slope.shape[1])
        if saved:
            centre_mean, centre_var = saved
            for i in range(spec.num_convs, len(kernels)):
                factor = spec.identity_taps(kernels[i])
                spec.identity_taps(grad_kernels[i]).add_(
                    grad_mean[i] * centre_mean + 2 * grad_var[i] * factor * centre_var)
                centre_slope = centre_slope + slope[i] * factor * factor
                centre_offset = centre_offset + offset[i] * factor
            if spec.skip:
                centre_slope = centre_slope + slope[-1]
                centre_offset = centre_offset + offset[-1]

        parts = chunks(x)
        grads = [None] * len(parts) if grad_x is None else chunks(grad_x)
        for chunk, grad in zip(parts, grads):
            for i in range(spec.num_convs):
                grad_out = F.conv2d(chunk, scaled[i], offset[i], *spec.conv_args)
                part, grad_kernel, _ = convolution_backward(grad_out, chunk, kernels[i], spec, grad is not None)
                grad_kernels[i].add_(grad_kernel)
                if grad is not None:
                    grad += part
            if saved and grad is not None:
                spec.centre_pixels(grad).add_(torch.addcmul(
                    centre_offset.reshape(-1, 1, 1), spec.centre_pixels(chunk), centre_slope.reshape(-1, 1, 1)))


def convolution_backward(grad_out: Tensor, x: Tensor, kernel: Tensor, spec: BranchSpec, with_input: bool,
                         with_bias: bool = False) -> tuple[Any, Tensor, Any]:
    """Gradients of a convolution's input, kernel and bias; None for the input's and the bias's if not asked for."""
    return torch.ops.aten.convolution_backward(
        grad_out, x, kernel, [len(kernel)] if with_bias else None, (spec.stride, ) * 2, (spec.padding, ) * 2,
        (spec.dilation, ) * 2, False, (0, 0), spec.groups, (with_input, True, with_bias))


class DepthwiseCovariance:
    """Statistics of depthwise 3×3 convolutions, from the covariance Σ of each channel's patches."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, spec: BranchSpec) -> tuple[Tensor, Tensor, tuple]:
        mean, var, *saved = compiled.depthwise_statistics(
            compiled.channels_last(x), kernels, spec.skip, spec.stride, spec.dilation)
        return mean, var, tuple(saved)

    @staticmethod
    def backward(x: Tensor, kernels: Tensor, spec: BranchSpec, mean: Tensor, saved: tuple,
                 grad_mean: Tensor, grad_var: Tensor, grad_kernels: Tensor, grad_x: Tensor | None) -> None:
        x = compiled.channels_last(x)
        in_place = grad_x is None or (
            grad_x.dtype == x.dtype and grad_x.is_contiguous(memory_format=torch.channels_last))
        total: Any = grad_x if in_place else torch.zeros_like(x)
        products, patch_mean = saved
        compiled.add_depthwise_gradient(x, kernels, spec.skip, spec.stride, spec.dilation, products, patch_mean,
                                        grad_mean, grad_var, grad_kernels, total)
        if grad_x is not None and not in_place:
            grad_x += total


class Empty:
    """Those of an empty batch, for where other processes have batches that are not."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, spec: BranchSpec) -> tuple[Tensor, Tensor, tuple]:
        mean, var = x.new_zeros(2, len(kernels) + spec.skip, kernels.shape[1])
        return mean, var, ()

    @staticmethod
    def backward(*_: Any) -> None:
        pass


def statistics_method(x: Tensor,
                      spec: BranchSpec) -> type[Covariance] | type[DepthwiseCovariance] | type[Direct] | type[Empty]:
    """The class that computes the statistics for an input like ``x``."""
    if x.numel() == 0:
        return Empty
    if spec.groups == 1:
        return Covariance
    if spec.kernel_size == 3 and compiled.takes_depthwise(x, spec.stride, spec.dilation):
        return DepthwiseCovariance
    return Direct
