"""Which checkpoint to go on from after a run was killed at any moment."""
import logging
import os
import re
import zipfile
from pathlib import Path
from typing import Optional, Union

Notes = list[tuple[int, str]]


def is_whole(path: Union[str, Path]) -> bool:
    """Whether a checkpoint was written to its end.

    torch.save writes a zip archive, whose directory comes last: what can be listed is whole.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def newest_whole_checkpoint(work_dir: Union[str, Path]) -> tuple[Optional[str], Notes]:
    """Find the checkpoint to resume from.

    mmengine writes checkpoints in place, and ``last_checkpoint`` after them, so after a kill either
    may be stale or cut off. The files themselves decide: the one of the latest epoch (or
    iteration) that is whole. ``last_checkpoint`` only tells where else to look, for runs that
    keep their checkpoints in another folder or under other names.

    Args:
        work_dir (str | Path): The work directory of the run.

    Returns:
        tuple[str | None, list[tuple[int, str]]]: The checkpoint, and what to log about the choice
        as (level, message).
    """
    candidates = list(Path(work_dir).glob('*.pth'))
    hint = Path(work_dir, 'last_checkpoint')
    if hint.is_file() and hint.read_text().strip():
        last = Path(hint.read_text().strip())
        # A run that was moved has the old place in last_checkpoint; work_dir comes first.
        candidates += [path for path in (last, *last.parent.glob('*.pth')) if path.is_file()]

    notes: Notes = []
    numbered = {}
    for path in candidates:
        step = re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name)
        if step or path == (last if hint.is_file() else None):
            numbered.setdefault(path.name, (int(step[1]) if step else -1, path))
    for _, path in sorted(numbered.values(), key=lambda item: -item[0]):
        if is_whole(path):
            notes.append((logging.INFO, f'resuming from {path}, the newest whole checkpoint'))
            return os.fspath(path), notes
        notes.append((logging.WARNING, f'{path} is truncated, its writing was cut off: not '
                                       'resumed from'))
    notes.append((logging.WARNING, f'no whole checkpoint in {work_dir} to resume from: training '
                                   'starts from scratch'))
    return None, notes
