"""The models that are compared, by what the command calls them."""
import hashlib
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.model import BaseModel

from mmone.apis import get_model
from mmone.checkpoints.loading import is_remote
from mmone.complexity import Complexity, config_complexity
from mmone.errors import InputError
from mmone.files import sha256
from mmone.formats import format_of, weights_of
from mmone.libraries import TASKS
from mmone.runtime import Runtime
from mmone.zoo import find_config


@dataclass(frozen=True)
class Model:
    """A model to be compared.

    Attributes:
        letter (str): By which tables call it.
        given (str): A config or a name of a zoo, or the path of an exported file.
        name (str): For people.
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        digest (str): Of all that it is made from.
        cfg (Config, optional): None of an exported file.
        weights (str, optional): Its checkpoint; None of an exported file.
    """
    letter: str
    given: str
    name: str
    task: str
    digest: str
    cfg: Config | None = None
    weights: str | None = None

    def load(self, trust: bool) -> BaseModel:
        """The model, deployed, ready to predict."""
        return get_model(self.given if self.cfg is None else self.cfg, self.weights, trust=trust)

    def complexity(self) -> Complexity | None:
        """Its parameters and multiply-adds, deployed; None of a file, or where its images have no one size."""
        if self.cfg is None:
            return None
        try:
            return config_complexity(self.cfg)[1]['deployed']
        except InputError:
            return None


def find_model(letter: str, name: str) -> Model:
    """The model of a name.

    Args:
        letter (str): For tables.
        name (str): ``CONFIG=CHECKPOINT``; a name of a model zoo, which has published weights; or the path of an
            exported file.

    Raises:
        InputError: If there is none.
    """
    given, _, weights = name.partition('=')
    if format_of(given) is not None:
        if weights:
            raise InputError(f'{given} is an exported model, which has its weights in it: leave {weights} out')
        return _exported(letter, given)
    cfg, published = find_config(given)
    weights = weights or published or ''
    if not weights:
        raise InputError(f'no weights are published for {given}: give {given}=CHECKPOINT')
    if cfg.get('default_scope') not in TASKS:
        raise InputError(f'{given} is of {cfg.get("default_scope")}: models of {", ".join(TASKS)} are compared')
    if not is_remote(weights) and not Path(weights).expanduser().is_file():
        raise InputError(f'checkpoint {weights} does not exist')
    made_from = weights if is_remote(weights) else sha256(Path(weights).expanduser())
    digest = hashlib.sha256(f'{cfg.to_dict()}\n{made_from}'.encode()).hexdigest()  # its text takes seconds to format
    title = Path(given.removesuffix('.py')).name
    if weights != published:
        title += f'={Path(weights).name}'
    return Model(letter, given, title, TASKS[cfg.default_scope], digest, cfg, weights)


def _exported(letter: str, path: str) -> Model:
    runtime = Runtime(path)
    return Model(letter, path, Path(path).name, runtime.task, runtime.meta['sha256'])


def file_size(path: str | Path) -> int:
    """Bytes of an exported model, with the second file that some have."""
    path = Path(path)
    files = [file for file in path.rglob('*') if file.is_file()] if path.is_dir() else [path, weights_of(path)]
    return sum(file.stat().st_size for file in files if file is not None)
