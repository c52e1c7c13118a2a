"""Train, evaluate, deploy and export MobileOne for three tasks on generated images, in minutes on a CPU.

The shapes data set, a classifier, then a detector and a segmentor that start from its weights, each
evaluated with its branches, deployed, and as an ONNX file; a table and a picture.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from typing import NamedTuple

from mmone.lab.machine import processor, usable_cores

from .parser import Parser

EXAMPLES = """\
example:
  mmone demo
"""
IMAGES, SEED, VAL_FRACTION = 2000, 0, 0.2
LATENCY_RUNS = 50
PICTURES, SCORE_THRESHOLD = 2, 0.3
NEVER = 10_000  # epochs
# What a task is doing when its log has the line, and which part of its time has gone by then.
STAGES = ((r'Epoch\(train\) +\[(\d+)\]\[ *(\d+)/(\d+)\]', 'training', 0.0), (r'Epoch\(test\)', 'evaluating', 0.85),
          (r'^exporting', 'exporting', 0.95))


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
    Task('classification', 'classification/mobileone-micro68_1xb32-12e_shapes-96x96.py', 'accuracy/top1', 1),
    Task('detection', 'detection/ssdlite_mobileone-micro68_1xb16-5e_shapes-160x160.py', 'coco/bbox_mAP_50', 100),
    Task('segmentation', 'segmentation/mobileone-micro68-d8_deeplabv3_1xb16-3e_shapes-96x96.py', 'mIoU', 1),
)
COLUMNS = ('task', 'metric', 'with branches', 'deployed', 'ONNX', 'INT8', 'parameters', 'deployed', 'latency ms',
           'deployed', 'ONNX', 'INT8', 'ONNX file MB', 'INT8', 'seconds')


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

    The classifier trains on all cores, and from its weights the other two tasks side by side, on half of them each.
    Two processes for the classifier would be no faster, and half a batch each is too little for its BatchNorms.

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
    for task in TASKS:
        shutil.rmtree(out / task.name, ignore_errors=True)
        (out / task.name).mkdir(parents=True)
    cores = usable_cores()
    classifier, *others = TASKS
    rows = [_line(COLUMNS), _line(['---', '---', *['--:'] * (len(COLUMNS) - 2)])]
    measured = []
    for tasks in ([classifier], others):
        pretrained = out / classifier.name / 'last.pth' if tasks is others else None
        _train(tasks, out, configs, data, max(1, cores // len(tasks)), pretrained)
        for task in tasks:  # when nothing else runs
            # What libraries say while they load belongs to no table.
            with redirect_stdout(StringIO()), warnings.catch_warnings():
                warnings.simplefilter('ignore')
                measured.append(_measure(task, out, configs, data))
            rows.append(_row(task, measured[-1]))
            print('\n'.join(rows if len(measured) == 1 else rows[-1:]), flush=True)
    return _report(out, rows, measured, cores, time.perf_counter() - started)


# Training, in processes of their own


def _train(tasks: Sequence[Task], out: Path, configs: Path, data: Path, threads: int, pretrained: Path | None) -> None:
    """Train tasks side by side, each with ``threads``, with a bar a task."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from mmone.config import load_config
    epochs = {task: load_config(str(configs / task.config)).train_cfg.max_epochs for task in tasks}
    # Threads that spin while they wait are a third faster alone, and several times slower beside others.
    wait = 'passive' if len(tasks) > 1 else 'active'
    running = {task: _start(task, out, configs, data, threads, wait, pretrained) for task in tasks}
    console = Console(stderr=True)
    columns = (TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn(), TextColumn('left:'),
               TimeRemainingColumn(elapsed_when_finished=False))
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bars = {task: progress.add_task(task.name, total=1.0) for task in tasks}
            while any(process.poll() is None for process in running.values()):
                time.sleep(1)
                for task, process in running.items():
                    stage, done = _progress(out / task.name / 'log.txt', epochs[task])
                    progress.update(bars[task], description=f'{task.name}: {stage:<11}', completed=done)
                    if process.poll():
                        raise subprocess.CalledProcessError(process.returncode, task.name)
            for task in tasks:
                progress.update(bars[task], description=f'{task.name}: done       ', completed=1.0)
        for task, process in running.items():
            if process.wait():
                raise subprocess.CalledProcessError(process.returncode, task.name)
    except subprocess.CalledProcessError as error:
        log = out / error.cmd / 'log.txt'
        print(log.read_text(errors='replace')[-3000:], file=sys.stderr)
        raise subprocess.CalledProcessError(error.returncode, f'{error.cmd}, log: {log}') from None
    finally:
        for process in running.values():
            process.kill()


def _start(task: Task, out: Path, configs: Path, data: Path, threads: int, wait: str,
           pretrained: Path | None) -> subprocess.Popen:
    from mmone.devices import MEMORY
    command = [sys.executable, '-m', 'mmone.cli.demo', task.name, str(out), str(configs), str(data)]
    if pretrained:
        command.append(str(pretrained))
    with open(out / task.name / 'log.txt', 'w') as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT,
                                env=dict(os.environ, OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY=wait,
                                         GLIBC_TUNABLES=MEMORY))


def _progress(log: Path, epochs: int) -> tuple[str, float]:
    """What a task is doing, by its log, and the part of its time that has gone."""
    lines = log.read_text(errors='replace').splitlines()
    for pattern, stage, begins in reversed(STAGES):
        found = [match for line in lines if (match := re.search(pattern, line))]
        if found and stage == 'training':
            epoch, step, steps = map(int, found[-1].groups())
            return stage, STAGES[1][2] * ((epoch - 1) * steps + step) / (epochs * steps)
        if found:
            return stage, begins
    return 'starting', 0.0


def run_task(name: str, out: Path, configs: Path, data: Path, pretrained: Path | None) -> None:
    """Train one task, evaluate it in both forms and exported, in INT8 too; leaves files and ``metrics.json``."""
    import torch
    from mmengine.utils import digit_version

    from mmone.apis import get_model
    from mmone.config import load_config
    from mmone.engine.test import test
    from mmone.engine.train import train
    from mmone.export import export_model
    from mmone.export.quantize import Int8
    from mmone.files import written_whole
    started = time.perf_counter()
    task = next(task for task in TASKS if task.name == name)
    folder, config = out / name, str(configs / task.config)
    options = _options(data)
    train_options = [
        # What is evaluated and kept is the end of the training, below.
        f'train_cfg.val_begin={NEVER}', f'default_hooks.checkpoint.interval={NEVER}']
    if pretrained:
        train_options.append(f'model.backbone.init_cfg.checkpoint={pretrained}')
    if digit_version(torch.__version__) >= digit_version('2.4'):
        train_options.append('optim_wrapper.optimizer.fused=True')  # on CPUs too: a tenth of an iteration
    runner = train(config, str(folder), cfg_options=options + train_options)
    last = Path(runner.message_hub.get_info('last_ckpt'))
    shutil.copy(last, folder / 'last.pth')
    shutil.copy(last.with_name(f'{last.stem}_deploy.pth'), folder / 'deploy.pth')
    before = test(config, str(folder / 'last.pth'), str(folder), branches=True, cfg_options=options)
    after = test(config, str(folder / 'deploy.pth'), str(folder), deploy=True, cfg_options=options)
    print('exporting', flush=True)
    exported, weights = folder / 'model.onnx', folder / 'deploy.pth'
    model = get_model(load_config(config, options), str(weights), 'cpu')
    print(export_model(model, exported, source=weights))
    onnx = test(config, str(exported), str(folder), cfg_options=options)
    print(export_model(model, folder / 'model_int8.onnx', source=weights, int8=Int8(data / 'JPEGImages')))
    int8 = test(config, str(folder / 'model_int8.onnx'), str(folder), cfg_options=options)
    metrics = {form: float(found[task.metric]) * task.scale
               for form, found in (('before', before), ('after', after), ('onnx', onnx), ('int8', int8))}
    with written_whole(folder / 'metrics.json') as made:
        made.write_text(json.dumps(dict(metrics, seconds=time.perf_counter() - started)))


def _options(data: Path) -> list[str]:
    # One process loads what a core trains on.
    return [option for phase in ('train', 'val', 'test') for option in (
        f'{phase}_dataloader.dataset.data_root={data}', f'{phase}_dataloader.num_workers=1')]


# The table and the picture


def _measure(task: Task, out: Path, configs: Path, data: Path) -> dict:
    """A trained task's metrics, sizes, latencies and pictures."""
    before, after, dataset = _load(task, out, configs, data)
    exported, int8 = (out / task.name / name for name in ('model.onnx', 'model_int8.onnx'))
    latency = _latency(before, after, dataset)
    return dict(
        task=task.name, metric=task.metric, **json.loads((out / task.name / 'metrics.json').read_text()),
        parameters_before=sum(p.numel() for p in before.parameters()),
        parameters_after=sum(p.numel() for p in after.parameters()),
        latency_ms_before=latency[0], latency_ms_after=latency[1],
        latency_ms_onnx=_onnx_latency(exported, dataset), onnx_bytes=exported.stat().st_size,
        latency_ms_int8=_onnx_latency(int8, dataset), int8_bytes=int8.stat().st_size,
        meta=dataset.metainfo, pictures=_pictures(after, dataset))


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _row(task: Task, found: dict) -> str:
    return _line([
        task.name, task.metric, *(f'{found[form]:.2f}' for form in ('before', 'after', 'onnx', 'int8')),
        *(f'{found[f"parameters_{form}"]:,}' for form in ('before', 'after')),
        *(f'{found[f"latency_ms_{form}"]:.1f}' for form in ('before', 'after', 'onnx', 'int8')),
        *(f'{found[f"{form}_bytes"] / 1e6:.1f}' for form in ('onnx', 'int8')), f'{found["seconds"]:.0f}'])


def _report(out: Path, rows: Sequence[str], measured: Sequence[dict], cores: int, seconds: float) -> Path:
    """Write ``table.md``, ``results.json`` and ``predictions.png``; returns the table."""
    from mmone.files import written_whole
    pictures = [(found['task'], found.pop('meta'), found.pop('pictures')) for found in measured]
    notes = (f'On {cores} cores of {processor()[0]}, in {seconds:.0f} s. Latency: median of {LATENCY_RUNS} runs at '
             'batch 1; of the network in PyTorch, and from the image to the answer in ONNX Runtime.')
    with written_whole(out / 'predictions.png') as made:
        _draw(pictures, made)
    with written_whole(out / 'results.json') as made:
        made.write_text(json.dumps(dict(rows=measured, seconds=seconds, cores=cores), indent=2))
    with written_whole(out / 'table.md') as made:
        made.write_text('\n'.join([*rows, '', notes, '']))
    print(f'\n{notes}\n\ntable: {out / "table.md"}, picture: {out / "predictions.png"}')
    return out / 'table.md'


def _load(task: Task, out: Path, configs: Path, data: Path):
    """The model in both forms and its validation data set."""
    from mmengine.registry import DATASETS

    from mmone.apis import get_model
    from mmone.config import default_scope, load_config
    cfg = load_config(str(configs / task.config), _options(data))
    before = get_model(cfg, str(out / task.name / 'last.pth'), 'cpu', deploy=False)
    after = get_model(cfg, str(out / task.name / 'deploy.pth'), 'cpu')
    with default_scope(cfg):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    return before, after, dataset


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


def _pictures(model, dataset) -> list:
    """Some validation images: (H, W, 3) uint8 RGB, and the sample with its truth and prediction."""
    import mmcv
    import numpy as np
    import torch
    from mmengine.dataset import pseudo_collate
    found = []
    for index in np.linspace(0, len(dataset) - 1, PICTURES).astype(int).tolist():
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([dataset[index]]))[0].cpu()
        found.append((mmcv.imread(sample.img_path, channel_order='rgb'), sample))
    return found


def _draw(rows: Sequence[tuple[str, dict, list]], path: Path) -> None:
    """A row a task, with its pictures as input, truth and prediction.

    The libraries' own drawings scale their letters with the boxes, too small to be read on small images.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(len(rows), 3 * PICTURES, figsize=(2 * 3 * PICTURES, 2.25 * len(rows)),
                                   squeeze=False, layout='constrained')
    for row, (name, meta, pictures) in zip(axes, rows):
        row[0].set_ylabel(name, fontsize=13)
        for panels, (image, sample) in zip(row.reshape(PICTURES, 3), pictures):
            for axis, title in zip(panels, ('input', 'truth', 'prediction')):
                axis.set_title(title, fontsize=11)
                axis.set_xticks([])
                axis.set_yticks([])
                axis.imshow(image)
            for axis, kind in zip(panels[1:], ('gt', 'pred')):
                _draw_answer(axis, sample, kind, meta)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_answer(axis, sample, kind: str, meta: dict) -> None:
    """The truth (``'gt'``) or the prediction (``'pred'``) of a sample of any task over its image."""
    import numpy as np
    from matplotlib.patches import Rectangle
    names = meta['classes']

    def label(x: float, y: float, text: str, color) -> None:
        axis.text(x, y, text, color='white', fontsize=9, va='top', clip_on=True,
                  bbox=dict(facecolor=color, edgecolor='none', alpha=0.85, pad=1))

    if f'{kind}_label' in sample:
        index = sample.get(f'{kind}_label').item()
        score = f' {sample.pred_score[index]:.2f}' if kind == 'pred' else ''
        label(4, 4, names[index] + score, 'black')
    elif f'{kind}_instances' in sample:
        found = sample.get(f'{kind}_instances')
        if kind == 'pred':
            found = found[found.scores > SCORE_THRESHOLD]
        boxes = getattr(found.bboxes, 'tensor', found.bboxes).tolist()
        for (left, top, right, bottom), index in zip(boxes, found.labels.tolist()):
            color = np.array(meta['palette'][index]) / 255
            axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, lw=2))
            label(left, top, names[index], color)
    else:
        masks = sample.get(f'{kind}_sem_seg').data[0].numpy()
        colors = np.array(meta['palette'], np.uint8)[masks]
        axis.imshow(np.dstack([colors, np.where(masks > 0, 170, 0).astype(np.uint8)]))
        for index in np.unique(masks[masks > 0]).tolist():
            rows, columns = np.nonzero(masks == index)
            label(columns.mean() - 14, rows.mean() - 6, names[index], np.array(meta['palette'][index]) / 255)


if __name__ == '__main__':
    name, *folders = sys.argv[1:]
    run_task(name, *(Path(folder) for folder in folders), *([None] if len(folders) == 3 else []))
