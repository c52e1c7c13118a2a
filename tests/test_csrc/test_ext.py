"""The compiled functions compute what ``mmone/csrc/reference.py`` does by plain loops."""
import numpy as np
import pytest
import torch

from mmone.csrc import reference
from mmone.models.blocks import compiled
from mmone.models.blocks.branch_statistics import BranchSpec, DepthwiseCovariance

from ..covering import covering

# Of the largest value of a tensor, or of what variances are the differences of.
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}
MEAN, MEAN_SQUARE = 3, 10  # of inputs
CHANNELS = [1, 16, 19]  # vectors are of 16: a part of one, one, and one and a part
BOOLS = [False, True]
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def _compiled():
    assert compiled._ext is not None, 'the compiled module was not built'


def assert_equal(found, expected, dtype):
    expected = torch.from_numpy(np.asarray(expected))
    assert found.dtype in (dtype, torch.float64) and found.shape == expected.shape
    # Not a scale of 0: what is 0 by cancellation is not so to the last bit.
    assert (found - expected).abs().max() <= TOLERANCES[dtype] * expected.abs().max().clamp(min=MEAN_SQUARE)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def check_depthwise(channels, size, stride, dilation, num_kernels, skip, dtype, images=2, layout=channels_last):
    """Of an input as ``layout`` lays it out in memory."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    x = layout(normal(images, channels, *size) + MEAN)
    kernels = normal(num_kernels, channels, 1, 3, 3)
    spec = BranchSpec(3, stride, dilation, channels, num_kernels, skip, 1e-5)
    args = x.permute(0, 2, 3, 1).double().numpy(), kernels.flatten(2).double().numpy(), skip, stride, dilation

    mean, var, saved = DepthwiseCovariance.forward(x, kernels, spec)
    for found, expected in zip((mean, var, *saved), reference.depthwise_statistics(*args), strict=True):
        assert_equal(found, expected, dtype)

    grad_mean, grad_var = normal(2, num_kernels + skip, channels)
    expected_kernels, expected_x = reference.depthwise_gradient(
        *args, grad_mean.double().numpy(), grad_var.double().numpy())
    before_kernels, before_x = normal(*kernels.shape), normal(*x.shape)
    # Added in place; in another memory format; and not at all, for an image.
    for before in (channels_last(before_x), before_x, None):
        grad_kernels, grad_x = before_kernels.clone(), None if before is None else before.clone()
        DepthwiseCovariance.backward(x, kernels, spec, mean, saved, grad_mean, grad_var, grad_kernels, grad_x)
        assert_equal((grad_kernels - before_kernels).flatten(2), expected_kernels, dtype)
        if before is not None:
            assert_equal((grad_x - before).permute(0, 2, 3, 1), expected_x, dtype)


# Sizes: one position; narrower than a dilated kernel; with runs of columns that are taken at once.
@pytest.mark.parametrize('channels, size, stride, dilation, num_kernels, skip, dtype', covering(
    CHANNELS, [(1, 1), (2, 5), (7, 4), (3, 21)], [1, 2, 3], [1, 2, 4], [1, 3], BOOLS, DTYPES, strength=3), ids=str)
def test_depthwise_statistics_and_gradient(channels, size, stride, dilation, num_kernels, skip, dtype):
    check_depthwise(channels, size, stride, dilation, num_kernels, skip, dtype)


@pytest.mark.parametrize('stride', [1, 2])
def test_sums_in_parts_and_images_by_several_threads(stride):
    # More than 256 terms, which float32 sums are split at, and images and rows in parts.
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        check_depthwise(1, (17, 20 * stride), stride, 1, 2, True, torch.float32, images=5)
    finally:
        torch.set_num_threads(threads)


def test_no_variance_is_negative():
    # All images alike, and one pixel each: no output varies but by rounding.
    x = channels_last(torch.randn(1, 64, 1, 1, dtype=torch.float64).repeat(7, 1, 1, 1) + 1)
    kernels = torch.randn(4, 64, 1, 3, 3, dtype=torch.float64)
    _, var, _ = DepthwiseCovariance.forward(x, kernels, BranchSpec(3, 1, 1, 64, 4, False, 1e-5))
    assert 0 <= var.min() and var.max() < 1e-12


def test_sums_of_many_terms_do_not_round_more():
    # Equal terms, whose rounding in one long sum of float32 would add up to 1e-3.
    signs = channels_last(torch.randint(2, (1, 1, 1 << 14, 4)) * 2.0 - 1)
    spec = BranchSpec(3, 1, 1, 1, 1, True, 1e-5)
    kernels = torch.randn(1, 1, 1, 3, 3)
    found, expected = (DepthwiseCovariance.forward(channels_last(1.1 * signs.to(dtype)), kernels.to(dtype), spec)
                       for dtype in DTYPES)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[2][0], expected[2][0], rtol=0, atol=1e-5)

    y, zero, one = torch.zeros(1 << 16, 1, 1, 1), torch.zeros(1, 1), torch.ones(1, 1)
    grad = torch.full_like(y, 1.1)
    sums = compiled.NormSum([y], zero, one, zero[0], False).gradient_sums(grad)
    torch.testing.assert_close(sums[0].double(), grad.double().sum()[None], rtol=1e-5, atol=0)


# Rows: one, a few, and more than a chunk of 256. 4100 channels: a chunk is of 8 rows.
@pytest.mark.parametrize('rows, channels, skip, relu, dtype', [
    *covering([1, 7, 300], CHANNELS, BOOLS, BOOLS, DTYPES), (9, 4100, True, True, torch.float32)], ids=str)
def test_norm_sum_and_gradient(rows, channels, skip, relu, dtype):
    check_norm_sum(rows, channels, skip, relu, dtype)


def check_norm_sum(rows, channels, skip, relu, dtype):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    y, x, grad, grad_x = (channels_last(normal(rows, channels, 1, 1)) for _ in range(4))
    mean, scale, slope = normal(3, 1 + skip, channels)
    bias, offset = normal(channels), normal(1 + skip, channels)
    norm_sum = compiled.NormSum([y, x][:1 + skip], mean, scale, bias, relu)

    def arrays(*tensors):
        return [tensor.double().numpy().reshape(-1, channels) for tensor in tensors]

    branches = arrays(y, x) if skip else arrays(y)
    mean_, scale_, slope_, offset_ = arrays(mean, scale, slope, offset)
    expected = reference.norm_sum(branches, mean_, scale_, bias.double().numpy(), relu)
    assert_equal(norm_sum.output().flatten(1), expected, dtype)

    behind_relu = arrays(grad)[0]
    if relu:
        behind_relu = reference.relu_gradient(expected, behind_relu)
    assert_equal(norm_sum.gradient_sums(grad), reference.norm_gradient_sums(branches, mean_, behind_relu), dtype)

    found = [norm_sum.gradient_of_y(grad, slope, offset), grad_x.clone()]
    if skip:
        norm_sum.add_gradient_of_x(grad, slope, offset, found[1])
    for k in range(1 + skip):
        expected = reference.norm_gradient(branches[k], mean_[k], scale_[k], behind_relu, slope_[k], offset_[k])
        assert_equal(found[k].flatten(1), expected + (arrays(grad_x)[0] if k == 1 else 0), dtype)
