"""Data sets: images of coloured shapes, generated. Importing this needs no torch."""
from .shapes import CLASSES, PALETTE, Sample, make_dataset, make_preview, make_sample

__all__ = ['CLASSES', 'PALETTE', 'Sample', 'make_dataset', 'make_preview', 'make_sample']
