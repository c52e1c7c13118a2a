"""PyTorch's own exported program, ``torch.export``."""
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.utils import digit_version
from torch import Tensor

from mmone.errors import InputError
from mmone.export.graph import Graph
from mmone.runtime.metadata import KEY

HALF = True
MINIMUM = '2.6'  # before it, dynamic sizes and saving were another interface


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    if digit_version(torch.__version__) < digit_version(MINIMUM):
        raise InputError(f'writing pt2 needs torch >= {MINIMUM}, this is {torch.__version__}, which can write '
                         'torchscript', parameter='format')
    free = {**({0: torch.export.Dim.AUTO} if 'batch' in dynamic else {}),
            **({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO} if 'hw' in dynamic else {})}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        program = torch.export.export(
            graph, (example, ), dynamic_shapes={'images': free} if free else None, strict=False)
        torch.export.save(program, str(path), extra_files={KEY: meta})
    return Counter(node.target.__name__.partition('.')[0] for node in program.graph.nodes
                   if node.op == 'call_function')
