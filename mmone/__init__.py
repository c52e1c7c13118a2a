"""MobileOne for OpenMMLab: a backbone that trains with many branches and deploys as one.

Importing this package imports nothing else: the registries (:mod:`mmone.registry`) import what a config
names, and exported models run (:mod:`mmone.runtime`) where there is neither PyTorch nor OpenMMLab. It
makes ``mmone::`` names of configs resolvable, as soon as mmengine is there.
"""
import importlib.abc
import importlib.util
import sys

from .errors import InputError
from .libraries import explain
from .version import __version__

__all__ = ['InputError', '__version__']

_NAMES, _CONFIG = 'mmengine.config.utils', 'mmengine.config.config'
_FOUNDATIONS = ('torch', 'mmengine', 'mmcv', 'yaml')


def _add_name() -> None:
    # mmengine looks for a distribution of that name first and trusts where its metadata lies, which
    # is not where an editable install's code is. A module's name makes it ask the import system.
    sys.modules[_NAMES].MODULE2PACKAGE.setdefault('mmone', 'mmone.registry')
    # What a config inherits from a package is built in that package's scope, where mmone has but what is its own and
    # not the libraries' models: in mmone's configs a name without a scope is the library's of the task.
    config = sys.modules[_CONFIG].Config
    find = config._get_cfg_path

    def find_without_scope(path, filename):
        found, scope = find(path, filename)
        return found, None if scope == 'mmone' else scope

    config._get_cfg_path = staticmethod(find_without_scope)


class _AddNameWhenImported(importlib.abc.MetaPathFinder):
    """Adds mmone's name to mmengine's when mmengine is imported, which takes longer than ``--help`` may."""

    def find_spec(self, name, path=None, target=None):
        if name != _CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _add_name()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # on purpose
        return spec


if _CONFIG in sys.modules:
    _add_name()
else:
    sys.meta_path.insert(0, _AddNameWhenImported())


class _SayHowToInstall(importlib.abc.MetaPathFinder):
    """Asked last: says how to install what a module of mmone imports and nobody has found.

    pip is not told to bring mmengine and mmcv, which stand under several names.
    """

    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in _FOUNDATIONS and _importing_module().startswith('mmone.'):
            error = ModuleNotFoundError(f'No module named {name!r}', name=name)
            raise ModuleNotFoundError(explain(error) or error.msg, name=name)
        return None


def _importing_module() -> str:
    frame = sys._getframe(2)
    while frame and frame.f_globals.get('__name__') in ('importlib', 'importlib._bootstrap'):
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_globals.get('__name__', '') if frame else ''


sys.meta_path.append(_SayHowToInstall())
