"""Exported files from elsewhere: what no export of mmone's has is refused before a runtime opens the file.

ONNX Runtime and OpenVINO read data. TorchScript and ``torch.export`` files are programs: PyTorch unpickles what is
in a ``.pt2`` and evaluates its text, and a ``.pt`` may call operators that read and write files. So only what
mmone's exports are made of is let through: plain operators, shapes and numbers.
"""
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmone.errors import InputError
from mmone.untrusted import look_into, open_archive

from .images import TRANSFORMS
from .metadata import KEY, digest, parse


def check_file(path: Path) -> None:
    """Look into an exported file, or Core ML's folder.

    Raises:
        InputError: If it has something that none of mmone's exports has.
    """
    check = _CHECKS.get(path.suffix)
    found = check(path) if check else None
    if found:
        raise InputError(f'{path} is refused, since no export of mmone has {found}: export it again')


# What is wrong with a file, a function for each suffix

# A tensor's entry with the key "location", however the lengths before it are written.
_EXTERNAL = re.compile(rb'(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location')


def _in_onnx(path: Path) -> str | None:
    return 'weights in other files' if _EXTERNAL.search(path.read_bytes()) else None


def _in_coreml(path: Path) -> str | None:
    if path.is_symlink() or any(file.is_symlink() for file in path.rglob('*')):
        return 'links to other files'
    manifest = path / 'Manifest.json'
    if manifest.is_file():
        for text in _texts(json.loads(manifest.read_bytes())):
            if Path(text).is_absolute() or '..' in Path(text).parts:
                return f'paths that leave it ({text[:80]!r})'
    return None


_OTHER_OPERATORS = re.compile(rb'\bops\.(?!(?:aten|prim|torchvision|quantized)\.)[\w.]+')
_FILE_OPERATORS = re.compile(rb'\b(?:save|from_file|rpc_\w+|torch\.classes\.(?!quantized\.)[\w.]+)\b')


def _in_torchscript(path: Path) -> str | None:
    with open_archive(path, str(path), compressed=True) as archive:
        for name in archive.namelist():
            if name.endswith(('.py', '.pkl')):
                content = archive.read(name)
                found = _FILE_OPERATORS.search(content) or _OTHER_OPERATORS.search(content)
                if found and name.endswith('.py'):
                    return f'the operator {found[0].decode()}'
                if b'torch.classes.' in content.replace(b'torch.classes.quantized.', b''):
                    return 'objects of classes in C++'
    return None


_MEMBERS = re.compile(  # of what torch.export.save writes, in PyTorch 2.6 to 2.8 and since
    r'data/(weights|constants|sample_inputs)/[\w.-]+|models/[\w.-]+\.json|(extra|extra_files)/\w+|archive_(format|version)'
    r'|byteorder|version|\.data/\w+|serialized_\w+\.(json|pt)|\.format_version|\.storage_alignment')
_PICKLED = re.compile(r'torch\._utils\._rebuild_(tensor_v2|parameter)|torch\.\w+Storage|torch\.(device|Size)'
                      r'|torch\.serialization\._get_layout|collections\.OrderedDict')


def _in_program(path: Path) -> str | None:
    with open_archive(path, str(path), compressed=True) as archive:
        for name in archive.namelist():
            inner = name if _MEMBERS.fullmatch(name) else name.partition('/')[2]
            if not _MEMBERS.fullmatch(inner):
                return f'a file {name[:80]!r} in it'
            if inner.endswith('.json'):
                found = _in_json(json.loads(archive.read(name)))
            elif inner.endswith('.pt'):
                found = _in_tensors(archive, name)
            else:
                found = None
            if found:
                return found
    return None


def _in_tensors(archive: zipfile.ZipFile, name: str) -> str | None:
    """What a pickle of tensors in an archive has beside them."""
    with archive.open(name) as file, zipfile.ZipFile(file) as inner:
        for member in inner.namelist():
            if member.rpartition('/')[2] == 'data.pkl':
                names = look_into(inner.read(member)).names
                return next((f'code ({found}) in it' for found in sorted(names) if not _PICKLED.fullmatch(found)), None)
    return 'weights of another kind'


_OPERATOR = re.compile(r'torch\.ops\.(aten|torchvision)\.(?!from_file\b)\w+\.\w+|_operator\.'
                       r'(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|getitem)')
_FORMULA = re.compile(r"[\w\s()+*/%<>=!,'-]*")
_WORDS = {'Symbol', 'Integer', 'Float', 'Rational', 'Add', 'Mul', 'Pow', 'Max', 'Min', 'Mod', 'FloorDiv', 'CeilDiv',
          'CeilToInt', 'FloorToInt', 'IntTrueDiv', 'PythonMod', 'CleanDiv', 'Eq', 'Ne', 'Ge', 'Le', 'Gt', 'Lt', 'And',
          'Or', 'Not', 'Equality', 'Unequality', 'GreaterThan', 'LessThan', 'StrictGreaterThan', 'StrictLessThan',
          'positive', 'integer', 'nonnegative', 'real', 'evaluate', 'True', 'False', 'and', 'or', 'not', 'max', 'min'}
_SIZE_OF_INPUT = re.compile(r"L\['\w+'\](\[\d+\])*\.(size|stride)\(\)\[\d+\]")


def _is_formula(text: str) -> bool:
    """Whether text that PyTorch evaluates is of numbers and sizes only."""
    text = _SIZE_OF_INPUT.sub('0', text)
    return bool(_FORMULA.fullmatch(text)) and all(
        word in _WORDS or re.fullmatch(r'[suz]+\d+', word) for word in re.findall(r'[^\W\d]\w*', text))


def _is_structure(text: str) -> bool:
    kinds = re.findall(r'"type": *("?[\w.]+)', text)
    return all(kind in ('null', '"builtins.tuple', '"builtins.list', '"builtins.dict') for kind in kinds)


# How PyTorch takes the texts of a program, by the key that they stand under.
_TEXTS: dict[str, Callable[[str], Any]] = {
    'target': _OPERATOR.fullmatch, 'as_operator': _OPERATOR.fullmatch, 'expr_str': _is_formula,
    'guards_code': _is_formula, 'in_spec': _is_structure, 'out_spec': _is_structure,
    # values, and what is shown to people
    'as_string': bool, 'as_strings': bool, 'stack_trace': bool, 'nn_module_stack': bool, 'torch_fn': bool,
    'source_fn_stack': bool, 'from_node': bool,
}
_NAME = re.compile(r'[\w.:+-]*')
_OBJECTS = ('as_custom_obj', 'as_script_object', 'custom_obj', 'treespec_namedtuple_fields', 'custom')


def _in_json(node: Any, key: str = '') -> str | None:
    """What is in a program's description that PyTorch would execute or import, and mmone's exports do not have."""
    if key in _OBJECTS and node:
        return f'{key} ({str(node)[:80]})'
    if isinstance(node, str):
        return None if _TEXTS.get(key, _NAME.fullmatch)(node) or not node else f'{key} {node[:80]!r}'
    if isinstance(node, dict):
        if node.get('use_pickle'):
            return 'pickled weights'
        return next(filter(None, (_in_json(value, name) for name, value in node.items())), None)
    if isinstance(node, list):
        return next(filter(None, (_in_json(value, key) for value in node)), None)
    return None


_CHECKS: dict[str, Callable[[Path], str | None]] = {
    '.onnx': _in_onnx, '.mlpackage': _in_coreml, '.pt': _in_torchscript, '.pt2': _in_program}


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _texts(child)


# What a file says of itself


def read_metadata(text: str | None, path: Path) -> dict:
    """The metadata of a file, from the text in it.

    Raises:
        InputError: If mmone did not write it, or the file was changed since.
    """
    meta = parse(text, path)
    check_metadata(meta, path)
    if digest(path, meta['sha256']) != meta['sha256']:
        raise InputError(f'{path} was changed since it was exported (its SHA-256 is not the one '
                         'written in it): export it again')
    return meta


_MOST = 1 << 16  # pixels of an edge


def check_metadata(meta: dict, path: Path) -> None:
    """Raise InputError unless the metadata of a file have the types that exports write: other parts act by them."""
    try:
        wrong = next((key for key, is_right in _METADATA.items() if not is_right(meta[key])), None)
        wrong = wrong or next((key for key, is_right in _OPTIONAL.items() if not is_right(meta.get(key))), None)
    except (KeyError, TypeError, AttributeError) as error:
        wrong = str(error)
    if wrong:
        raise InputError(f'{path} has {KEY} metadata that no export writes ({wrong}): export it again')


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_edge(value: Any) -> bool:
    return type(value) is int and 0 < value <= _MOST


def _is_list(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


def _is_plain(value: Any) -> bool:
    """Whether a value can be nothing that a registry builds."""
    return value is None or isinstance(value, (str, bool)) or _is_number(value) or _is_list(value, _is_number)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_input(value: dict) -> bool:
    colours = len(value['mean'])
    return (_is_edge(value['height']) and _is_edge(value['width']) and value['dtype'] in ('uint8', 'float32')
            and _is_list(value['dynamic'], lambda axis: axis in ('batch', 'hw'))
            and _is_list(value['mean'], _is_number) and len(value['std']) == colours > 0
            and _is_list(value['std'], lambda number: _is_number(number) and number != 0))


_CHOICES = dict(interpolation=('nearest', 'bilinear', 'bicubic', 'area', 'lanczos', 'box', 'hamming'),
                backend=('cv2', 'pillow'), edge=('short', 'long', 'width', 'height'))


def _is_transform(step: dict) -> bool:
    sizes = [size for key in ('scale', 'crop_size') if (size := step.get(key)) is not None]
    plain = {key: value for key, value in step.items() if key != 'pad_cfg'}
    return (step['type'] in TRANSFORMS and all(map(_is_plain, plain.values()))
            and all(_is_edge(size) or _is_list(size, _is_edge) and len(size) == 2 for size in sizes)
            and all(step[key] in choices for key, choices in _CHOICES.items() if key in step)
            and ('pad_cfg' not in step or step['pad_cfg'].get('type') == 'Pad'
                 and all(map(_is_plain, step['pad_cfg'].values()))))


def _is_plain_dict(value: Any) -> bool:
    return value is None or isinstance(value, dict) and all(map(_is_plain, value.values()))


_MOST_ANCHORS = 1 << 22


def _is_decoding(how: dict) -> bool:
    levels = how['levels']
    return (_is_list(levels, _is_level) and len(levels) > 0 and all(
                _is_list(how[key], _is_number) and len(how[key]) == 4 for key in ('means', 'stds'))
            and sum(math.prod(level['size']) * len(level['anchors']) for level in levels) <= _MOST_ANCHORS
            and _is_edge(how['classes']) and _is_edge(how['max_per_img'])
            and all(type(how[key]) is bool for key in ('sigmoid', 'class_agnostic'))
            and all(_is_number(how[key]) for key in ('nms_pre', 'min_size', 'score_thr', 'iou_threshold')))


def _is_level(level: dict) -> bool:
    return (all(_is_list(level['size'], _is_edge) and len(level[key]) == 2 for key in ('size', 'stride'))
            and _is_list(level['stride'], _is_number) and len(level['anchors']) > 0
            and _is_list(level['anchors'], lambda anchor: _is_list(anchor, _is_number) and len(anchor) == 4))


_METADATA: dict[str, Callable[[Any], bool]] = dict(
    task=lambda task: task in ('classification', 'detection', 'segmentation'),
    classes=lambda names: _is_list(names, _is_text), outputs=lambda names: _is_list(names, _is_text),
    input=_is_input, pipeline=lambda steps: _is_list(steps, _is_transform))
_OPTIONAL: dict[str, Callable[[Any], bool]] = dict(
    reading=_is_plain_dict, decision=_is_plain_dict, int8=_is_plain_dict, weights=_is_plain,
    boxes=lambda how: how is None or _is_decoding(how),
    palette=lambda colours: colours is None or _is_list(colours, lambda colour: _is_list(colour, _is_number)))
