"""A model's file in INT8: calibrated on some images, and held against the model in float on others."""
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx
from mmengine.model import BaseModel

from mmone.errors import InputError
from mmone.export.compare import Difference, agreement, answers
from mmone.export.graph import input_channels
from mmone.export.inputs import as_exported
from mmone.pipeline import ImageError, ImagePipeline
from mmone.runtime import Runtime
from mmone.runtime.images import TRANSFORMS
from mmone.runtime.model import channels_first

from . import HELD_OUT, LEAST, Int8
from .quantize import Quantized, prepare, quantize
from .schemes import QDQ, Scheme
from .sensitivity import rank

_TIMED = 30


@dataclass
class Sample:
    """Images as an exported model takes them, (C, H, W) uint8: to calibrate on, and held out to compare on."""
    calibrated: list[np.ndarray]
    held_out: list[np.ndarray]
    described: str


def sample(model: BaseModel, files: Sequence[Path], pipeline: Sequence[dict], int8: Int8) -> Sample:
    """Draw, read and prepare images.

    Args:
        model (BaseModel): What they are for.
        files (Sequence[Path]): All there are.
        pipeline (Sequence[dict]): The transforms before the model, as in the metadata.
        int8 (Int8): How many, and the seed.

    Raises:
        InputError: If too few can be read, or all are alike.
    """
    order = np.random.default_rng(int8.seed).permutation(len(files))
    held_out = min(HELD_OUT, len(files) // 5 or 1)
    reader, channels = ImagePipeline(model.cfg), input_channels(model)
    found: list[np.ndarray] = []
    skipped = []
    for i in int8.progress(order[:int8.count + held_out].tolist(), 'images'):
        try:
            image = as_exported(reader.read(files[i])['img'], files[i], channels, False)
        except ImageError as error:
            skipped.append(error.message)
            continue
        for transform in pipeline:
            image = TRANSFORMS[transform['type']](image, transform)
        found.append(np.ascontiguousarray(channels_first(image)))
    for message in skipped:
        print(f'{message}: skipped', file=sys.stderr)
    if len(found) < LEAST:
        raise InputError(f'{len(found)} images of {int8.images} can be read: expected at least {LEAST}, 100 are usual',
                         parameter='images')
    if len(found) < int8.count + held_out:
        held_out = len(found) // 5 or 1
    calibrated, others = found[held_out:], found[:held_out]
    if all(np.array_equal(image, calibrated[0]) for image in calibrated):
        raise InputError(f'the images of {int8.images} are all alike: ranges need images as different as those that '
                         'the model will see', parameter='images')
    return Sample(calibrated, others, f'{len(others)} images of {int8.images} that were not calibrated on')


def write_int8(source: onnx.ModelProto, images: Sample, task: str, model: BaseModel, int8: Int8,
               write: Callable[[Quantized, list[str]], Runtime], write_float: Callable[[], Runtime],
               scheme: Scheme = QDQ) -> tuple[Quantized, list[str], Difference]:
    """Quantize a graph, layers given back to float as far as that is asked for.

    Args:
        source (onnx.ModelProto): The float graph.
        images (Sample): From :func:`sample`.
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        model (BaseModel): What the graph is of; what it answers is what should be answered.
        int8 (Int8): How.
        write (Callable): Writes what was quantized, of which layers were kept in float, and opens it.
        write_float (Callable): Writes the float graph in the same format, and opens it.
        scheme (Scheme): How the format's runtime computes on integers. Defaults to that of ONNX Runtime.

    Returns:
        tuple[Quantized, list[str], Difference]: What was written last, the layers that stayed in float, and how far
        its answers agree.

    Raises:
        InputError: If the answers agree less than asked for; names the most sensitive layers.
    """
    network, seen = prepare(source, images.calibrated, int8.exponent, int8.seed, int8.progress)
    names = [layer.name for layer in network.layers]
    for part in int8.keep:
        if not any(part in name for name in names):
            raise InputError(f'no layer is called {part!r}: expected one of {", ".join(names)}, or a part of their '
                             'names', parameter='keep')
    kept = [name for name in names if any(part in name for part in int8.keep)]
    expected = [answers(model, image[None]) for image in images.held_out]
    ranked: list[str] = []

    def attempt(more: int) -> tuple[Quantized, list[str], Difference, Runtime]:
        keep = [*kept, *ranked[:more]]
        made = quantize(network, seen, images.calibrated, keep, int8.ranges, int8.rounding, int8.correct, int8.seed,
                        int8.progress, scheme)
        if not made.layers:
            raise InputError('all layers stay in float: there is nothing to quantize', parameter='keep')
        runtime = write(made, keep)
        found = agreement(task, expected, [runtime(image[None]) for image in images.held_out], int8.agreement)
        return made, keep, found, runtime

    made, keep, found, runtime = attempt(0)
    if int8.latency is None and (found.within or not int8.most_kept):
        return _accepted(made, keep, found, ranked, images)
    ranked += [name for name in rank(network, seen, images.calibrated, int8.ranges, int8.progress)
               if name not in kept]
    if int8.latency is not None:
        plain = write_float()
        more, last = 0, (made, keep, found)
        while _share(runtime, plain, images.held_out) <= int8.latency and more < len(ranked) - 1:
            last = (made, keep, found)
            more = min(max(1, 2 * more), len(ranked) - 1)
            made, keep, found, runtime = attempt(more)
        if (made, keep, found) != last:
            write(last[0], last[1])
        return _accepted(*last, ranked, images)
    more = 0
    while not found.within and more < min(int8.most_kept, len(ranked) - 1):
        more = min(max(1, 2 * more), int8.most_kept, len(ranked) - 1)
        made, keep, found, runtime = attempt(more)
    return _accepted(made, keep, found, ranked, images)


def _accepted(made: Quantized, keep: list[str], found: Difference, ranked: Sequence[str],
              images: Sample) -> tuple[Quantized, list[str], Difference]:
    if not found.within:
        named = f', the most sensitive layers first: {", ".join(ranked[:5])}' if ranked else ''
        raise InputError(f'in INT8 the model answers otherwise on {images.described} ({found.text}), with '
                         f'{len(keep)} layers in float{named}: allow more of them, or give more images, and such as '
                         'the model will see', parameter='agreement')
    return made, keep, found


def _share(runtime: Runtime, other: Runtime, images: Iterable[np.ndarray]) -> float:
    """The time of a file as a share of another's, side by side."""
    image = next(iter(images))[None]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TIMED):
        for each, spent in zip((runtime, other), times):
            start = perf_counter()
            each(image)
            spent.append(perf_counter() - start)
    return median(times[0]) / median(times[1])
