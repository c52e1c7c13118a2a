from .mobileone import MobileOne

__all__ = ['MobileOne']
