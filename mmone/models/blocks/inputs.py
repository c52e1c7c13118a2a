"""Whether an input goes with the parameters of a block as fusing takes for granted.

PyTorch's convolutions and BatchNorms check what they are given. Code that reads their parameters and does not call them
must do so itself.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmone.compat import dispatch_keys, is_compiling, ordinary_keys

if TYPE_CHECKING:
    from .mobileone_block import MobileOneBlock

HALVES = (torch.float16, torch.bfloat16)


def obstacle(block: MobileOneBlock, x: Tensor, autocast: torch.dtype | None) -> str | None:
    """Why branches cannot be fused for an input; None where they can. An empty batch is no obstacle.

    Args:
        block (MobileOneBlock): In training form, with nothing else in the way (:mod:`.obstacles`).
        x (Tensor): What it is given.
        autocast (torch.dtype | None): The dtype that autocast convolves in; None where it is off.

    Raises:
        RuntimeError: PyTorch's own for an input that its convolution refuses, before a norm has counted it.
    """
    found = _obstacle(block, x, autocast)
    if found and not is_compiling():
        conv: Any = next(block.branches())[0]
        with torch.no_grad():
            conv.forward(x)
    return found


def _obstacle(block: MobileOneBlock, x: Tensor, autocast: torch.dtype | None) -> str | None:
    if x.is_nested or x.dim() != 4 or x.shape[1] != block.in_channels or 0 in x.shape[1:]:
        return f'the input is not of shape (N, {block.in_channels}, H, W), with a height and a width'
    if block.stride < 1 or block.dilation < 1:
        return f'stride {block.stride} and dilation {block.dilation} must be positive'
    if is_compiling():  # which checks what it traces
        return None
    if dispatch_keys(x) not in ordinary_keys(x.device.type):
        return f'the input is no ordinary dense tensor: {x.layout}'
    weights = [conv.weight for conv, _ in block.branches() if conv is not None]
    of_norms = [tensor for _, norm in block.branches()
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    if any(tensor.device != x.device for tensor in (*weights, *of_norms)):
        return f'the input is on {x.device}, and not all parameters are'
    if any(tensor.shape != (block.out_channels, ) for tensor in of_norms):
        return f'a norm has not {block.out_channels} channels'
    if not _fit(x.dtype, {weight.dtype for weight in weights}, {tensor.dtype for tensor in of_norms}, autocast):
        return f'the input is {x.dtype}, and parameters are of other dtypes than those that are computed with it'
    return None


def _fit(dtype: torch.dtype, of_weights: set[torch.dtype], of_norms: set[torch.dtype],
         autocast: torch.dtype | None) -> bool:
    """Whether PyTorch computes with these dtypes: all are the same, or float32 in norms of what is half as wide."""
    convolved = {dtype} | of_weights
    if autocast is not None and convolved <= {torch.float32, *HALVES}:
        convolved = {autocast}
    normalized = {dtype} | convolved
    return (len(convolved) == len(of_norms) == 1 and normalized <= {torch.float32, torch.float64, *HALVES}
            and all(of_norms <= ({found, torch.float32} if found in HALVES else {found}) for found in normalized))
