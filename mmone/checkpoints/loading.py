"""Foreign checkpoints given where mmengine takes one: ``load_from``, ``Pretrained``, inferencers."""
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

from mmone.compat import registered_loaders

from .io import mmengine_checkpoints_allowed, read_checkpoint, state_dict_of
from .sources import MMPRETRAIN, recognise, rename

# Whether checkpoints that can run code are read; None outside of a run of ours.
_trust: ContextVar[bool | None] = ContextVar('mmone_trust', default=None)


def rename_while_loading() -> None:
    """Let all of mmengine's loading read MobileOne's checkpoints of any source.

    A model's tree cannot do it: PyTorch and mmengine hand a module only the keys under its own
    name, so from a bare state dict the backbone of a classifier gets nothing to recognise.

    Whatever loaders are registered are wrapped, each once. They do the reading, and what is no
    MobileOne's checkpoint comes, or fails, as it does without mmone. A MobileOne's gets mmone's
    names, and may be a safetensors file or hold mmengine's log, which PyTorch 2.6 and later refuse.
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
    def load(filename, *args, **kwargs):
        path, trust = os.path.expanduser(filename), _trust.get()
        local = loader is load_from_local
        if local and trust is not None:
            return _renamed(read_checkpoint(path, trust), filename)
        if local and path.endswith('.safetensors') and os.path.isfile(path):
            checkpoint = _renamed(read_checkpoint(path), filename)
            if _is_mobileone(checkpoint):
                return checkpoint
        try:
            return _renamed(loader(filename, *args, **kwargs), filename)
        except pickle.UnpicklingError:
            with suppress(pickle.UnpicklingError), mmengine_checkpoints_allowed():
                checkpoint = loader(filename, *args, **kwargs)
                if _is_mobileone(checkpoint):
                    return checkpoint
            raise

    load.renames_mobileone = True  # type: ignore[attr-defined]  # typeshed gives functions no attributes
    return load


def _renamed(checkpoint: dict, filename: str) -> dict:
    """A checkpoint under mmone's names if it is another source's MobileOne, else as it is."""
    state_dict = _state_dict_of(checkpoint)
    source = recognise(state_dict)
    if source is None or source is MMPRETRAIN:
        return checkpoint
    print_log(f"{filename} has {source.name}'s names: renamed to mmone's", logger='current')
    return dict(meta=checkpoint.get('meta', {}), state_dict=rename(state_dict, source, MMPRETRAIN))


def _is_mobileone(checkpoint: dict) -> bool:
    """Whether a model, of any kind, has mmone's backbone somewhere."""
    return any('stage0.branch_' in key for key in _state_dict_of(checkpoint))


def _state_dict_of(checkpoint) -> dict:
    """As :func:`state_dict_of`; empty if the file holds anything else than weights by their names."""
    state_dict = state_dict_of(checkpoint) if isinstance(checkpoint, dict) else {}
    return state_dict if all(isinstance(key, str) for key in state_dict) else {}
