#!/usr/bin/env python
"""Check that imports within mmone point down: the floors of docs/architecture.md, as a contract.

A module imports from its own room and from lower floors, also inside functions. Imports inside functions
are those listed here, each with its reason.
"""
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# The rooms of each floor, the lowest first.
FLOORS = (
    ('csrc', 'errors', 'version', 'files', 'untrusted', 'formats', 'pnnx', 'libraries', 'devices', 'ranks', 'compat',
     'registry'),
    ('checkpoints', 'config', 'runtime'),
    ('complexity', 'pipeline'),
    ('models', 'zoo'),
    ('convert', 'distillation', 'export', 'datasets'),
    ('apis', 'engine', 'lab', 'experiments'),
    ('cli', ),
)
# Rooms of one floor that import each other's all the same.
SIDEWAYS = {
    ('devices', 'errors'): 'the ground floor is in order of its list',
    ('devices', 'libraries'): 'the ground floor is in order of its list',
    ('files', 'errors'): 'the ground floor is in order of its list',
    ('untrusted', 'errors'): 'the ground floor is in order of its list',
    ('libraries', 'errors'): 'the ground floor is in order of its list',
    ('compat', 'errors'): 'the ground floor is in order of its list',
    ('compat', 'libraries'): 'the ground floor is in order of its list',
    ('compat', 'version'): 'the ground floor is in order of its list',
    ('registry', 'compat'): 'the ground floor is in order of its list',
    ('export', 'datasets'): 'images to compare on where there are no others',
    ('lab', 'apis'): 'a model is loaded as in a notebook',
    ('distillation', 'convert'): 'a teacher is loaded as any model is, and deployed',
    ('experiments', 'engine'): 'what other libraries raise is explained as in a test',
    ('experiments', 'lab'): 'the lab measures latency, and has the document of reports',
    ('experiments', 'apis'): 'a model is loaded as in a notebook',
    ('export', 'convert'): 'a model with branches is exported in its deployed form',
}
OPENMMLAB = ('mmcv', 'mmdet', 'mmengine', 'mmpretrain', 'mmseg')
# Packages that a room does not import at the top of its modules.
WITHOUT = {
    'csrc': ('torch', *OPENMMLAB),
    'errors': ('torch', *OPENMMLAB),
    'version': ('torch', *OPENMMLAB),
    'files': ('torch', *OPENMMLAB),
    'untrusted': ('numpy', 'torch', *OPENMMLAB),
    'formats': ('numpy', 'torch', *OPENMMLAB),
    'pnnx': ('numpy', 'torch', *OPENMMLAB),
    'libraries': ('numpy', 'torch', *OPENMMLAB),
    'ranks': ('torch', *OPENMMLAB),
    'runtime': ('torch', 'torchvision', *OPENMMLAB),
    'models': ('mmdet', 'mmpretrain', 'mmseg'),
    'cli': ('torch', 'numpy', 'cv2', *OPENMMLAB),
}
# What a module below a path may import all the same.
EXCEPT = {
    ('models.dense_heads', 'mmdet'): 'the head is mmdet\'s, and is imported when a detector is built',
}
# Imports inside functions: the module, or the package of modules, and the package imported.
INSIDE_FUNCTIONS = {
    ('cli', '*'): '--help answers without waiting for torch',
    ('models', 'mmone.models.dense_heads'): 'mmdet is imported when a detector is built: it is optional',
    ('distillation', 'mmone.distillation.classifier'): 'mmpretrain is imported when one is built: it is optional',
    ('distillation', 'mmone.distillation.segmentor'): 'mmseg is imported when one is built: it is optional',
    ('checkpoints', 'safetensors'): 'optional',
    ('datasets.corrupt', 'imagecorruptions'): 'optional',
    ('engine.explain', 'mmcv'): 'optional: mmengine alone trains too',
    ('export.formats', 'onnx'): 'optional',
    ('export.formats', 'openvino'): 'optional',
    ('export.formats', 'coremltools'): 'optional',
    ('export.export', 'onnx'): 'optional',
    ('export.export', 'mmone.export.quantize.int8'): 'needs onnx and onnxruntime, which are optional',
    ('export', 'mmone.export.export'): 'the registry imports the package for ExportedModel, without exporters',
    ('export', 'torchvision'): 'optional: its operator is for two of the formats',
    ('export.compare', 'mmpretrain'): 'optional: one library a task',
    ('export.compare', 'mmdet'): 'optional: one library a task',
    ('export.compare', 'mmseg'): 'optional: one library a task',
    ('experiments.comparison.scores', 'pycocotools'): 'optional: it comes with mmdet',
    ('lab.worker', 'mmone.lab.building'): 'a process that measures imports nothing but its runtime',
    ('lab', 'timm'): 'optional: networks to compare with',
    ('lab.peers', 'torchvision'): 'optional: networks to compare with',
    ('runtime', 'onnxruntime'): 'optional',
    ('runtime', 'openvino'): 'optional',
    ('runtime', 'ai_edge_litert'): 'optional',
    ('runtime', 'flatbuffers'): 'optional',
    ('export.formats.litert_convert', '*'): 'runs in an environment of its own',
    ('export.formats.litert_int8', 'ai_edge_litert'): 'optional',
    ('export.formats.litert_quantize', '*'): 'runs in an environment of its own',
    ('runtime', 'ncnn'): 'optional',
    ('runtime', 'coremltools'): 'optional',
    ('runtime', 'torch'): 'optional: two of the formats are computed by it',
    ('runtime', 'torchvision'): 'optional: two of the formats are computed by it',
    ('runtime', 'tifffile'): 'optional: only some images are read with it',
    ('runtime', 'cv2'): 'optional: images are read with Pillow where there is no OpenCV',
    ('runtime', 'PIL'): 'optional: images are read with OpenCV where it is there',
}


class Import(NamedTuple):
    """An import: what is imported, in which line, and whether inside a function."""
    name: str
    line: int
    inside: bool


def imports_of(path: Path, module: str) -> Iterator[Import]:
    """All imports of a file, relative ones resolved; ``from a import b`` counts as ``a.b``."""

    def visit(node: ast.AST, inside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                source = child.module or ''
                if child.level:
                    package = module.split('.') if path.name == '__init__.py' else module.split('.')[:-1]
                    source = '.'.join([*package[:len(package) - child.level + 1], *filter(None, [source])])
                yield from (Import(f'{source}.{alias.name}', child.lineno, inside) for alias in child.names)
            else:
                function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from visit(child, inside or function)

    yield from visit(ast.parse(path.read_text(encoding='utf-8')), False)


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + '.')


def problems(package: Path) -> Iterator[str]:
    """What breaks the contract in a package's folder, a line each."""
    floors = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    needed = set()
    for path in sorted(package.rglob('*.py')):
        relative = path.relative_to(package)
        if relative.parts[0].startswith('.') or relative == Path('__init__.py'):
            continue
        inner = '.'.join(relative.with_suffix('').parts).removesuffix('.__init__')
        room = inner.partition('.')[0]
        if room not in floors:
            yield f'{path}: the room {room} is on no floor: add it to FLOORS'
            continue
        for found in imports_of(path, f'{package.name}.{inner}'):
            place = f'{path}:{found.line}'
            parts = found.name.split('.')
            other = parts[1] if parts[0] == package.name and len(parts) > 1 else ''
            if other in floors and other != room and (room, other) not in SIDEWAYS:
                if floors[other] >= floors[room]:
                    yield (f'{place}: {room} (floor {floors[room] + 1}) imports {found.name} '
                           f'(floor {floors[other] + 1}): dependencies point down')
            if not found.inside and parts[0] in WITHOUT.get(room, ()):
                entries = {entry for entry in EXCEPT if below(inner, entry[0]) and parts[0] == entry[1]}
                needed |= entries
                if not entries:
                    yield f'{place}: {room} does without {parts[0]}'
            if found.inside:
                entries = {(module, name) for module, name in INSIDE_FUNCTIONS
                           if below(inner, module) and (name == '*' or below(found.name, name))}
                needed |= entries
                if not entries:
                    yield (f'{place}: {found.name} is imported inside a function: import it at the top, or '
                           'list it in INSIDE_FUNCTIONS with the reason')
    for entry in (*EXCEPT, *INSIDE_FUNCTIONS):
        if entry not in needed:
            yield f'{Path(__file__).name}: nothing needs the entry {entry}'


def main() -> int:
    found = list(problems(ROOT / 'mmone'))
    print(*found, sep='\n', end='\n' if found else '')
    return bool(found)


if __name__ == '__main__':
    sys.exit(main())
