"""Foreign checkpoints given where mmengine takes one: ``load_from``, ``Pretrained``, inferencers."""
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

from mmone.compat import registered_loaders

from .io import mmengine_checkpoints_allowed, read_checkpoint, state_dict_of
from .sources import MMPRETRAIN, recognise, rename

# Whether checkpoints that can run code are read; None outside of a run of ours.
_trust: ContextVar[bool | None] = ContextVar('mmone_trust', default=None)


def rename_while_loading() -> None:
    """Let all of mmengine's loading rename MobileOne's foreign checkpoints, and read safetensors.

    A model's tree cannot do it: PyTorch and mmengine hand a module only the keys under its own
    name, so from a bare state dict the backbone of a classifier gets nothing to recognise.

    Whatever loaders are registered are wrapped, each once: they read, and what they return is passed
    on untouched unless it is another source's MobileOne.
    """
    for prefix, loader in registered_loaders().items():
        if not hasattr(loader, 'renames_mobileone'):
            CheckpointLoader.register_scheme(prefix, _renaming(loader), force=True)


@contextmanager
def reading_safely(trust: bool) -> Iterator[None]:
    """Let mmengine's loading read files by :func:`read_checkpoint`, until the block ends.

    It runs no code unless trusted, and says what is wrong. A site's own loader still goes first.

    Args:
        trust (bool): Allow a pickle that can run code.
    """
    rename_while_loading()
    token = _trust.set(trust)
    try:
        yield
    finally:
        _trust.reset(token)


def _renaming(loader: Callable) -> Callable:

    @functools.wraps(loader)  # mmengine logs its name
    def load(filename, map_location=None, **kwargs):
        trust = _trust.get()
        own = loader is load_from_local and (trust is not None or str(filename).endswith('.safetensors'))
        if own:
            checkpoint = read_checkpoint(os.path.expanduser(filename), bool(trust))
        else:
            with mmengine_checkpoints_allowed():
                checkpoint = loader(filename, map_location, **kwargs)
        return _renamed(checkpoint, filename)

    load.renames_mobileone = True
    return load


def _renamed(checkpoint: dict, filename: str) -> dict:
    state_dict = state_dict_of(checkpoint) if isinstance(checkpoint, dict) else {}
    source = recognise(state_dict)
    if source is None or source is MMPRETRAIN:
        return checkpoint
    print_log(f"{filename} has {source.name}'s names: renamed to mmone's", logger='current')
    return dict(meta=checkpoint.get('meta', {}), state_dict=rename(state_dict, source, MMPRETRAIN))
