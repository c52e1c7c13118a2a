"""A model becomes a file that runs without PyTorch."""
from .export import ExportReport, export_model

__all__ = ['ExportReport', 'export_model']
