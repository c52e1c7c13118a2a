from mmone.checkpoints.loading import rename_while_loading
from mmone.registry import MODELS

from .backbones import MobileOne
from .blocks import MobileOneBlock

# The libraries' inferencers read a checkpoint before they build the model.
rename_while_loading()

__all__ = ['MobileOne', 'MobileOneBlock', 'SSDHead']


@MODELS.register_module(name='SSDHead')
def _build_ssd_head(**cfg):
    # A function, so that mmdet is imported for detectors only: the other tasks work without it.
    from .dense_heads.ssd_head import SSDHead
    return SSDHead(**cfg)


def __getattr__(name):
    if name == 'SSDHead':
        from .dense_heads.ssd_head import SSDHead
        return SSDHead
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
