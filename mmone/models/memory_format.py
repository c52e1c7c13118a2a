"""Operators that misread what a backbone gives in the channels_last memory format."""
from torch import nn

from mmone.errors import InputError
from mmone.models.backbones.mobileone import MobileOne

# mmcv's read the memory of a map as if it were contiguous, whatever its strides
# (https://github.com/open-mmlab/mmcv/issues/2203). Its others refuse such a map, or copy it first.
_CONTIGUOUS_ONLY = ('RoIAlign', 'RoIAlignRotated', 'RoIPool', 'ModulatedDeformConv2d')


def check(model: nn.Module) -> None:
    """Refuse a model whose operators misread the maps of its backbone.

    Raises:
        InputError: If all that the model computes would be wrong.
    """
    if not any(isinstance(module, MobileOne) and module.channels_last for module in model.modules()):
        return
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__module__.startswith('mmcv.ops.') and kind.__name__ in _CONTIGUOUS_ONLY \
                    and not getattr(module, 'use_torchvision', False):
                remedy = "use_torchvision=True in its roi_layer's config, or " if kind.__name__ == 'RoIAlign' else ''
                raise InputError(f"model.{name}, mmcv's {kind.__name__}, reads channels_last maps as contiguous ones, "
                                 f'so what it computes is wrong: set {remedy}channels_last=False of the backbone')
