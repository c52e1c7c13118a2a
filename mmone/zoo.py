"""The models by name: what ``model-index.yml`` and the metafiles it imports list, ours and the libraries'."""
import copy
import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import yaml
from mmengine.config import Config

import mmone
from mmone.config import load_config
from mmone.errors import InputError
from mmone.libraries import TASKS as LIBRARIES
from mmone.libraries import explain

# What mmengine calls the libraries' tasks in its metafiles.
TASKS = {'Image Classification': 'classification', 'Object Detection': 'detection',
         'Semantic Segmentation': 'segmentation'}


class Entry(NamedTuple):
    """A model of the zoo.

    Attributes:
        name (str): The name of its config file without ``.py``.
        config (Path): The config file.
        metadata (dict): ``Parameters`` and ``FLOPs`` (multiply-adds), deployed, and more.
        results (list[dict]): Each with ``Task``, ``Dataset`` and ``Metrics``.
        weights (str | None): URL of the published checkpoint.
    """
    name: str
    config: Path
    metadata: dict
    results: list[dict]
    weights: str | None

    @property
    def task(self) -> str:
        return self.config.parent.name


def root() -> Path:
    """The folder that has ``configs`` and ``model-index.yml``: the package's .mim, or a clone."""
    package = Path(mmone.__file__).parent
    return package / '.mim' if (package / '.mim').is_dir() else package.parent


@cache
def entries() -> dict[str, Entry]:
    """All models by their names."""
    found = {}
    index = yaml.safe_load((root() / 'model-index.yml').read_text(encoding='utf-8'))
    for metafile in index['Import']:
        content = yaml.safe_load((root() / metafile).read_text(encoding='utf-8'))
        for model in content['Models']:
            found[model['Name']] = Entry(
                model['Name'], root() / model['Config'], model['Metadata'],
                model.get('Results', []), model.get('Weights'))
    return found


def list_models(task: str | None = None) -> list[str]:
    """Names of the models, of one task (``'classification'``, …) or of all."""
    return [name for name, entry in entries().items() if task in (None, entry.task)]


def find_entry(name: str) -> Entry:
    """The model of a name.

    Args:
        name (str): One of :func:`list_models`, or ``library::name`` of mmpretrain, mmdet or mmseg, where ``name``
            may be the path of a config too, as in mmengine's ``_base_ = 'mmdet::ssd/….py'``.

    Raises:
        InputError: If there is none; names the nearest.
    """
    if '::' in name:
        return _find_in_library(*name.split('::', 1))
    entry = entries().get(name)
    if entry is None:
        nearest = difflib.get_close_matches(name, list(entries()), n=3, cutoff=0)
        raise InputError(f'no model {name!r}: give a config file or a name of the model zoo; '
                         f'the nearest are {", ".join(nearest)}')
    return entry


def _find_in_library(library: str, name: str) -> Entry:
    """A model of a library's own zoo, which is installed with it."""
    if library not in LIBRARIES:
        raise InputError(f'no model {library}::{name}: the libraries are {", ".join(LIBRARIES)}')
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        raise InputError(explain(ModuleNotFoundError(name=library), library) or f'{library} is not installed')
    folder, known = Path(spec.origin).parent / '.mim', []
    index = yaml.safe_load((folder / 'model-index.yml').read_text(encoding='utf-8'))
    for metafile in index['Import']:
        text = (folder / metafile).read_text(encoding='utf-8')
        known += re.findall(r'^ *-? *Name: *(\S+)', text, re.MULTILINE)
        for model in yaml.safe_load(text)['Models'] if name in text else ():  # reading all takes seconds
            config = model.get('Config', '')
            if config and name in (model['Name'], config.removeprefix('configs/')):
                return Entry(f'{library}::{name}', folder / config, model.get('Metadata', {}), model.get('Results', []),
                             model.get('Weights'))
    path = folder / 'configs' / name
    if path.suffix == '.py' and path.is_file():
        return Entry(f'{library}::{name}', path, {}, [], None)
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0)
    raise InputError(f'no model {name!r} in {library}: the nearest are {", ".join(nearest)}')


def find_config(model: str | Path | Config) -> tuple[Config, str | None]:
    """The config of a model and the URL of its published weights, if there are any.

    Args:
        model (str | Path | Config): A name of :func:`find_entry`, a config file or a config.

    Raises:
        InputError: If it is none of these; names the nearest.
    """
    if isinstance(model, Config):
        return copy.deepcopy(model), None
    if Path(model).is_file() or str(model).endswith('.py') and '::' not in str(model):
        return load_config(str(model)), None
    entry = find_entry(str(model))
    return load_config(str(entry.config)), entry.weights
