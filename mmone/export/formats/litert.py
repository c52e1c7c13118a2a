"""LiteRT (TensorFlow Lite), for Android and whatever else runs ``.tflite``.

The converter, litert-torch, does not live beside OpenMMLab's packages: it has an environment of its own, which
``python -m mmone.export.formats.litert`` makes once, in the user's cache. It is given the graph as a program of
``torch.export``, and imports nothing of mmone. Computing the file needs ai-edge-litert alone.
"""
import os
import subprocess
import sys
import tempfile
import venv
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmone.errors import InputError
from mmone.export.graph import Detection, Graph
from mmone.files import scratch_folder, user_cache
from mmone.runtime.litert import add_metadata, operators

from . import litert_convert
from .boxes import describe, leave_boxes

__all__ = ['HALF', 'describe', 'write']

HALF = True
VERSION = '0.10.0'
_PACKAGES = ('torch==2.13.0', f'litert-torch=={VERSION}')


def write(graph: Graph, example: Tensor, dynamic: Sequence[str], half: bool, meta: str,
          path: Path) -> Counter:
    if dynamic:
        raise InputError('a LiteRT model is written for one size and batch 1: export one for each size',
                         parameter='dynamic')
    if half:
        raise InputError('a LiteRT model is written in float32: leave --half out', parameter='half')
    python = _python()
    if isinstance(graph, Detection):
        leave_boxes(graph)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        source, made = Path(folder, 'graph.pt2'), Path(folder, 'graph.tflite')
        torch.export.save(torch.export.export(graph, (example, ), strict=False), str(source))
        done = subprocess.run([str(python), litert_convert.__file__, str(source), str(made), example.numpy().dtype.name,
                               *map(str, example.shape)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace')
        if done.returncode or not made.is_file():
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise InputError(f'litert-torch ended with status {done.returncode} '
                             f'({lines[-1][:300] if lines else "without a word"})')
        path.write_bytes(add_metadata(made.read_bytes(), meta))
    return operators(path)


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
