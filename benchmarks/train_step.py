#!/usr/bin/env python
"""Time and memory of a training step: forward, backward and SGD, on a CPU or a GPU.

Compares, for each network, mmpretrain's MobileOne in both memory formats and timm's with ours, the
branches separate and fused (on a CPU 'auto', the default), and with the deployed network, which no
training with branches can beat. All take turns in one process, so that what else the machine does falls
on all alike; peak memory is that of a step in a process of its own. A GPU's time is taken between events,
its memory is what PyTorch allocates in a step, without weights.

Where mmpretrain and timm have a 1×1 convolution of stride 2 it is computed on the sliced input, since
PyTorch's channels_last backward of it corrupts memory.

examples:
  benchmarks/train_step.py
  benchmarks/train_step.py --network s0 detector segmentor --rounds 5
  benchmarks/train_step.py --blocks
  benchmarks/train_step.py --device cuda --dtype bfloat16
"""
import argparse
import functools
import gc
import multiprocessing
import os
import time
import warnings

import numpy as np
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models.backbones import MobileOne as MMPretrainMobileOne
from torch import nn

from mmone.apis import get_config
from mmone.models import MobileOne
from mmone.models.blocks.mobileone_block import MobileOneBlock, PointwiseConv2d

warnings.filterwarnings('ignore')
BATCH = {'cpu': {'detector': 16, 'segmentor': 4}, 'cuda': {'detector': 64, 'segmentor': 16}}
CLASSIFIERS = {'cpu': 16, 'cuda': 256}  # their batch


def ours(device: str) -> dict:
    """Name -> options of the backbone. On a GPU 'auto' fuses nothing."""
    return {
        'separate': dict(branch_mode='separate'),
        'fused': dict(branch_mode='auto' if device == 'cpu' else 'fused'),
        'deployed': dict(deploy=True),
    }


BLOCKS = (  # C_in, C_out, H, K, k, stride
    (3, 64, 224, 3, 1, 2), (48, 48, 112, 3, 4, 2), (64, 64, 112, 3, 1, 2), (48, 48, 56, 3, 4, 1), (96, 96, 56, 3, 1, 1),
    (128, 128, 28, 3, 4, 1), (192, 192, 28, 3, 1, 1), (256, 256, 14, 3, 4, 1), (512, 512, 14, 3, 1, 1),
    (48, 48, 56, 1, 4, 1), (96, 96, 56, 1, 1, 1), (128, 128, 28, 1, 4, 1), (192, 192, 28, 1, 1, 1),
    (256, 256, 14, 1, 4, 1), (512, 512, 14, 1, 1, 1), (256, 1024, 7, 1, 4, 1))


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = ['s0', 's1', 's2', 's3', 's4', 'detector', 'segmentor']
    parser.add_argument('--network', nargs='+', default=networks, choices=networks,
                        help='classifiers at 224², SSDLite at 320², DeepLabV3 at 512², both with S0')
    parser.add_argument('--device', default='cpu', choices=list(BATCH))
    parser.add_argument('--dtype', default='float32', choices=['float32', 'float16', 'bfloat16'],
                        help='that autocast computes in')
    parser.add_argument('--batch', type=int, help='of the classifiers and of --blocks; 16, on a GPU 256')
    parser.add_argument('--rounds', type=int, default=7, help='of 2 steps of each model')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--blocks', action='store_true', help='single blocks, in every mode, instead')
    args = parser.parse_args()
    args.batch = args.batch or CLASSIFIERS[args.device]
    args.dtype = getattr(torch, args.dtype)
    return args


class Classifier(nn.Module):

    def __init__(self, backbone: nn.Module, width: int):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, 1000)

    def forward(self, x):
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def slice_pointwise(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride == (2, 2):
            module.__class__ = PointwiseConv2d
    return model


def classifiers(arch: str, device: str) -> dict:
    """Name -> a function that builds the model; its memory format."""
    def build(options):
        backbone = MobileOne(arch, channels_last=True, **options)
        return Classifier(backbone, backbone.blocks().popitem()[1].out_channels)

    def mmpretrain():
        backbone = MMPretrainMobileOne(arch)
        return slice_pointwise(Classifier(backbone, backbone.stage4[-1].out_channels))

    return {
        'mmpretrain': (mmpretrain, torch.contiguous_format),
        'mmpretrain, channels_last': (mmpretrain, torch.channels_last),
        'timm, channels_last': (lambda: slice_pointwise(timm.create_model(f'mobileone_{arch}')), torch.channels_last),
        **{f'mmone, {name}': (functools.partial(build, options), torch.channels_last)
           for name, options in ours(device).items()},
    }


def dense_models(network: str, device: str) -> dict:
    name = {'detector': 'ssdlite_mobileone-s0_8xb16-200e_coco-320x320',
            'segmentor': 'mobileone-s0-d16_deeplabv3_4xb16-50e_voc12aug-512x512'}[network]

    def build(options):
        cfg = get_config(name)
        init_default_scope(cfg.default_scope)
        backbone = cfg.model.backbone
        if options is None:
            cfg.model.backbone = dict(type='mmpretrain.MobileOne', arch=backbone.arch,
                                      out_indices=backbone.out_indices)
        else:
            backbone.update({'channels_last': True, 'deploy': False, **options})
        cfg.model.data_preprocessor = None
        return slice_pointwise(MODELS.build(cfg.model))

    own = {f'mmone, {name}': (functools.partial(build, options), torch.channels_last)
           for name, options in ours(device).items()}
    if network == 'segmentor':  # mmpretrain's has no output stride but 32
        return own
    return {
        'mmpretrain': (functools.partial(build, None), torch.contiguous_format),
        'mmpretrain, channels_last': (functools.partial(build, None), torch.channels_last),
        **own,
    }


def step_of(network: str, build, memory_format, batch: int, device: str, dtype: torch.dtype):
    """A function that trains the model on one batch."""
    torch.manual_seed(0)
    model = build().train().to(device)
    if not any(isinstance(module, MobileOne) for module in model.modules()):  # ours sees to it itself
        model.to(memory_format=memory_format)
    size = {'detector': 320, 'segmentor': 512}.get(network, 224)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    if network == 'detector':
        samples = [detection_sample(size, i).to(device) for i in range(batch)]
    elif network == 'segmentor':
        samples = [segmentation_sample(size, i).to(device) for i in range(batch)]
    labels = torch.arange(batch, device=device)

    @torch.autocast(device, dtype, enabled=dtype is not torch.float32)
    def loss():
        if network not in BATCH[device]:
            return F.cross_entropy(model(images), labels)
        losses = model(images, samples, mode='loss')
        return sum(sum(value) if isinstance(value, list) else value
                   for name, value in losses.items() if 'loss' in name)

    def step():
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def detection_sample(size: int, seed: int):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(5, 2, generator=generator) * size * 0.7
    boxes = torch.cat([corners, corners + size * 0.2], 1)
    sample = DetDataSample(metainfo=dict(img_shape=(size, size), pad_shape=(size, size)))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(5))
    return sample


def segmentation_sample(size: int, seed: int):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    generator = torch.Generator().manual_seed(seed)
    sample = SegDataSample(metainfo=dict(img_shape=(size, size)))
    sample.gt_sem_seg = PixelData(data=torch.randint(21, (1, size, size), generator=generator))
    return sample


def models_of(network: str, device: str) -> dict:
    return (dense_models if network in BATCH[device] else classifiers)(network, device)


def memory(network: str, name: str, batch: int, args, queue) -> None:
    """Put in ``queue`` by how many MB two training steps raise this process's memory."""
    torch.set_num_threads(args.threads)
    step = step_of(network, *models_of(network, args.device)[name], batch, args.device, args.dtype)
    gc.collect()
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # the peak starts from what is there now
    before = peak()
    step()
    step()
    queue.put(peak() - before)


def peak() -> float:
    """The most memory that this process has had, in MB."""
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('VmHWM')) / 1024


def gpu_memory(step) -> float:
    """By how many MB a training step raises what is allocated on the GPU."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_memory(*args) -> float:
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    process = context.Process(target=memory, args=(*args, queue))
    process.start()
    value = queue.get()
    process.join()
    return value


def measure(steps: dict, rounds: int, device: str) -> dict[str, np.ndarray]:
    """Seconds of each step, in turns."""
    seconds = seconds_on_gpu if device == 'cuda' else seconds_on_cpu
    times = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            for again in range(3):
                taken = seconds(step)
                if turn and again:  # the first one of each turn brings its memory back
                    times[name].append(taken)
    return {name: np.array(values) for name, values in times.items()}


def seconds_on_cpu(step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def seconds_on_gpu(step) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def network_table(network: str, args) -> None:
    batch = BATCH[args.device].get(network, args.batch)
    models = models_of(network, args.device)
    steps = {name: step_of(network, *model, batch, args.device, args.dtype) for name, model in models.items()}
    times = measure(steps, args.rounds, args.device)
    if args.device == 'cuda':
        peaks = {name: gpu_memory(step) for name, step in steps.items()}
    else:
        steps.clear()
        gc.collect()
        peaks = {name: peak_memory(network, name, batch, args) for name in models}
    peers = [name for name in models if name.startswith('mmpretrain')] or ['mmone, separate']
    peer = 'mmpretrain' if len(peers) > 1 else 'separate'
    best = min(np.median(times[name]) for name in peers)
    least = min(peaks[name] for name in peers)
    print(f'\n**{network}**, batch {batch}, {machine(args)}\n')
    print(f"| | median ms | p10 | p90 | faster than {peer}'s best | peak MB | of {peer}'s least |")
    print('|---|--:|--:|--:|--:|--:|--:|')
    for name in models:
        p10, median, p90 = np.percentile(times[name], [10, 50, 90]) * 1000
        print(f'| {name} | {median:.0f} | {p10:.0f} | {p90:.0f} | {best * 1000 / median:.2f}× | {peaks[name]:,.0f} | '
              f'{peaks[name] / least:.2f} |', flush=True)


def machine(args) -> str:
    name = torch.cuda.get_device_name() if args.device == 'cuda' else f'{args.threads} threads'
    return name if args.dtype is torch.float32 else f'{name}, {str(args.dtype).removeprefix("torch.")}'


def block_table(args) -> None:
    print(f'\nbatch {args.batch}, {machine(args)}, forward and backward, median ms\n')
    print('| C_in → C_out | input | K | k | stride | format | separate | fused | auto | deployed |')
    print('|---|--:|--:|--:|--:|---|--:|--:|--:|--:|')
    for channels, width, size, kernel, k, stride in BLOCKS:
        for memory_format in (torch.channels_last, torch.contiguous_format):
            torch.manual_seed(0)
            x = torch.rand(args.batch, channels, size, size, device=args.device).contiguous(
                memory_format=memory_format).requires_grad_(channels > 3)
            grad = torch.rand(args.batch, width, size // stride, size // stride, device=args.device).contiguous(
                memory_format=memory_format)

            def step(block, x=x, grad=grad):
                with torch.autocast(args.device, args.dtype, enabled=args.dtype is not torch.float32):
                    out = block(x)
                out.backward(grad.to(out.dtype))

            steps = {}
            for mode in ('separate', 'fused', 'auto', 'deployed'):
                options = dict(deploy=True) if mode == 'deployed' else dict(branch_mode=mode)
                block = MobileOneBlock(channels, width, kernel, k, stride=stride,
                                       groups=channels if kernel > 1 and channels > 3 else 1, **options)
                steps[mode] = functools.partial(step, block.to(args.device))
            times = measure(steps, args.rounds, args.device)
            print(f'| {channels} → {width} | {size}² | {kernel} | {k} | {stride} | '
                  f'{"channels_last" if memory_format == torch.channels_last else "contiguous"} | '
                  + ' | '.join(f'{np.median(values) * 1000:.2f}' for values in times.values()) + ' |', flush=True)


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.blocks:
        block_table(args)
        return
    for network in args.network:
        network_table(network, args)


if __name__ == '__main__':
    main()
