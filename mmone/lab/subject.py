"""What is measured. Imports nothing of the models: processes that measure read it."""
from dataclasses import dataclass, field
from typing import Any

from .store import Model

SIZE = (224, 224)


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
        precision (str): Of that file's weights. Defaults to ``'float32'``.
        shape (tuple[int, int]): Height and width of its images, if no other are asked for.
        fuse (bool): Fold train-time branches before it is measured. Defaults to True.
        digest (str): Of whatever else it depends on, such as a checkpoint. Defaults to nothing.
    """
    model: Model
    factory: str = ''
    arguments: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    runtime: str | None = None
    precision: str = 'float32'
    shape: tuple[int, int] = SIZE
    fuse: bool = True
    digest: str = ''
