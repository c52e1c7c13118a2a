"""Print what a bug report needs: versions, machine, compiled modules, runtimes, folders."""
import os
import platform
import sys
from argparse import Namespace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mmone.csrc import load
from mmone.formats import FORMATS
from mmone.lab.machine import processor, usable_cores
from mmone.libraries import TASKS, import_library
from mmone.version import __version__

from .output import aligned
from .parser import Parser

EXAMPLES = 'It needs none of the packages that it looks for.'

# What mmone uses: the module, and the distributions that bring it.
PACKAGES = dict(
    torch=('torch', ), torchvision=('torchvision', ),
    mmengine=('mmengine', 'mmengine-lite', 'onedl-mmengine'), mmcv=('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    mmpretrain=('mmpretrain', 'onedl-mmpretrain'), mmdet=('mmdet', 'onedl-mmdetection'),
    mmseg=('mmsegmentation', 'onedl-mmsegmentation'), numpy=('numpy', ),
    cv2=('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless'),
    PIL=('pillow', ), matplotlib=('matplotlib', ), pycocotools=('pycocotools', ), ftfy=('ftfy', ), regex=('regex', ),
    yaml=('PyYAML', ), rich=('rich', ), safetensors=('safetensors', ), onnx=('onnx', ), onnxruntime=('onnxruntime', ),
    openvino=('openvino', ), ncnn=('ncnn', ), pnnx=('pnnx', ), ai_edge_litert=('ai-edge-litert', ),
    coremltools=('coremltools', ),
    setuptools=('setuptools', ))
# Instructions that decide which code computes, as Linux calls them; those of x86 and of ARM.
FEATURES = ('avx', 'avx2', 'fma', 'f16c', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'avx_vnni', 'amx_tile', 'amx_int8',
            'amx_bf16', 'asimd', 'asimdhp', 'asimddp', 'i8mm', 'bf16', 'sve', 'sve2')


def add_arguments(parser: Parser) -> None:
    pass


def run(args: Namespace) -> None:
    groups = {
        'machine': _machine(),
        'packages': [(distributions[0], _version(module)) for module, distributions in PACKAGES.items()],
        'tasks': [(task, _usable(library)) for library, task in TASKS.items()],
        'compiled modules': [(name, _loaded(name)) for name in ('mmone._ext', 'mmcv._ext')],
        'exported models run': _runtimes(),
        'folders': _folders(),
    }
    width = max(len(label) for rows in groups.values() for label, _ in rows)
    for title, rows in groups.items():
        print(f'{title}\n' + aligned([(f'  {label:<{width}}', text) for label, text in rows]))


def _machine() -> list[tuple[str, str]]:
    model, features = processor()
    return [('mmone', f'{__version__} in {Path(__file__).parents[1]}'),
            ('Python', f'{platform.python_version()} ({sys.executable})'),
            ('system', platform.platform()),
            ('CPU', f'{model}, {usable_cores()} of {os.cpu_count()} cores usable'),
            ('CPU features', ' '.join(name for name in FEATURES if name in features) or 'unknown'),
            ('GPU', _gpu())]


def _gpu() -> str:
    try:
        import torch
        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            return f'{", ".join(names)}; CUDA {torch.version.cuda}'
        return 'Apple (MPS)' if torch.backends.mps.is_available() else 'none that torch can use'
    except Exception as error:  # a broken install raises anything
        return f'unknown, torch cannot be imported: {error}'


def _version(module: str) -> str:
    """Of the distribution that brings a module."""
    from importlib.metadata import PackageNotFoundError, version
    try:
        if find_spec(module) is None:
            return 'not installed'
    except ImportError:
        return 'not installed'
    for distribution in PACKAGES[module]:
        try:
            return version(distribution) + ('' if distribution == PACKAGES[module][0] else f' ({distribution})')
        except PackageNotFoundError:
            continue
    return 'installed, version unknown'


def _usable(library: str) -> str:
    """Whether a task's library can be used, or what is missing and the command that mends it."""
    try:
        import_library(library)
        return f'{library} can be used'
    except Exception as error:  # a broken install raises anything
        return f'no: {error}'


def _loaded(name: str) -> str:
    """Where a compiled module is, or why it is not used."""
    try:
        import torch  # noqa: F401  brings OpenMP and PyTorch's libraries, which the module does not load itself
    except Exception:
        pass
    try:
        module = load() if name == 'mmone._ext' else import_module(name)
        return str(module.__file__) if module else 'not loaded: it was not built'
    except Exception as error:
        return f'not loaded: {error}'


def _runtimes() -> list[tuple[str, str]]:
    return [(kind.suffix, ', '.join(f'{name} {_version(name)}' for name in kind.runs_with))
            for kind in FORMATS.values()]


def _folders() -> list[tuple[str, str]]:
    rows = []
    try:
        from mmone.zoo import root
        rows.append(('configs', str(root() / 'configs')))
    except Exception as error:
        rows.append(('configs', f'not to be found: {error}'))
    try:
        import torch
        rows.append(('downloaded weights', str(Path(torch.hub.get_dir(), 'checkpoints'))))
    except Exception as error:
        rows.append(('downloaded weights', f'unknown: {error}'))
    return rows
