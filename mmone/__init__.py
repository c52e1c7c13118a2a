"""MobileOne for OpenMMLab: a backbone that trains with many branches and deploys as one.

Importing this package makes ``mmone::`` config names resolvable, lets mmengine's training
checkpoints be read with ``weights_only`` and checks the versions of mmengine and mmcv. Everything
else is imported by the registries (:mod:`mmone.registry`) when a config first names it. Where there
is no mmengine, exported models run (:mod:`mmone.deploy.runtime`).
"""
from .errors import InputError
from .version import __version__

try:
    import mmengine as _mmengine
except ImportError:
    _mmengine = None

if _mmengine is not None:
    from mmengine.config.utils import MODULE2PACKAGE

    from .checkpoints.io import allow_mmengine_checkpoints
    from .compat import check_versions

    check_versions()
    # mmengine looks for a distribution of that name first and trusts where its metadata lies, which
    # is not where an editable install's code is. A module's name makes it ask the import system.
    MODULE2PACKAGE.setdefault('mmone', 'mmone.registry')
    allow_mmengine_checkpoints()

__all__ = ['InputError', '__version__']
