"""Train what the paper's ablations compare, on any data, and write a table and a picture."""
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .parser import Parser

EXAMPLES = """\
NAME is one of
  branches    with and without train-time branches (the paper's Table 5)
  k           1 to 5 convolution branches (Table 6)
  scale-skip  scale and skip branch, each alone, both, none
  settings    train settings, each left out: weight-decay annealing, EMA, curriculum, label smoothing (Table 8)
  activation  ReLU, GELU, SiLU, squeeze-excite before ReLU
  rivals      MobileOne's branches, RepVGG's, ACNet's, DBB's, ExpandNet's (Table 4)

CONFIG is a classifier's with a MobileOne, on any data, that trains from scratch. Every row is trained with every
seed, one after the other, each in a process of its own. The same command after an interruption goes on from the last
epoch that was finished; with more seeds it trains those too.

examples:
  mmone ablate k mobileone-s0_1xb64-20e_cifar10-small --seeds 0 1 2
  mmone ablate settings mobileone-s2_8xb32_in1k --seeds 0 --work-dir ablation
"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument('name', metavar='NAME', help='what is varied: one of those below')
    parser.add_config()
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='N',
                        help='each row is trained with each (default: 0 1 2)')
    parser.add_argument('--work-dir', type=Path, metavar='DIR',
                        help='folder for configs, checkpoints, table and picture (default: '
                        'work_dirs/ablate-NAME-CONFIG)')


def run(args: Namespace) -> int | None:
    from mmone.config import load_config
    from mmone.experiments.ablate import ablate
    from mmone.experiments.ablations import find_ablation
    find_ablation(args.name)
    folder = args.work_dir or Path('work_dirs', f'ablate-{args.name}-{Path(args.config).stem}')
    try:
        with _shown() as listen:
            table = ablate(args.name, load_config(args.config, args.cfg_options), args.seeds, folder, listen)
    except KeyboardInterrupt:
        print(f'interrupted: the same command goes on with what is in {folder}', file=sys.stderr)
        return 130
    print(table.read_text(), f'table: {table}', sep='\n')
    return None


@contextmanager
def _shown() -> Iterator[Callable]:
    """What shows how far the runs are: a bar with the time left on a terminal, elsewhere a line for each run."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn('epoch {task.completed} of {task.total}'), TimeElapsedColumn(),
               TextColumn('left:'), TimeRemainingColumn(), TextColumn('{task.description}', markup=False))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True,
                  speed_estimate_period=3600) as bars:
        bar = bars.add_task('', total=None)
        shown: list = []

        def listen(run, epochs, total):
            if bars.tasks[0].total is None:  # what earlier runs have was not done in this time
                bars.reset(bar, total=total, completed=epochs)
            bars.update(bar, total=total, completed=epochs, description=f'{run.config.parent.name} {run.config.stem}')
            if not console.is_terminal and shown != [run.config]:
                shown[:] = [run.config]
                print(f'{run.config}: epoch {epochs} of {total}', file=sys.stderr, flush=True)

        yield listen
