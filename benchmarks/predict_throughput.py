#!/usr/bin/env python
"""Images a second of mmone.apis.predict beside a bare loop over the same model and pre-processing.

Both read, prepare and predict the same files in the same batches, in turns within one run, since
machines are noisy; the ratio of the medians is what counts.

  benchmarks/predict_throughput.py FOLDER --model NAME|CONFIG --weights CHECKPOINT
"""
import argparse
import time
from pathlib import Path
from statistics import median


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='folder of .jpg images')
    parser.add_argument('--model', required=True, metavar='NAME|CONFIG')
    parser.add_argument('--weights', required=True, metavar='CHECKPOINT')
    parser.add_argument('--images', type=int, default=500, metavar='N', help='default: %(default)s')
    parser.add_argument('--batch-size', type=int, default=8, metavar='N', help='default: %(default)s')
    parser.add_argument('--turns', type=int, default=3, metavar='N', help='default: %(default)s')
    return parser.parse_args()


def main():
    args = parse_args()
    import torch
    from mmengine.dataset import pseudo_collate

    from mmone.apis import get_model, predict
    from mmone.pipeline import ImagePipeline
    files = sorted(map(str, args.folder.rglob('*.jpg')))[:args.images]
    model = get_model(args.model, args.weights)
    pipeline = ImagePipeline(model.cfg)

    def bare():
        for start in range(0, len(files), args.batch_size):
            batch = []
            for number, file in enumerate(files[start:start + args.batch_size]):
                batch.append(pipeline.prepare(pipeline.read(file, number)))
            with torch.no_grad():
                model.test_step(pseudo_collate(batch))

    def ours():
        for _ in predict(model, files, args.batch_size):
            pass

    rates = {bare: [], ours: []}
    for run in rates:  # warm up
        run()
    for _ in range(args.turns):
        for run, seen in rates.items():
            started = time.perf_counter()
            run()
            seen.append(len(files) / (time.perf_counter() - started))
    medians = [median(seen) for seen in rates.values()]
    print(f'{len(files)} images, batches of {args.batch_size}, {torch.get_num_threads()} threads: '
          f'bare loop {medians[0]:.1f}/s, predict {medians[1]:.1f}/s, ratio '
          f'{medians[1] / medians[0]:.2f}')


if __name__ == '__main__':
    main()
