#!/usr/bin/env python
"""INT8 by mmone beside the stock tools: metric, agreement with float, file size and latency, on the same images.

Calibrates on images drawn from a folder, and evaluates on the config's test data. NNCF's rows need it
installed (pip install nncf); mmone does not use it. Prints a Markdown table.

examples:
  benchmarks/quantization.py mobileone-s0_8xb32_in1k-sample mobileone_s0.pth.tar --images data/imagenet_sample
  benchmarks/quantization.py CONFIG CHECKPOINT --images DIR --tools float mmone ort-per-channel --threads 1
"""
import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from mmone.apis import get_model
from mmone.config import load_config
from mmone.engine.test import test
from mmone.export import export_model
from mmone.export.compare import agreement, answers
from mmone.export.formats import get_writer
from mmone.export.inputs import image_files
from mmone.export.quantize import Int8
from mmone.export.quantize.int8 import Sample, sample
from mmone.runtime import Runtime, metadata

WARM_UP, BLOCK, REST = 10, 10, 0.1
METRICS = ('accuracy/top1', 'coco/bbox_mAP_50', 'mIoU')
warnings.filterwarnings('ignore')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--images', required=True, metavar='DIR')
    parser.add_argument('--count', type=int, default=100, help='images to calibrate on')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--tools', nargs='+', choices=TOOLS, default=list(TOOLS))
    parser.add_argument('--threads', type=int, nargs='+', default=[1, os.cpu_count()])
    parser.add_argument('--runs', type=int, default=100)
    parser.add_argument('--no-test', action='store_true', help='leave out the metric, and with it the test data')
    return parser.parse_args()


# Tools: each writes a file with our metadata, so that the same Runtime and the same evaluation take it


def sealed(model, meta: dict, path: Path) -> Path:
    get_writer('onnx' if path.suffix == '.onnx' else 'openvino').write_onnx(
        model, json.dumps(dict(meta, sha256=metadata.NO_DIGEST)), path)
    metadata.seal(path)
    return path


def by_onnxruntime(per_channel: bool, reduce_range: bool = False) -> Callable:
    def quantize(args, model, plain: Path, images: Sample, folder: Path) -> Path:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):
            def __init__(self):
                self.left = iter(images.calibrated)

            def get_next(self):
                image = next(self.left, None)
                return None if image is None else {'images': image[None]}

        source, made = folder / 'prepared.onnx', folder / 'made.onnx'
        quant_pre_process(str(plain), str(source), skip_symbolic_shape=True)
        # As its documentation has it, on layers alone: the ends of a detector would not survive it.
        quantize_static(str(source), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
                        reduce_range=reduce_range, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                        op_types_to_quantize=['Conv', 'Gemm', 'Relu', 'Clip', 'GlobalAveragePool', 'Concat'],
                        # Outputs of some images at a time, not of all; it insists on a number that leaves a rest.
                        extra_options=dict(CalibMaxIntermediateOutputs=7 if len(images.calibrated) % 7 else 9))
        return sealed(onnx.load(str(made)), Runtime(plain).meta,
                      folder / f'ort-{per_channel}-{reduce_range}.onnx')
    return quantize


def by_nncf(accuracy_aware: bool) -> Callable:
    def quantize(args, model, plain: Path, images: Sample, folder: Path) -> Path:
        import nncf
        import openvino
        nncf.set_log_level(logging.ERROR)
        source = openvino.convert_model(str(plain))
        dataset = nncf.Dataset([image[None] for image in images.calibrated], lambda image: {'images': image})
        meta = Runtime(plain).meta
        if accuracy_aware:
            held_out = nncf.Dataset(list(range(len(images.held_out))))
            expected = [answers(model, image[None]) for image in images.held_out]

            def validate(compiled, numbers):
                found = []
                for i in numbers:
                    output = compiled({'images': images.held_out[i][None]})
                    found.append({name: output[name] for name in meta['outputs']})
                return agreement(meta['task'], expected, found, 0).measures['agreement'], None

            made = nncf.quantize_with_accuracy_control(source, dataset, held_out, validate, max_drop=0.04,
                                                       subset_size=len(images.calibrated))
        else:
            made = nncf.quantize(source, dataset, subset_size=len(images.calibrated))
        path = folder / f'nncf-{accuracy_aware}.xml'
        made.set_rt_info(json.dumps(dict(meta, sha256=metadata.NO_DIGEST)), [metadata.KEY])
        openvino.save_model(made, str(path), compress_to_fp16=False)
        metadata.seal(path)
        return path
    return quantize


def by_mmone(suffix: str, **options) -> Callable:
    def quantize(args, model, plain: Path, images: Sample, folder: Path) -> Path:
        path = folder / f'mmone-{len(options)}{"-".join(map(str, options))}{suffix}'
        shape = Runtime(plain).meta['input']
        export_model(model, path, shape=(shape['height'], shape['width']), int8=Int8(
            args.images, args.count, agreement=0, seed=args.seed, **options), logits=wants_logits(model))
        return path
    return quantize


def as_it_is(suffix: str) -> Callable:
    def export(args, model, plain: Path, images: Sample, folder: Path) -> Path:
        return plain if suffix == '.onnx' else sealed(onnx.load(str(plain)), Runtime(plain).meta, folder / 'float.xml')
    return export


def exported(suffix: str) -> Callable:
    def export(args, model, plain: Path, images: Sample, folder: Path) -> Path:
        path, shape = folder / f'float{suffix}', Runtime(plain).meta['input']
        export_model(model, path, shape=(shape['height'], shape['width']), logits=wants_logits(model),
                     images=args.images)
        return path
    return export


TOOLS: dict[str, Callable] = {
    'float': as_it_is('.onnx'),
    'float-openvino': as_it_is('.xml'),
    'ort-per-tensor': by_onnxruntime(False),
    'ort-per-channel': by_onnxruntime(True),
    'ort-per-channel-7-bit': by_onnxruntime(True, True),
    'nncf': by_nncf(False),
    'nncf-accuracy-aware': by_nncf(True),
    'mmone-nearest': by_mmone('.onnx', rounding='nearest', exponent=None, correct=False),
    'mmone': by_mmone('.onnx'),
    'mmone-openvino': by_mmone('.xml'),
    'float-ncnn': exported('.param'),
    'mmone-ncnn': by_mmone('.param'),
    'mmone-ncnn-nearest': by_mmone('.param', rounding='nearest', exponent=None, correct=False),
    'float-litert': exported('.tflite'),
    'mmone-litert': by_mmone('.tflite'),
}


def wants_logits(model) -> bool:
    return model.cfg.default_scope == 'mmpretrain'


def signal_to_noise(expected: list[dict], found: list[dict]) -> str:
    if 'logits' not in found[0]:
        return ''
    a, b = (np.concatenate([answer['logits'] for answer in each]) for each in (expected, found))
    return f'{10 * np.log10(np.square(a).sum() / max(np.square(a - b).sum(), 1e-12)):.1f}'


def latencies(paths: dict[str, Path], threads: int, image: np.ndarray, runs: int) -> dict[str, float]:
    """Median milliseconds of each file, in turns of a block."""
    models = {name: Runtime(path, threads=threads) for name, path in paths.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(-(-runs // BLOCK)):
        for name, model in models.items():
            time.sleep(REST)
            for i in range(BLOCK + (WARM_UP if turn == 0 else 3)):
                start = time.perf_counter()
                model(image[None])
                if i >= (WARM_UP if turn == 0 else 3):
                    times[name].append((time.perf_counter() - start) * 1000)
    return {name: median(seen) for name, seen in times.items()}


def main():
    args = parse_args()
    cfg = load_config(args.config)
    model = get_model(cfg, args.checkpoint, 'cpu')
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        plain = folder / 'float.onnx'
        report = export_model(model, plain, logits=wants_logits(model), images=args.images)
        files, _ = image_files(cfg, args.images, None)
        images = sample(model, files, report.meta['pipeline'], Int8(args.images, args.count, seed=args.seed))
        expected = [answers(model, image[None]) for image in images.held_out]
        paths, rows = {}, {}
        for name in args.tools:
            start = time.perf_counter()
            try:
                # On a thread, for NNCF, which has OpenVINO compile models: see mmone/runtime/openvino.py.
                with redirect_stdout(StringIO()), ThreadPoolExecutor(1) as thread:
                    paths[name] = thread.submit(TOOLS[name], args, model, plain, images, folder).result()
            except ImportError as error:
                print(f'{name}: {error.name} is not installed')
                continue
            spent = time.perf_counter() - start
            runtime = Runtime(paths[name])
            found = [runtime(image[None]) for image in images.held_out]
            agreed = agreement(report.meta['task'], expected, found, 0)
            metric = ''
            if not args.no_test:
                with redirect_stdout(StringIO()):
                    measured = test(args.config, str(paths[name]), str(folder / 'work'))
                metric = next(f'{100 * measured[key] if measured[key] < 1 and "mAP" in key else measured[key]:.2f}'
                              for key in METRICS if key in measured)
            size = sum(file.stat().st_size for file in (paths[name], paths[name].with_suffix('.bin')) if file.is_file())
            rows[name] = [metric, f'{100 * agreed.measures["agreement"]:.1f}', signal_to_noise(expected, found),
                          f'{size / 2**20:.2f}', f'{spent:.0f}']
            print(name, *rows[name], flush=True)
        timed = [latencies(paths, threads, images.held_out[0], args.runs) for threads in args.threads]
    print(f'\n{images.described}')
    print('| tool | metric | agreement % | SNR dB | MiB | made in s |', ' | '.join(
        f'ms, {threads} thread{"s" * (threads > 1)}' for threads in args.threads), '|')
    print('|---|', '--:|' * (5 + len(args.threads)), sep='')
    for name, row in rows.items():
        print(f'| {name} |', ' | '.join([*row, *(f'{found[name]:.2f}' for found in timed)]), '|')


if __name__ == '__main__':
    main()
