"""Training from a config file: one way for all three tasks, with or without a GPU."""
import logging
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.runner import Runner

from mmone import ranks
from mmone.config import type_name, walk
from mmone.datasets.inspection import inspect
from mmone.devices import why_no_mixed_precision
from mmone.engine.launch import build_runner, check_checkpoint, prepare, running
from mmone.engine.resume import Notes, newest_whole_checkpoint
from mmone.errors import InputError
from mmone.files import remove_leftovers


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
    cfg = prepare(config, work_dir, cfg_options, launcher)
    if amp:
        _enable_amp(cfg)
    _check_amp(cfg)
    if auto_scale_lr:
        _enable_auto_scale_lr(cfg)
    notes = _choose_checkpoint(cfg, resume, trust)
    notes += _inspect(cfg, config, trust)
    if ranks.is_first():
        remove_leftovers(cfg.work_dir)
    with running(cfg, ('train_dataloader', 'val_dataloader'), trust) as situation:
        runner = situation.runner = build_runner(cfg)
        for level, note in notes:
            runner.logger.log(level, note)
        runner.train()
    return runner


def _enable_amp(cfg: Config) -> None:
    obstacle = why_no_mixed_precision()
    if obstacle:
        raise InputError(obstacle, parameter='amp')
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper') if cfg.get('optim_wrapper') else None
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(f'mixed precision takes the place of OptimWrapper, but the config has {kind}',
                         parameter='amp')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _check_amp(cfg: Config) -> None:
    """Raise InputError where the config itself asks for what the device has not."""
    obstacle = why_no_mixed_precision()
    if obstacle and any(type_name(node) == 'AmpOptimWrapper' for node in walk(cfg.get('optim_wrapper'))):
        raise InputError(f"{obstacle}: set optim_wrapper.type to 'OptimWrapper' in place of 'AmpOptimWrapper'")


def _enable_auto_scale_lr(cfg: Config) -> None:
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise InputError('scaling the learning rate needs auto_scale_lr.base_batch_size in the config: '
                         'the batch size that its learning rate is meant for', parameter='auto_scale_lr')
    cfg.auto_scale_lr.enable = True


def _choose_checkpoint(cfg: Config, resume: str | None, trust: bool) -> Notes:
    """Set what to start or go on from; returns what to log about the choice."""
    own = cfg.get('load_from')
    if resume:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume
    notes: Notes = []
    if cfg.get('resume') and not cfg.get('load_from'):
        newest, notes = newest_whole_checkpoint(cfg.work_dir)
        cfg.resume = newest is not None
        cfg.load_from = newest or own  # a first run starts from the weights that the config names
    if cfg.get('load_from'):
        check_checkpoint(cfg.load_from, trust, cfg.get('resume', False))
    return notes


def _inspect(cfg: Config, config: str, trust: bool) -> Notes:
    """Compare the config with its data, as far as that takes no time; returns what to log.

    In every process, so that all of a distributed run stop: none waits for one that has found something.

    Raises:
        InputError: For the first thing that the training would fail at, or learn nonsense from.
    """
    if not cfg.get('inspect', True):
        return []
    found = inspect(cfg, trust=trust)
    if found.errors:
        first, *others = found.errors
        more = f' (and {len(others)} more: mmone inspect {config} lists all)' if others else ''
        raise InputError(first.text + more)
    return [(logging.WARNING, finding.text) for finding in found.warnings]
