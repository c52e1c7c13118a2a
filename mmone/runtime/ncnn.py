"""ncnn: computes ``.param`` with its ``.bin``.

A ``.param`` is text: a magic number, the counts of layers and blobs, a line for each layer, and one more line, which
ncnn does not read: it ends at its count of layers. That line looks like a layer, so that other readers take it for one
without inputs and outputs, and has the metadata.

ncnn has neither non-maximum suppression for any detector nor an operator for the largest of several channels: a
detector's graph ends in ``logits`` (anchors, classes) and ``deltas`` (anchors, 4), a segmentor's in ``logits``
(classes, H, W) of the input's size, and what is left to do is done here.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmone.formats import weights_of

from .boxes import Decoder, sigmoid
from .guard import read_metadata
from .metadata import KEY

MAGIC = '7767517'
INPUT = 'images'
_METADATA = f'{KEY} metadata 0 0 '


class Layer(NamedTuple):
    """A line of a ``.param``."""
    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    parameters: list[str]

    def __str__(self) -> str:
        return ' '.join([f'{self.kind:<24} {self.name:<24} {len(self.inputs)} {len(self.outputs)}', *self.inputs,
                         *self.outputs, *self.parameters])


def raw_outputs(task: str, outputs: Sequence[str]) -> list[str]:
    """The names of the graph's outputs, by those of the final answer."""
    return dict(classification=list(outputs), detection=['logits', 'deltas'], segmentation=['logits'])[task]


def read_param(text: str) -> tuple[list[Layer], str | None]:
    """The layers of a ``.param``, and the text of its metadata, None where it has none.

    ncnn believes what it reads: counts that are not true have it write where nothing is.

    Raises:
        ValueError: If it is cut off, or no ``.param``.
    """
    magic, counts, *lines = text.splitlines() + [''] * 2
    if magic != MAGIC:
        raise ValueError(f'it does not begin with {MAGIC}')
    lines = [line for line in lines if line]
    meta = lines.pop()[len(_METADATA):] if lines and lines[-1].startswith(_METADATA) else None
    count, blobs = map(int, counts.split())
    if len(lines) != count or not text.endswith('\n'):
        raise ValueError(f'it is cut off: it has {len(lines)} of {count} layers')
    layers = [_layer(line) for line in lines]
    known: set[str] = set()
    for layer in layers:
        if not known.issuperset(layer.inputs):
            raise ValueError(f'layer {layer.name[:80]} has inputs that are none')
        known.update(layer.outputs)
    if len(known) != blobs or sum(len(layer.outputs) for layer in layers) != blobs:
        raise ValueError(f'it has {len(known)} blobs, not {blobs}')
    return layers, meta


def _layer(line: str) -> Layer:
    kind, name, inputs, outputs, *rest = line.split()
    first, last = int(inputs), int(inputs) + int(outputs)
    if not 0 <= first <= last <= len(rest) or max(map(len, (kind, name, *rest))) > 255:
        raise ValueError(f'layer {name[:80]} is none')
    return Layer(kind, name, rest[:first], rest[first:last], rest[last:])


def write_param(layers: Sequence[Layer], meta: str) -> str:
    """The text of a ``.param``."""
    blobs = sum(len(layer.outputs) for layer in layers)
    # Readers that take the last line for a layer take = for a parameter's.
    return '\n'.join([MAGIC, f'{len(layers)} {blobs}', *map(str, layers), _METADATA + meta.replace('=', '\\u003d'), ''])


def open_net(path: Path, layers: Sequence[Layer], threads: int | None = None, half: bool = False):
    """An ``ncnn.Net`` of a ``.param`` and the ``.bin`` beside it.

    Raises:
        ValueError: If ncnn has not all of its operators, or cannot read it.
    """
    import ncnn
    unknown = sorted({layer.kind for layer in layers if ncnn.layer_to_index(layer.kind) < 0})
    if unknown:  # ncnn itself would say so on standard error
        raise ValueError(f'ncnn has no operator {", ".join(unknown)}')
    net = ncnn.Net()
    if threads:  # by default as many as there are cores
        net.opt.num_threads = threads
    for name in ('use_fp16_packed', 'use_fp16_storage', 'use_fp16_arithmetic'):
        setattr(net.opt, name, half)
    net.opt.use_bf16_storage = False
    if net.load_param(str(path)) or net.load_model(str(weights_of(path))):
        raise ValueError('ncnn cannot load it')
    return net


def run(net, image: np.ndarray, outputs: Sequence[str], given: str = INPUT) -> list[np.ndarray]:
    """What a net answers to one image (C, H, W), in its blob ``given``."""
    import ncnn
    image = np.ascontiguousarray(image, np.float32)  # ncnn takes the address of this array: it has to outlive the run
    extractor = net.create_extractor()
    extractor.input(given, ncnn.Mat(image))
    answers = []
    for name in outputs:
        status, answer = extractor.extract(name)
        if status:
            raise RuntimeError(f'ncnn cannot compute {name} (status {status})')
        answers.append(np.array(answer))
    return answers


def open_model(path: Path, threads: int | None, providers: Sequence[str]) -> tuple[str | None, Callable]:
    """The text of a file's metadata, and a function from images to named outputs."""
    import ncnn  # noqa: F401  its absence is told before the file is looked into
    layers, text = read_param(path.read_text(encoding='ascii'))
    meta = read_metadata(text, path)  # before ncnn believes what it reads
    net = open_net(path, layers, threads, meta['half'])
    names = raw_outputs(meta['task'], meta['outputs'])
    finish = dict(classification=_scores, detection=_boxes, segmentation=_labels)[meta['task']](meta)

    def compute(images):
        answer = finish(*run(net, images[0], names))
        return {name: answer[name][None] for name in meta['outputs']}

    return text, compute


def _scores(meta: dict) -> Callable:
    return lambda *answers: dict(zip(meta['outputs'], answers))


def _boxes(meta: dict) -> Callable:
    return Decoder(meta['boxes'], (meta['input']['height'], meta['input']['width']))


def _labels(meta: dict) -> Callable:

    def finish(logits):
        if len(logits) == 1:
            labels = sigmoid(logits[0]) > np.float32(meta['decision']['threshold'])
        else:
            labels = _largest(logits)
        return dict(labels=labels.astype(np.int32), logits=logits)

    return finish


def _largest(logits: np.ndarray) -> np.ndarray:
    """``logits.argmax(0)``, which numpy takes several times as long for."""
    best, labels = logits[0].copy(), np.zeros(logits.shape[1:], np.int32)
    for label, values in enumerate(logits[1:], 1):
        np.copyto(labels, label, where=values > best)
        np.maximum(best, values, out=best)
    return labels
