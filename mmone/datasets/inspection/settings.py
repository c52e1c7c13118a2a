"""The settings: those that a training stops at, or that keep it from learning."""
import shutil
from collections.abc import Iterator

from mmone.config import type_name, walk
from mmone.errors import InputError
from mmone.models import memory_format

from .findings import Finding, count, error, warning
from .subject import Subject

_ROOM = 1 << 29  # bytes on a disk for each checkpoint, from which on no model is built to see whether they fit
_BEHIND = 0.1  # of the first weights that is left in an average from which on it is told
_VALUE = 4  # bytes
# What optimizers keep of each parameter, in numbers.
_STATES = dict(SGD=1, Adam=2, AdamW=2, NAdam=2, RAdam=2, Lamb=2, Adan=3, RMSprop=1, Lion=1)


def check_batches(subject: Subject) -> Iterator[Finding]:
    """Data sets smaller than a batch, and batches of one image that a BatchNorm cannot train on."""
    loader = subject.cfg.get('train_dataloader') or {}
    samples, batch = subject.samples_of_training(), loader.get('batch_size')
    if not batch or loader.get('num_batch_per_epoch') or (loader.get('batch_sampler') and batch != 1):
        return
    counted = samples if type_name(loader.get('sampler') or {}) == 'DefaultSampler' else None  # others go on for ever
    share = -(-counted // subject.processes) if counted else None
    if loader.get('drop_last') and share is not None and 0 < share < batch:
        among = f' for {subject.processes} processes' if subject.processes > 1 else ''
        yield error(f'train_dataloader has {count(samples or 0, "image")}{among}, no full batch of {batch}, and '
                    'drop_last leaves out what is less: set train_dataloader.batch_size to at most '
                    f'{share}, or drop_last=False')
        return
    rest = share % batch if share else 0
    alone = batch == 1 or (rest == 1 and not loader.get('drop_last'))
    if not alone or subject.processes > 1 and subject.has_synced_norms():
        return
    place = _one_value(subject)
    if place:
        if batch == 1:
            yield error(f'train_dataloader.batch_size is 1, and {place} is given one value for each channel of one '
                        'image, on which a BatchNorm cannot train: set it to 2 or more')
        else:
            yield error(f'the last batch of an epoch has one image ({samples} images in batches of {batch}), and '
                        f'{place} is given one value for each channel of one image, on which a BatchNorm cannot train: '
                        'set train_dataloader.drop_last=True')


def _one_value(subject: Subject) -> str | None:
    """The BatchNorm of the model that sees one value for each channel of one image."""
    entered = ['']
    handles = [module.register_forward_pre_hook(lambda module, args, name=name: entered.__setitem__(0, name))
               for name, module in subject.model.named_modules()]
    try:
        subject.forward(lambda model, image: model(image, mode='tensor'), training=True)
    except ValueError as failed:
        return f'model.{entered[0]}' if 'more than 1 value per channel' in str(failed) else None
    finally:
        for handle in handles:
            handle.remove()
    return None


def check_average(subject: Subject) -> Iterator[Finding]:
    """An average of the weights that still is what it started from at the end."""
    iterations = subject.iterations()
    for hook in subject.hooks('EMAHook'):
        kind = str(hook.get('ema_type', 'ExponentialMovingAverage')).rpartition('.')[2]
        if not iterations or kind != 'ExponentialMovingAverage' or hook.get('begin_iter') or hook.get('begin_epoch'):
            continue
        momentum = hook.get('momentum', 0.0002)
        left = (1 - momentum)**(iterations // hook.get('interval', 1))
        if left > _BEHIND and not subject.cfg.get('resume'):
            yield warning(f'EMAHook.momentum={momentum:g} is too slow for {iterations:,} iterations: at the end '
                          f'{left:.0%} of the average, which is evaluated, is what the training started from; set it '
                          f'to {min(0.5, 4.6 / max(iterations, 1)):.2g} or more in custom_hooks')


def check_form(subject: Subject) -> Iterator[Finding]:
    """A model in its deployed form that is trained from scratch."""
    cfg = subject.cfg
    for node in walk(cfg.model):
        if type_name(node) == 'MobileOne' and node.get('deploy') and not cfg.get('load_from') \
                and not any(one.get('checkpoint') for one in walk(cfg.model)):
            yield warning('model.backbone.deploy=True is trained from scratch: what makes MobileOne train well are the '
                          'branches, which this form has not; set deploy=False, or start from weights by load_from')


def check_memory_format(subject: Subject) -> Iterator[Finding]:
    """Operators that misread the backbone's maps. A training checks the model that it builds itself."""
    if subject.whole:
        try:
            memory_format.check(subject.model)
        except InputError as wrong:
            yield error(wrong.message)


def check_space(subject: Subject) -> Iterator[Finding]:
    """Whether the checkpoints fit on the disk, by the sizes of weights, averages and the optimizer's state."""
    free = shutil.disk_usage(subject.work_dir).free
    number = _checkpoints(subject)
    if free > _ROOM * (number + 1) and not subject.whole:
        return
    one = checkpoint_size(subject)
    text = (f'a checkpoint takes about {_size(one)}, and the disk of {subject.work_dir} has {_size(free)} left')
    if free < 2 * one:  # the oldest is removed after the newest is written
        yield error(f'{text}: make room, or set work_dir to another disk')
    elif free < number * one:
        yield warning(f'{text}, but {number} are kept: make room, set work_dir to another disk, or '
                      'default_hooks.checkpoint.max_keep_ckpts to fewer')


def checkpoint_size(subject: Subject) -> int:
    """Bytes of a checkpoint."""
    weights = sum(value.numel() for value in subject.model.state_dict().values())
    trained = sum(parameter.numel() for parameter in subject.model.parameters() if parameter.requires_grad)
    kind = next((type_name(node) for node in walk(subject.cfg.get('optim_wrapper')) if type_name(node) in _STATES), '')
    averages = sum(1 for _ in subject.hooks('EMAHook'))
    return _VALUE * (weights * (1 + averages) + trained * _STATES.get(kind, 2))


def _checkpoints(subject: Subject) -> int:
    """How many checkpoints there are at the end."""
    hook: dict = next(subject.hooks('CheckpointHook'), {})
    most, interval = hook.get('max_keep_ckpts', -1), hook.get('interval', 1)
    loop = subject.cfg.get('train_cfg') or {}
    written = (loop.get('max_epochs') or loop.get('max_iters') or 1) // max(interval, 1) or 1
    return (written if most < 0 else min(most + 1, written)) + bool(hook.get('save_best'))


def _size(number: float) -> str:
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if number < 1000:
            return f'{number:.3g} {unit}'
        number /= 1000
    return f'{number:.3g} TB'
