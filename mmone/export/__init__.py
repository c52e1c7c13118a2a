"""A model becomes a file that runs without PyTorch."""

__all__ = ['ExportReport', 'export_model']


def __getattr__(name):
    # The registry imports this package for ExportedModel, which needs nothing of what exporting does.
    if name in __all__:
        from . import export
        return getattr(export, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
