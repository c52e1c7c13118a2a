"""Evaluate models under the corruptions of ImageNet-C, and on other test sets."""
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .parser import Parser

EXAMPLES = """\
MODEL is a checkpoint of the config's model, which is evaluated in its deployed form, or an exported file, in INT8
too. All see the same corrupted images, so that several in one command take little longer than one. Each corruption
and severity is kept at once: the same command after an interruption goes on with the rest, and models of another
config with the same test set can be added to a folder.

What the numbers are: docs/robustness.md. It needs imagecorruptions: pip install "mmone[robustness]".

examples:
  mmone robustness CONFIG CHECKPOINT
  mmone robustness CONFIG CHECKPOINT model-int8.onnx --out robustness
  mmone robustness CONFIG CHECKPOINT --corruptions fog snow --severities 3
  mmone robustness CONFIG CHECKPOINT --sets imagenet_a imagenet_r imagenet_sketch imagenet_v2
  mmone robustness CONFIG CHECKPOINT --sets imagenet_c
      the corruptions as ImageNet-C has them in files
"""


def add_arguments(parser: Parser) -> None:
    parser.add_config()
    parser.add_argument('models', nargs='+', metavar='MODEL', help='checkpoint file or URL, or exported model')
    parser.add_argument('--corruptions', nargs='*', metavar='NAME', help='default: all 15; with no NAME none')
    parser.add_argument('--severities', nargs='+', type=int, choices=range(1, 6), metavar='N',
                        help='of 1 to 5 (default: all)')
    parser.add_argument('--sets', nargs='+', default=[], metavar='NAME',
                        help='other test sets: config files, or names of those in configs/_base_/datasets')
    parser.add_argument('--out', type=Path, default=Path('robustness'), metavar='DIR',
                        help='folder of results, report and pictures (default: %(default)s)')
    parser.add_trust()


def run(args: Namespace) -> int:
    from mmone.datasets.corrupt import CORRUPTIONS, SEVERITIES
    from mmone.experiments.robustness import evaluate
    from mmone.experiments.robustness_report import summary, write_report

    from .output import aligned
    try:
        with _shown() as listen:
            results = evaluate(
                args.config, args.models, args.out, CORRUPTIONS if args.corruptions is None else args.corruptions,
                args.severities or SEVERITIES, args.sets, args.cfg_options, args.trust, listen)
    except KeyboardInterrupt:
        print(f'interrupted: what was evaluated is in {args.out}, and the same command goes on with the rest',
              file=sys.stderr)
        return 130
    print(aligned(summary(results)))
    print(f'report in {write_report(results)}')
    return 0


@contextmanager
def _shown() -> Iterator[Callable]:
    """What shows how far the evaluation is: a bar on a terminal, elsewhere a line for each corruption and severity."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn('{task.completed}/{task.total}'), TextColumn('{task.description}', markup=False))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task('loading', total=None)

        def listen(progress):
            left = f', about {progress.seconds / 60:.0f} min left' if progress.seconds else ''
            bars.update(bar, completed=progress.done, total=progress.total, description=progress.text + left)
            if not console.is_terminal:
                print(f'{progress.done}/{progress.total} {progress.text}{left}', file=sys.stderr, flush=True)

        yield listen
