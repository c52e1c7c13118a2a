"""From a trained model to what runs elsewhere.

Names are imported when they are asked for: :mod:`mmone.deploy.runtime` needs neither PyTorch nor
OpenMMLab, and must not import them by this package.
"""
from importlib import import_module

_MODULES = dict(
    calibrate='expansion', expand='expansion', export_model='export', Runtime='runtime',
    **dict.fromkeys(('DeployReport', 'deployables', 'deployed_checkpoint', 'deployed_copy',
                     'reparameterize_checkpoint', 'switch_to_deploy'), 'reparameterize'))

__all__ = list(_MODULES)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_MODULES[name]}'), name)
