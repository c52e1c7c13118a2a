"""A model becomes one file that runs without PyTorch, checked before it gets its name."""
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor

from mmone.convert.reparameterize import deployed_copy
from mmone.errors import InputError, cause
from mmone.files import check_output, publish, scratch_folder, sha256
from mmone.formats import FORMATS, SUFFIXES, format_of, weights_of
from mmone.pipeline import normalization
from mmone.runtime import Runtime, coreml, metadata
from mmone.version import __version__

from .compare import Difference, difference
from .formats import get_writer
from .graph import GRAPHS, Graph, input_channels
from .heads import check_supported
from .inputs import COMPARED_IMAGES, check_shape, image_files, images_to_compare_on, prepare, reading
from .quantize import Int8

DYNAMIC = ('batch', 'hw')
WEIGHTS = ('int8', 'palette')
FORMATS_IN_INT8 = ('onnx', 'openvino', 'ncnn', 'litert')
COLOURS = {1: 'grey', 3: 'RGB'}
_CONVERTERS = {'mmone', *(package for kind in FORMATS.values() for package in kind.written_with), 'torch'}


class ExportReport(NamedTuple):
    """What was exported.

    Attributes:
        path (Path): The file, or Core ML's folder.
        size (int): Bytes.
        operators (Counter): How often each operator occurs.
        difference (Difference | None): From PyTorch; None where this machine cannot compute the
            format.
        images (str): The images that it was compared on, in words.
        meta (dict): The metadata in the file.
    """
    path: Path
    size: int
    operators: Counter
    difference: Difference | None
    images: str
    meta: dict

    def __str__(self) -> str:
        given = self.meta['input']
        free = f', dynamic {" and ".join(given["dynamic"])}' if given['dynamic'] else ''
        checked = (f'against PyTorch on {self.images}: {self.difference.text}' if self.difference else
                   'not compared with PyTorch: this format computes on macOS only; export it there '
                   'too, where it is compared')
        return '\n'.join([
            f'{self.path}: {self.size / 2**20:.2f} MiB, {self.meta["task"]}, {given["dtype"]} {given["colour"]} '
            f'{given["height"]}x{given["width"]}{free}, {len(self.meta["classes"])} classes',
            f'operators: {", ".join(f"{kind} {n}" for kind, n in self.operators.most_common())}',
            f'normalization: {self.meta["normalization"]}', *self._quantized(), checked])

    def _quantized(self) -> list[str]:
        int8 = self.meta.get('int8')
        if weights := self.meta.get('weights'):
            return [f'weights stored as {weights}: a smaller file, not a faster one, it computes in float']
        if not int8:
            return []
        kept = f', in float: {int8["in_float"]}' if int8['in_float'] else ', all layers'
        return [f'INT8, calibrated on {int8["images"]} images{kept}']


def export_model(model: BaseModel,
                 out: str | Path,
                 format: str | None = None,
                 shape: tuple[int, int] | None = None,
                 dynamic: Sequence[str] = (),
                 half: bool = False,
                 raw: bool = False,
                 logits: bool = False,
                 images: str | Path | None = None,
                 source: str | Path | None = None,
                 overwrite: bool = False,
                 int8: Int8 | None = None,
                 weights: str | None = None) -> ExportReport:
    """Export a model, compare it with PyTorch, and only then give the file its name.

    Args:
        model (BaseModel): From :func:`mmone.apis.get_model`, in either form; it is left as it is.
        out (str | Path): The file to write; OpenVINO and ncnn write a ``.bin`` beside it.
        format (str, optional): A name in :data:`mmone.formats.FORMATS`. Defaults to the one
            that the suffix of ``out`` stands for.
        shape (tuple[int, int], optional): Height and width of the input. Defaults to the size that
            the config's test pipeline gives.
        dynamic (Sequence[str]): The sizes that are left free, of ``'batch'`` and ``'hw'``. Defaults
            to neither.
        half (bool): float16 weights and network. Defaults to False.
        raw (bool): Take normalized float images instead of uint8. Defaults to False.
        logits (bool): Also give the logits. Defaults to False.
        images (str | Path, optional): Folder of images to compare on. Defaults to the config's test
            data where they are, else generated images.
        source (str | Path, optional): The checkpoint that the weights are from, for the metadata.
        overwrite (bool): Replace ``out``. Defaults to False.
        int8 (Int8, optional): Quantize it so; ``images`` is not used then. Defaults to float.
        weights (str, optional): Of Core ML: store the weights as ``'int8'``, or as a ``'palette'`` of 64 values. That
            makes the file smaller, not the model faster: it computes in float. Defaults to float.

    Raises:
        InputError: If something given cannot be used, or the answers differ.
    """
    out = Path(out)
    name = _format_name(out, format)
    writer = get_writer(name)
    _mend_what_was_killed(out)
    _check_outputs(out, overwrite)
    _check_dynamic(dynamic, name)
    if weights and (name != 'coreml' or weights not in WEIGHTS):
        raise InputError(f'weights as {weights!r} in {name}: expected {" or ".join(WEIGHTS)}, in Core ML',
                         parameter='weights')
    if int8:
        _check_int8(int8, name, dynamic, half, raw)
        images = int8.images
    check_supported(model)
    task, build_graph = GRAPHS[model.cfg.default_scope]
    model = deployed_copy(model)[0].cpu()
    files, place = image_files(model.cfg, images, None if int8 else COMPARED_IMAGES)
    shape, pipeline = prepare(model.cfg, shape, 'hw' in dynamic, files)
    check_shape(model, shape, 'hw' in dynamic)
    graph = build_graph(model, shape, dynamic_hw='hw' in dynamic, raw=raw, half=half and writer.HALF,
                        logits=logits).eval()
    meta = dict(
        version=metadata.VERSION, sha256=metadata.NO_DIGEST, mmone=__version__, task=task,
        classes=_class_names(model), reading=reading(model.cfg), pipeline=pipeline,
        input=_describe_input(model, shape, dynamic, raw), outputs=list(graph.outputs), decision=graph.decision,
        normalization=_describe_normalization(graph, raw), half=half, **_describe_source(source),
        palette=_palette(model), weights=weights, **(writer.describe(graph) if hasattr(writer, 'describe') else {}))

    with scratch_folder(out) as folder:
        made = folder / out.name
        if int8:
            operators, agreed, compared_on = _quantize(name, graph, shape, dynamic, meta, made, model, files, int8)
            found: Difference | None = agreed
        else:
            compared = images_to_compare_on(model.cfg, files, place, shape, input_channels(model), raw)
            operators = _write(name, graph, shape, dynamic, meta, made)
            meta['sha256'] = metadata.seal(made)
            found, compared_on = _compare(name, made, model, *compared)
        size = sum(file.stat().st_size for file in folder.rglob('*') if file.is_file())
        _publish(folder, out)
    return ExportReport(out, size, operators, found, compared_on, meta)


def _format_name(out: Path, given: str | None) -> str:
    if given is not None and given not in FORMATS:
        raise InputError(f'unknown format {given!r}: expected one of {", ".join(FORMATS)}', parameter='format')
    found = format_of(out)
    if found is None or given not in (None, found):
        wanted = f'{FORMATS[given].suffix} for {given}' if given else ', '.join(SUFFIXES)
        raise InputError(f'cannot export to {out}: expected a name in {wanted}', parameter='out')
    return found


def _outputs(out: Path) -> list[Path]:
    """The files of an export, the one that is opened last."""
    weights = weights_of(out)
    return [weights, out] if weights else [out]


def _publish(folder: Path, out: Path) -> None:
    """Give the files in a scratch folder their names, the one that is opened last.

    Two files cannot get their names in one step, and one of the new and one of the old are no model. So the
    old one that is opened goes first: at no moment there is one that is not whole. What a process that is
    killed in between leaves is a file that nothing opens; :func:`_mend` knows it by the scratch folder.
    """
    first, *last = _outputs(out)
    try:
        if last and out.exists():
            os.replace(out, _set_aside(folder, out))
        for path in (first, *last):
            publish(folder / path.name, path)
    except BaseException:
        _mend(folder, out)
        raise


def _set_aside(folder: Path, out: Path) -> Path:
    return folder / f'before{out.suffix}'


def _mend(folder: Path, out: Path) -> None:
    """Undo what was done with only one of two files.

    Where the first has no second, that is in the scratch folder. The old ones get both their names back; of
    new ones the first is removed. A first file that belongs to neither is somebody's own.
    """
    first, *last = _outputs(out)
    if not last or out.exists() or not first.is_file():
        return
    before, made = _set_aside(folder, out), folder / out.name
    if before.is_file() and metadata.belong_together(before, first):
        os.replace(before, out)
    elif made.is_file() and metadata.belong_together(made, first):
        first.unlink()


def _mend_what_was_killed(out: Path) -> None:
    first, *last = _outputs(out)
    if last and first.is_file() and not out.exists():
        with scratch_folder(out, lambda folder: _mend(folder, out)):
            pass


def _check_outputs(out: Path, overwrite: bool) -> None:
    if out.suffix == FORMATS['coreml'].suffix and (out / 'Manifest.json').is_file():  # Core ML's are folders
        if not overwrite:
            raise InputError(f'{out} exists: give another name, or allow it to be replaced', parameter='overwrite')
        return
    for path in _outputs(out):
        check_output(path, overwrite)
    second, others = weights_of(out), (out.with_suffix(kind.suffix) for kind in FORMATS.values() if kind.weights)
    other = next((other for other in others if other != out and other.exists()), None)
    if second and other and second.exists():
        raise InputError(f'{second} belongs to {other}: give another name', parameter='out')


def _check_dynamic(dynamic: Sequence[str], name: str) -> None:
    unknown = [axis for axis in dynamic if axis not in DYNAMIC]
    if unknown:
        raise InputError(f'{unknown[0]!r} cannot be left free: expected {" or ".join(DYNAMIC)}, or both',
                         parameter='dynamic')
    if dynamic and FORMATS[name].fixed:
        raise InputError(f'a {name} model is written for one size and batch 1: export one for each size',
                         parameter='dynamic')


def _write(name: str, graph: Graph, shape: tuple[int, int], dynamic: Sequence[str], meta: dict,
           path: Path) -> Counter:
    """Write a graph in a format; returns how often each operator occurs."""
    example = _example(shape, dynamic, meta)
    try:
        with torch.no_grad():
            compressed = dict(weights=meta['weights']) if meta['weights'] else {}
            return get_writer(name).write(graph, example, dynamic, meta['half'], json.dumps(meta), path, **compressed)
    except InputError:
        raise
    except Exception as error:  # whatever a converter raises for what its format has not
        raise InputError(f'the model cannot be written as {name} ({type(error).__name__}: {cause(error)}'
                         f'{_place(error)}): its operators must be ones of that format') from error


def _example(shape: tuple[int, int], dynamic: Sequence[str], meta: dict) -> Tensor:
    dtype, channels = getattr(torch, meta['input']['dtype']), len(meta['input']['mean'])
    return torch.zeros(2 if 'batch' in dynamic else 1, channels, *shape, dtype=dtype)


def _check_int8(int8: Int8, name: str, dynamic: Sequence[str], half: bool, raw: bool) -> None:
    int8.check()
    if name not in FORMATS_IN_INT8:
        raise InputError(f'{name} cannot be written in INT8: expected a name in '
                         f'{", ".join(FORMATS[kind].suffix for kind in FORMATS_IN_INT8)}', parameter='out')
    if half or raw or 'hw' in dynamic:
        raise InputError('a model in INT8 is of one size, takes uint8 images, and is float32 where it is not INT8',
                         parameter='dynamic' if dynamic else None)


def _quantize(name: str, graph: Graph, shape: tuple[int, int], dynamic: Sequence[str], meta: dict, path: Path,
              model: BaseModel, files: Sequence[Path], int8: Int8) -> tuple[Counter, Difference, str]:
    """Write a graph in INT8; returns how often each operator occurs, the difference and the images it is on."""
    get_writer('onnx')
    writer = get_writer(name)
    import onnx

    from .quantize.int8 import sample, write_int8
    images = sample(model, files, meta['pipeline'], int8)
    source = path.with_name('float.onnx')
    computed = writer.as_computed(graph) if hasattr(writer, 'as_computed') else graph
    _write('onnx', computed, shape, dynamic, meta, source)
    plain = onnx.load(str(source))
    operators: Counter = Counter()

    def write(made, kept: Sequence[str]) -> Runtime:
        nonlocal operators
        meta['sha256'] = metadata.NO_DIGEST
        meta['int8'] = dict(images=len(images.calibrated), ranges=int8.ranges, rounding=int8.rounding,
                            equalized=int8.exponent, corrected=int8.correct, in_float=', '.join(kept), seed=int8.seed)
        operators = writer.write_int8(made, computed, _example(shape, dynamic, meta), json.dumps(meta), path)
        meta['sha256'] = metadata.seal(path)
        return Runtime(path)

    def write_float() -> Runtime:
        other = path.with_name(f'float{path.suffix}')
        _write(name, graph, shape, dynamic, dict(meta, sha256=metadata.NO_DIGEST), other)
        metadata.seal(other)
        return Runtime(other)

    _, _, found = write_int8(plain, images, meta['task'], model, int8, write, write_float, writer.SCHEME)
    for other in path.parent.glob('float.*'):
        other.unlink()
    return operators, found, images.described


def _place(error: Exception) -> str:
    """Where in the model's own code an exception was raised, if it was there."""
    place, step = '', error.__traceback__
    while step is not None:
        package = step.tb_frame.f_globals.get('__name__', '').partition('.')[0]
        if package not in _CONVERTERS and package not in sys.stdlib_module_names:
            place = f'; at {step.tb_frame.f_code.co_filename}:{step.tb_lineno}'
        step = step.tb_next
    return place


def _compare(name: str, path: Path, model: BaseModel, images: Sequence[np.ndarray],
             description: str) -> tuple[Difference | None, str]:
    """The difference from PyTorch on some images, and their description, where the format computes here."""
    try:
        exported = Runtime(path)
    except InputError as error:
        reason = cause(error.__cause__) if error.__cause__ else error.message
        raise InputError(f'the model cannot be computed as {name} ({reason}): its operators must be ones of that '
                         'format and of its runtime') from error
    if name == 'coreml' and not coreml.COMPUTES_HERE:
        return None, ''
    found = difference(model, exported, images)
    if not found.within:
        raise InputError(f'the {name} model answers otherwise than PyTorch on {description} ({found.text}): '
                         'nothing was written')
    return found, description


def _class_names(model: BaseModel) -> list[str]:
    names = model.dataset_meta.get('classes')
    heads = [getattr(model, name) for name in ('head', 'bbox_head', 'decode_head') if hasattr(model, name)]
    count = next((head.num_classes for head in heads if hasattr(head, 'num_classes')), 0)
    return list(names) if names and count in (0, len(names)) else [str(i) for i in range(count)]


def _palette(model: BaseModel) -> list | None:
    palette = model.dataset_meta.get('palette')
    return [list(colour) for colour in palette] if isinstance(palette, (list, tuple)) else None


def _describe_source(source: str | Path | None) -> dict:
    if source is None:
        return dict(source=None, source_sha256=None)
    path = Path(source)
    return dict(source=path.name, source_sha256=sha256(path) if path.is_file() else None)


def _describe_input(model: BaseModel, shape: tuple[int, int], dynamic: Sequence[str], raw: bool) -> dict:
    channels = input_channels(model)
    mean, std = (value.flatten().tolist() for value in normalization(model.data_preprocessor, channels))
    return dict(name='images', layout='NCHW', colour=COLOURS.get(channels, f'{channels} channels'),
                dtype='float32' if raw else 'uint8', height=shape[0], width=shape[1],
                dynamic=[axis for axis in DYNAMIC if axis in dynamic], mean=mean, std=std)


def _describe_normalization(graph: Graph, raw: bool) -> str:
    if raw:
        return "the caller's"
    if graph.mean is None:
        return 'none'
    if graph.scale is None:
        return ('the scale is in the first convolution, the mean a Sub before it: that convolution '
                'pads with zeros, which are not the mean before the subtraction')
    return 'a Sub and a Mul before the network'
