"""From a deployed network back to a trainable one with branches."""
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmone.errors import InputError
from mmone.models import MobileOne


@torch.no_grad()
def calibrate(backbone: MobileOne, images: Iterable[Tensor]) -> int:
    """Set the BatchNorm statistics to those of data, without changing the function in eval mode.

    What the new mean and variance change in a norm, its weight and bias undo; so training mode,
    which normalizes by the batch, starts where eval mode is.

    Args:
        backbone (MobileOne): In training form; it is left in eval mode.
        images (Iterable[Tensor]): Batches (N, C, H, W) as the backbone gets them, normalized.

    Returns:
        int: How many images were seen.

    Raises:
        InputError: If there are none.
    """
    norms = [norm for block in backbone.blocks().values() for _, norm in block.branches()]
    sums: dict[Any, list] = {norm: [0, 0, 0] for norm in norms}  # count, sum and sum of squares by channel

    def add(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].double()
        total = sums[norm]
        total[0] += x.numel() // x.shape[1]
        total[1] += x.sum(dim=(0, 2, 3))
        total[2] += x.square().sum(dim=(0, 2, 3))

    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    seen = 0
    try:
        backbone.eval()
        for batch in images:
            backbone(batch)
            seen += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise InputError('no images to calibrate the BatchNorm statistics with')

    for norm, (count, total, squares) in sums.items():
        mean = total / count
        var = (squares / count - mean.square()).clamp(min=0)
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        norm.bias.copy_(norm.bias.double() + (mean - norm.running_mean.double()) * scale)
        norm.weight.copy_(scale * torch.sqrt(var + norm.eps))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
    return seen


def expand(backbone: MobileOne, images: Iterable[Tensor], noise: float = 0.5, seed: int = 0) -> int:
    """Turn a deployed backbone into one with branches that goes on from the same function.

    Fused weights are often all that is published, and they hold nothing that a branch was. Each
    kernel is shared out to the branches of its block, which then compute the same in eval mode to
    rounding, and the statistics are :func:`calibrated <calibrate>`, so that training does too,
    but for the difference between the statistics of a batch and those of the data.

    Args:
        backbone (MobileOne): Deployed; changed in place and left in eval mode.
        images (Iterable[Tensor]): Batches (N, C, H, W) as the backbone gets them, normalized.
        noise (float): How different the convolution branches of a block start. Defaults to 0.5.
        seed (int): Seed of the noise. Defaults to 0.

    Returns:
        int: How many images the statistics are of.

    Raises:
        InputError: If there are none.
    """
    backbone.switch_to_branches(noise, seed)
    return calibrate(backbone, images)
