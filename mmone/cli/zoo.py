"""List the models by name, with task, parameters, result and whether weights are published."""
from argparse import Namespace

from .output import aligned
from .parser import Parser

EXAMPLES = """\
A model's name stands for its config wherever a CONFIG is asked for, and it is what mmone predict
--model takes. Parameters are those of the deployed form; results are as published with the weights,
or measured by this project.

examples:
  mmone zoo
  mmone zoo segmentation
  mmone zoo s0 coco
"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument('words', nargs='*', metavar='WORD',
                        help='list only what has all these words in its line, a task for example')


def run(args: Namespace) -> None:
    from mmone.errors import InputError
    from mmone.zoo import entries
    rows = [_row(entry) for entry in entries().values()]
    found = [row for row in rows if all(word.lower() in ' '.join(row).lower() for word in args.words)]
    if not found:
        raise InputError(f'no model has {" and ".join(args.words)} in its line')
    print(aligned([('name', 'task', 'parameters', 'result', 'weights'), *found]))


def _row(entry) -> tuple[str, ...]:
    return (entry.name, entry.task, f'{entry.metadata["Parameters"] / 1e6:.2f} M', _result(entry),
            'published' if entry.weights else '')


def _result(entry) -> str:
    if entry.results:
        return '; '.join(f'{result["Dataset"]}: {_metrics(result["Metrics"])}' for result in entry.results)
    paper = entry.metadata.get('Paper')
    return 'not trained yet' + (f' (paper: {_metrics(paper)})' if paper else '')


def _metrics(metrics: dict) -> str:
    return ', '.join(f'{name} {value}' for name, value in metrics.items())
