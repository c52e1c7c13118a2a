"""The algebra of re-parameterization, as functions of tensors.

Every branch of a MobileOne block is linear once its BatchNorm uses fixed statistics, so the sum of
the branches is one convolution (https://arxiv.org/abs/2206.04040v2, section 3.3). A branch is a chain
of linear layers: kernels, whose stride and padding are its convolution's, and :class:`Norm`. Folding is
differentiable, keeps its inputs' device, and computes in float32 at least, so that folding float16
weights does not lose what float16 cannot hold on the way.

The functions at the end go the other way, from one convolution to branches.
"""
from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Norm(NamedTuple):
    """A BatchNorm with fixed statistics: tensors of shape (C,), and its ``eps``."""
    mean: Tensor
    var: Tensor
    gamma: Tensor
    beta: Tensor
    eps: float


def fold_batch_norm(weight: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor,
                    eps: float) -> tuple[Tensor, Tensor]:
    """Fold a BatchNorm into the bias-free convolution before it.

    ``W' = W γ / sqrt(σ² + ε)`` and ``b' = β − μ γ / sqrt(σ² + ε)``.

    Args:
        weight (Tensor): Kernel of shape (C_out, C_in / groups, K, K).
        mean, var, gamma, beta (Tensor): Statistics and affine parameters of shape (C_out,).
        eps (float): The norm layer's ``eps``.

    Returns:
        tuple[Tensor, Tensor]: Kernel of the shape given and bias of shape (C_out,).
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scale = gamma.to(dtype) / torch.sqrt(var.to(dtype) + eps)
    return weight.to(dtype) * scale.reshape(-1, 1, 1, 1), beta.to(dtype) - mean.to(dtype) * scale


def pad_kernel(weight: Tensor, kernel_size: int) -> Tensor:
    """Zero-pad an odd (C_out, C_in / groups, k, l) kernel to K×K around its centre.

    Equal to the small kernel for a convolution of padding ``dilation * (K - 1) / 2`` at any
    stride and dilation, because the centre tap of every output position stays where it was.
    """
    rows, columns = ((kernel_size - size) // 2 for size in weight.shape[2:])
    return F.pad(weight, [columns, columns, rows, rows]) if rows or columns else weight


def identity_kernel(channels: int, groups: int, kernel_size: int, like: Tensor) -> Tensor:
    """The (C, C / groups, K, K) kernel that returns its input, with ``like``'s dtype and device."""
    width = channels // groups
    kernel = like.new_zeros(channels, width, kernel_size, kernel_size)
    index = torch.arange(channels, device=like.device)
    kernel[index, index % width, kernel_size // 2, kernel_size // 2] = 1
    return kernel


def average_kernel(channels: int, groups: int, kernel_size: int, like: Tensor) -> Tensor:
    """The (C, C / groups, K, K) kernel of average pooling, with ``like``'s dtype and device."""
    return identity_kernel(channels, groups, 1, like).expand(-1, -1, kernel_size, kernel_size) / kernel_size**2


def compose(first: Tensor, second: Tensor, groups: int) -> Tensor:
    """The kernel of two bias-free convolutions, one after the other.

    Their strides and dilations must be those of one convolution too: of the two at most one is larger than 1×1,
    and what follows a stride is 1×1.

    Args:
        first (Tensor): (C_middle, C_in / groups, h, w).
        second (Tensor): (C_out, C_middle / groups, h', w').
        groups (int): Of both.

    Returns:
        Tensor: (C_out, C_in / groups, h + h' - 1, w + w' - 1).
    """
    dtype = torch.promote_types(first.dtype, torch.float32)
    # Its output channels as a batch of (C_middle, h', w') images: spreading each value of them by the first kernel is
    # what a transposed convolution does.
    images = second.to(dtype).unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)
    composed = F.conv_transpose2d(images, first.to(dtype), groups=groups)
    return composed.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 1)


def fold_chain(layers: Iterable[Tensor | Norm], groups: int) -> tuple[Tensor, Tensor]:
    """Fold a chain of linear layers into one convolution.

    A convolution after a norm must have its input padded by what the norm maps zero to, and not by zero: otherwise
    the border of the image is not what one convolution of a zero-padded image computes
    (https://arxiv.org/abs/2103.13425, Transform III).

    Args:
        layers (Iterable[Tensor | Norm]): Kernels, as :func:`compose` takes them, and norms.
        groups (int): Groups of all kernels.

    Returns:
        tuple[Tensor, Tensor]: Kernel and bias (C_out,). Of a norm alone it is the identity's, 1×1, and the bias is
        what the norm maps zero to.
    """
    kernel: Tensor | None = None
    bias: Tensor | None = None
    for layer in layers:
        if isinstance(layer, Norm):
            if kernel is None:
                kernel = identity_kernel(len(layer.gamma), groups, 1, layer.gamma)
            kernel, bias = fold_batch_norm(kernel, layer.mean if bias is None else layer.mean - bias, *layer[1:])
        elif kernel is None:
            kernel = layer
        else:
            kernel = compose(kernel, layer, groups)
            if bias is not None:
                summed = layer.to(kernel.dtype).sum((2, 3)).unflatten(0, (groups, -1))
                bias = (summed @ bias.reshape(groups, -1, 1)).flatten()
    assert kernel is not None
    return kernel, kernel.new_zeros(len(kernel)) if bias is None else bias


def sum_branches(branches: Iterable[tuple[Tensor, Tensor]],
                 kernel_size: int) -> tuple[Tensor, Tensor]:
    """Sum folded (kernel, bias) pairs into the one K×K convolution equal to their sum."""
    kernels, biases = zip(*branches)
    return reduce(add, (pad_kernel(kernel, kernel_size) for kernel in kernels)), reduce(add, biases)


def fold_branches(branches: Iterable[Iterable[Tensor | Norm]], kernel_size: int,
                  groups: int) -> tuple[Tensor, Tensor]:
    """Fold branches, each as :func:`fold_chain` takes it, into the one K×K convolution that they sum to."""
    return sum_branches((fold_chain(branch, groups) for branch in branches), kernel_size)


def split_kernel(kernel: Tensor, num_convs: int, scale: bool, skip: bool, groups: int,
                 noise: float, generator: torch.Generator) -> list[Tensor]:
    """Share a K×K kernel out to branches whose padded sum it is: the way back from deployment.

    Of all such shares these have the least squared norm: each tap is divided equally among the
    branches that have it. Zero-sum noise then makes the convolution branches differ, since equal
    ones would get equal gradients for ever.

    Args:
        kernel (Tensor): Of shape (C_out, C_in / groups, K, K).
        num_convs (int): Number k of K×K branches.
        scale (bool): Whether there is a 1×1 branch, for the centre taps.
        skip (bool): Whether there is an identity branch, for the centre taps of channel c in c.
        groups (int): Groups of the convolution.
        noise (float): Its standard deviation as a fraction of each output channel's.
        generator (torch.Generator): What draws the noise.

    Returns:
        list[Tensor]: k kernels (C_out, C_in / groups, K, K), then (C_out, C_in / groups, 1, 1) if
        ``scale``, then a factor for each channel (C_out,) if ``skip``.
    """
    centre = kernel.shape[-1] // 2
    shares = torch.full_like(kernel, num_convs)
    if scale:
        shares[..., centre, centre] += 1
    if skip:
        identity = identity_kernel(kernel.shape[0], groups, kernel.shape[-1], kernel)
        shares += identity
    share = kernel / shares

    drawn = torch.randn((num_convs, *kernel.shape), generator=generator).to(kernel)
    drawn -= drawn.mean(dim=0)
    spread = kernel.flatten(1).std(dim=1, correction=0).reshape(1, -1, 1, 1, 1)
    parts = list(share + noise * spread * drawn)
    if scale:
        parts.append(share[..., centre:centre + 1, centre:centre + 1].clone())
    if skip:
        parts.append((share * identity).sum(dim=(1, 2, 3)))
    return parts


def branch_names(num_convs: int, scale: bool, skip: bool) -> list[tuple[str | None, str]]:
    """Names of the convolution (None for the identity) and the norm of every branch of a block."""
    names: list[tuple[str | None, str]] = [
        (f'branch_conv_list.{i}.conv', f'branch_conv_list.{i}.norm') for i in range(num_convs)]
    if scale:
        names.append(('branch_scale.conv', 'branch_scale.norm'))
    if skip:
        names.append((None, 'branch_norm'))
    return names


def split_state_dict(kernel: Tensor, bias: Tensor, num_convs: int, scale: bool, skip: bool, groups: int,
                     noise: float, generator: torch.Generator, eps: float) -> dict[str, Tensor]:
    """Weights of branches that fold to ``kernel`` and ``bias``: :func:`split_kernel` for a block.

    The norms get mean 0 and variance 1, ``eps`` included; the first one's bias is the block's.

    Args:
        kernel, bias (Tensor): The deployed weights, (C_out, C_in / groups, K, K) and (C_out,).
        num_convs, scale, skip, groups, noise, generator: As :func:`split_kernel` takes them.
        eps (float): The norm layers' ``eps``.
    """
    parts = split_kernel(kernel, num_convs, scale, skip, groups, noise, generator)
    weights = {}
    for (conv, norm), part in zip(branch_names(num_convs, scale, skip), parts):
        if conv:
            weights[f'{conv}.weight'] = part
        weights.update({
            f'{norm}.weight': torch.ones_like(bias) if conv else part,
            f'{norm}.bias': torch.zeros_like(bias),
            f'{norm}.running_mean': torch.zeros_like(bias),
            f'{norm}.running_var': torch.full_like(bias, 1 - eps),
            f'{norm}.num_batches_tracked': torch.zeros((), dtype=torch.long, device=bias.device),
        })
    weights['branch_conv_list.0.norm.bias'] = bias.clone()
    return weights
