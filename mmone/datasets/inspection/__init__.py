"""Is this data what the config says? Found out before the first iteration."""
from .findings import Finding
from .inspect import Inspection, inspect

__all__ = ['Finding', 'Inspection', 'inspect']
