#!/usr/bin/env python
"""What a teacher costs: its share of a step of a student that it teaches, with random weights.

example:
  benchmarks/distillation.py mobileone-s0_8xb32_in1k --teachers mobileone-s0_8xb32_in1k mobileone-s4_8xb32_in1k
"""
import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from mmpretrain.structures import DataSample

from mmone.config import build_model, default_scope, native_shape
from mmone.zoo import find_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('student', help="a classifier's config or name")
    parser.add_argument('--teachers', nargs='+', required=True, metavar='NAME', help='measured one after the other')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5)
    return parser.parse_args()


def taught(student: str, teacher: str, weights: Path):
    """A student in training, whose teacher has random weights; and its config."""
    cfg, _ = find_config(student)
    torch.save(dict(state_dict=build_model(find_config(teacher)[0]).state_dict()), weights)
    cfg.model.update(type='mmone.DistilledClassifier', teachers=[dict(model=teacher, checkpoint=str(weights))])
    model = build_model(cfg)
    with default_scope(cfg):
        model.init_weights()
    return model.train(), cfg


def seconds(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def step(model, optimizer, images, samples) -> None:
    optimizer.zero_grad()
    model.loss(images, samples)['loss_distill'].backward()
    optimizer.step()


def measure(model, images: torch.Tensor, rounds: int) -> tuple[float, float]:
    """Median seconds of a step, and of what the teacher computes in it."""
    samples = [DataSample().set_gt_label(0) for _ in images]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    step(model, optimizer, images, samples)
    times = [(seconds(step, model, optimizer, images, samples),
              seconds(model.teachers, images, model.head.num_classes)) for _ in range(rounds)]
    whole, alone = (median(each) for each in zip(*times))
    return whole, alone


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    print('| teacher | step, ms | of it the teacher, ms | share |\n|---|--:|--:|--:|')
    for teacher in args.teachers:
        with tempfile.TemporaryDirectory() as folder:
            model, cfg = taught(args.student, teacher, Path(folder, 'teacher.pth'))
        whole, alone = measure(model, torch.randn(args.batch, 3, *native_shape(cfg)), args.rounds)
        print(f'| {teacher} | {1000 * whole:.0f} | {1000 * alone:.0f} | {alone / whole:.2f} |', flush=True)


if __name__ == '__main__':
    main()
