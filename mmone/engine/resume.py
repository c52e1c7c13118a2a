"""Which checkpoint to go on from after a run was killed at any moment."""
import logging
import os
import re
import zipfile
from pathlib import Path

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


def newest_whole_checkpoint(work_dir: str | Path) -> tuple[str | None, Notes]:
    """Find the checkpoint to resume from.

    mmengine writes checkpoints in place, and ``last_checkpoint`` after them, so after a kill either
    may be stale or cut off. The files themselves decide: the one of the latest epoch (or
    iteration) that is whole. ``last_checkpoint`` only leads to the checkpoints of runs that keep
    them in another folder (``CheckpointHook.out_dir``) or under other names.

    Args:
        work_dir (str | Path): The work directory of the run.

    Returns:
        tuple[str | None, list[tuple[int, str]]]: The checkpoint, and what to log about the choice
        as (level, message).
    """
    notes: Notes = []
    for path in _by_age(Path(work_dir)):
        if is_whole(path):
            notes.append((logging.INFO, f'resuming from {path}, the newest whole checkpoint'))
            return os.fspath(path), notes
        notes.append((logging.WARNING, f'{path} is truncated, its writing was cut off: not '
                                       'resumed from'))
    notes.append((logging.WARNING, f'no whole checkpoint in {work_dir} to resume from: training '
                                   'starts from scratch'))
    return None, notes


def _by_age(work_dir: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    hint = work_dir / 'last_checkpoint'
    last = Path(hint.read_text().strip()) if hint.is_file() else None
    # A copied run's last_checkpoint leads to the original: look there only if nothing is here.
    for folder in (work_dir, *([last.parent] if last else [])):
        steps = {path: int(match[1]) for path in folder.glob('*.pth')
                 if (match := re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name))}
        if steps:
            return sorted(steps, key=lambda path: -steps[path])
    return [last] if last and last.is_file() else []
