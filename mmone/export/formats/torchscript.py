"""TorchScript, for PyTorch where there is no Python, and PyTorch Mobile."""
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmone.export.graph import Graph
from mmone.runtime.metadata import KEY

HALF = True


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.freeze(torch.jit.trace(graph, example, check_trace=False))
        torch.jit.save(traced, str(path), _extra_files={KEY: meta})
    return Counter(kind.rpartition('::')[2] for node in traced.inlined_graph.nodes()
                   if (kind := node.kind()).startswith(('aten::', 'torchvision::')))
