"""What comes before and after a run: its config, its processes, its runner."""
import datetime
import gc
import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mmengine.config.config
import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmone import ranks
from mmone.checkpoints.io import read_checkpoint
from mmone.checkpoints.loading import is_remote, reading_safely
from mmone.config import default_scope, load_config, set_collate, type_name, walk
from mmone.engine.explain import Situation, name_broken_files, translated
from mmone.engine.hooks import ClassCountHook
from mmone.engine.resume import check_resumable
from mmone.errors import InputError
from mmone.files import written_whole
from mmone.models import memory_format


def prepare(config: str, work_dir: str | None, options: Sequence[str], launcher: str) -> Config:
    """Read a config for a run.

    Args:
        config (str): The config file.
        work_dir (str, optional): In place of the config's.
        options (Sequence[str]): Overrides as ``key=value``.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        InputError: If the config cannot be used.
    """
    cfg = load_config(config, options)
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}'
    cfg.launcher = launcher
    set_collate(cfg)
    return cfg


@contextmanager
def running(cfg: Config, loaders: tuple[str, ...], trust: bool) -> Iterator[Situation]:
    """What a run of mmengine's runner needs around it, all of which ends with it.

    The run's processes are joined, names without a scope are those of the config's library,
    checkpoints are read safely, and what other libraries raise for a user's mistake becomes an
    InputError.

    Args:
        cfg (Config): From :func:`prepare`.
        loaders (tuple[str, ...]): The config's data loaders that the run uses.
        trust (bool): Load checkpoints that can run code.

    Yields:
        Situation: To be given the runner.
    """
    situation = Situation(cfg, loaders)
    joined = torch.distributed.is_initialized()
    try:
        if cfg.launcher != 'none':
            _place_of_process(cfg.launcher)
            if get_device() == 'cpu':
                _join_processes_on_cpu(cfg)
            elif get_device() == 'cuda':
                _check_gpu_of_process()
        with default_scope(cfg), reading_safely(trust), _formatting_once(), translated(situation):
            yield situation
    finally:
        if torch.distributed.is_initialized() and not joined:
            _leave_processes(situation.runner)


@contextmanager
def _formatting_once() -> Iterator[None]:
    """A run has its config written at four places, and mmengine formats it for each: half a second for a long one."""
    module = mmengine.config.config
    if not hasattr(module, 'FormatCode'):
        yield
        return
    format_code, formatted = module.FormatCode, dict[tuple[str, str], Any]()

    def once(text: str, **style: Any) -> Any:
        key = text, repr(style)
        if key not in formatted:
            formatted[key] = format_code(text, **style)
        return formatted[key]

    module.FormatCode = once
    try:
        yield
    finally:
        module.FormatCode = format_code


def build_runner(cfg: Config) -> Runner:
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    memory_format.check(runner.model.module if is_model_wrapper(runner.model) else runner.model)
    runner.register_hook(ClassCountHook(), 'VERY_HIGH')
    runner.build_dataloader = partial(_build_dataloader, runner.build_dataloader)
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and '://' not in str(hook.out_dir or ''):
            _write_whole(hook)
    return runner


@register_backend('mmone.whole', force=True)
class WholeFiles(LocalBackend):
    """mmengine's back end for local files, in which a file has its name only when it is complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        Path(filepath).absolute().parent.mkdir(parents=True, exist_ok=True)
        with written_whole(filepath) as made:
            super().put(obj, made)


def _write_whole(hook: CheckpointHook) -> None:
    """Let checkpoints be whole whenever the process is killed: mmengine writes them in place.

    Set on the hook, not in its config, which is kept in the checkpoints and read by others.
    """
    if hook.backend_args is None and hook.file_client_args is None:
        hook.backend_args = dict(backend='mmone.whole')


def _build_dataloader(build: Callable[..., DataLoader], dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
    """Build a data loader, before it starts workers, with a data set that names its broken files.

    With ``num_workers=0`` what a config says of its workers has no meaning, which torch raises an error for.
    """
    if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
        dataloader = {key: value for key, value in dataloader.items()
                      if key not in ('persistent_workers', 'prefetch_factor')}
    loader = build(dataloader, *args, **kwargs)
    name_broken_files(loader.dataset)
    return loader


def check_checkpoint(path: str, trust: bool, resume: bool = False) -> None:
    """Fail at once, not after minutes of reading annotations; of addresses, when they are loaded.

    Args:
        path (str): The checkpoint.
        trust (bool): Allow a pickle that can run code.
        resume (bool): Whether a training is to go on from it. Defaults to False.

    Raises:
        InputError: If it cannot be read, or has nothing to go on from.
    """
    if not is_remote(path):
        checkpoint = read_checkpoint(os.path.expanduser(path), trust)
        if resume:
            check_resumable(checkpoint, path)


def _join_processes_on_cpu(cfg: Config) -> None:
    """Set up a distributed run by gloo: mmengine's own way sets a CUDA device.

    Also takes from the config what needs a GPU: SyncBN becomes BN.
    """
    if not torch.distributed.is_initialized():
        timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        options: dict[str, Any] = dict(timeout=datetime.timedelta(seconds=timeout)) if timeout else {}
        torch.distributed.init_process_group('gloo', **options)

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


def _leave_processes(runner: Runner | None) -> None:
    """End the process group, after all that holds it.

    DistributedDataParallel as the last to let go of it would wait for gloo's threads while holding the GIL, which
    they may need to free a tensor: the process would hang for ever.
    """
    if runner is not None and is_model_wrapper(runner.model):
        runner.model = runner.model.module
    gc.collect()  # the wrapper is part of a reference cycle
    torch.distributed.destroy_process_group()


def _place_of_process(launcher: str) -> None:
    """Translate the launcher's environment into the one torch.distributed reads."""
    if launcher == 'slurm':
        host = subprocess.getoutput(
            f'scontrol show hostname {os.environ.get("SLURM_NODELIST", "")} | head -n1')
        os.environ.setdefault('MASTER_ADDR', host)
    if launcher != 'pytorch':
        os.environ.setdefault('MASTER_PORT', '29500')
    ranks.set_for_torch(launcher)
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
               if name not in os.environ]
    if missing:
        raise InputError(f'{", ".join(missing)} not in the environment: start the processes by the '
                         f'launcher {launcher}, or one process without a launcher', parameter='launcher')


def _check_gpu_of_process() -> None:
    """Raise InputError if there are fewer GPUs than processes on this machine."""
    number, there = int(os.environ.get('LOCAL_RANK', 0)), torch.cuda.device_count()
    if number >= there:
        raise InputError(f'process {number + 1} of this machine has no GPU of its own: there are {there}, start as '
                         'many processes', parameter='launcher')
