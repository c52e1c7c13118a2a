"""Evaluation from a config file, of a checkpoint or an exported model."""
import copy
import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmone.config import dataset_of, set_deploy, several, type_name
from mmone.engine.launch import build_runner, check_checkpoint, prepare, running
from mmone.errors import InputError
from mmone.export.exported import TASKS
from mmone.runtime import Runtime, is_exported


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
        raise InputError(f'predictions are written as a .pkl file, not as {out}', parameter='out')
    exported = is_exported(checkpoint)
    if not exported:
        check_checkpoint(checkpoint, trust)
    cfg = prepare(config, work_dir, cfg_options, launcher)
    if not cfg.get('test_dataloader'):
        raise InputError(f'config {config} has no test_dataloader to test on')
    cfg.load_from, cfg.resume = checkpoint, False
    if exported:
        _take_exported(cfg, checkpoint, deploy, branches)
    elif deploy:
        _deploy(cfg)
    if branches:
        _leave_out_hooks(cfg, 'DeployHook')
    if out:
        _write_predictions(cfg, out)
    if show_dir:
        _draw_predictions(cfg, show_dir, tta)
    if tta:
        _enable_tta(cfg)

    with running(cfg, ('test_dataloader', ), trust) as situation:
        situation.runner = build_runner(cfg)
        return situation.runner.test()


def _take_exported(cfg: Config, path: str, deploy: bool, branches: bool) -> None:
    """Put an exported file in the model's place."""
    if deploy or branches:
        raise InputError(f'{path} is an exported model, which has one form: there is none to choose',
                         parameter='deploy' if deploy else 'branches')
    check_task(cfg, path)
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    cfg.model = ConfigDict(type='mmone.ExportedModel', path=path, data_preprocessor=preprocessor)
    cfg.load_from = None
    _leave_out_hooks(cfg, 'DeployHook', 'EMAHook')  # there are no weights to fold or to average


def check_task(cfg: Config, path: str) -> None:
    """Raise InputError for an exported file of another task than a config's."""
    task = Runtime(path).task
    if TASKS[task][0] != cfg.get('default_scope'):
        raise InputError(f'{path} is a model of {task}, the config is one of '
                         f'{cfg.get("default_scope")}: give the config it was exported with')


def _deploy(cfg: Config) -> None:
    if not set_deploy(cfg.model):
        raise InputError('the model of the config has no MobileOne backbone to deploy', parameter='deploy')


def _leave_out_hooks(cfg: Config, *kinds: str) -> None:
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook) not in kinds]


def _write_predictions(cfg: Config, out: str) -> None:
    """Add the evaluator that writes the predictions: mmdet has one of its own."""
    Path(out).absolute().parent.mkdir(parents=True, exist_ok=True)
    dump = 'mmdet.DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
    cfg.test_evaluator = [*several(cfg.test_evaluator), dict(type=dump, out_file_path=out)]


def _draw_predictions(cfg: Config, show_dir: str, tta: bool) -> None:
    """Turn on the visualization hook, which takes other keys in each library."""
    scope = cfg.get('default_scope')
    if tta and scope == 'mmpretrain':
        raise InputError('mmpretrain cannot draw predictions of test-time augmentation: do without the '
                         'pictures, or without the augmentation', parameter='show_dir')
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if not hook:
        raise InputError('drawing needs the visualization hook of the library in '
                         'default_hooks.visualization of the config', parameter='show_dir')
    folder = os.path.abspath(show_dir)  # a relative one would be put under the work directory
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
        raise InputError(f'test-time augmentation needs {" and ".join(missing)} in the config', parameter='tta')
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
}
