"""Which checkpoint to go on from after a run was killed at any moment."""
import logging
import os
import re
import zipfile
from pathlib import Path

from mmone.checkpoints.io import meta_of
from mmone.checkpoints.loading import is_remote
from mmone.errors import InputError

Notes = list[tuple[int, str]]


def is_whole(path: str | Path) -> bool:
    """Whether a checkpoint was written to its end.

    torch.save writes a zip archive, whose directory comes last: what can be listed is whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def check_resumable(checkpoint: dict, path: str) -> None:
    """Raise InputError if a checkpoint has weights but nothing to go on from.

    Deployed and published weights are such: mmengine resumes by the epoch and iteration in ``meta`` and by
    the log in ``message_hub``.
    """
    meta, hub = meta_of(checkpoint), checkpoint.get('message_hub')
    missing = [name for name in ('epoch', 'iter') if not isinstance(meta.get(name), int)]
    if missing or not isinstance(hub, dict) or not {'log_scalars', 'runtime_info', 'resumed_keys'} <= hub.keys():
        raise InputError(f'checkpoint {path} has weights and no training state ({", ".join(missing) or "message_hub"} '
                         f'is missing), so there is nothing to resume: to start from its weights, set '
                         f'load_from={path!r} in the config')


def newest_whole_checkpoint(work_dir: str | Path) -> tuple[str | None, Notes]:
    """Find the checkpoint to resume from.

    mmengine writes checkpoints in place, and ``last_checkpoint`` after them, so after a kill either
    may be stale or cut off. The files themselves decide: the one of the latest epoch (or
    iteration) that is whole. ``last_checkpoint`` only leads to the checkpoints of runs that keep
    them in another folder (``CheckpointHook.out_dir``), under other names, or elsewhere
    (``s3://…``): those are whole, since it is written after them, and are mmengine's to read.

    Args:
        work_dir (str | Path): The work directory of the run.

    Returns:
        tuple[str | None, list[tuple[int, str]]]: The checkpoint, and what to log about the choice
        as (level, message).
    """
    notes: Notes = []
    for path in _by_age(Path(work_dir)):
        if is_remote(path) or is_whole(path):
            notes.append((logging.INFO, f'resuming from {path}, the newest whole checkpoint'))
            return path, notes
        notes.append((logging.WARNING, f'{path} is truncated, its writing was cut off: not '
                                       'resumed from'))
    notes.append((logging.WARNING, f'no whole checkpoint in {work_dir} to resume from: training '
                                   'starts from scratch'))
    return None, notes


def _by_age(work_dir: Path) -> list[str]:
    """The checkpoints of a run, the newest first."""
    hint = work_dir / 'last_checkpoint'
    last = hint.read_text(errors='replace').strip('\0 \n') if hint.is_file() else ''
    remote = [last] if is_remote(last) else []
    # A copied run's last_checkpoint leads to the original: look there only if nothing is here.
    for folder in (work_dir, *([Path(last).parent] if last and not remote else [])):
        found = [os.fspath(path) for path in folder.glob('*.pth') if _step(path.name)]
        if found or remote:
            return sorted([*remote, *found], key=_step, reverse=True)
    return [last] if last and Path(last).is_file() else []


def _step(path: str) -> int:
    """The epoch, or iteration, that a checkpoint is named after; 0 of other names."""
    match = re.search(r'(?:^|/)(?:epoch|iter)_(\d+)\.pth$', path)
    return int(match[1]) if match else 0
