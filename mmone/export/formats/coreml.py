"""Core ML, for Apple's devices. Converts anywhere; computes on macOS and iOS only."""
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from mmone.errors import InputError
from mmone.export.graph import Graph
from mmone.runtime.metadata import KEY

HALF = False
_PALETTE_BITS = 6


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str, path: Path,
          weights: str | None = None) -> Counter:
    with _quiet():
        import coremltools as ct
        # An image arrives as floats of 0 to 255.
        traced = torch.jit.trace(graph, example.float(), check_trace=False)
        model = ct.convert(
            traced, inputs=[_input(ct, example)], outputs=[ct.TensorType(name) for name in graph.outputs],
            convert_to='mlprogram', minimum_deployment_target=ct.target.iOS16,
            compute_precision=(ct.transform.FP16ComputePrecision(_in_network) if half else
                               ct.precision.FLOAT32))
        if weights:
            model = _compressed(model, weights)
        model.user_defined_metadata[KEY] = meta
        model.short_description = 'MobileOne, exported by mmone'
        model.save(str(path))
    function = model.get_spec().mlProgram.functions['main']
    block = function.block_specializations[function.opset]
    return Counter(operation.type for operation in block.operations if operation.type != 'const')


def _compressed(model, weights: str):
    """A model whose weights are stored smaller; it computes in float as before."""
    import coremltools.optimize.coreml as optimize
    if weights == 'int8':
        how = optimize.OpLinearQuantizerConfig(mode='linear_symmetric', granularity='per_channel')
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=how))
    if find_spec('sklearn') is None:
        raise InputError('a palette of weights needs scikit-learn, not installed here: pip install scikit-learn',
                         parameter='weights')
    palette = optimize.OpPalettizerConfig(mode='kmeans', nbits=_PALETTE_BITS)
    return optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palette))


def _input(ct, example: Tensor):
    layouts = {1: ct.colorlayout.GRAYSCALE, 3: ct.colorlayout.RGB}  # of others there are no images
    if example.dtype == torch.uint8 and example.shape[1] in layouts:
        return ct.ImageType('images', shape=tuple(example.shape), color_layout=layouts[example.shape[1]])
    return ct.TensorType('images', shape=tuple(example.shape))


def _in_network(operation) -> bool:
    """Whether half precision is for an operator: box coordinates need more than a float16's 11 bits."""
    from coremltools.converters.mil.mil.scope import ScopeSource
    return 'network' in operation.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_NAME, ())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the tracer, and those of coremltools that it cannot compute here."""
    logger = logging.getLogger('coremltools')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)
