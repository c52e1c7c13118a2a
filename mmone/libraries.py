"""Whether what a task needs can be imported, and if not, the command that mends it.

pip can neither know that an installed mmcv has no compiled operators, or some for another PyTorch, nor that
a library refuses mmcv's version or forgot to require something. Standard library only.
"""
import re
import sys
import traceback
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from .errors import InputError

TASKS = {'mmpretrain': 'classification', 'mmdet': 'detection', 'mmseg': 'segmentation'}
# These use mmcv's Python code alone, which mmcv-lite has too.
WITHOUT_OPERATORS = ('mmpretrain', 'mmone')
MMCV = 'mmcv>=2.1.0,<2.2.0'  # mmdet 3.3 and mmsegmentation 1.2 refuse 2.2
# What pip is asked for, where it is not called as the module is. mmengine imports pkg_resources.
DISTRIBUTIONS = {'mmengine': 'mmengine>=0.10.4,<1.0.0', 'mmcv': 'mmcv-lite>=2.1.0,<2.2.0', 'mmseg': 'mmsegmentation',
                 'pkg_resources': 'setuptools<82', 'cv2': 'opencv-python', 'PIL': 'pillow', 'yaml': 'pyyaml',
                 **dict.fromkeys(('starlette', 'uvicorn', 'anyio', 'segno', 'timm', 'scipy'), 'mmone[lab]'),
                 'imagecorruptions': 'mmone[robustness]'}
# The same of OpenMMLab's maintained fork.
FORK = {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmpretrain': 'onedl-mmpretrain',
        'mmdet': 'onedl-mmdetection', 'mmseg': 'onedl-mmsegmentation'}
# Imported by mmsegmentation 1.2, which does not require them.
UNDECLARED = {'mmseg': ('ftfy', 'regex')}


def import_library(name: str) -> None:
    """Import the library of a task, its models included.

    Args:
        name (str): One of :data:`TASKS`. Nothing is done for any other.

    Raises:
        InputError: If that fails for a known reason; says what mends it.
    """
    if name in TASKS:
        try:
            import_module(f'{name}.models')
        except Exception as error:  # a refused version is an AssertionError, another NumPy a ValueError
            line = explain(error, name)
            if line is None:
                raise
            raise InputError(line) from error


def explain(error: Exception, needed_by: str = 'mmone') -> str | None:
    """What an import that failed says of the installation, and the command that mends it.

    Args:
        error (Exception): What the import raised.
        needed_by (str): The library that was imported. Defaults to mmone.

    Returns:
        str | None: One line; None if it is of no known kind.
    """
    message = str(error)
    refused = re.match(r'(MMCV|MMEngine)==(\S+) is used but incompatible', message)
    if refused:
        name = refused[1].lower()
        command = build_mmcv(replace=True) if name == 'mmcv' else f'pip install {pip_name(name)}'
        library = _raised_in(error) or needed_by  # mmpretrain imports mmdet, where that is installed
        return f'{library} {_version(library)} refuses {name} {refused[2]}: {command}'
    if 'mmcv' in message and _is_there('mmcv', whole=False):
        return f'mmcv was removed in part, as by removing an mmcv-lite that lay over it: {build_mmcv(replace=True)}'
    if _concerns_operators(error):
        return _explain_operators(error, needed_by)
    if isinstance(error, ModuleNotFoundError):
        inherited = re.match(r'(\w+) is not installed, please install', message)  # mmengine's, of _base_ = 'mmdet::…'
        if inherited:
            name = next((library for library in TASKS if pip_name(library) == inherited[1]), inherited[1])
            return _explain_missing(name, name)
        return _explain_missing((error.name or '').partition('.')[0], needed_by)
    if re.search(r'numpy\S* (failed to import|size changed)|_ARRAY_API not found|against ABI version', message):
        module = _raised_in(error)
        return (f'{module} was compiled for another NumPy than {_version("numpy")}, which is installed: '
                f'pip install --upgrade --force-reinstall --no-deps {pip_name(module)}')
    return None


def pip_name(module: str) -> str:
    """What pip is asked for to bring a module, quoted where a shell needs it."""
    name = {**DISTRIBUTIONS, **(FORK if _has_fork() else {})}.get(module, module)
    return f'"{name}"' if re.search(r'[<>[]', name) else name


def build_mmcv(replace: bool = False) -> str:
    """The command that compiles mmcv with its operators for the PyTorch that is installed.

    Args:
        replace (bool): Whether an mmcv is there: mmcv-lite, a broken one, or one over the other. Defaults to False.
    """
    if _has_fork():
        tools, mmcv = '"setuptools>=80" "packaging>=24.2" wheel ninja', FORK['mmcv']
    elif sys.version_info >= (3, 13):  # its setup.py looks for what exec() leaves in locals()
        return f'make an environment with Python 3.12 or earlier, because "{MMCV}" cannot be built with a later one'
    else:
        tools, mmcv = '"setuptools<82" wheel ninja', f'"{MMCV}"'
    commands = [f'pip install {tools}', f'pip install --no-build-isolation --no-cache-dir {mmcv}']
    if replace:
        commands.insert(0, f'pip uninstall -y {FORK["mmcv"] if _has_fork() else "mmcv mmcv-lite"}')
    if re.match(r'2\.(1[4-9]|[2-9]\d)|[3-9]', _version('torch')):  # C++20, where mmcv asks for C++17
        commands.insert(0, 'pip install "torch<2.14" torchvision')
    return ' && '.join(commands)


def _concerns_operators(error: Exception) -> bool:
    # A library that the linker refuses is named without its package, but with its file.
    name, path = getattr(error, 'name', None) or '', getattr(error, 'path', None) or ''
    return (name == 'mmcv._ext' or bool(re.search(r'mmcv\W+_ext\.', path))
            or 'miss in module _ext' in str(error))  # of another version than its Python code


def _explain_operators(error: Exception, needed_by: str) -> str:
    mmcv, command = f'mmcv {_version("mmcv")}', build_mmcv(replace=True)
    if isinstance(error, ModuleNotFoundError):
        return f'{needed_by} needs the compiled operators of mmcv, and {mmcv} was installed without: {command}'
    reason = str(error).rpartition('/')[2]  # without the path of the file
    return f'the operators of {mmcv} were not compiled for torch {_version("torch")} ({reason}): {command}'


def _explain_missing(module: str, needed_by: str) -> str | None:
    if module in ('cv2', 'yaml') and not _is_there('mmengine'):
        module = 'mmengine'  # which brings them
    # Of what a config or the user's own code imports, nobody knows what brings it.
    known = needed_by in TASKS or module in ('torch', 'torchvision', 'numpy', *DISTRIBUTIONS, *FORK)
    if not known or _is_there(module):
        return None
    if module == 'mmcv' and needed_by not in WITHOUT_OPERATORS:
        return f'{needed_by} needs mmcv with its compiled operators, which is not installed: {build_mmcv()}'
    missing = [module, *(name for name in UNDECLARED.get(needed_by, ()) if name != module and not _is_there(name))]
    what = TASKS[needed_by] if module == needed_by else needed_by
    return f'{what} needs {", ".join(missing)}, not installed here: pip install {" ".join(map(pip_name, missing))}'


def _is_there(module: str, whole: bool = True) -> bool:
    """Whether a module can be found; ``whole=False`` for one of whose folder something else is left."""
    try:
        spec = find_spec(module)
    except ImportError:
        return False
    return spec is not None and (spec.origin is not None) == whole


def _raised_in(error: Exception) -> str:
    """The package whose code an exception comes from."""
    modules = [frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((name for name in reversed(modules) if not name.startswith('importlib')), '').partition('.')[0]


def _has_fork() -> bool:
    return any(_installed(name) for name in FORK.values())


def _version(module: str) -> str:
    names = (module, DISTRIBUTIONS.get(module, ''), FORK.get(module, ''), 'mmcv-lite' if module == 'mmcv' else '')
    return next(filter(None, map(_installed, filter(None, names))), '')


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
