"""Writing a graph in a format, a module each.

A module has ``HALF``, whether half precision is a matter of the graph (else the converter makes it);
and ``write(graph, example, dynamic, half, meta, path)``, which returns how often each operator occurs in
what it wrote. It imports the format's packages when that is called. It may have ``describe(graph)``, what of a graph
its runtime does: entries of the metadata.

One that can write INT8 has ``SCHEME``, how its runtime computes on integers, and ``write_int8(made, graph, example,
meta, path)`` for what :mod:`mmone.export.quantize` makes of the ONNX graph; and ``as_computed(graph)`` if that ends
elsewhere in this format.
"""
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from mmone.errors import InputError
from mmone.formats import FORMATS


def get_writer(name: str) -> ModuleType:
    """The module that writes a format.

    Args:
        name (str): A name in :data:`mmone.formats.FORMATS`.

    Raises:
        InputError: If what it needs is not installed; says how to install it.
    """
    missing = [package for package in FORMATS[name].written_with if find_spec(package) is None]
    if missing:
        raise InputError(f'writing {name} needs {" and ".join(missing)}, not installed here: pip install '
                         '"mmone[export]"')
    return import_module(f'{__name__}.{name}')
