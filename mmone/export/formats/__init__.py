"""The formats a graph is exported to, a module each.

A module has ``SUFFIX``; ``PACKAGES``, what it imports; ``HALF``, whether ``--half`` is the network's
own type (else the converter's work); and ``write(graph, example, dynamic, half, meta, path)``, which
returns how often each operator occurs in what it wrote. It imports its packages when that is called.
"""
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from mmone.errors import InputError

FORMATS = {'onnx': '.onnx', 'openvino': '.xml', 'coreml': '.mlpackage', 'torchscript': '.pt',
           'pt2': '.pt2'}  # yapf: disable


def get_format(name: str) -> ModuleType:
    """The module of a format.

    Raises:
        InputError: If what it needs is not installed; says how to install it.
    """
    module = import_module(f'{__name__}.{name}')
    missing = [package for package in module.PACKAGES if find_spec(package) is None]
    if missing:
        raise InputError(f'--format {name} needs {" and ".join(missing)}, not installed here: pip '
                         'install "mmone[export]"')
    return module
