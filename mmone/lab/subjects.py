"""Models to be measured, by whatever they are asked for."""
from dataclasses import dataclass, field
from typing import Any

from .store import Model


@dataclass(frozen=True)
class Subject:
    """A model to be measured: what the lab's file says of it, and how a process that measures gets it.

    Attributes:
        model (Model): Its row, without parameters and multiply-adds, which are counted when it is made.
        factory (str): The function that builds it, ``'package.module:function'``. It returns a module that takes
            images (N, 3, H, W) to a tensor or several; random weights are drawn from seed 0.
        arguments (dict): Its keyword arguments, plain data.
        path (str, optional): Of an exported file, in place of a function.
        runtime (str, optional): Which computes that file.
        shape (tuple[int, int]): Height and width of its images, if no other are asked for.
        fuse (bool): Fold train-time branches before it is measured. Defaults to True.
        digest (str): Of whatever else it depends on, such as a checkpoint. Defaults to nothing.
    """
    model: Model
    factory: str = ''
    arguments: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    runtime: str | None = None
    shape: tuple[int, int] = (224, 224)
    fuse: bool = True
    digest: str = ''


def find_subject(name: str) -> Subject:
    """The model of a name: a peer's (:data:`.peers.PEERS`), ``mobileone-s0`` and so on, one of timm's, of the zoo's,
    a config's path (``CONFIG=CHECKPOINT`` with weights), or an exported file's.

    Raises:
        InputError: If there is none; says which names are nearest.
    """
    raise NotImplementedError
