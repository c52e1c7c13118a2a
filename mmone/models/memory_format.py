"""What cannot take the maps of a backbone that computes in the channels_last memory format."""
from torch import nn

from mmone.models.backbones.mobileone import MobileOne

# Operators of mmcv that read the memory of a map as if it were contiguous, whatever its strides
# (https://github.com/open-mmlab/mmcv/issues/2203). Its others refuse such a map, or copy it first.
_CONTIGUOUS_ONLY = ('RoIAlign', 'RoIAlignRotated', 'RoIPool', 'ModulatedDeformConv2d')


def obstacle(model: nn.Module) -> str | None:
    """Why all that a model computes would be wrong, in a line; None if nothing is known to be."""
    if not any(isinstance(module, MobileOne) and module.channels_last for module in model.modules()):
        return None
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__module__.startswith('mmcv.ops.') and kind.__name__ in _CONTIGUOUS_ONLY \
                    and not getattr(module, 'use_torchvision', False):
                remedy = "use_torchvision=True in its roi_layer's config, or " if kind.__name__ == 'RoIAlign' else ''
                return (f"model.{name}, mmcv's {kind.__name__}, takes maps in the channels_last memory format for "
                        f'contiguous ones, so what it computes is wrong: set {remedy}channels_last=False of the '
                        'backbone')
    return None
