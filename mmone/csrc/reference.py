"""What the C code computes, as plain loops: slow, and short enough to be checked by reading.

The tests compare the C code with it. Layouts are those of the C code: x is (N, H, W, C), kernels are
(branches, C, 9), statistics and their gradients are (branches, C), the skip branch last.
"""
from collections.abc import Iterator

import numpy as np
from numpy import ndarray

IDENTITY = (0, 0, 0, 0, 1, 0, 0, 0, 0)  # the skip branch as a 3×3 kernel


def outputs(x: ndarray, stride: int, dilation: int) -> list[list[tuple | None]]:
    """For every output of a 3×3 convolution, the positions (n, h, w) of x under its taps; None in the padding."""
    images, height, width, _ = x.shape
    found = []
    for n in range(images):
        for row in range(0, height, stride):
            for column in range(0, width, stride):
                taps = [(n, row + i * dilation, column + j * dilation) for i in (-1, 0, 1) for j in (-1, 0, 1)]
                found.append([at if 0 <= at[1] < height and 0 <= at[2] < width else None for at in taps])
    return found


def branches(x: ndarray, kernels: ndarray, skip: bool, stride: int, dilation: int) -> Iterator[tuple]:
    """For every channel c and branch k: k, c, the kernel, the patch and the value of every output."""
    positions = outputs(x, stride, dilation)
    for c in range(x.shape[3]):
        patches = [[0 if at is None else float(x[at][c]) for at in taps] for taps in positions]
        for k in range(len(kernels) + skip):
            kernel = kernels[k, c].tolist() if k < len(kernels) else IDENTITY
            yield k, c, kernel, patches, [sum(w * p for w, p in zip(kernel, patch)) for patch in patches]


def depthwise_statistics(x: ndarray, kernels: ndarray, skip: bool, stride: int, dilation: int) -> tuple[ndarray, ...]:
    """Mean and biased variance of every branch; covariance of its outputs with each tap; mean of each tap."""
    mean, var = np.zeros((2, len(kernels) + skip, x.shape[3]))
    products, patch_mean = np.zeros((len(kernels) + skip, x.shape[3], 9)), np.zeros((x.shape[3], 9))
    for k, c, _, patches, values in branches(x, kernels, skip, stride, dilation):
        count, average = len(values), sum(values) / len(values)
        mean[k, c] = average
        var[k, c] = sum((value - average)**2 for value in values) / count
        for tap in range(9):
            patch_mean[c, tap] = sum(patch[tap] for patch in patches) / count
            products[k, c, tap] = sum((value - average) * patch[tap] for value, patch in zip(values, patches)) / count
    return mean, var, products[:len(kernels)], patch_mean


def depthwise_gradient(x: ndarray, kernels: ndarray, skip: bool, stride: int, dilation: int, grad_mean: ndarray,
                       grad_var: ndarray) -> tuple[ndarray, ndarray]:
    """Gradients of the kernels and of x, from those of the statistics."""
    positions = outputs(x, stride, dilation)
    grad_kernels, grad_x = np.zeros((len(kernels) + skip, x.shape[3], 9)), np.zeros(x.shape)
    for k, c, kernel, patches, values in branches(x, kernels, skip, stride, dilation):
        count, average = len(values), sum(values) / len(values)
        for taps, patch, value in zip(positions, patches, values):
            grad_value = (grad_mean[k, c] + 2 * grad_var[k, c] * (value - average)) / count
            for tap, at in enumerate(taps):
                grad_kernels[k, c, tap] += grad_value * patch[tap]
                if at is not None:
                    grad_x[at][c] += grad_value * kernel[tap]
    return grad_kernels[:len(kernels)], grad_x


def norm_sum(branches: list[ndarray], mean: ndarray, scale: ndarray, bias: ndarray, relu: bool) -> ndarray:
    """Sum of BatchNorms, and the ReLU if any, of y and, where there is a skip branch, x.

    ``branches`` are [y] or [y, x], each (rows, C); mean and scale γ / √(var + ε) are (branches, C), bias (C,).
    """
    out = np.zeros(branches[0].shape)
    for row, c in np.ndindex(out.shape):
        value = bias[c] + sum((values[row, c] - mean[k, c]) * scale[k, c] for k, values in enumerate(branches))
        out[row, c] = max(value, 0) if relu else value
    return out


def relu_gradient(out: ndarray, grad: ndarray) -> ndarray:
    """The gradient behind the ReLU, from its output and the gradient of that."""
    found = np.zeros(grad.shape)
    for row, c in np.ndindex(found.shape):
        found[row, c] = grad[row, c] if out[row, c] > 0 else 0
    return found


def norm_gradient_sums(branches: list[ndarray], mean: ndarray, grad: ndarray) -> ndarray:
    """Sums over the rows of the gradient behind the ReLU, alone and times each centred branch."""
    sums = np.zeros((1 + len(branches), grad.shape[1]))
    for row, c in np.ndindex(grad.shape):
        sums[0, c] += grad[row, c]
        for k, values in enumerate(branches):
            sums[1 + k, c] += grad[row, c] * (values[row, c] - mean[k, c])
    return sums


def norm_gradient(values: ndarray, mean: ndarray, scale: ndarray, grad: ndarray, slope: ndarray,
                  offset: ndarray) -> ndarray:
    """The gradient of y or x; slope and offset hold what comes through its variance and its mean."""
    out = np.zeros(values.shape)
    for row, c in np.ndindex(out.shape):
        out[row, c] = grad[row, c] * scale[c] + (values[row, c] - mean[c]) * slope[c] + offset[c]
    return out
