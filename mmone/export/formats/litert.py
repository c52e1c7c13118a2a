"""LiteRT (TensorFlow Lite), for Android and whatever else runs ``.tflite``.

The converter, litert-torch, does not live beside OpenMMLab's packages: it has an environment of its own, which
``python -m mmone.export.formats.litert`` makes once, in the user's cache. It is given the graph as a program of
``torch.export``, and imports nothing of mmone. Computing the file needs ai-edge-litert alone.
"""
import copy
import json
import os
import subprocess
import sys
import tempfile
import venv
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from mmengine.utils import digit_version
from torch import Tensor

from mmone.errors import InputError
from mmone.export.graph import Detection, Graph
from mmone.export.quantize.schemes import LITERT
from mmone.files import scratch_folder, user_cache
from mmone.runtime.litert import add_metadata, operators

from . import litert_convert, litert_quantize, pt2
from .boxes import describe, leave_boxes
from .equalized import equalized
from .litert_int8 import LAYERS, plan, with_integers

__all__ = ['HALF', 'describe', 'write']

HALF = False
SCHEME = LITERT
VERSION = '0.10.0'
# What litert_quantize is told for float16 weights.
_HALF_PLAN = dict(ranges={}, recipe=[
    dict(regex='.*', operation=kind, algorithm_key='float_casting', op_config=dict(
        weight_tensor_config=dict(num_bits=16, dtype='FLOAT'), compute_precision='FLOAT', explicit_dequantize=True))
    for kind in LAYERS])
_PACKAGES = ('torch==2.13.0', f'litert-torch=={VERSION}')


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        content = _convert(as_computed(graph), example, Path(folder))
        if half:
            content = _quantize(content, _HALF_PLAN, Path(folder))
    path.write_bytes(add_metadata(content, meta))
    return operators(path)


def as_computed(graph: Graph) -> Graph:
    """A graph that ends where LiteRT's does."""
    graph = copy.copy(graph)
    if isinstance(graph, Detection):
        leave_boxes(graph)
    return graph


def write_int8(made, graph: Graph, example: Tensor, meta: str, path: Path) -> Counter:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source = _convert(equalized(graph, made), example, Path(folder))
        content = _quantize(source, plan(source, made), Path(folder))
    path.write_bytes(add_metadata(with_integers(content, source, made), meta))
    return operators(path)


def _convert(graph: Graph, example: Tensor, folder: Path) -> bytes:
    """The ``.tflite`` of a graph in float32."""
    source, made = folder / 'graph.pt2', folder / 'graph.tflite'
    if digit_version(torch.__version__) < digit_version(pt2.MINIMUM):
        raise InputError(f'writing litert needs torch >= {pt2.MINIMUM}, this is {torch.__version__}, which can write '
                         'onnx and ncnn', parameter='format')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.export.save(torch.export.export(graph, (example, ), strict=False), str(source))
    return _run(litert_convert, [source, made, example.numpy().dtype.name, *example.shape], made)


def _quantize(content: bytes, plan: dict, folder: Path) -> bytes:
    """A ``.tflite`` with integers or float16, by ai-edge-quantizer."""
    source, given, made = (folder / name for name in ('float.tflite', 'plan.json', 'quantized.tflite'))
    source.write_bytes(content)
    given.write_text(json.dumps(plan))
    return _run(litert_quantize, [source, made, given], made)


def _run(script: ModuleType, arguments: Sequence, made: Path) -> bytes:
    """What a script of the converter's environment writes."""
    done = subprocess.run([str(_python()), str(script.__file__), *map(str, arguments)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace')
    if done.returncode or not made.is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise InputError(f'LiteRT\'s converter ended with status {done.returncode} '
                         f'({lines[-1][:300] if lines else "without a word"})')
    return made.read_bytes()


def environment() -> Path:
    """The folder of the converter's environment."""
    return user_cache() / f'litert-torch-{VERSION}'


def _python() -> Path:
    found = environment() / ('Scripts/python.exe' if sys.platform == 'win32' else 'bin/python')
    if not found.is_file():
        raise InputError('writing LiteRT needs its converter in an environment of its own (2 GB), not made here: '
                         f'{sys.executable} -m {__name__}')
    return found


def make_environment() -> None:
    """Make the converter's environment; what is there and whole stays."""
    if environment().is_dir():
        print(f'{environment()} is there')
        return
    environment().parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(environment()) as folder:
        # It is used by its interpreter alone, so that it may be moved when it is whole.
        made = folder / environment().name
        venv.create(made, with_pip=True)
        python = made / ('Scripts/python.exe' if sys.platform == 'win32' else 'bin/python')
        subprocess.run([str(python), '-m', 'pip', 'install', *_PACKAGES], check=True)
        os.replace(made, environment())


if __name__ == '__main__':
    try:
        make_environment()
    except subprocess.CalledProcessError as error:
        sys.exit(f'the converter could not be installed (pip ended with status {error.returncode}): what it said '
                 'is above')
