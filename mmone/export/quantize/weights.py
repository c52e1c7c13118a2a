"""Weights become integers: their scales, and two ways of rounding them.

Any two of a kernel have magnitudes that add up to so much at most (:mod:`mmone.export.quantize.schemes` says why).
"""
import numpy as np
import torch
from torch import Tensor

from .schemes import QDQ

LARGEST = 127
_CANDIDATES = 24
_DAMPING = 0.01
_COLUMNS_AT_ONCE = 128


def scales(weight: Tensor, covariance: Tensor | None = None, pair: int = QDQ.largest_pair) -> Tensor:
    """The scale of each kernel.

    Args:
        weight (Tensor): (groups, outputs, K), float64.
        covariance (Tensor, optional): That of the inputs, (groups, K, K). Defaults to one for independent inputs.
        pair (int): The most that two may add up to. Defaults to 128.

    Returns:
        Tensor: (groups, outputs, 1), where the outputs' error is least when weights are rounded to the nearest.
    """
    largest = weight.abs().amax(-1, keepdim=True)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    best, least = largest / LARGEST, torch.full_like(largest, torch.inf)
    # In a kernel's largest weight. Where each may be as large as that, the largest ones may be cut off.
    first = 1 / LARGEST if pair < 2 * LARGEST else 0.5 / LARGEST
    for part in np.geomspace(first, 2 / pair, _CANDIDATES):
        candidate = largest * float(part)
        error = output_error(weight - nearest(weight, candidate, pair) * candidate, covariance)
        better = error < least
        best, least = torch.where(better, candidate, best), torch.where(better, error, least)
    return best.float().double()


def nearest(weight: Tensor, scale: Tensor, pair: int = QDQ.largest_pair) -> Tensor:
    """Weights (groups, outputs, K) in units of their scale, rounded to the nearest integers that are allowed."""
    limits = _limits(weight, scale, pair)
    return (weight / scale).round().clamp(-limits, limits)


def _limits(weight: Tensor, scale: Tensor, pair: int) -> Tensor:
    """The largest magnitude that each weight (groups, outputs, K) may have as an integer."""
    largest, place = weight.abs().max(-1, keepdim=True)
    first = (largest / scale).round().clamp(pair // 2, LARGEST)
    return (pair - first).expand_as(weight).scatter(2, place, first)


def compensated(weight: Tensor, scale: Tensor, covariance: Tensor, pair: int = QDQ.largest_pair) -> Tensor:
    """Weights in units of their scale, rounded one after the other.

    The error of each is made up for, as far as inputs go together, by those that are not rounded yet
    (Frantar et al., GPTQ, arXiv 2210.17323). The covariance and not the second moment counts: what an error does
    to the mean of the outputs, the bias takes back.

    Args:
        weight (Tensor): (groups, outputs, K), float64.
        scale (Tensor): (groups, outputs, 1).
        covariance (Tensor): That of the inputs, (groups, K, K).
        pair (int): The most that two may add up to. Defaults to 128.
    """
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    order = diagonal.argsort(1, descending=True)  # those that count most first
    rows = order.unsqueeze(1).expand_as(weight)
    left, limits = weight.gather(2, rows), _limits(weight, scale, pair).gather(2, rows)
    size = weight.shape[2]
    matrix = covariance.gather(1, order.unsqueeze(2).expand_as(covariance))
    matrix = matrix.gather(2, order.unsqueeze(1).expand_as(covariance))
    damping = _DAMPING * diagonal.mean(1).clamp(min=1e-12)
    matrix = matrix + damping.reshape(-1, 1, 1) * torch.eye(size, dtype=matrix.dtype)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(matrix)), upper=True)
    integers = torch.empty_like(left)
    for first in range(0, size, _COLUMNS_AT_ONCE):
        last = min(first + _COLUMNS_AT_ONCE, size)
        errors = torch.empty_like(left[:, :, first:last])
        for i in range(first, last):
            limit = limits[:, :, i]
            integer = (left[:, :, i] / scale[:, :, 0]).round().clamp(-limit, limit)
            error = (left[:, :, i] - integer * scale[:, :, 0]) / inverse[:, i, i].unsqueeze(1)
            left[:, :, i:last] -= error.unsqueeze(2) * inverse[:, i:i + 1, i:last]
            integers[:, :, i], errors[:, :, i - first] = integer, error
        left[:, :, last:] -= errors @ inverse[:, first:last, last:]
    return torch.empty_like(integers).scatter(2, rows, integers)


def output_error(error: Tensor, covariance: Tensor | None) -> Tensor:
    """The mean squared error (groups, outputs, 1) that errors (groups, outputs, K) of weights make in outputs."""
    moved = error if covariance is None else error @ covariance
    return (moved * error).sum(-1, keepdim=True)


def largest_pair(weight: np.ndarray) -> int:
    """The largest sum that two neighbouring products of an input byte and a weight can have, in absolute value.

    Args:
        weight (np.ndarray): Integers (outputs, ...); any two of a kernel may become neighbours.
    """
    kernels = np.abs(weight.astype(np.int64)).reshape(len(weight), -1)
    most = np.sort(kernels, axis=1)[:, -2:]
    return int(255 * most.sum(1).max(initial=0))
