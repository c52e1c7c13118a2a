#!/usr/bin/env python
"""Latency of the shapes that have the counts of the paper's micro variants (Table 13 of arXiv 2206.04040).

The paper does not give their shapes. Of widths in steps of 1/8 and depths up to S0's these have the published
parameters and multiply-adds; the arch dicts micro214, micro139 and micro68 are the fastest of each budget.

examples:
  benchmarks/micro_shapes.py
  benchmarks/micro_shapes.py --runtime onnxruntime openvino torch --threads 1 2
"""
import argparse
import tempfile
from pathlib import Path

from mmone.lab.measure import measure, plan
from mmone.lab.store import Model, Store
from mmone.lab.subject import Subject

# Multiply-adds in millions -> (width factors, blocks) of stage1 to stage4.
CANDIDATES = {
    214: (((0.75, 1, 1, 1), (2, 6, 8, 1)), ((0.75, 1, 1, 1), (2, 5, 9, 1))),
    139: (((0.625, 0.75, 0.75, 1), (2, 7, 8, 1)), ((0.75, 0.75, 0.875, 1), (2, 6, 6, 1))),
    68: (((0.5, 0.5, 0.5, 0.75), (2, 8, 6, 1)), ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runtime', nargs='+', default=['onnxruntime', 'openvino'])
    parser.add_argument('--threads', type=int, nargs='+', default=[1])
    parser.add_argument('--runs', type=int, default=300)
    args = parser.parse_args()
    subjects = [subject(budget, *shape) for budget, shapes in CANDIDATES.items() for shape in shapes]
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder, 'lab.db')) as store:
        failures = measure(plan(subjects, args.runtime, args.threads), store, args.runs)
        print('| shape | parameters | multiply-adds | runtime | threads | ms | p10 | p90 | min | steady |\n'
              '|---|--:|--:|---|--:|--:|--:|--:|--:|---|')
        for one in sorted(store.measurements(), key=lambda one: (one.setting.runtime, one.setting.threads,
                                                                 -(one.model.multiply_adds or 0))):
            latency = one.latency
            print(f'| {one.model.name} | {one.model.parameters:,} | {one.model.multiply_adds:,} | '
                  f'{one.setting.runtime} | {one.setting.threads} | {latency.median:.2f} | {latency.p10:.2f} | '
                  f'{latency.p90:.2f} | {latency.minimum:.2f} | {"yes" if latency.steady else "no"} |')
    for failure in failures:
        print(f'not measured: {failure.task}: {failure.reason}')


def subject(budget: int, widths: tuple[float, ...], blocks: tuple[int, ...]) -> Subject:
    name = f'{budget} M: width {" ".join(map(str, widths))}, blocks {" ".join(map(str, blocks))}'
    arch = dict(width_factor=widths, num_blocks=blocks, num_conv_branches=(4, ) * 4, num_se_blocks=(0, ) * 4)
    return Subject(Model(name, 'mmone', 'mobileone'), 'mmone.lab.peers:mobileone', dict(arch=arch))


if __name__ == '__main__':
    main()
