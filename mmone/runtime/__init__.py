"""Exported models run: numpy, OpenCV or Pillow and the format's own runtime, without PyTorch."""
from .model import Runtime, is_exported

__all__ = ['Runtime', 'is_exported']
