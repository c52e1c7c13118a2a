"""Models compared on one test set: their metrics and how sure these are, their cost, and where they disagree."""
from .comparison import compare

__all__ = ['compare']
