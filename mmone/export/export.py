"""From a config and a checkpoint to one file that runs without PyTorch, checked before it is there."""
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmone.apis import get_model
from mmone.config import dataset_of, native_shape, type_name
from mmone.errors import InputError
from mmone.files import check_output
from mmone.runtime import Runtime
from mmone.runtime import model as runtime
from mmone.runtime.images import IMAGES, TRANSFORMS, read_image, resize
from mmone.version import __version__

from .compare import Difference, answers, compare
from .formats import FORMATS, get_format
from .graph import GRAPHS, Graph, normalization

CHECKED_IMAGES = 8
DYNAMIC = ('batch', 'hw')
# Parts of a pipeline that do not change an image: reading it, what is drawn on it, and packing.
_READERS = ('LoadImageFromFile', 'LoadAnnotations', 'PackInputs', 'PackDetInputs', 'PackSegInputs')


class ExportReport(NamedTuple):
    """What was exported.

    Attributes:
        path (Path): The file, or Core ML's folder.
        size (int): Bytes.
        operators (Counter): How often each operator occurs.
        difference (Difference | None): From PyTorch; None where this machine cannot compute the
            format.
        images (str): What it was compared on.
        meta (dict): What the file says of itself.
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
            f'{self.path}: {self.size / 2**20:.2f} MiB, {self.meta["task"]}, {given["dtype"]} RGB '
            f'{given["height"]}x{given["width"]}{free}, {len(self.meta["classes"])} classes',
            f'operators: {", ".join(f"{kind} {n}" for kind, n in self.operators.most_common())}',
            f'normalization: {self.meta["normalization"]}', checked])


def export_model(model: str | Path | Config,
                 weights: str,
                 out: str | Path,
                 format: str | None = None,
                 shape: tuple[int, int] | None = None,
                 dynamic: Sequence[str] = (),
                 half: bool = False,
                 raw: bool = False,
                 logits: bool = False,
                 images: str | None = None,
                 overwrite: bool = False,
                 trust: bool = False) -> ExportReport:
    """Export a model, compare it with PyTorch, and only then give the file its name.

    Args:
        model (str | Path | Config): A name of the model zoo, a config file or a config.
        weights (str): Checkpoint in either form.
        out (str | Path): The file to write; OpenVINO writes a ``.bin`` beside its ``.xml``.
        format (str, optional): A name of :data:`FORMATS`. Defaults to what ``out`` ends in.
        shape (tuple[int, int], optional): Height and width of the input. Defaults to what the
            config's test pipeline gives.
        dynamic (Sequence[str]): What is left free, of ``'batch'`` and ``'hw'``. Defaults to
            neither.
        half (bool): float16 weights and network. Defaults to False.
        raw (bool): Take normalized float images instead of uint8. Defaults to False.
        logits (bool): Also give the logits. Defaults to False.
        images (str, optional): Folder of images to compare on. Defaults to the config's test
            data where they are, else generated images.
        overwrite (bool): Replace ``out``. Defaults to False.
        trust (bool): Allow a checkpoint that can run code. Defaults to False.

    Raises:
        InputError: If something given cannot be used, or the answers differ.
    """
    out = Path(out)
    name = _format_name(out, format)
    writer = get_format(name)
    beside = [out.with_suffix('.bin')] if name == 'openvino' else []
    if not (overwrite and name == 'coreml' and (out / 'Manifest.json').is_file()):
        for path in (out, *beside):
            check_output(path, overwrite)
    unknown = [axis for axis in dynamic if axis not in DYNAMIC]
    if unknown:
        raise InputError(f'--dynamic {unknown[0]}: expected {" or ".join(DYNAMIC)}, or both with a '
                         'comma between')
    net = get_model(model, weights, 'cpu', trust=trust)
    scope = net.cfg.get('default_scope')
    if scope not in GRAPHS:
        raise InputError(f'a model of {scope} cannot be exported: expected one of {", ".join(GRAPHS)}')
    task, kind = GRAPHS[scope]
    files, place = _image_files(net.cfg, images)
    shape, pipeline = prepare(net.cfg, shape, 'hw' in dynamic, files)
    _check_shape(net, shape)
    graph = kind(net, shape, dynamic_hw='hw' in dynamic, raw=raw, half=half and writer.HALF,
                 logits=logits).eval()
    meta = dict(
        version=runtime.VERSION, sha256=runtime.NO_DIGEST, mmone=__version__, task=task,
        classes=_class_names(net), pipeline=pipeline, input=_describe_input(net, shape, dynamic, raw),
        outputs=list(graph.outputs), normalization=_describe_normalization(graph, raw), half=half,
        source=Path(weights).name, source_sha256=_sha256(weights), palette=_palette(net))

    example = torch.zeros(2 if 'batch' in dynamic else 1, 3, *shape,
                          dtype=torch.float32 if raw else torch.uint8)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.absolute().parent))
    except OSError as error:
        raise InputError(f'cannot write {out}: {error.strerror}') from None
    try:
        partial = folder / out.name
        try:
            with torch.no_grad():
                operators = writer.write(graph, example, dynamic, half, json.dumps(meta), partial)
        except InputError:
            raise
        except Exception as error:  # whatever a converter raises for what its format has not
            reason = (str(error).strip().splitlines() or [''])[-1]
            raise InputError(f'the model cannot be written as {name} ({type(error).__name__}: '
                             f'{reason}): its operators must be ones of that format') from error
        meta['sha256'] = seal(partial)
        loaded = Runtime(partial)
        difference, on = None, ''
        if name != 'coreml' or _computes_coreml():
            samples, on = _samples(files, place, shape)
            difference = _compare(net, loaded, samples)
            if not difference.within:
                raise InputError(f'the {name} model answers otherwise than PyTorch on {on} '
                                 f'({difference.text}): nothing was written')
        size = sum(file.stat().st_size for file in folder.rglob('*') if file.is_file())
        for path in (*beside, out):
            _move(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ExportReport(out, size, operators, difference, on, meta)


def _format_name(out: Path, given: str | None) -> str:
    by_suffix = {suffix: name for name, suffix in FORMATS.items()}
    if given is not None and given not in FORMATS:
        raise InputError(f'--format {given}: expected one of {", ".join(FORMATS)}')
    if out.suffix not in by_suffix or given not in (None, by_suffix[out.suffix]):
        wanted = FORMATS[given] if given else ', '.join(FORMATS.values())
        raise InputError(f'--out {out}: expected a name in {wanted}'
                         + (f' for --format {given}' if given else ''))
    return by_suffix[out.suffix]


def prepare(cfg: Config, shape: tuple[int, int] | None, dynamic_hw: bool,
            files: Sequence[Path] = ()) -> tuple[tuple[int, int], list[dict]]:
    """The size of the input, and the transforms that bring an image to it.

    Args:
        cfg (Config): Its test pipeline is what counts.
        shape (tuple[int, int], optional): The size that is wanted. Defaults to what the pipeline
            gives; where it takes images as they are, to the first test image's, or if there is
            none to what was trained on.
        dynamic_hw (bool): Whether the size is left free.
        files (Sequence[Path]): Test images.

    Returns:
        tuple: (height, width), and those of the config's test pipeline that change images, with a
        resize to a fixed size where they alone do not give it.

    Raises:
        InputError: If the config does not say the size, or has a transform that only OpenMMLab
            can do.
    """
    dataset = dataset_of(cfg.get('test_dataloader'))
    transforms = []
    for transform in dataset.get('pipeline') or []:
        kind = type_name(transform)
        if kind in _READERS:
            continue
        if kind not in TRANSFORMS or (kind == 'Resize' and 'scale' not in transform):
            raise InputError(f'the test pipeline has the transform {kind}, which runs in OpenMMLab '
                             f'only: expected {", ".join(TRANSFORMS)}')
        transform = dict(transform, type=kind)
        for key in ('scale', 'crop_size'):
            value = transform.get(key)
            if isinstance(value, int) and kind != 'ResizeEdge':
                value = (value, value)
            if value is not None:
                transform[key] = value if isinstance(value, int) else list(value)
        transforms.append(transform)
    last = transforms[-1] if transforms else {}
    fixed = None
    if last.get('type') == 'CenterCrop':
        fixed = tuple(last['crop_size'][::-1])
    elif last.get('type') == 'Resize' and not last.get('keep_ratio'):
        fixed = tuple(last['scale'][::-1])
    as_it_is = read_image(files[0]).shape[:2] if files and not transforms else None
    size = shape or fixed or as_it_is or native_shape(cfg)
    if fixed != size and (fixed or not dynamic_hw):
        if last.get('type') in ('Resize', 'CenterCrop'):
            transforms.pop()
        if last.get('type') == 'CenterCrop':
            # Seen from as near as before: the edge that is resized keeps its ratio to the crop.
            transforms = [dict(step, scale=round(step['scale'] * max(size) / max(fixed)))
                          if step['type'] == 'ResizeEdge' else step for step in transforms]
            transforms.append(dict(last, crop_size=list(size[::-1])))
        else:
            transforms.append(dict(type='Resize', scale=list(size[::-1]), keep_ratio=False))
    return size, transforms


def _check_shape(net: nn.Module, shape: tuple[int, int]) -> None:
    preprocessor = net.data_preprocessor
    divisor = getattr(preprocessor, 'pad_size_divisor', 1)
    if getattr(preprocessor, 'test_cfg', None):
        divisor = preprocessor.test_cfg.get('size_divisor', divisor)
    if min(shape) < 1 or any(edge % divisor for edge in shape):
        wanted = ' '.join(str(max(1, -(-edge // divisor)) * divisor) for edge in shape)
        raise InputError(f'--shape {shape[0]} {shape[1]}: expected multiples of {divisor}, to which '
                         f'the data_preprocessor pads, e.g. --shape {wanted}')


def _class_names(net: nn.Module) -> list[str]:
    names = net.dataset_meta.get('classes')
    heads = [getattr(net, name, None) for name in ('head', 'bbox_head', 'decode_head')]
    count = next((head.num_classes for head in heads if hasattr(head, 'num_classes')), 0)
    return list(names) if names and len(names) == count else [str(i) for i in range(count)]


def _palette(net: nn.Module) -> list | None:
    palette = net.dataset_meta.get('palette')
    return [list(colour) for colour in palette] if isinstance(palette, (list, tuple)) else None


def _describe_input(net: nn.Module, shape: tuple[int, int], dynamic: Sequence[str],
                    raw: bool) -> dict:
    mean, std = (value.flatten().tolist() for value in normalization(net.data_preprocessor))
    return dict(name='images', layout='NCHW', colour='RGB', dtype='float32' if raw else 'uint8',
                height=shape[0], width=shape[1], dynamic=[axis for axis in DYNAMIC if axis in dynamic],
                mean=mean, std=std)


def _describe_normalization(graph: Graph, raw: bool) -> str:
    if raw:
        return "the caller's (--raw)"
    if graph.mean is None:
        return 'none'
    if graph.scale is None:
        return ('the scale is in the first convolution, the mean a Sub before it: that convolution '
                'pads with zeros, which are not the mean before the subtraction')
    return 'a Sub and a Mul before the network'


def _sha256(path: str) -> str | None:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else None


def seal(path: Path) -> str:
    """Write an exported model's digest into it, where zeros are; returns it."""
    zeros, found = runtime.NO_DIGEST.encode(), runtime.digest(path).encode()
    if path.suffix in ('.pt', '.pt2'):
        sealed = path.with_name(f'sealed{path.suffix}')
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(sealed, 'w') as copy:
            for entry in archive.infolist():
                copy.writestr(entry, archive.read(entry).replace(zeros, found))
        os.replace(sealed, path)
    else:
        for file in path.rglob('*') if path.is_dir() else [path]:
            if file.is_file():
                content = file.read_bytes()
                if zeros in content:
                    file.write_bytes(content.replace(zeros, found))
    return found.decode()


def _computes_coreml() -> bool:
    import platform
    return platform.system() == 'Darwin'


def _image_files(cfg: Config, folder: str | None) -> tuple[list[Path], Path]:
    """Some images to compare on, and the folder they are in: the one given, or the test data's."""
    dataset = dataset_of(cfg.get('test_dataloader'))
    prefix = dataset.get('data_prefix') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path') or prefix.get('img') or ''
    root = dataset.get('data_root') or ''
    place = Path(folder) if folder else Path(root, prefix)
    found = (sorted(file for file in place.rglob('*') if file.suffix.lower() in IMAGES)
             if folder or root or prefix else [])
    if folder and not found:
        raise InputError(f'--images {folder}: there are no images')
    return found[::max(1, len(found) // CHECKED_IMAGES)][:CHECKED_IMAGES], place


def _samples(files: Sequence[Path], place: Path,
             shape: tuple[int, int]) -> tuple[list[np.ndarray], str]:
    """Images to compare on, each (H, W, 3) uint8 in RGB, and what they are."""
    if files:
        return [read_image(file) for file in files], f'{len(files)} images of {place}'
    from mmone.datasets.shapes import make_sample
    size = max(64, *shape)
    return ([make_sample(0, index, size).image for index in range(CHECKED_IMAGES)],
            f'{CHECKED_IMAGES} generated images')


def _compare(net: nn.Module, loaded: Runtime, samples: Sequence[np.ndarray]) -> Difference:
    free = loaded.meta['input']['dynamic']
    prepared = [loaded.prepare(image) for image in samples]
    if 'hw' in free:  # the second half in another size
        half = len(prepared) // 2
        prepared[half:] = [
            resize(image, tuple(edge + 32 for edge in image.shape[:2])) for image in prepared[half:]]
    batches = [[image] for image in prepared]
    if 'batch' in free:  # batches of several sizes
        cuts = [0, 1, 3, len(prepared)]
        batches = [prepared[a:b] for a, b in zip(cuts, cuts[1:])]
        if len({image.shape for image in prepared}) > 1:
            batches = [[image] * count for image, count in zip(prepared, itertools.cycle((1, 2, 3)))]
    expected = [answers(net, np.stack([image.transpose(2, 0, 1) for image in batch]))
                for batch in batches]  # yapf: disable
    given = [loaded(np.stack([loaded.normalized(image) for image in batch])) for batch in batches]
    return compare(loaded.task, expected, given, loaded.meta['half'])


def _move(source: Path, target: Path) -> None:
    if target.is_dir():  # a folder is not replaced in one step
        old = Path(f'{source}.old')
        os.replace(target, old)
    os.replace(source, target)
