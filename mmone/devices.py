"""Devices to compute on: which there are, and what they cannot do."""
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device

from .errors import InputError, cause
from .libraries import build_mmcv

# GLIBC_TUNABLES of a process that trains on a CPU. Memory that is freed is kept, and lies in huge pages: an iteration
# frees and takes gigabytes, and half of its time is page faults where they are slow, as on virtual machines. glibc
# alone reads it.
MEMORY = 'glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592'

# Where mmengine has mixed precision: AmpOptimWrapper refuses all others.
_WITH_AMP = ('cuda', 'npu', 'mlu', 'musa')

# How PyTorch and mmcv say that they have an operator, or a type of numbers, for other devices only.
_MISSING = re.compile(
    r"operator '(?P<torch>[\w:.]+)' is not currently (?:implemented|supported)"
    r"|Could not run '(?P<backend>[\w:.]+)' with arguments from the '\w+' backend"
    r'|(?P<mmcv>\w+?)(?:_impl)?: implementation for device \S+ not found'
    r'|(?P<compiled>\w+) is not (?:compiled|implemented) (?:with|on) (?:GPU|CUDA)'
    r'|Cannot convert a \w+ Tensor to (?P<type>float64)')


def find_device(name: str | None = None) -> torch.device:
    """A device by its name.

    Args:
        name (str, optional): Such as ``'cpu'`` or ``'cuda:1'``. Defaults to the best one here.

    Raises:
        InputError: If it is not here, or no name of a device.
    """
    if name is None:
        return torch.device(get_device())
    here = f'expected {" or ".join(devices_here())}'
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f'{name!r} is no device of PyTorch here: {here}', parameter='device') from None
    try:
        torch.zeros(1, device=device).add(1).cpu()
    except Exception as error:  # each kind of device raises another
        reason = cause(error).partition('. ')[0].rstrip('.')
        raise InputError(f'device {name} cannot be used here ({reason}): {here}', parameter='device') from None
    return device


def devices_here() -> list[str]:
    """The names of the devices of this machine."""
    found = ['cpu', *(f'cuda:{i}' for i in range(torch.cuda.device_count()))]
    best = get_device()
    return found if best in ('cpu', 'cuda') else [*found, best]


def why_no_mixed_precision() -> str | None:
    """Why mmengine does not train with mixed precision here; None where it does."""
    device = get_device()
    return None if device in _WITH_AMP else (f'mmengine has mixed precision on {", ".join(_WITH_AMP)}, and computes on '
                                             f'{device} here')


@contextmanager
def computing_on(device: str | torch.device) -> Iterator[None]:
    """Raise InputError, until the block ends, where a device lacks what is computed."""
    try:
        yield
    except Exception as error:
        explanation = explain(error, device)
        if explanation is None:
            raise
        raise explanation from error


def explain(error: Exception, device: str | torch.device) -> InputError | None:
    """An InputError for an exception that says that a device has no such operator; None for any other."""
    match = _MISSING.search(str(error)) if isinstance(error, (RuntimeError, TypeError)) else None
    if match is None:
        return None
    operator = match[str(match.lastgroup)]
    if match['mmcv'] and str(device).startswith('cuda'):
        return InputError(f'{device} cannot compute {operator}: mmcv was compiled without CUDA. With its nvcc on the '
                          f'PATH: {build_mmcv(replace=True)}', parameter='device')
    return InputError(f'{device} cannot compute {operator}, which the model needs: take another device',
                      parameter='device')
