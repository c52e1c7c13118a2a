"""Foreign checkpoints given where mmengine takes one: ``load_from``, ``Pretrained``, inferencers."""
from collections.abc import Callable

from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from .io import read_checkpoint, weights
from .sources import MMPRETRAIN, recognise, rename


def rename_while_loading(read_local: Callable | None = None) -> None:
    """Let all of mmengine's loading rename MobileOne's foreign checkpoints, and read safetensors.

    A model's tree cannot do it: PyTorch and mmengine hand a module only the keys under its own
    name, so from a bare state dict the backbone of a classifier gets nothing to recognise.
    Everything that is not another source's MobileOne is passed on untouched.

    Args:
        read_local (Callable, optional): ``(filename, map_location) -> checkpoint`` for local
            files. Defaults to mmengine's own.
    """
    read_local = read_local or _read_local

    def load_from_local(filename, map_location=None):
        return _renamed(read_local(filename, map_location), filename)

    def load_from_http(filename, map_location=None, **kwargs):
        return _renamed(
            mmengine_checkpoint.load_from_http(filename, map_location, **kwargs), filename)

    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)


def _read_local(filename: str, map_location=None) -> dict:
    if str(filename).endswith('.safetensors'):
        return read_checkpoint(filename)
    return mmengine_checkpoint.load_from_local(filename, map_location)


def _renamed(checkpoint: dict, filename: str) -> dict:
    state_dict = weights(checkpoint) if isinstance(checkpoint, dict) else {}
    source = recognise(state_dict)
    if source is None or source is MMPRETRAIN:
        return checkpoint
    print_log(f"{filename} has {source.name}'s names: renamed to mmone's", logger='current')
    return dict(meta=checkpoint.get('meta', {}), state_dict=rename(state_dict, source, MMPRETRAIN))
