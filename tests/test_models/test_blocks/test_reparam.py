"""The algebra, against what it stands for, in float64."""
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmone.models.blocks import reparam


def _statistics(channels, dtype=torch.float64):
    return (torch.randn(channels, dtype=dtype), torch.rand(channels, dtype=dtype) + 0.1,
            torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype))


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('eps', [1e-5, 1e-2])
def test_fold_batch_norm_equals_conv_then_norm(groups, eps):
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64)
    weight = torch.randn(8, 4 // groups, 3, 3, dtype=torch.float64)
    mean, var, gamma, beta = _statistics(8)
    expected = F.batch_norm(F.conv2d(x, weight, groups=groups), mean, var, gamma, beta, eps=eps)
    kernel, bias = reparam.fold_batch_norm(weight, mean, var, gamma, beta, eps)
    torch.testing.assert_close(F.conv2d(x, kernel, bias, groups=groups), expected,
                               rtol=1e-12, atol=1e-12)


def test_fold_batch_norm_is_differentiable():
    weight = torch.randn(3, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    mean, var, gamma, beta = (t.requires_grad_() for t in _statistics(3))
    assert gradcheck(reparam.fold_batch_norm, (weight, mean, var, gamma, beta, 1e-3))


def test_fold_batch_norm_of_half_weights_computes_in_float32():
    weight = torch.randn(4, 4, 1, 1).half()
    mean, var, gamma, beta = (t.half() for t in _statistics(4, torch.float32))
    kernel, bias = reparam.fold_batch_norm(weight, mean, var, gamma, beta, 1e-5)
    exact, _ = reparam.fold_batch_norm(
        weight.double(), mean.double(), var.double(), gamma.double(), beta.double(), 1e-5)
    assert kernel.dtype == bias.dtype == torch.float32
    torch.testing.assert_close(kernel.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('dilation', [1, 2, 3])
@pytest.mark.parametrize('size', [(8, 8), (7, 9)])
def test_pad_kernel_equals_the_small_kernel(stride, dilation, size):
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    weight = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    padded = reparam.pad_kernel(weight, 3)
    assert padded.shape == (4, 3, 3, 3)
    torch.testing.assert_close(
        F.conv2d(x, padded, stride=stride, padding=dilation, dilation=dilation),
        F.conv2d(x, weight, stride=stride), rtol=0, atol=1e-14)


@pytest.mark.parametrize('groups', [1, 2, 6])
@pytest.mark.parametrize('kernel_size', [1, 3, 5])
def test_identity_kernel_returns_its_input(groups, kernel_size):
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    kernel = reparam.identity_kernel(6, groups, kernel_size, x)
    assert kernel.dtype == x.dtype
    assert torch.equal(F.conv2d(x, kernel, padding=kernel_size // 2, groups=groups), x)


def test_sum_branches_pads_and_adds():
    large = (torch.randn(2, 2, 3, 3), torch.randn(2))
    small = (torch.randn(2, 2, 1, 1), torch.randn(2))
    kernel, bias = reparam.sum_branches([large, small], 3)
    expected = large[0].clone()
    expected[:, :, 1, 1] += small[0][:, :, 0, 0]
    assert torch.equal(kernel, expected)
    assert torch.equal(bias, large[1] + small[1])


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('sizes', [((1, 1), (3, 3)), ((3, 1), (1, 1)), ((1, 3), (3, 2))])
def test_compose_equals_one_convolution_after_the_other(groups, sizes):
    first = torch.randn(6, 4 // groups, *sizes[0], dtype=torch.float64)
    second = torch.randn(8, 6 // groups, *sizes[1], dtype=torch.float64)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(F.conv2d(x, reparam.compose(first, second, groups), groups=groups),
                               F.conv2d(F.conv2d(x, first, groups=groups), second, groups=groups))


@pytest.mark.parametrize('groups', [1, 2, 6])
def test_average_kernel_averages(groups):
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(F.conv2d(x, reparam.average_kernel(6, groups, 3, x), padding=1, groups=groups),
                               F.avg_pool2d(x, 3, 1, 1))


@pytest.mark.parametrize('groups', [1, 2])
def test_a_chain_is_one_convolution(groups):
    """Norms before, between and after convolutions, of an image without a border."""
    norms = [reparam.Norm(*_statistics(channels), 1e-3) for channels in (4, 6, 8)]
    first = torch.randn(6, 4 // groups, 1, 1, dtype=torch.float64)
    second = torch.randn(8, 6 // groups, 3, 3, dtype=torch.float64)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    out = F.batch_norm(x, *norms[0][:4], eps=1e-3)
    out = F.batch_norm(F.conv2d(out, first, groups=groups), *norms[1][:4], eps=1e-3)
    out = F.batch_norm(F.conv2d(out, second, groups=groups), *norms[2][:4], eps=1e-3)
    kernel, bias = reparam.fold_chain([norms[0], first, norms[1], second, norms[2]], groups)
    torch.testing.assert_close(F.conv2d(x, kernel, bias, groups=groups), out)


def test_a_chain_of_half_weights_is_folded_in_float32():
    first, second = torch.randn(4, 4, 1, 1).half(), torch.randn(4, 4, 3, 3).half()
    norm = reparam.Norm(*(t.half() for t in _statistics(4, torch.float32)), 1e-5)
    kernel, bias = reparam.fold_chain([first, norm, second, norm], 1)
    wide = reparam.Norm(*(t.double() for t in norm[:4]), 1e-5)
    exact, exact_bias = reparam.fold_chain([first.double(), wide, second.double(), wide], 1)
    assert kernel.dtype == bias.dtype == torch.float32
    torch.testing.assert_close(kernel.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias.double(), exact_bias, rtol=1e-5, atol=1e-5)
