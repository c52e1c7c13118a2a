#!/usr/bin/env python
"""Latency of each exported format beside PyTorch, timm's export and the plainest network there is.

Prints a Markdown table for each number of threads: median, p10 and p90 of the runs, and ratios to
the deployed network in eager PyTorch and to the plain network in the same runtime. All models are
run in turns, in blocks, so that what else the machine does falls on all alike.

examples:
  benchmarks/export_latency.py
  benchmarks/export_latency.py --arch s0 s1 s2 s3 s4 --threads 1
  benchmarks/export_latency.py --detector CONFIG CHECKPOINT IMAGE
"""
import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import timm
import torch
from mmengine.registry import MODELS
from timm.utils import reparameterize_model
from torch import nn

from mmone.apis import get_config, get_model
from mmone.config import default_scope
from mmone.errors import InputError
from mmone.export import export_model
from mmone.export.graph import Detection
from mmone.models import MobileOne
from mmone.runtime import Runtime
from mmone.runtime.images import read_image

WARM_UP, BLOCK = 20, 10
REST = 0.1  # seconds until the threads of the model before have stopped spinning
warnings.filterwarnings('ignore')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', nargs='+', default=['s0'], choices=['s0', 's1', 's2', 's3', 's4'])
    parser.add_argument('--threads', type=int, nargs='+', default=[1, os.cpu_count()])
    parser.add_argument('--runs', type=int, default=100)
    parser.add_argument('--detector', nargs=3, metavar=('CONFIG', 'CHECKPOINT', 'IMAGE'),
                        help='what the post-processing of this detector costs instead')
    return parser.parse_args()


def plain(backbone: MobileOne, classes: int) -> nn.Sequential:
    """The deployed classifier from torch.nn alone: convolutions, ReLUs, a pool and a linear layer."""
    layers = []
    for block in backbone.blocks().values():
        layers += [block.branch_reparam, *([block.se] if not isinstance(block.se, nn.Identity) else []),
                   nn.ReLU(inplace=True)]
    width = backbone.blocks().popitem()[1].out_channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
                         nn.Softmax(1)).eval()


def to_onnx(module: nn.Module, example: torch.Tensor, path: Path) -> Path:
    torch.onnx.utils.export(module, (example, ), str(path), input_names=['images'], opset_version=17)
    return path


def sessions(path: Path, threads: int) -> dict:
    """The ONNX file in both runtimes: name -> images -> outputs."""
    import onnxruntime
    import openvino
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    compiled = openvino.compile_model(str(path), 'CPU', {
        'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32',
        'INFERENCE_NUM_THREADS': threads})
    request = compiled.create_infer_request()
    return {'ONNX Runtime': lambda images: session.run(None, {'images': images}),
            'OpenVINO': lambda images: request.infer({'images': images}, share_inputs=True)}


def measure(models: dict, runs: int) -> dict[str, np.ndarray]:
    """Milliseconds of ``runs`` runs of each of ``models``, name -> (function, input)."""
    times = {name: [] for name in models}
    for function, given in models.values():
        for _ in range(WARM_UP):
            function(given)
    while len(times[next(iter(times))]) < runs:
        for name, (function, given) in models.items():
            time.sleep(REST)
            function(given)
            for _ in range(BLOCK):
                start = time.perf_counter()
                function(given)
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: np.array(values[:runs]) for name, values in times.items()}


def table(times: dict[str, np.ndarray], base: str, floors: dict[str, str]) -> str:
    lines = ['| | median ms | p10 | p90 | against eager, deployed | against the plain network |',
             '|---|--:|--:|--:|--:|--:|']
    for name, values in times.items():
        median, p10, p90 = np.percentile(values, [50, 10, 90])
        floor = floors.get(name)
        floor = f'{median / np.median(times[floor]):.2f}' if floor else ''
        lines.append(f'| {name} | {median:.2f} | {p10:.2f} | {p90:.2f} | '
                     f'{median / np.median(times[base]):.2f} | {floor} |')
    return '\n'.join(lines)


def classifiers(arch: str, threads: int, runs: int, folder: Path) -> str:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    name = f'mobileone-{arch}_8xb32_in1k'
    weights = folder / f'{arch}.pth'
    trained = get_model_of_random_weights(name, weights)
    deployed = get_model(name, str(weights), 'cpu')
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), dtype=np.uint8)
    floats = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    tensor = torch.from_numpy(floats)

    def eager(model):

        def run(given):
            with torch.inference_mode():
                return model(given)

        return run

    models = {'PyTorch, with branches': (eager(trained), tensor),
              'PyTorch, deployed': (eager(deployed), tensor)}
    suffixes = {'TorchScript': '.pt', 'torch.export': '.pt2', 'ONNX Runtime': '.onnx', 'OpenVINO': '.xml',
                'LiteRT': '.tflite', 'ncnn': '.ncnn.param'}
    for kind, suffix in suffixes.items():
        try:
            export_model(deployed, folder / f'u{suffix}', overwrite=True)
        except InputError as error:  # LiteRT's converter, in an environment of its own
            print(f'{kind} is left out: {error}')
            continue
        models[f'{kind}, from uint8'] = (Runtime(folder / f'u{suffix}', threads), images)
    for kind in ('ONNX Runtime', 'OpenVINO'):
        path = folder / f'r{suffixes[kind]}'
        export_model(deployed, path, raw=True, overwrite=True)
        models[f'{kind}, from floats (--raw)'] = (Runtime(path, threads), floats)
    theirs = reparameterize_model(timm.create_model(f'mobileone_{arch}').eval())
    theirs = nn.Sequential(theirs, nn.Softmax(1)).eval()
    floor = plain(deployed.backbone, 1000)
    for label, module in (("timm's export", theirs), ('the plain network', floor)):
        path = to_onnx(module, tensor, folder / 'other.onnx')
        for kind, function in sessions(path, threads).items():
            models[f'{kind}, {label}'] = (function, floats)
    floors = {name: f'{kind}, the plain network' for kind in ('ONNX Runtime', 'OpenVINO')
              for name in models if name.startswith(kind)}
    with torch.inference_mode():
        return table(measure(models, runs), 'PyTorch, deployed', floors)


def get_model_of_random_weights(name: str, path: Path) -> nn.Module:
    """The training form, saved to ``path``."""
    cfg = get_config(name, deploy=False)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with default_scope(cfg):
        model = MODELS.build(cfg.model).eval()
    torch.save(dict(state_dict=model.state_dict()), path)
    return model


def post_processing(config: str, checkpoint: str, image: str, threads: int, runs: int,
                    folder: Path) -> str:
    """What a detector costs with its post-processing and without."""
    net = get_model(config, checkpoint, 'cpu')
    export_model(net, folder / 'whole.onnx', overwrite=True)
    export_model(net, folder / 'whole.xml', overwrite=True)
    whole = {'ONNX Runtime': Runtime(folder / 'whole.onnx', threads),
             'OpenVINO': Runtime(folder / 'whole.xml', threads)}
    given = whole['ONNX Runtime'].meta['input']
    images = whole['ONNX Runtime'].prepare(read_image(image)).transpose(2, 0, 1)[None]
    images = np.ascontiguousarray(images)
    graph = Detection(net, (given['height'], given['width'])).eval()
    graph.answer = lambda outputs, images: tuple(outputs)  # the network alone
    path = to_onnx(graph, torch.from_numpy(images), folder / 'network.onnx')
    models = {}
    for kind, function in sessions(path, threads).items():
        models[f'{kind}, network alone'] = (function, images)
        models[f'{kind}, whole'] = (whole[kind], images)
    times = {name: np.median(values) for name, values in measure(models, runs).items()}
    lines = ['| | network alone ms | whole ms | post-processing |', '|---|--:|--:|--:|']
    for kind in whole:
        alone, both = times[f'{kind}, network alone'], times[f'{kind}, whole']
        lines.append(f'| {kind} | {alone:.2f} | {both:.2f} | {1 - alone / both:.1%} of the whole |')
    return '\n'.join(lines)


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for threads in args.threads:
            if args.detector:
                print(f'\nthreads: {threads}\n')
                print(post_processing(*args.detector, threads, args.runs, Path(folder)), flush=True)
                continue
            for arch in args.arch:
                print(f'\n{arch}, 224x224, batch 1, threads: {threads}\n')
                print(classifiers(arch, threads, args.runs, Path(folder)), flush=True)


if __name__ == '__main__':
    main()
