"""Checkpoints given where mmengine takes one: ``load_from``, ``Pretrained``, inferencers; of any source, and safely."""
import functools
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.dist import get_dist_info
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, load_from_ceph, load_from_http, load_from_local

from mmone.compat import registered_loaders
from mmone.errors import InputError
from mmone.untrusted import look_into, pickles_in

from .download import cached, read_from
from .io import (
    WEIGHTS_ONLY_BY_DEFAULT,
    meta_of,
    mmengine_checkpoints_allowed,
    read_checkpoint,
    state_dict_of,
)
from .sources import ALONE, MMPRETRAIN, Place, find, taken_from, the_one

# Whether checkpoints that can run code are read; None outside of a run of ours.
_trust: ContextVar[bool | None] = ContextVar('mmone_trust', default=None)
# While a MobileOne reads the weights that its own config names: the prefix that the config gives, or ''.
_prefix: ContextVar[str | None] = ContextVar('mmone_prefix', default=None)

_PARTS_OF_MOBILEONE = re.compile('branch_(conv_list|reparam)|rbr_(conv|scale|skip)|reparam_conv|conv_kxk')
_WEIGHTS = re.compile(r'\.(weight|bias|running_mean|running_var)$')


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
    """Let mmengine's loading read by :func:`read_checkpoint`, until the block ends.

    It runs no code unless trusted, and says what is wrong. Files and addresses are read alike; a site's own
    loader still goes first.

    Args:
        trust (bool): Allow a pickle that can run code.
    """
    rename_while_loading()
    token = _trust.set(trust)
    try:
        yield
    finally:
        _trust.reset(token)


@contextmanager
def initializing(init_cfg: dict | list | None) -> Iterator[None]:
    """Let a MobileOne read the weights that its ``init_cfg`` names, safely and under any names, until the block ends.

    Args:
        init_cfg (dict | list | None): The backbone's own.
    """
    configs = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg or {}]
    pretrained = next((cfg for cfg in configs if str(cfg.get('type')).endswith('Pretrained')), None)
    if pretrained is None:
        yield
        return
    token = _prefix.set(pretrained.get('prefix') or '')
    try:
        with reading_safely(_trust.get() or False):
            yield
    except AssertionError as error:
        if 'is not in the pretrained model' not in str(error):
            raise
        raise InputError(f'checkpoint {pretrained["checkpoint"]} has nothing under prefix={pretrained["prefix"]!r}: '
                         'give the prefix that its keys have') from None
    finally:
        _prefix.reset(token)


def is_initializing() -> bool:
    """Whether a MobileOne is reading the weights that its own config names."""
    return _prefix.get() is not None


def is_remote(filename: str) -> bool:
    """Whether a checkpoint's name is for another of mmengine's loaders than the one of local files."""
    return any(prefix and re.match(prefix, filename) for prefix in registered_loaders())


def trusted() -> bool:
    """Whether the run that is going on may read checkpoints that can run code."""
    return bool(_trust.get())


class _Metadata(OrderedDict):
    """A state dict's ``_metadata``, of which loading gives each module its part: here with all that the file has.

    A MobileOne that gets nothing knows by it that there are weights of a MobileOne, under another name than
    its own. It is the one thing that PyTorch and mmengine hand to every module, whatever its name.
    """
    KEY = 'mmone'

    def __init__(self, own: dict, whole: dict):
        super().__init__(own)
        self.whole = whole

    def get(self, key, default=None):
        return {**super().get(key, {}), self.KEY: self.whole}

    def __reduce__(self):  # what is saved again, or copied, has the usual one
        return OrderedDict, (list(self.items()), )


def whole_of(local_metadata: dict) -> dict:
    """What the file has that is being loaded, from what a module is given; empty if that is not known."""
    return local_metadata.get(_Metadata.KEY, {})


def as_given(state_dict: dict) -> dict:
    """The state dict as it is in its file, where mmengine's loading has brought it from there."""
    metadata = getattr(state_dict, '_metadata', None)
    return metadata.whole if isinstance(metadata, _Metadata) else state_dict


def _renaming(loader: Callable) -> Callable:
    ours = _READERS.get(loader)

    @functools.wraps(loader)  # mmengine logs its name
    def load(filename, *args, **kwargs):
        trust = _trust.get()
        if ours is not None and trust is not None:
            return _named(_without_orders(ours(filename, trust), filename), filename)
        if loader in (load_from_local, load_from_http):
            checkpoint = _read_if_ours(loader, filename, **kwargs)
            if checkpoint is not None:
                return _named(checkpoint, filename)
        try:
            return _named(loader(filename, *args, **kwargs), filename)
        except pickle.UnpicklingError:
            with suppress(pickle.UnpicklingError), mmengine_checkpoints_allowed():
                checkpoint = loader(filename, *args, **kwargs)
                if find(_names_of(checkpoint)):
                    return _named(checkpoint, filename)
            raise

    load.renames_mobileone = True  # type: ignore[attr-defined]  # typeshed gives functions no attributes
    return load


# Outside of a run of ours


def _read_if_ours(loader: Callable, filename: str, **kwargs) -> dict | None:
    """A MobileOne's checkpoint, safely read; None of what the loader may read as it does without mmone.

    mmengine reads what comes from addresses, and before PyTorch 2.6 files too, whatever code it has. That is
    its own matter where the names are plainly those of another network; of what has neither those nor a
    MobileOne's, nothing is run.
    """
    path = Path(os.path.expanduser(filename))
    if loader is load_from_http:
        path = _downloaded(filename, kwargs.get('model_dir'))
    if not path.is_file():
        return None
    if path.suffix == '.safetensors':
        with suppress(InputError):
            checkpoint = read_checkpoint(path)
            return checkpoint if find(_names_of(checkpoint)) else None
        return None
    if loader is load_from_local and WEIGHTS_ONLY_BY_DEFAULT:
        return None
    with suppress(InputError):
        texts = {text for content in pickles_in(path) for text in look_into(content).texts}
        if not any(map(_PARTS_OF_MOBILEONE.search, texts)) and any(map(_WEIGHTS.search, texts)):
            return None
    return read_checkpoint(path, name=filename)


def _downloaded(address: str, folder: str | None) -> Path:
    """The file of an address in the cache, downloaded by one process, as mmengine does."""
    path = Path(folder, cached(address).name) if folder else cached(address)
    rank, processes = get_dist_info()
    if rank == 0 and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path), progress=os.isatty(0))
    if processes > 1:
        torch.distributed.barrier()
    return path


# In a run of ours


def _read_file(filename: str, trust: bool) -> dict:
    return read_checkpoint(os.path.expanduser(filename), trust)


def _read_from_storage(filename: str, trust: bool) -> dict:
    """Read a checkpoint that mmengine's back end for object storage has (``s3://…``, ``petrel://…``)."""
    try:
        content = get_file_backend(filename, backend_args=dict(backend='petrel')).get(filename)
    except Exception as error:  # whatever a back end raises, whose package need not be there
        reason = (str(error) or type(error).__name__).split('\n')[0]
        raise InputError(f'checkpoint {filename} cannot be read from where it is stored ({reason})') from error
    with TemporaryDirectory() as folder:
        path = Path(folder, os.path.basename(filename))
        path.write_bytes(content)
        return read_checkpoint(path, trust, filename)


def _read_by_name(filename: str, trust: bool) -> dict:
    """Read a checkpoint that mmengine knows by name (``torchvision://…``, ``openmmlab://…``, ``mmcls://…``)."""
    scheme, _, name = filename.partition('://')
    if scheme in ('torchvision', 'modelzoo'):
        models = mmengine_checkpoint.get_torchvision_models()
    elif scheme == 'mmcls':
        models = mmengine_checkpoint.get_mmcls_models()
    else:
        models = mmengine_checkpoint.get_external_models()
        name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    address = models.get(name, '')
    if not address.startswith(('http://', 'https://')):
        raise InputError(f'{filename} is no name that mmengine has an address for')
    checkpoint = read_from(address, trust)
    if scheme == 'mmcls':  # classifiers, of which mmengine takes the backbone
        prefix = 'backbone.'
        checkpoint = dict(state_dict={key[len(prefix):]: value for key, value in state_dict_of(checkpoint).items()
                                      if key.startswith(prefix)})
    return checkpoint


# mmengine's own loaders, and what reads in their place; a site's own are called as they are.
_READERS: dict[Callable, Callable[[str, bool], dict]] = {
    load_from_local: _read_file,
    load_from_http: read_from,
    load_from_ceph: _read_from_storage,
    mmengine_checkpoint.load_from_torchvision: _read_by_name,
    mmengine_checkpoint.load_from_openmmlab: _read_by_name,
    mmengine_checkpoint.load_from_mmcls: _read_by_name,
}


def _without_orders(checkpoint: dict, filename: str) -> dict:
    """A checkpoint without what mmengine's runner would do because the file says so, when it resumes.

    It executes the text of a config, and removes the best and the oldest checkpoint, by the paths and numbers
    that are noted; they are those of the run whose folder the file is in, or not this run's to remove.
    """
    meta_of(checkpoint).pop('config', None)
    hub: Any = checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    if isinstance(info, dict):
        folder = os.path.dirname(os.path.abspath(os.path.expanduser(filename)))
        for key in [key for key, value in info.items() if _is_order(key, value, folder)]:
            del info[key]
            hub.get('resumed_keys', {}).pop(key, None)
    return checkpoint


def _is_order(key: str, value: Any, folder: str) -> bool:
    if re.match('last_ckpt|best_ckpt', str(key)):
        return not isinstance(value, str) or not value.endswith('.pth') or (
            os.path.dirname(os.path.abspath(value)) != folder)
    return key == 'keep_ckpt_ids' and not (isinstance(value, list) and all(isinstance(id, int) for id in value))


# Names


def _named(checkpoint: Any, filename: str) -> Any:
    """A checkpoint with what mmengine and a MobileOne need to find its weights; as it is if it is no MobileOne's."""
    given = _names_of(checkpoint)
    places = find(given)
    place = the_one(places)
    if not places:
        return checkpoint
    prefix = _prefix.get()
    if prefix == '' or (prefix and any(key.startswith(prefix) for key in given)):
        place = None  # the backbone finds its weights itself
    named = given
    if place and (place.prefix or place.source not in (MMPRETRAIN, ALONE)):
        named = _renamed(checkpoint, given, place)
    if place and named is not given:
        under = f' after {place.prefix!r}' if place.prefix else ''
        print_log(f"{filename} has {place.source.name}'s names{under}: renamed to mmone's", logger='current')
    state_dict = OrderedDict(named)
    state_dict._metadata = _Metadata(getattr(given, '_metadata', {}), given)  # type: ignore[attr-defined]
    if named is checkpoint:
        return state_dict
    return {**(checkpoint if 'state_dict' in checkpoint else dict(meta=meta_of(checkpoint))), 'state_dict': state_dict}


def _renamed(checkpoint: dict, given: dict, place: Place) -> dict:
    """Weights that have other names than mmone's, under mmone's; those that are wrapped, under both.

    For a model that has mmone's names, and for one whose own names these are: what mmengine's runner has
    written is its own.
    """
    if not place.prefix:
        return taken_from(given, place)
    if 'mmengine_version' not in meta_of(checkpoint):
        with suppress(InputError):
            return {**given, **taken_from(given, place)}
    return given


def _names_of(checkpoint: Any) -> dict:
    """As :func:`state_dict_of`; empty if the file holds anything else than weights by their names."""
    state_dict = state_dict_of(checkpoint) if isinstance(checkpoint, dict) else {}
    return state_dict if all(isinstance(key, str) for key in state_dict) else {}
