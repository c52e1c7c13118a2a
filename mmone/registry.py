"""Registries of mmone: children of mmengine's, with scope ``mmone``.

mmengine imports this module by itself when a config names ``type='mmone.…'``; the modules in
``locations`` are imported when a registry is first asked for something.
"""
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from mmone.compat import check_versions

check_versions()

HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmone', locations=['mmone.engine.hooks'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='mmone',
                   locations=['mmone.engine.metrics.cross_entropy', 'mmone.engine.metrics.restricted_accuracy'])
MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmone',
                  locations=['mmone.models', 'mmone.export.exported', 'mmone.distillation'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmone', locations=['mmone.datasets.corrupt'])
