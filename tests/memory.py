"""Tensors of the same values that lie otherwise in memory."""
import torch


def misaligned(x):
    """At addresses that are no multiples of the values' size; dense, in the order of ``x``."""
    memory = memoryview(bytearray(x.numel() * x.element_size() + 1))[1:]
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    ordered = x.permute(0, 2, 3, 1) if last else x
    found = torch.frombuffer(memory, dtype=x.dtype).view(ordered.shape).copy_(ordered)
    return found.permute(0, 3, 1, 2) if last else found


def _every_second(x):
    wide = torch.zeros([2 * size + 1 for size in x.shape], dtype=x.dtype)
    found = wide[tuple(slice(1, None, 2) for _ in x.shape)]
    return found.copy_(x)


def _offset(x):
    return torch.empty(x.numel() + 3, dtype=x.dtype)[3:].view(x.shape).copy_(x)


# All of them keep the values, and a batch its shape.
LAYOUTS = {
    'contiguous': lambda x: x.contiguous(),
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'images last': lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    'every second value': _every_second,
    'offset': _offset,
    'misaligned': misaligned,
    'misaligned channels_last': lambda x: misaligned(x.contiguous(memory_format=torch.channels_last)),
}
