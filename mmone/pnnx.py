"""Converting to ncnn by pnnx, an executable that its package brings. Standard library only."""
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path


def convert(source: Path, shape: Sequence[int], half: bool = False) -> tuple[Path, Path]:
    """Convert a network; returns ncnn's ``.param`` and ``.bin``.

    Args:
        source (Path): A traced TorchScript or ONNX file. It lies alone in a folder of its own, since half a dozen
            files are written beside it.
        shape (Sequence[int]): Of its one input, float32.
        half (bool): Weights in float16. Defaults to False.

    Raises:
        RuntimeError: If pnnx cannot; with the last line that it said.
    """
    package = find_spec('pnnx')  # importing it would import torch
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'pnnx'", name='pnnx')
    program = Path(package.origin).with_name('pnnx.exe' if sys.platform == 'win32' else 'pnnx')
    done = subprocess.run(
        [str(program), source.name, f'inputshape=[{",".join(map(str, shape))}]f32', f'fp16={half:d}'],
        cwd=source.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace')
    param = source.with_name(f'{source.stem}.ncnn.param')
    if done.returncode or not param.is_file():
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        last = lines[-1][:200] if lines else 'without a word'
        raise RuntimeError(f'pnnx ended with status {done.returncode} ({last})')
    return param, param.with_suffix('.bin')
