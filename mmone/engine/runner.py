"""Training and testing from a config file: one way for all three tasks, with or without a GPU."""
import copy
import datetime
import logging
import os
import subprocess
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch.distributed
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmone.checkpoints.io import read_checkpoint
from mmone.checkpoints.loading import rename_while_loading
from mmone.config import dataset_of, set_deploy, type_name, walk
from mmone.deploy.runtime import Runtime, is_exported
from mmone.engine.hooks import ClassCountHook
from mmone.engine.resume import is_whole, newest_whole_checkpoint
from mmone.engine.translate import Situation, translated
from mmone.errors import InputError

PACKAGES = {'mmpretrain': 'mmpretrain', 'mmdet': 'mmdet', 'mmseg': 'mmsegmentation'}


def load_config(path: str, options: Sequence[str] = ()) -> Config:
    """Read a config file.

    Args:
        path (str): The file.
        options (Sequence[str]): Overrides as ``key=value``.

    Raises:
        InputError: If the file, or one that it inherits, cannot be read or executed, an override
            does not fit, or the library of its ``default_scope`` is not installed.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path} does not exist')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program: it can raise anything
        raise InputError(f'config {_place(path, error)}: {_reason(error)}') from error

    for option in options:
        key, _, value = option.partition('=')
        try:
            cfg.merge_from_dict({key: DictAction._parse_iterable(value)})
        except (AssertionError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f'--cfg-options {option}: {_reason(error)}') from error

    scope = cfg.get('default_scope')
    if scope and scope != 'mmengine' and find_spec(scope) is None:
        raise InputError(f'config {path} needs {scope}, which is not installed: '
                         f'pip install {PACKAGES.get(scope, scope)}')
    return cfg


def _place(path: str, error: Exception) -> str:
    """``path:line`` of the innermost config that was being executed."""
    if isinstance(error, SyntaxError):
        try:
            compile(Path(path).read_text(encoding='utf-8'), path, 'exec')
        except SyntaxError as own:
            return f'{path}:{own.lineno}'
        return path
    frames = traceback.extract_tb(error.__traceback__)
    places = [f'{frame.filename}:{frame.lineno}' for frame in frames if frame.name == '<module>'
              and frame.filename.endswith('.py')]  # yapf: disable
    return places[-1] if places else path


def _reason(error: Exception) -> str:
    # str() of a KeyError is the repr of its message.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f'{type(error).__name__}: {message}'


def train(config: str,
          work_dir: str | None = None,
          resume: str | None = None,
          amp: bool = False,
          auto_scale_lr: bool = False,
          cfg_options: Sequence[str] = (),
          launcher: str = 'none',
          trust: bool = False) -> Runner:
    """Train the model of a config.

    Args:
        config (str): The config file.
        work_dir (str, optional): Defaults to the config's, else ``work_dirs/<name of config>``.
        resume (str, optional): A checkpoint, or ``'auto'`` for the newest whole one in the work
            directory. Defaults to what the config says.
        amp (bool): Automatic mixed precision. Defaults to False.
        auto_scale_lr (bool): Scale the learning rate by the batch size. Defaults to False.
        cfg_options (Sequence[str]): Overrides as ``key=value``.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. Defaults to
            ``'none'``.
        trust (bool): Load checkpoints that can run code. Defaults to False.

    Raises:
        InputError: For what a user can mend.
    """
    cfg = _prepare(config, work_dir, cfg_options, launcher, trust)
    if amp:
        _enable_amp(cfg)
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise InputError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config: '
                             'the batch size that its learning rate is meant for')
        cfg.auto_scale_lr.enable = True

    notes = []
    if resume:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from, notes = newest_whole_checkpoint(cfg.work_dir)
        cfg.resume = cfg.load_from is not None
    elif cfg.get('load_from'):
        _check_checkpoint(cfg.load_from, trust)

    situation = Situation(cfg, ('train_dataloader', 'val_dataloader'))
    with translated(situation):
        runner = situation.runner = _build_runner(cfg)
        for level, note in notes:
            runner.logger.log(level, note)
        runner.train()
    _leave_processes()
    return runner


def test(config: str,
         checkpoint: str,
         work_dir: str | None = None,
         deploy: bool = False,
         branches: bool = False,
         out: str | None = None,
         show_dir: str | None = None,
         tta: bool = False,
         cfg_options: Sequence[str] = (),
         launcher: str = 'none',
         trust: bool = False) -> dict:
    """Evaluate a checkpoint.

    Args:
        config (str): The config file.
        checkpoint (str): A ``.pth`` file or a URL; or an exported model, of which the config's
            data, pipeline and evaluator are given what it answers.
        work_dir (str, optional): Defaults to the config's, else ``work_dirs/<name of config>``.
        deploy (bool): Evaluate the deployed form, from a checkpoint of either form. Defaults to
            False: the config's form, which its DeployHook, if any, reparameterizes and checks.
        branches (bool): Evaluate the training form: leave DeployHook out. Defaults to False.
        out (str, optional): ``.pkl`` file for the predictions.
        show_dir (str, optional): Folder for pictures of the predictions.
        tta (bool): Test-time augmentation. Defaults to False.
        cfg_options (Sequence[str]): Overrides as ``key=value``.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. Defaults to
            ``'none'``.
        trust (bool): Load checkpoints that can run code. Defaults to False.

    Returns:
        dict: The metrics.

    Raises:
        InputError: For what a user can mend.
    """
    if out and not out.endswith(('.pkl', '.pickle')):
        raise InputError(f'--out {out}: predictions are written as a .pkl file')
    exported = is_exported(checkpoint)
    if not exported:
        _check_checkpoint(checkpoint, trust)
    cfg = _prepare(config, work_dir, cfg_options, launcher, trust)
    if not cfg.get('test_dataloader'):
        raise InputError(f'config {config} has no test_dataloader to test on')
    cfg.load_from = None if exported else checkpoint
    cfg.resume = False
    if exported:
        if deploy or branches:
            raise InputError(f'{checkpoint} is an exported model, which has one form: leave '
                             '--deploy and --branches out')
        _take_exported(cfg, checkpoint)
    if deploy:
        if not set_deploy(cfg.model):
            raise InputError('--deploy: the model of the config has no MobileOne backbone')
    if branches:
        cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or []
                            if type_name(hook) != 'DeployHook']  # yapf: disable
    if out:
        Path(out).absolute().parent.mkdir(parents=True, exist_ok=True)
        dump = 'mmdet.DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
        metrics = cfg.test_evaluator
        cfg.test_evaluator = [
            *(metrics if isinstance(metrics, list) else [metrics]),
            dict(type=dump, out_file_path=out),
        ]
    if show_dir:
        _draw_predictions(cfg, show_dir)
    if tta:
        if show_dir and cfg.get('default_scope') == 'mmpretrain':
            raise InputError('--show-dir with --tta: mmpretrain cannot draw augmented images, '
                             'give one or the other')
        _enable_tta(cfg)

    situation = Situation(cfg, ('test_dataloader', ))
    with translated(situation):
        runner = situation.runner = _build_runner(cfg)
        metrics = runner.test()
    _leave_processes()
    return metrics


def _prepare(config: str, work_dir: str | None, options: Sequence[str], launcher: str,
             trust: bool) -> Config:
    cfg = load_config(config, options)
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}'
    cfg.launcher = launcher
    if launcher != 'none' and get_device() == 'cpu':
        _join_processes_on_cpu(cfg)
    set_collate(cfg)

    # All of mmengine's loading (load_from, resume, Pretrained) reads files by our reader, which
    # runs no code unless trusted and says what is wrong.
    rename_while_loading(lambda filename, map_location=None: read_checkpoint(
        os.path.expanduser(filename), trust))
    return cfg


def set_collate(cfg: Config) -> None:
    """Set the collate function that mmpretrain's own tools set: its configs count on it."""
    if cfg.get('default_scope') == 'mmpretrain':
        for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if cfg.get(key):
                cfg[key].setdefault('collate_fn', dict(type='default_collate'))


def _build_runner(cfg: Config) -> Runner:
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(ClassCountHook(), 'VERY_HIGH')
    return runner


def _check_checkpoint(path: str, trust: bool) -> None:
    """Fail at once, not after minutes of reading annotations."""
    if '://' not in path and not is_whole(os.path.expanduser(path)):
        # Files from before PyTorch 1.6 are no archives; what else is wrong, the reader tells.
        read_checkpoint(os.path.expanduser(path), trust)


def _enable_amp(cfg: Config) -> None:
    if get_device() == 'cpu':
        raise InputError('--amp: mmengine has mixed precision for GPUs and NPUs only, and there '
                         'is none here')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(f'--amp takes the place of OptimWrapper, but the config has {kind}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _take_exported(cfg: Config, path: str) -> None:
    """Put an exported file in the model's place."""
    from mmone.deploy.exported import TASKS
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    cfg.model = ConfigDict(type='mmone.ExportedModel', path=path, data_preprocessor=preprocessor)
    task = Runtime(path).task
    if TASKS[task][0] != cfg.get('default_scope'):
        raise InputError(f'{path} is a model of {task}, the config is one of '
                         f'{cfg.get("default_scope")}: give the config it was exported with')
    # There are no weights to average or to fold.
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or []
                        if type_name(hook) not in ('DeployHook', 'EMAHook')]  # yapf: disable


def _draw_predictions(cfg: Config, show_dir: str) -> None:
    """Turn on the visualization hook, which takes other keys in each library."""
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise InputError('--show-dir needs the visualization hook of the library in '
                         'default_hooks.visualization of the config')
    folder = os.path.abspath(show_dir)  # a relative one would be put under the work directory
    scope = cfg.get('default_scope')
    if scope == 'mmpretrain':
        hook.update(enable=True, out_dir=folder, interval=1)
    elif scope == 'mmdet':
        hook.update(draw=True, test_out_dir=folder, interval=1)
    else:
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = folder


def _enable_tta(cfg: Config) -> None:
    """Wrap the model and swap the pipeline, with the defaults of the libraries' own tools."""
    dataset = dataset_of(cfg.test_dataloader)
    if cfg.get('default_scope') in TTA_DEFAULTS:
        model, pack = TTA_DEFAULTS[cfg.default_scope]
        cfg.setdefault('tta_model', model)
        if 'tta_pipeline' not in cfg:
            flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
            cfg.tta_pipeline = [
                *copy.deepcopy(dataset.pipeline[:-1]),
                dict(type='TestTimeAug', transforms=[flips, [pack or dataset.pipeline[-1]]])
            ]
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise InputError(f'--tta needs {" and ".join(missing)} in the config')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


# scope: (tta_model, last transform); mmseg's own tool has no defaults.
TTA_DEFAULTS = {
    'mmpretrain': (dict(type='AverageClsScoreTTA'), None),
    'mmdet': (
        dict(type='DetTTAModel',
             tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
        dict(type='PackDetInputs',
             meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                        'flip_direction')),
    ),
}  # yapf: disable


def _join_processes_on_cpu(cfg: Config) -> None:
    """Set up a distributed run by gloo: mmengine's own way sets a CUDA device.

    Also takes from the config what needs a GPU: SyncBN becomes BN.
    """
    _place_of_process(cfg.launcher)
    if not torch.distributed.is_initialized():
        timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        torch.distributed.init_process_group(
            'gloo', **(dict(timeout=datetime.timedelta(seconds=timeout)) if timeout else {}))

    cfg.sync_bn = None
    sync_bns = [node for node in walk(cfg.model) if type_name(node) in ('SyncBN', 'MMSyncBN')]
    for node in sync_bns:
        node.type = 'BN'
    if sync_bns and torch.distributed.get_rank() == 0:
        print_log('no GPU: SyncBN is replaced by BN, whose statistics are of each process alone',
                  level=logging.WARNING)

    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel', broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)


def _place_of_process(launcher: str) -> None:
    """Translate the launcher's environment into the one torch.distributed reads."""
    if launcher == 'slurm':
        host = subprocess.getoutput(
            f'scontrol show hostname {os.environ.get("SLURM_NODELIST", "")} | head -n1')
        names = dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID')
        os.environ.setdefault('MASTER_ADDR', host)
        os.environ.setdefault('MASTER_PORT', '29500')
    elif launcher == 'mpi':
        names = dict(RANK='OMPI_COMM_WORLD_RANK', WORLD_SIZE='OMPI_COMM_WORLD_SIZE',
                     LOCAL_RANK='OMPI_COMM_WORLD_LOCAL_RANK')  # yapf: disable
        os.environ.setdefault('MASTER_PORT', '29500')
    else:
        names = {}
    for ours, theirs in names.items():
        if theirs in os.environ:
            os.environ[ours] = os.environ[theirs]
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
               if name not in os.environ]  # yapf: disable
    if missing:
        raise InputError(f'--launcher {launcher}: {", ".join(missing)} not in the environment; '
                         'start with tools/dist_*.sh or slurm_*.sh')


def _leave_processes() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
