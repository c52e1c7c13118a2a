from .mobileone_block import MobileOneBlock

__all__ = ['MobileOneBlock']
