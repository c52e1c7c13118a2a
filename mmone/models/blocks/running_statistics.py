"""The running statistics of BatchNorms, where something other than their own forward pass updates them."""
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_running_statistics(norms: Sequence[Any], mean: Tensor, var: Tensor) -> None:
    """Update the running statistics and counters of norms as their forward passes would, the last one first.

    Args:
        norms (Sequence[nn.Module]): BatchNorms of any class; a momentum of None means a cumulative average.
        mean (Tensor): Of the batch, (norms, C).
        var (Tensor): Unbiased variance of the batch, (norms, C).
    """
    like = norms[0].running_mean
    for norm, batch_mean, batch_var in reversed(list(zip(norms, mean.to(like), var.to(like)))):
        momentum = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / float(norm.num_batches_tracked)
        if momentum:
            norm.running_mean.lerp_(batch_mean, momentum)
            norm.running_var.lerp_(batch_var, momentum)


class BufferSnapshot:
    """A context in which a module computes with copies of the buffers that it has at the snapshot.

    What is recomputed in it, any number of times, is what was computed right after the snapshot, and counts
    no batch twice. That holds for every module that keeps its state in buffers: BatchNorms of any class,
    spectral norms, observers of quantization.

    Args:
        module (nn.Module): With all that it contains.
    """

    def __init__(self, module: nn.Module):
        self._copies = [(part, _copy(part._buffers)) for part in module.modules() if part._buffers]

    def __enter__(self) -> None:
        self._own = [part._buffers for part, _ in self._copies]
        for part, buffers in self._copies:
            part._buffers = _copy(buffers)

    def __exit__(self, *_: object) -> None:
        for (part, _copied), buffers in zip(self._copies, self._own):
            part._buffers = buffers


def _copy(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if value is None else value.detach().clone() for name, value in buffers.items()}
