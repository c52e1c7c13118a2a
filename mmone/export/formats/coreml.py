"""Core ML, for Apple's devices. Converts anywhere; computes on macOS and iOS only."""
import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmone.errors import InputError
from mmone.export.graph import Graph
from mmone.runtime.backends import KEY

SUFFIX = '.mlpackage'
PACKAGES = ('coremltools', )
HALF = False


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    if dynamic:
        raise InputError('--dynamic: a Core ML model is written for one size and batch 1: export '
                         'one for each size')
    # Off macOS it complains of the parts that compute.
    logging.getLogger('coremltools').setLevel(logging.ERROR)
    import coremltools as ct
    image = example.dtype == torch.uint8
    given = (ct.ImageType('images', shape=tuple(example.shape), color_layout=ct.colorlayout.RGB)
             if image else ct.TensorType('images', shape=tuple(example.shape)))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        # An image arrives as floats of 0 to 255.
        traced = torch.jit.trace(graph, example.float(), check_trace=False)
        model = ct.convert(
            traced, inputs=[given], outputs=[ct.TensorType(name) for name in graph.outputs],
            convert_to='mlprogram', minimum_deployment_target=ct.target.iOS16,
            compute_precision=(ct.transform.FP16ComputePrecision(_in_network) if half else
                               ct.precision.FLOAT32))
    model.user_defined_metadata[KEY] = meta
    model.short_description = 'MobileOne, exported by mmone'
    model.save(str(path))
    function = model.get_spec().mlProgram.functions['main']
    block = function.block_specializations[function.opset]
    return Counter(operation.type for operation in block.operations if operation.type != 'const')


def _in_network(operation) -> bool:
    """With --half: coordinates of boxes need more than the 11 bits of a float16."""
    from coremltools.converters.mil.mil.scope import ScopeSource
    return 'network' in operation.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_NAME, ())
