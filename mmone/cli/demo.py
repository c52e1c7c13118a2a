"""Train, evaluate, deploy and export MobileOne for three tasks on generated images, in minutes on a CPU.

The shapes data set, a classifier, then a detector and a segmentor that start from its weights, each
evaluated with its branches, deployed, and as an ONNX file; a table and a picture.
"""
import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .parser import Parser

EXAMPLES = """\
example:
  mmone demo
"""
IMAGES, SEED, VAL_FRACTION = 2500, 0, 0.2
LATENCY_RUNS = 50
PICTURES = 4


class Task(NamedTuple):
    """One of the demo's trainings.

    Attributes:
        name (str): Its folder under the demo's.
        config (str): Config file, relative to the ``configs`` folder.
        metric (str): The metric shown.
        scale (float): What makes it a percentage.
    """
    name: str
    config: str
    metric: str
    scale: float


TASKS = (
    Task('classification', 'classification/mobileone-s0_1xb32-12e_shapes-96x96.py',
         'accuracy/top1', 1),
    Task('detection', 'detection/ssdlite_mobileone-s0_1xb16-4e_shapes-160x160.py',
         'coco/bbox_mAP_50', 100),
    Task('segmentation', 'segmentation/mobileone-s0-d8_deeplabv3_1xb16-3e_shapes-96x96.py',
         'mIoU', 1),
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument('--out', type=Path, default=Path('work_dirs', 'demo'), metavar='DIR',
                        help='folder for checkpoints, table and picture (default: %(default)s)')
    parser.add_argument('--data', type=Path, default=Path('data', 'shapes'), metavar='DIR',
                        help='folder for the generated images (default: %(default)s)')


def run(args: Namespace) -> None:
    from mmone.zoo import root
    demonstrate(args.out.absolute(), root() / 'configs', args.data.absolute())


def demonstrate(out: Path, configs: Path, data: Path) -> Path:
    """Run the whole demo.

    Args:
        out (Path): Folder for checkpoints, logs, the table and the picture.
        configs (Path): The ``configs`` folder.
        data (Path): Folder for the generated images; made if it is not there.

    Returns:
        Path: The table.

    Raises:
        subprocess.CalledProcessError: If a training fails; its log is shown.
    """
    from mmone.datasets.shapes import make_dataset
    started = time.perf_counter()
    make_dataset(data, IMAGES, SEED, val_fraction=VAL_FRACTION)
    _say(f'{IMAGES} images in {data}', started)
    for task in TASKS:
        shutil.rmtree(out / task.name, ignore_errors=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    classifier, *others = TASKS
    # A core for the data loaders' processes.
    _train([classifier], out, configs, data, max(1, cores - 1), None, started)
    _train(others, out, configs, data, max(1, cores // 2), out / classifier.name / 'last.pth',
           started)
    table = _report(out, configs, data, time.perf_counter() - started)
    _say(f'table: {table}, picture: {table.with_name("predictions.png")}', started)
    return table


def _say(text: str, started: float) -> None:
    print(f'[{time.perf_counter() - started:4.0f} s] {text}', flush=True)


def _train(tasks: list[Task], out: Path, configs: Path, data: Path, threads: int,
           pretrained: Path | None, started: float) -> None:
    """Train ``tasks`` side by side, with their last log line shown now and then."""
    processes = {}
    for task in tasks:
        folder = out / task.name
        folder.mkdir(parents=True)
        command = [sys.executable, '-m', 'mmone.cli.demo', task.name, str(out), str(configs), str(data)]
        if pretrained:
            command.append(str(pretrained))
        # Threads that spin are a sixth faster alone, and several times slower beside anything else.
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY='passive')
        with open(folder / 'log.txt', 'w') as log:
            processes[task] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    shown: dict[Task, str] = {}
    try:
        while any(process.poll() is None for process in processes.values()):
            time.sleep(1)
            for task in tasks:
                line = _last_progress(out / task.name / 'log.txt')
                if line and shown.get(task) != line:
                    shown[task] = line
                    _say(f'{task.name}: {line}', started)
    finally:
        for process in processes.values():
            process.kill()
    for task, process in processes.items():
        if process.wait() != 0:
            path = out / task.name / 'log.txt'
            print(path.read_text()[-3000:], file=sys.stderr)
            raise subprocess.CalledProcessError(process.returncode, f'{task.name}, log: {path}')
        metrics = json.loads((out / task.name / 'metrics.json').read_text())
        _say(f'{task.name}: {task.metric} {metrics["before"]:.2f}, deployed '
             f'{metrics["after"]:.2f}, ONNX {metrics["onnx"]:.2f}', started)


def _last_progress(log: Path) -> str | None:
    lines = [line for line in log.read_text(errors='replace').splitlines() if 'Epoch(train)' in line]
    return ' '.join(lines[-1].partition('Epoch(train)')[2].split()[:8]) if lines else None


def run_task(name: str, out: Path, configs: Path, data: Path, pretrained: Path | None) -> None:
    """Train one task, evaluate it in both forms and exported; leaves files and ``metrics.json``."""
    from mmone.apis import get_model
    from mmone.config import load_config
    from mmone.engine.test import test
    from mmone.engine.train import train
    from mmone.export import export_model
    from mmone.files import written_whole
    started = time.perf_counter()
    task = next(task for task in TASKS if task.name == name)
    folder, config = out / name, str(configs / task.config)
    options = _options(data)
    train_options = [f'model.backbone.init_cfg.checkpoint={pretrained}'] if pretrained else []
    runner = train(config, str(folder), cfg_options=options + train_options)
    last = Path(runner.message_hub.get_info('last_ckpt'))
    shutil.copy(last, folder / 'last.pth')
    shutil.copy(last.with_name(f'{last.stem}_deploy.pth'), folder / 'deploy.pth')
    seconds = time.perf_counter() - started
    before = test(config, str(folder / 'last.pth'), str(folder), branches=True, cfg_options=options)
    after = test(config, str(folder / 'deploy.pth'), str(folder), deploy=True, cfg_options=options)
    exported, weights = folder / 'model.onnx', folder / 'deploy.pth'
    model = get_model(load_config(config, options), str(weights), 'cpu')
    print(export_model(model, exported, source=weights))
    onnx = test(config, str(exported), str(folder), cfg_options=options)
    metrics = {form: float(found[task.metric]) * task.scale
               for form, found in (('before', before), ('after', after), ('onnx', onnx))}
    with written_whole(folder / 'metrics.json') as made:
        made.write_text(json.dumps(dict(metrics, seconds=seconds)))


def _options(data: Path) -> list[str]:
    return [f'{phase}_dataloader.dataset.data_root={data}' for phase in ('train', 'val', 'test')]


def _report(out: Path, configs: Path, data: Path, seconds: float) -> Path:
    """Write ``table.md``, ``results.json`` and ``predictions.png``."""
    from mmone.files import written_whole
    rows, strips = [], []
    for task in TASKS:
        before, after, dataset, visualizer = _load(task, out, configs, data)
        metrics = json.loads((out / task.name / 'metrics.json').read_text())
        latency = _latency(before, after, dataset)
        rows.append(dict(
            task=task.name, metric=task.metric, **metrics,
            parameters_before=sum(p.numel() for p in before.parameters()),
            parameters_after=sum(p.numel() for p in after.parameters()),
            latency_ms_before=latency[0], latency_ms_after=latency[1],
            latency_ms_onnx=_onnx_latency(out / task.name / 'model.onnx', dataset)))
        strips.append((task.name, _pictures(after, dataset, visualizer)))
    with written_whole(out / 'predictions.png') as made:
        _draw(strips, made)
    with written_whole(out / 'results.json') as made:
        made.write_text(json.dumps(dict(rows=rows, seconds=seconds), indent=2))
    table = _table(rows, seconds)
    with written_whole(out / 'table.md') as made:
        made.write_text(table)
    print('\n' + table)
    return out / 'table.md'


def _table(rows: list[dict], seconds: float) -> str:
    lines = [
        '| task | metric | with branches | deployed | ONNX | parameters | deployed | latency ms | '
        'deployed | ONNX | training s |', '|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|'
    ]
    for row in rows:
        lines.append(
            '| {task} | {metric} | {before:.2f} | {after:.2f} | {onnx:.2f} | {parameters_before:,} | '
            '{parameters_after:,} | {latency_ms_before:.1f} | {latency_ms_after:.1f} | '
            '{latency_ms_onnx:.1f} | {seconds:.0f} |'.format(**row))
    lines.append(f'\nLatency: median of {LATENCY_RUNS} runs at batch 1 on this machine; of the whole '
                 'network, for ONNX from the image to the answer, by ONNX Runtime. Everything took '
                 f'{seconds:.0f} s.\n')
    return '\n'.join(lines)


def _load(task: Task, out: Path, configs: Path, data: Path):
    """The model in both forms, its validation data set and its visualizer."""
    from mmengine.registry import DATASETS, MODELS, VISUALIZERS
    from mmengine.runner import load_checkpoint

    from mmone.config import default_scope, load_config
    models = []
    for deploy, name in ((False, 'last.pth'), (True, 'deploy.pth')):
        cfg = load_config(str(configs / task.config),
                          _options(data) + [f'model.backbone.deploy={deploy}'])
        if 'data_preprocessor' in cfg:  # where mmpretrain's configs have it, for the runner
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        with default_scope(cfg):
            model = MODELS.build(cfg.model)
        load_checkpoint(model, str(out / task.name / name), map_location='cpu', logger='silent')
        models.append(model.eval())
    with default_scope(cfg):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=task.name, vis_backends=[]))
    visualizer.dataset_meta = dataset.metainfo
    return *models, dataset, visualizer


def _latency(before, after, dataset) -> list[float]:
    """Median milliseconds of both forms, run in turns so that noise falls on both alike."""
    import torch
    from mmengine.dataset import pseudo_collate
    inputs = before.data_preprocessor(pseudo_collate([dataset[0]]), False)['inputs']
    times: tuple[list[float], list[float]] = ([], [])
    with torch.no_grad():
        for turn in range(LATENCY_RUNS + 5):
            for model, seen in zip((before, after), times):
                start = time.perf_counter()
                model(inputs, mode='tensor')
                if turn >= 5:
                    seen.append((time.perf_counter() - start) * 1000)
    return [median(seen) for seen in times]


def _onnx_latency(path: Path, dataset) -> float:
    """Median milliseconds of an exported model. On its own: its threads spin for a while."""
    from mmone.runtime import Runtime
    from mmone.runtime.images import read_image
    model = Runtime(path)
    inputs = model.normalized(model.prepare(read_image(dataset.get_data_info(0)['img_path'])))[None]
    times = []
    for _ in range(LATENCY_RUNS + 5):
        start = time.perf_counter()
        model(inputs)
        times.append((time.perf_counter() - start) * 1000)
    return median(times[5:])


def _pictures(model, dataset, visualizer) -> list:
    """Some images, each (H, W, 3) uint8 RGB, with labels; or ground truth beside prediction."""
    import mmcv
    import numpy as np
    import torch
    from mmengine.dataset import pseudo_collate
    pictures = []
    for index in np.linspace(0, len(dataset) - 1, PICTURES).astype(int).tolist():
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([dataset[index]]))[0].cpu()
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        if 'gt_label' in sample:
            names = dataset.metainfo['classes']
            pictures.append((image, names[sample.gt_label.item()], names[sample.pred_label.item()]))
            continue
        halves = []
        for truth in (True, False):
            visualizer.add_datasample(
                '', image, sample, draw_gt=truth, draw_pred=not truth, show=False)
            halves.append(visualizer.get_image())
        pictures.append((np.concatenate(halves, axis=1), 'ground truth', 'prediction'))
    return pictures


def _draw(strips, path: Path) -> None:
    """One row a task: images with ground truth beside prediction."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(
        len(strips), PICTURES, figsize=(4 * PICTURES, 2.4 * len(strips)), squeeze=False)
    for row, (name, pictures) in zip(axes, strips):
        for axis, (image, truth, prediction) in zip(row, pictures):
            axis.imshow(image)
            colour = 'black' if name != 'classification' or truth == prediction else 'crimson'
            labels = ('truth: {}, predicted: {}' if name == 'classification' else '{} | {}')
            axis.set_title(labels.format(truth, prediction), fontsize=9, color=colour)
            axis.axis('off')
        row[0].text(-0.08, 0.5, name, rotation=90, va='center', ha='center', fontsize=11,
                    transform=row[0].transAxes)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == '__main__':
    name, *folders = sys.argv[1:]
    run_task(name, *(Path(folder) for folder in folders), *([None] if len(folders) == 3 else []))
