"""Measure how long models take on this machine, with each runtime."""
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .output import aligned
from .parser import Parser, positive

EXAMPLES = """\
MODEL is a name of the model zoo or a config file, with weights as CONFIG=CHECKPOINT; an exported file; a
network of the study, such as mobileone-s0 or mobilenetv2_100; or any other classifier of timm. Networks are
measured from a prepared image to logits or raw outputs, branches folded, with random weights unless there is
a checkpoint; exported files whole, from a uint8 image to the final answer.

Runtimes: onnxruntime, openvino, ncnn, torch (eager), torch-branches (eager, as trained), torch-compile,
torchscript, coreml (macOS). Each measurement is kept at once; the same command after an interruption goes on with
the rest. Results marked "not steady" vary more than the protocol allows, and were made three times.

Exit status: 0, 1 if something could not be measured, 2 if nothing was tried, 130 if interrupted.

examples:
  mmone bench mobileone-s0 mobilenetv2_100
  mmone bench mobileone-s0 mobileone-s1 --runtime onnxruntime openvino torch --threads 2
  mmone bench ssdlite_mobileone-s0_8xb16-200e_coco-320x320 --shape 320 320
  mmone bench model.onnx --out lab.db --again
"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument('models', nargs='+', metavar='MODEL', help='what to measure')
    parser.add_argument('--shape', nargs=2, type=positive, metavar=('H', 'W'),
                        help="height and width of the image (default: 224 224, or a config's own)")
    parser.add_argument('--again', action='store_true', help='also measure what FILE has already')
    add_measuring(parser)


def add_measuring(parser: Parser) -> None:
    """How and where to: what ``mmone lab study`` takes too."""
    parser.add_argument('--runtime', nargs='+', metavar='NAME',
                        help="default: onnxruntime, an exported file's own; on a GPU torch")
    parser.add_argument('--threads', nargs='+', type=positive, default=[1], metavar='N',
                        help='each is measured (default: 1)')
    parser.add_argument('--batch', type=positive, default=1, metavar='N', help='images at once (default: 1)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu',
                        help='default: cpu; cuda measures float32 and float16')
    parser.add_argument('--runs', type=positive, default=100, metavar='N', help='of each model (default: 100)')
    add_file(parser)


def add_file(parser: Parser) -> None:
    parser.add_argument('--out', type=Path, default=Path('lab.db'), metavar='FILE',
                        help="the lab's file, with the measurements of all machines (default: %(default)s)")


def run(args: Namespace) -> int:
    shape = args.shape and tuple(args.shape)
    return measured(args, args.models, lambda store, tasks: print(_table(store, tasks)), shape, args.again)


def measured(args: Namespace, names: Iterable[str], tell: Callable, shape: tuple[int, int] | None = None,
             again: bool = False) -> int:
    """Measure models, have the lab's file and the tasks told of, and say what failed; returns the exit status."""
    from mmone.lab.measure import measure, plan
    from mmone.lab.store import Store
    from mmone.lab.subjects import find_subject
    tasks = plan([find_subject(name) for name in names], args.runtime, args.threads, args.batch, shape, args.device)
    with Store(args.out) as store:
        try:
            with shown() as listen:
                failures = measure(tasks, store, args.runs, again=again, listen=listen)
        except KeyboardInterrupt:
            print(f'interrupted: what was measured is in {args.out}, and the same command goes on with the rest',
                  file=sys.stderr)
            return 130
        tell(store, tasks)
    for failure in failures:
        print(f'not measured: {failure.task}: {failure.reason}', file=sys.stderr)
    return 1 if failures else 0


@contextmanager
def shown() -> Iterator[Callable]:
    """What shows how far the measuring is: a bar on a terminal, elsewhere a line for each measurement."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn('{task.completed}/{task.total}'), TimeElapsedColumn(),
               TextColumn('{task.description}', markup=False))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task('', total=None)

        def listen(progress):
            bars.update(bar, completed=progress.done, total=progress.total, description=progress.text)
            if progress.measurement and not console.is_terminal:
                print(progress.text, file=sys.stderr, flush=True)

        yield listen


def _table(store, tasks) -> str:
    """What the file has of the tasks, the fastest first."""
    from mmone.lab.machine import this_machine
    key = this_machine().key
    asked = {(task.subject.model.name, task.setting) for task in tasks}
    found = sorted((one for one in store.measurements()
                    if one.machine.key == key and (one.model.name, one.setting) in asked),
                   key=lambda one: one.latency.median)
    rows = [('model', 'runtime', 'precision', 'threads', 'image', 'ms', 'p10', 'p90', 'min', 'runs', '')]
    for one in found:
        setting, latency = one.setting, one.latency
        rows.append((one.model.name, setting.runtime, setting.precision, str(setting.threads),
                     f'{setting.batch}x{setting.height}x{setting.width}',
                     *(f'{value:.2f}' for value in (latency.median, latency.p10, latency.p90, latency.minimum)),
                     f'{latency.runs} of {latency.runs + latency.discarded}', '' if latency.steady else 'not steady'))
    return aligned(rows)
