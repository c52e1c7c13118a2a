from .mobileone_block import MobileOneBlock
from .se_layer import SELayer

__all__ = ['MobileOneBlock', 'SELayer']
