"""Reading a config, changing its tree, and what it says of its model and data."""
import ast
import copy
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope

from mmone.compat import parse_option
from mmone.errors import InputError
from mmone.libraries import explain, import_library

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def load_config(path: str, options: Sequence[str] = ()) -> Config:
    """Read a config file.

    Args:
        path (str): The file.
        options (Sequence[str]): Overrides as ``key=value``.

    Raises:
        InputError: If the file, or one that it inherits, cannot be read or executed, an override
            does not fit, or the library of its ``default_scope`` is not installed.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path} does not exist')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program: it can raise anything
        raise InputError(f'config {_place(path, error)}: {explain(error) or _reason(error)}') from error

    for option in options:
        key, _, value = option.partition('=')
        try:
            cfg.merge_from_dict({key: parse_option(value)})
        except (AssertionError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(f'option {option}: {_reason(error)}') from error

    scope = cfg.get('default_scope')
    if scope and scope != 'mmengine' and find_spec(scope) is None:
        line = explain(ModuleNotFoundError(name=scope), scope) or f'{scope} is not installed'
        raise InputError(f'config {path}: {line}')
    return cfg


def _place(path: str, error: Exception) -> str:
    """``path:line`` of the innermost config that was being executed."""
    if isinstance(error, SyntaxError):
        try:
            compile(Path(path).read_text(encoding='utf-8'), path, 'exec')
        except SyntaxError as own:
            return f'{path}:{own.lineno}'
        return path
    frames = traceback.extract_tb(error.__traceback__)
    places = [f'{frame.filename}:{frame.lineno}' for frame in frames
              if frame.name == '<module>' and frame.filename.endswith('.py')]
    return places[-1] if places else path


def _reason(error: Exception) -> str:
    # str() of a KeyError is the repr of its message.
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f'{type(error).__name__}: {message}'


def literal_config(text: Any) -> Config | None:
    """The config that a text writes out in plain values, which is what mmengine notes in a checkpoint.

    Nothing is executed: whoever wrote a checkpoint wrote its text.

    Returns:
        Config | None: None if the text is more than names that are given values, or no text.
    """
    try:
        lines = ast.parse(text).body
        return Config({line.targets[0].id: _literal(line.value) for line in lines})  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, TypeError, AttributeError, KeyError, RecursionError, MemoryError):
        return None


def _literal(node: ast.expr) -> Any:
    """The value of an expression of constants, and of ``dict`` called with names."""
    if isinstance(node, ast.Dict):
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values)}  # type: ignore[arg-type]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [tuple, list][isinstance(node, ast.List)](map(_literal, node.elts))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {key: value for name in node.keywords
                for key, value in ({name.arg: _literal(name.value)} if name.arg else _literal(name.value)).items()}
    return ast.literal_eval(node)


@contextmanager
def default_scope(cfg: Config) -> Iterator[None]:
    """Let names without a scope be those of the config's library, until the block ends.

    Raises:
        InputError: If the library cannot be imported; says what mends it.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    import_library(scope)
    with DefaultScope.overwrite_default_scope(scope):
        yield


def walk(node) -> Iterator[ConfigDict]:
    """All dicts in a tree of a config, parents first."""
    if isinstance(node, dict):
        yield node
    children = node.values() if isinstance(node, dict) else node
    for child in children if isinstance(node, (dict, list, tuple)) else ():
        yield from walk(child)


def type_name(node: dict) -> str:
    """The ``type`` of a config's dict without its scope, ``''`` if it has none."""
    kind = node.get('type')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def several(given: Any) -> list:
    """What a config has one of or a list of, as evaluators and schedules: as a list, of nothing an empty one."""
    if not given:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def set_deploy(model: dict, kinds: Collection[str] = ('MobileOne', )) -> int:
    """Set ``deploy=True`` in every part of a model's config that is of one of ``kinds``.

    Returns:
        int: How many there are.
    """
    parts = [node for node in walk(model) if type_name(node) in kinds]
    for part in parts:
        part['deploy'] = True
    return len(parts)


def build_model(cfg: Config) -> BaseModel:
    """Build a config's model, to load weights into it or to look at it.

    SyncBN, which needs a GPU and other processes to train, becomes BN, which computes the same in eval
    mode. The random numbers of the initialization are not taken from the caller's.
    """
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):  # beside the model, where mmengine's runner finds it too
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with default_scope(cfg), torch.random.fork_rng(devices=[]):
        return revert_sync_batchnorm(MODELS.build(model))


def set_collate(cfg: Config) -> None:
    """Set the collate function that mmpretrain's own tools set: its configs count on it."""
    if cfg.get('default_scope') == 'mmpretrain':
        for key in DATALOADERS:
            if cfg.get(key):
                cfg[key].setdefault('collate_fn', dict(type='default_collate'))


def dataset_of(loader: dict | None) -> ConfigDict:
    """The data set of a data loader's config, out of whatever wraps it; empty if there is none."""
    dataset = (loader or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def native_shape(cfg: Config) -> tuple[int, int]:
    """(height, width) that the config tests at; where its tests vary, that of a training crop."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if preprocessor.get('size'):  # mmseg
        return tuple(preprocessor['size'])
    for loader in ('test_dataloader', 'train_dataloader'):
        for transform in reversed(dataset_of(cfg.get(loader)).get('pipeline') or ()):
            if transform.get('crop_size') and not isinstance(transform['crop_size'], float):
                height_width = transform['crop_size']
            elif transform.get('scale') and not transform.get('keep_ratio'):
                scale = transform['scale']
                height_width = scale if isinstance(scale, int) else scale[::-1]
            else:
                continue
            return (height_width, height_width) if isinstance(height_width, int) else tuple(
                height_width)
    raise InputError('the config has no one size of images: give height and width', parameter='shape')
