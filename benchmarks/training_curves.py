#!/usr/bin/env python
"""Train a config with branches computed separately and fused, and show that it is the same training.

Every seed is trained in both modes; the first one also separately in the other memory format, where
the same sums are taken in another order. Prints the final metric of each run and how far the losses
are apart, and draws the curves.

example:
  benchmarks/training_curves.py configs/classification/mobileone-s0_in1k-pre_1xb64-20e_cifar10-small.py \\
      --epochs 5 --out docs/images/fused_training.png
"""
import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmone.config import load_config

matplotlib.use('Agg')
warnings.filterwarnings('ignore')

RUNS = {
    'separate': dict(branch_mode='separate'),
    'separate, other order': dict(branch_mode='separate', channels_last=False),
    'fused': dict(branch_mode='fused'),
}


@HOOKS.register_module()
class Losses(Hook):
    """Keeps the loss of every iteration."""

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append(float(outputs['loss']))


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--out', type=Path, default=Path('fused_training.png'), help='the picture')
    return parser.parse_args()


def train(config: str, seed: int, epochs: int, backbone: dict, folder: str) -> dict:
    cfg = load_config(config)
    cfg.model.backbone.update(backbone)
    cfg.train_cfg.max_epochs = cfg.train_cfg.val_interval = epochs
    for scheduler in cfg.param_scheduler:
        if scheduler.get('end', 0) > epochs:
            scheduler.end = epochs
    cfg.randomness = dict(seed=seed)
    cfg.work_dir = folder
    cfg.log_level = logging.ERROR
    cfg.custom_hooks = [dict(type='Losses')]
    cfg.default_hooks.checkpoint = None
    cfg.experiment_name = f'{seed}-{"-".join(map(str, backbone.values()))}-{time.time_ns()}'
    runner = Runner.from_cfg(cfg)
    start = time.perf_counter()
    runner.train()
    losses = next(hook for hook in runner.hooks if isinstance(hook, Losses)).values
    metrics = runner.val_loop.run()
    return dict(losses=losses, metrics=metrics, seconds=time.perf_counter() - start)


def main():
    args = parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in args.seeds:
            for name, backbone in RUNS.items():
                if name == 'separate, other order' and seed != args.seeds[0]:
                    continue
                result = train(args.config, seed, args.epochs, backbone, folder)
                results[f'{name}, seed {seed}'] = result
                metric, value = next(iter(result['metrics'].items()))
                print(f'{name}, seed {seed}: {len(result["losses"])} steps in {result["seconds"]:.0f} s, '
                      f'{metric} {value:.2f}', flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(results, args.seeds[0], args.out)


def draw(results: dict, seed: int, path: Path) -> None:
    from matplotlib import pyplot as plt
    losses = {name: np.array(results[f'{name}, seed {seed}']['losses']) for name in RUNS}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for (name, values), style in zip(losses.items(), ('-', '--', ':')):
        left.plot(values, style, label=name, linewidth=1.5)
    left.set(xlabel='step', ylabel='training loss', title='one seed, three ways of summing')
    left.legend()
    for name in list(RUNS)[1:]:
        apart = np.abs(losses[name] - losses['separate'])
        right.semilogy(np.maximum(apart, 1e-9), label=f'{name} − separate', linewidth=1)
        print(f'{name} − separate: {apart[:10].max():.1e} in the first 10 steps, median {np.median(apart):.1e}')
    right.set(xlabel='step', ylabel='difference of the losses', title='rounding, as training amplifies it')
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    main()
