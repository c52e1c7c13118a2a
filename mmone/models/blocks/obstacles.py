"""What is in the way of computing the branches of a block as one convolution.

Folding and fusing read the kernels, statistics and affine parameters of the branches and do not call the layers that
hold them. So layers must compute what their classes do, from those tensors alone: another class, a hook, a
parametrization or another stride would be lost without a word.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mmengine.model import Sequential
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from mmone.compat import interception, reverted_batch_norm

from .pointwise_conv import PointwiseConv2d
from .rivals import AveragePooling, NormThenPad, layers_of

if TYPE_CHECKING:
    from .mobileone_block import MobileOneBlock

CONVOLUTIONS = (nn.Conv2d, PointwiseConv2d)
# With what mmcv builds for SyncBN, and what mmengine puts in its place where there is one process.
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, SyncBatchNorm, reverted_batch_norm())
# As they are when mmone is imported, to notice a class whose forward pass was replaced.
FORWARDS = {kind: kind.forward for kind in (*CONVOLUTIONS, *NORMS, Sequential, nn.ReLU, nn.Identity)}


def to_folding(block: MobileOneBlock) -> str | None:
    """Why the branches of a block cannot be folded by their running statistics; None where they can."""
    return next(_to_folding(block), None)


def _to_folding(block: MobileOneBlock) -> Iterator[str]:
    built = dict(block.named_branches(block.branches_as_built()))
    for name, branch in block.named_branches():
        layers, expected = layers_of(branch), layers_of(built[name])
        if layers.keys() != expected.keys():
            yield f'{name} is a {type(branch).__name__} without its layers ({", ".join(expected)}) alone'
            continue
        for key, layer in layers.items():
            yield from _to_folding_layer(f'{name}.{key}'.rstrip('.'), layer, expected[key])


def _to_folding_layer(name: str, layer: Any, built: Any) -> Iterator[str]:
    """What is in the way of folding a layer that should be like ``built``."""
    if isinstance(built, nn.Conv2d):
        if type(layer).forward not in (FORWARDS[kind] for kind in CONVOLUTIONS):
            yield f'{name} is a {type(layer).__name__}, no plain convolution'
        elif 'weight' not in layer._parameters and not is_parametrized(layer, 'weight'):
            # It is what the last forward pass left, not what the parameters give now.
            yield (f'{name} computes its weight in a hook: make it permanent first '
                   '(remove_weight_norm, remove_spectral_norm, prune.remove)')
        elif _geometry(layer) != _geometry(built):
            yield f'{name} has another shape, stride, padding, dilation or groups than the block, or a bias'
    elif isinstance(built, (AveragePooling, NormThenPad)):
        if type(layer) is not type(built):
            yield f'{name} is a {type(layer).__name__}, no {type(built).__name__}'
        elif isinstance(layer, NormThenPad):
            yield from _to_folding_layer(f'{name}.norm', layer.norm, built.norm)
    elif not _has_all_tensors(layer):
        yield f'{name} is a {type(layer).__name__} without running statistics or affine parameters'


def to_fusing(block: MobileOneBlock, x: Tensor) -> str | None:
    """Why the branches of a block cannot be fused in training; None where they can.

    Args:
        block (MobileOneBlock): In training form.
        x (Tensor): Its input, of which only the type is read.
    """
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        return f'the input is a {type(x).__name__}'
    return interception() or next(_to_fusing(block), None)


def _to_fusing(block: MobileOneBlock) -> Iterator[str]:
    first: Any = None
    for name, branch in block.named_branches():
        norm: Any = branch
        if name != 'branch_norm':
            if not is_plain(branch, Sequential) or list(branch._modules) != ['conv', 'norm']:
                yield f'{name} is no plain convolution and norm, or has a hook'
            conv, norm = branch.conv, branch.norm
            if not is_plain(conv, *CONVOLUTIONS) or not _is_plain_tensor(conv._parameters.get('weight')):
                yield f'{name}.conv is no plain convolution, or has a hook or a weight that is computed'
            if not _has_the_geometry(conv, block, name):
                yield f'{name}.conv has another shape, stride, padding, dilation or groups than the block, or a bias'
        first = norm if first is None else first
        if not is_plain(norm, *NORMS) or not all(map(_is_plain_tensor, (
                norm._parameters.get('weight'), norm._parameters.get('bias')))):
            yield f'{_norm_name(name)} is no plain BatchNorm with affine parameters, or has a hook'
        if not (norm.training and norm.track_running_stats and _has_all_tensors(norm)):
            yield f'{_norm_name(name)} does not normalize by the batch and keep running statistics'
        if (type(norm) is not type(first) or norm.eps != first.eps
                or getattr(norm, 'process_group', None) is not getattr(first, 'process_group', None)):
            yield f'{_norm_name(name)} is of another class, eps or process group than the first norm'


def is_plain(module: nn.Module, *kinds: type) -> bool:
    """Whether a module is exactly of one of these kinds, computes what they do, and has no hook."""
    return type(module) in kinds and (
        type(module).forward is FORWARDS[type(module)] and 'forward' not in module.__dict__ and not (
            module._forward_pre_hooks or module._forward_hooks
            or module._backward_pre_hooks or module._backward_hooks))


def _is_plain_tensor(tensor: Tensor | None) -> bool:
    return type(tensor) in (nn.Parameter, Tensor)


def _has_the_geometry(conv: Any, block: MobileOneBlock, name: str) -> bool:
    """Whether a convolution is that of its branch: aligned with the others, with no bias."""
    size = 1 if name == 'branch_scale' else block.kernel_size
    dilation = block.dilation if size > 1 else 1
    shape = (block.out_channels, block.in_channels // block.groups, size, size)
    return _geometry(conv) == (shape, True, block.groups, 'zeros', *(
        (value, value) for value in (block.stride, dilation * (size // 2), dilation)))


def _geometry(conv: Any) -> tuple:
    """The shape of a convolution's kernel, whether it has no bias, and how it moves over the image."""
    return (tuple(conv.weight.shape), conv.bias is None, conv.groups, conv.padding_mode, conv.stride, conv.padding,
            conv.dilation)


def _has_all_tensors(norm: Any) -> bool:
    """Whether a norm has the running statistics and the affine parameters that folding needs."""
    return all(getattr(norm, name, None) is not None for name in ('running_mean', 'running_var', 'weight', 'bias'))


def _norm_name(branch: str) -> str:
    return branch if branch == 'branch_norm' else f'{branch}.norm'
