"""Compare the classes of the data sets and of the checkpoint with the heads, before anything runs."""
import re

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper

from mmone.checkpoints.io import state_dict_of
from mmone.compat import built_loops
from mmone.convert.fit import check_fit, named_for
from mmone.engine.explain import built_datasets, no_samples
from mmone.engine.resume import check_resumable
from mmone.errors import InputError
from mmone.registry import HOOKS

# The heads that predict the data set's classes, by their names in mmpretrain, mmdet and mmseg;
# others, as a region proposal network's, count something else.
HEADS = re.compile(r'(^|\.)(head|bbox_head|mask_head|decode_head|auxiliary_head)(\.\d+)?$')


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Stop a run whose heads have another number of classes than its data or its checkpoint.

    Without it a classifier fails in the loss with an index error or not at all, and a segmentor
    learns nothing for the classes above. mmdet's NumClassCheckHook does this for mmdet only. Of a
    checkpoint mmengine loads what fits and warns of the rest, which is then tested at random.

    Raises:
        InputError: If the counts differ, a data set is empty, or a checkpoint to test is not of the
            whole model.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        heads = {name: module.num_classes for name, module in runner.model.named_modules()
                 if HEADS.search(name) and isinstance(getattr(module, 'num_classes', None), int)}
        if not heads and isinstance(getattr(runner.model, 'num_classes', None), int):
            heads = {'': runner.model.num_classes}  # an exported model has no parts
        for key, dataset in built_datasets(runner).items():
            if len(dataset) == 0:
                raise no_samples(key, runner.cfg)
            meta = getattr(dataset, 'metainfo', {})
            classes = meta.get('classes')
            if not classes or 'model_classes' in meta:  # which RestrictedAccuracy compares
                continue
            for name, count in heads.items():
                if count != len(classes):
                    name = f'model.{name}.num_classes'.replace('module.', '').replace('..', '.')
                    raise InputError(
                        f'{name} is {count} but the data set of {key} has '
                        f'{len(classes)} classes ({_shorten(classes)}): make them agree')

    def after_load_checkpoint(self, runner, checkpoint) -> None:
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        source = runner.cfg.get('load_from') or 'given'
        if runner.cfg.get('resume'):
            check_resumable(checkpoint, source)
        # Weights alone are put where mmpretrain's EMAHook looks for them.
        given = checkpoint['state_dict'] if 'state_dict' in checkpoint else dict(checkpoint)
        named = checkpoint['state_dict'] = named_for(model, given)
        check_fit(model, state_dict_of(dict(state_dict=named)), source, whole='test' in built_loops(runner))


def _shorten(names) -> str:
    return ', '.join(map(str, names[:3])) + (', …' if len(names) > 3 else '')
