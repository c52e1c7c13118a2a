"""The branches of MobileOne's rivals, for the same block.

The paper compares itself with other blocks that are one convolution once they are deployed
(https://arxiv.org/abs/2206.04040v2, Table 4). Here three of them are other lists of branches; the fourth, RepVGG's, is
MobileOne's with one K×K branch. A branch is a chain of linear layers, which ends with a norm. Where K is 1, all three
have one convolution and its norm, as in their authors' MobileNets.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from mmengine.model import Sequential
from torch import Tensor, nn

from . import reparam

if TYPE_CHECKING:
    from .mobileone_block import MobileOneBlock

# By how much ExpandNet widens a convolution.
EXPANSION = 4


class AveragePooling(nn.Module):
    """Average pooling, zeros of the padding included, as the convolution that it is: it takes a dilation.

    Args:
        channels (int): C of the (N, C, H, W) input.
        kernel_size, stride, padding, dilation (int): As a convolution's.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int, padding: int, dilation: int):
        super().__init__()
        self.channels = channels
        self.kernel_size = kernel_size
        self.geometry = stride, padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        kernel = x.new_full((self.channels, 1, self.kernel_size, self.kernel_size), 1 / self.kernel_size**2)
        return F.conv2d(x, kernel, None, *self.geometry, groups=self.channels)


class NormThenPad(nn.Module):
    """A BatchNorm, and around its output what it maps zero to: so it is as if its input had been padded by zeros.

    By the running statistics, in training too, as in the paper of DBB: the border is no part of the batch's.

    Args:
        norm (nn.Module): Any BatchNorm.
        padding (int): Rows and columns to add on each side.
    """

    def __init__(self, norm: Any, padding: int):
        super().__init__()
        self.norm = norm
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        # The zero is taken from x and the statistics are added to it: what traces operators sees them read, and the
        # backward pass has its own, however the next forward pass changes them.
        zero = torch.zeros_like(x[:1, :, :1, :1])
        mean, var, gamma, beta = (tensor[:, None, None] for tensor in norm_of(self.norm)[:4])
        border = (zero - mean) / (zero + var + self.norm.eps).sqrt() * gamma + beta
        sides = [self.padding] * 4
        frame = F.pad(torch.zeros_like(x[:1, :1]), sides, value=1)
        return F.pad(x, sides) + border.to(x.dtype) * frame


def norm_of(norm: Any) -> reparam.Norm:
    """The tensors of a BatchNorm."""
    return reparam.Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def layers_of(branch: Any) -> dict[str, Any]:
    """The layers of a branch by their names in it; that of a norm alone is ``''``."""
    return dict(branch.named_children()) if isinstance(branch, Sequential) else {'': branch}


def tensors_of(branch: Any, groups: int) -> Iterator[Tensor | reparam.Norm]:
    """The layers of a branch as :func:`~mmone.models.blocks.reparam.fold_chain` takes them."""
    for layer in layers_of(branch).values():
        if isinstance(layer, nn.Conv2d):
            yield layer.weight
        elif isinstance(layer, AveragePooling):
            yield reparam.average_kernel(layer.channels, groups, layer.kernel_size, next(branch.parameters()))
        else:
            yield norm_of(layer.norm if isinstance(layer, NormThenPad) else layer)


def acnet(block: MobileOneBlock) -> dict[str, Sequential]:
    """ACNet's: K×K, 1×K and K×1 (https://arxiv.org/abs/1908.03930, section 3.2)."""
    k = block.kernel_size
    return {name: Sequential(block.new_conv(size), block.new_norm())
            for name, size in {'kxk': (k, k), '1xk': (1, k), 'kx1': (k, 1)}.items()}


def dbb(block: MobileOneBlock) -> dict[str, Sequential]:
    """Those of the Diverse Branch Block: K×K, 1×1, 1×1 then K×K, 1×1 then average pooling.

    https://arxiv.org/abs/2103.13425, section 3.3. Each layer has its norm. Of a depthwise convolution a 1×1 one is a
    multiple of the input: as in the authors' MobileNet it has no such branch, nor one before the pooling, and twice
    the channels between 1×1 and K×K. Convolutions are initialized like all others; theirs before K×K starts as the
    identity.
    """
    k, channels = block.kernel_size, block.out_channels
    padding = block.dilation * (k // 2)
    depthwise = block.groups == block.in_channels == channels
    between = 2 * channels if depthwise else block.in_channels

    def then_pad(width: int) -> tuple[nn.Module, nn.Module]:
        return block.new_conv((1, 1), out_channels=width, stride=1), NormThenPad(block.new_norm(width), padding)

    def average(padding: int) -> nn.Module:
        return AveragePooling(channels, k, block.stride, padding, block.dilation)

    branches = {'kxk': Sequential(block.new_conv((k, k)), block.new_norm()),
                '1x1_kxk': Sequential(*then_pad(between), block.new_conv((k, k), between, padding=0), block.new_norm())}
    if depthwise:
        return {**branches, 'average': Sequential(average(padding), block.new_norm())}
    return {**branches, '1x1': Sequential(block.new_conv((1, 1)), block.new_norm()),
            '1x1_average': Sequential(*then_pad(channels), average(0), block.new_norm())}


def expandnet(block: MobileOneBlock) -> dict[str, Sequential]:
    """ExpandNet-CL's: 1×1, K×K and 1×1 in a row, of 4 times the channels (https://arxiv.org/abs/1811.10495)."""
    k = block.kernel_size
    inner, outer = EXPANSION * block.in_channels, EXPANSION * block.out_channels
    return {'expanded': Sequential(
        block.new_conv((1, 1), out_channels=inner, stride=1), block.new_conv((k, k), inner, outer),
        block.new_conv((1, 1), outer, stride=1), block.new_norm())}


RIVALS: dict[str, Callable[[MobileOneBlock], dict[str, Sequential]]] = dict(acnet=acnet, dbb=dbb, expandnet=expandnet)


def build(name: str, block: MobileOneBlock) -> dict[str, Sequential]:
    """The branches of a rival for a block, by their names."""
    if block.kernel_size == 1:
        return {'kxk': Sequential(block.new_conv((1, 1)), block.new_norm())}
    return RIVALS[name](block)
