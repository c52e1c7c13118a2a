#!/usr/bin/env python
"""How far the exported models are from PyTorch, as Markdown tables.

``variants`` exports S0 to S4 of each task with random weights and statistics, once for batches of 1
and once with everything free, and compares answers on generated images, in batches of 1, 2 and 7 and
in two sizes. ``metrics`` evaluates a checkpoint by PyTorch and by the exported files.

examples:
  benchmarks/export_parity.py variants
  benchmarks/export_parity.py metrics CONFIG CHECKPOINT coco/bbox_mAP_50
  benchmarks/export_parity.py metrics CONFIG CHECKPOINT coco/bbox_mAP_50 --formats onnx litert ncnn
"""
import argparse
import contextlib
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import MODELS
from torch import nn

from mmone.apis import get_config, get_model
from mmone.config import default_scope, load_config
from mmone.datasets.shapes import make_sample
from mmone.engine.test import test
from mmone.export import export_model
from mmone.export.compare import answers, compare
from mmone.formats import FORMATS
from mmone.runtime import Runtime
from mmone.runtime.images import resize

TEMPLATES = {
    'classification': 'mobileone-{}_8xb32_in1k',
    'SSDLite': 'ssdlite_mobileone-{}_8xb16-200e_coco-320x320',
    'DeepLabV3, stride 16': 'mobileone-{}-d16_deeplabv3_4xb16-50e_voc12aug-512x512',
    'DeepLabV3, stride 8': 'mobileone-{}-d8_deeplabv3_4xb16-50e_voc12aug-512x512',
}
SUFFIXES = {'ONNX Runtime': FORMATS['onnx'].suffix, 'OpenVINO': FORMATS['openvino'].suffix}
warnings.filterwarnings('ignore')


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    variants = commands.add_parser('variants')
    variants.add_argument('--arch', nargs='+', default=['s0', 's1', 's2', 's3', 's4'])
    metrics = commands.add_parser('metrics')
    metrics.add_argument('config', metavar='CONFIG')
    metrics.add_argument('checkpoint', metavar='CHECKPOINT')
    metrics.add_argument('metric', metavar='METRIC')
    metrics.add_argument('--formats', nargs='+', default=['onnx', 'openvino'], choices=FORMATS)
    metrics.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    return parser.parse_args()


def random_checkpoint(name: str, path: Path) -> None:
    """Save a model in training form, with statistics as training would leave them, and outputs that differ."""
    cfg = get_config(name, deploy=False)
    with default_scope(cfg):
        cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
        model = MODELS.build(cfg.model)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = 1.0
    if hasattr(model, 'bbox_head'):  # else all scores are alike
        for layer in model.bbox_head.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=4 / layer.weight[0].numel()**0.5)
    with torch.no_grad():
        images = torch.from_numpy(np.stack([make_sample(2, i, 224).image.transpose(2, 0, 1) for i in range(8)]))
        channels = [i % 3 for i in range(cfg.model.backbone.get('in_channels', 3))]
        model.train()(images[:, channels].sub(118.0).div(58.0), mode='tensor')
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # Channels that hardly vary in so few images would magnify rounding, PyTorch's too.
                module.running_var += 0.1 * module.running_var.mean()
    torch.save(dict(state_dict=model.state_dict()), path)


def variants(archs: list[str]) -> None:
    print('| | | ' + ' | '.join(SUFFIXES) + ' |\n|---|---|' + '---|' * len(SUFFIXES))
    for task, template in TEMPLATES.items():
        for arch in archs:
            torch.manual_seed(0)
            name = template.format(arch)
            cells = []
            with tempfile.TemporaryDirectory() as folder:
                weights = Path(folder, 'weights.pth')
                random_checkpoint(name, weights)
                net = get_model(name, str(weights), 'cpu')
                for suffix in SUFFIXES.values():
                    cells.append(difference(net, Path(folder, f'model{suffix}')))
            print(f'| {task} | {arch} | ' + ' | '.join(cells) + ' |', flush=True)


def difference(net: nn.Module, path: Path) -> str:
    export_model(net, path, dynamic=('batch', 'hw'), logits=net.cfg.default_scope == 'mmpretrain')
    model = Runtime(path)
    height, width = (model.meta['input'][edge] for edge in ('height', 'width'))
    expected, given = [], []
    for size in ((height, width), (height - 64, width + 32)):
        images = np.stack([resize(make_sample(1, i, max(size)).image, size).transpose(2, 0, 1)
                           for i in range(10)])
        for batch in np.split(images, [1, 3]):
            expected.append(answers(net, batch))
            given.append(model(batch))
    found = compare(model.task, expected, given)
    return found.text + ('' if found.within else ' **not within the limits**')


def metrics(config: str, checkpoint: str, name: str, options: list[str], formats: list[str]) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, suffix in {'PyTorch': None, **{kind: FORMATS[kind].suffix for kind in formats}}.items():
            path = checkpoint
            with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null):
                if suffix:
                    path = str(Path(folder, f'model{suffix}'))
                    export_model(get_model(load_config(config, options), checkpoint, 'cpu'), path)
                found[kind] = test(config, path, folder, deploy=suffix is None, cfg_options=options)
    print('| metric | ' + ' | '.join(found) + ' |\n|---|' + '--:|' * len(found))
    print(f'| {name} | ' + ' | '.join(f'{values[name]:.4f}' for values in found.values()) + ' |')


def main():
    args = parse_args()
    if args.command == 'variants':
        variants(args.arch)
    else:
        metrics(args.config, args.checkpoint, args.metric, args.cfg_options, args.formats)


if __name__ == '__main__':
    main()
