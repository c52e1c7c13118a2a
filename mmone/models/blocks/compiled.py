"""The one door to the compiled module ``mmone._ext``: every call of it is here, and every tensor is checked first.

C is given addresses and sizes, and reads and writes what they say. So a caller asks :func:`takes` whether a tensor is
one that C can read at all, and goes another way where it is not. What is wrong all the same when a function is
called, such as a tensor of another shape, raises here and never reaches C. What C writes to is made here, unless it
adds to what there is.
"""
import warnings
from array import array
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor, nn

from mmone import csrc
from mmone.compat import dispatch_keys, is_compiling, ordinary_keys

KEYS = ordinary_keys('cpu')
TYPES = (Tensor, nn.Parameter)
DTYPES = (torch.float32, torch.float64)
# Bytes of the rows of x that a thread keeps at hand: a dilation of several hundred would ask for gigabytes.
MAX_ROWS = 1 << 26
LANES = 16  # channels in a vector, as in ext.c


def _load() -> ModuleType | None:
    try:
        return csrc.load()
    except ImportError as error:
        warnings.warn(f'{error}. Branches are trained by operators of PyTorch alone, which is slower: install mmone '
                      'again to build it', RuntimeWarning, stacklevel=2)
        return None


_ext: ModuleType | None = _load()


def takes(x: Tensor) -> bool:
    """Whether C can read ``x`` once it has the right dtype and memory format; torch.compile cannot trace C.

    Args:
        x (Tensor): (N, C, H, W).
    """
    return (_ext is not None and not is_compiling() and _is_ordinary(x) and x.dim() == 4 and x.numel() > 0
            and x.untyped_storage().nbytes() > 0 and x.data_ptr() % x.element_size() == 0)


def takes_depthwise(x: Tensor, stride: int, dilation: int) -> bool:
    """Whether :func:`depthwise_statistics` is for ``x``: it :func:`takes` it, and its rows are short enough."""
    return takes(x) and _is_depthwise_size(x, stride, dilation)


def channels_last(x: Tensor) -> Tensor:
    """``x`` as C reads it, channels_last and aligned: itself, if it is so, or a copy.

    Args:
        x (Tensor): (N, C, H, W).
    """
    x = x.contiguous(memory_format=torch.channels_last)
    return x.clone() if x.data_ptr() % x.element_size() else x


def depthwise_statistics(x: Tensor, kernels: Tensor, skip: bool, stride: int,
                         dilation: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and biased variance of every branch of a depthwise 3×3 convolution, padded by its dilation.

    Args:
        x (Tensor): (N, C, H, W), channels_last.
        kernels (Tensor): (branches, C, 1, 3, 3).
        skip (bool): Whether x itself is a further branch.
        stride (int): Of the convolution.
        dilation (int): Of the convolution.

    Returns:
        tuple[Tensor, Tensor, Tensor, Tensor]: Mean and variance (branches, C), the skip branch last; what the
        gradient needs, in float64: the covariances of outputs and taps (branches, C, 9) without the skip branch, and
        the means of the taps (C, 9).
    """
    channels, branches = x.shape[1], len(kernels)
    first = _first_arguments(x, kernels, skip, stride, dilation)
    mean, var = x.new_empty(2, branches + skip, channels)
    products = x.new_empty(branches, channels, 9, dtype=torch.float64)
    patch_mean = x.new_empty(channels, 9, dtype=torch.float64)
    _module().depthwise_statistics(
        *first, _address('mean', mean, (branches + skip, channels), x.dtype),
        _address('var', var, (branches + skip, channels), x.dtype),
        _address('products', products, (branches, channels, 9), torch.float64),
        _address('patch_mean', patch_mean, (channels, 9), torch.float64))
    return mean, var, products, patch_mean


def add_depthwise_gradient(x: Tensor, kernels: Tensor, skip: bool, stride: int, dilation: int, products: Tensor,
                           patch_mean: Tensor, grad_mean: Tensor, grad_var: Tensor, grad_kernels: Tensor,
                           grad_x: Tensor | None) -> None:
    """Add to ``grad_kernels`` and ``grad_x`` what comes through the statistics of :func:`depthwise_statistics`.

    Args:
        x, kernels, skip, stride, dilation: As there.
        products, patch_mean (Tensor): As they were returned.
        grad_mean, grad_var (Tensor): Gradients of the statistics, (branches, C).
        grad_kernels (Tensor): Of the shape of ``kernels``.
        grad_x (Tensor | None): Of the shape of ``x``, channels_last; None if it is not asked for.
    """
    channels, branches = x.shape[1], len(kernels)
    # Held here while C reads them: the cache may drop them.
    groups = [_tap_groups(size, stride, dilation) for size in x.shape[2:]]
    _module().depthwise_gradient(
        *_first_arguments(x, kernels, skip, stride, dilation),
        _address('products', products, (branches, channels, 9), torch.float64),
        _address('patch_mean', patch_mean, (channels, 9), torch.float64),
        _address('grad_mean', grad_mean, (branches + skip, channels), x.dtype),
        _address('grad_var', grad_var, (branches + skip, channels), x.dtype),
        _address('grad_kernels', grad_kernels, kernels.shape, x.dtype),
        0 if grad_x is None else _address('grad_x', grad_x, x.shape, x.dtype, torch.channels_last),
        *((len(arrays[0]), *(values.buffer_info()[0] for values in arrays)) for arrays in groups))


class NormSum:
    """The sum of the BatchNorms of y and, where there is a skip branch, x, after its ReLU if any, and its gradient.

    The formulas are in ``csrc/norm.h``.

    Args:
        branches (Sequence[Tensor]): y, or y and x: (N, C, H, W), channels_last.
        mean (Tensor): Of every branch, (branches, C).
        scale (Tensor): γ / √(var + ε) of every branch, (branches, C).
        bias (Tensor): The sum of the branches' β, (C,).
        relu (bool): Whether a ReLU follows the sum.
    """

    def __init__(self, branches: Sequence[Tensor], mean: Tensor, scale: Tensor, bias: Tensor, relu: bool):
        y, skip = branches[0], len(branches) > 1
        self._check(y)
        self._size = len(branches), y.shape[1]
        self._like = y
        addresses = [_address(name, branch, y.shape, y.dtype, torch.channels_last)
                     for name, branch in zip(('y', 'x'), branches, strict=False)]
        self._args = (y.dtype is torch.float64, (
            y.numel() // y.shape[1], y.shape[1], addresses[0], addresses[1] if skip else 0,
            self._per_branch('mean', mean), self._per_branch('scale', scale), self._per_channel('bias', bias), relu))
        self._tensors = (branches, mean, scale, bias)  # which live as long as their addresses are used

    def output(self) -> Tensor:
        """The sum, after the ReLU: (N, C, H, W)."""
        out = torch.empty_like(self._like, memory_format=torch.channels_last)
        _module().norm_sum(*self._args, self._map('out', out))
        return out

    def gradient_sums(self, grad: Tensor) -> Tensor:
        """Sums over N, H and W of the gradient behind the ReLU, alone and times each centred branch.

        Args:
            grad (Tensor): Of the output, channels_last.

        Returns:
            Tensor: (1 + branches, C).
        """
        branches, channels = self._size
        sums = self._like.new_empty(1 + branches, channels)
        _module().norm_gradient_sums(
            *self._args, self._map('grad', grad), _address('sums', sums, (1 + branches, channels), self._like.dtype))
        return sums

    def gradient_of_y(self, grad: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
        """The gradient of y: (N, C, H, W).

        Args:
            grad (Tensor): Of the output, channels_last.
            slope (Tensor): What comes through the variance, times the centred branch: (branches, C).
            offset (Tensor): What comes through the mean: (branches, C).
        """
        found = torch.empty_like(self._like, memory_format=torch.channels_last)
        self._gradient(grad, slope, offset, False, found)
        return found

    def add_gradient_of_x(self, grad: Tensor, slope: Tensor, offset: Tensor, grad_x: Tensor) -> None:
        """Add the gradient of the skip branch to ``grad_x``, channels_last; the others as :meth:`gradient_of_y`."""
        if self._size[0] < 2:
            raise ValueError('mmone._ext: there is no skip branch to take the gradient of')
        self._gradient(grad, slope, offset, True, grad_x)

    def _gradient(self, grad: Tensor, slope: Tensor, offset: Tensor, for_x: bool, out: Tensor) -> None:
        _module().norm_gradient(
            *self._args, self._map('grad', grad), self._per_branch('slope', slope),
            self._per_branch('offset', offset), for_x, self._map('out', out))

    def _map(self, name: str, tensor: Tensor) -> int:
        return _address(name, tensor, self._like.shape, self._like.dtype, torch.channels_last)

    def _per_branch(self, name: str, tensor: Tensor) -> int:
        return _address(name, tensor, self._size, self._like.dtype)

    def _per_channel(self, name: str, tensor: Tensor) -> int:
        return _address(name, tensor, self._size[1:], self._like.dtype)

    @staticmethod
    def _check(y: Tensor) -> None:
        if y.dim() != 4 or y.numel() == 0 or y.dtype not in DTYPES:
            raise ValueError(f'mmone._ext takes (N, C, H, W) in float32 or float64, not empty, got {_described(y)}')


def _module() -> ModuleType:
    if _ext is None:
        raise RuntimeError('the compiled module mmone._ext is not there')
    return _ext


def _is_ordinary(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but values of one dtype at strides from an address of this machine's memory."""
    return type(tensor) in TYPES and dispatch_keys(tensor) in KEYS


def _address(name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype,
             memory_format: torch.memory_format = torch.contiguous_format) -> int:
    """The address of a tensor that is exactly what C is about to take it for, and lies in memory that is still there.

    Raises:
        ValueError: If it is not.
    """
    if (_is_ordinary(tensor) and tensor.dtype is dtype and tensor.shape == shape
            and tensor.is_contiguous(memory_format=memory_format)):
        address, end = tensor.data_ptr(), tensor.storage_offset() + tensor.numel()
        if address and address % dtype.itemsize == 0 and end * dtype.itemsize <= tensor.untyped_storage().nbytes():
            return address
    raise ValueError(f'mmone._ext takes as {name} an ordinary {dtype} tensor of shape {tuple(shape)} on the CPU, dense '
                     f'in {memory_format}, got {_described(tensor)}')


def _described(tensor: Tensor) -> str:
    return f'{type(tensor).__name__} {tensor.dtype}, {tensor.layout}, of shape {tuple(tensor.shape)} on {tensor.device}'


def _is_depthwise_size(x: Tensor, stride: int, dilation: int) -> bool:
    """Whether C has numbers and memory for an input of this size: it indexes rows and columns by int32."""
    height, width = x.shape[2:]
    span = 4 * dilation  # a 5×5 kernel of the gradient spans so many rows, and columns, more than one
    return (1 <= stride < 1 << 31 and dilation >= 1 and height < 1 << 31
            and (span + 1) * (width + span) * LANES * 8 <= MAX_ROWS)


def _first_arguments(x: Tensor, kernels: Tensor, skip: bool, stride: int, dilation: int) -> tuple:
    """The arguments that the functions for depthwise convolutions have in common."""
    if (x.dim() != 4 or x.numel() == 0 or x.dtype not in DTYPES or len(kernels) == 0
            or not _is_depthwise_size(x, stride, dilation)):
        raise ValueError(
            'mmone._ext takes (N, C, H, W) in float32 or float64, not empty, of one branch or more, with a stride of 1 '
            f'or more and rows that fit its memory, got {_described(x)}, stride {stride}, dilation {dilation}')
    return (x.dtype is torch.float64, (*x.shape, stride, dilation),
            _address('x', x, x.shape, x.dtype, torch.channels_last),
            _address('kernels', kernels, (len(kernels), x.shape[1], 1, 3, 3), x.dtype), len(kernels), skip)


@lru_cache(maxsize=256)
def _tap_groups(size: int, stride: int, dilation: int) -> tuple[array, ...]:
    """Rows of x (or columns) grouped by which taps of a 3×3 kernel read them.

    With stride 1 and dilation 1, all three rows of taps read an inner row; no output has the first row of
    x under its last row of taps. Rows of one group have the same gradient formula.

    Returns:
        tuple[array, ...]: int32: the taps of each group, bit i for tap i; the group of each row; the rows sorted by
        their groups; where each group starts in that order, and the end of the last.
    """
    outputs = (size - 1) // stride + 1
    seen_by = []
    for at in range(size):
        centres = [at - (tap - 1) * dilation for tap in range(3)]
        seen_by.append(sum(1 << tap for tap, centre in enumerate(centres)
                           if centre % stride == 0 and 0 <= centre // stride < outputs))
    taps = sorted(set(seen_by))
    order = sorted(range(size), key=seen_by.__getitem__)
    starts = [sum(seen < tap for seen in seen_by) for tap in taps] + [size]
    return tuple(array('i', values) for values in (taps, map(taps.index, seen_by), order, starts))
