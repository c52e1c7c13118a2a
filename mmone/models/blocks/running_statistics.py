"""The running statistics of BatchNorms, where something other than their own forward pass updates them."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def update_running_statistics(norms: Sequence[Any], mean: Tensor, var: Tensor) -> None:
    """Update the running statistics and counters of norms as their forward passes would.

    Args:
        norms (Sequence[nn.Module]): BatchNorms of any class; a momentum of None means a cumulative average.
        mean (Tensor): Of the batch, (norms, C).
        var (Tensor): Unbiased variance of the batch, (norms, C).
    """
    like = norms[0].running_mean
    for norm, batch_mean, batch_var in zip(norms, mean.to(like), var.to(like)):
        momentum = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / float(norm.num_batches_tracked)
        if momentum:
            norm.running_mean.lerp_(batch_mean, momentum)
            norm.running_var.lerp_(batch_var, momentum)


@contextmanager
def frozen_running_statistics(norms: Sequence[Any]) -> Iterator[None]:
    """Let BatchNorms normalize by the batch without updating their running statistics.

    Recomputing a checkpointed block would otherwise count every batch twice.
    """
    saved = [(norm.momentum, getattr(norm, 'num_batches_tracked', None)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, saved):
            norm.momentum = momentum
            norm.num_batches_tracked = num_batches_tracked
