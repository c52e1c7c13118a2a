#!/usr/bin/env python
"""Write what the metafiles record into the tables of the documents and the first line of each config, or check it."""
import re
from functools import partial
from pathlib import Path

from mmone.cli.boundary import error_boundary
from mmone.cli.parser import Parser
from mmone.errors import InputError
from mmone.models.backbones.archs import ARCHS
from mmone.zoo import Entry, entries

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ('README.md', 'docs/model_zoo.md', 'docs/results.md')
# The metafiles' names, which are OpenMMLab's: what they are called here, and the digits that are measured.
METRICS = {
    'Top 1 Accuracy': ('top-1', 2), 'Top 5 Accuracy': ('top-5', 2), 'box AP': ('mAP', 1), 'box AP50': ('mAP@50', 1),
    'VOC mAP': ('VOC mAP', 1), 'mIoU': ('mIoU', 2), 'aAcc': ('pixel accuracy', 2)}
# The columns of text; numbers are aligned to the right.
TEXT = ('config', 'metric', 'model', 'paper', 'results', 'start', 'task', 'variant', 'weights')
FORMS = ('with branches', 'deployed', 'ONNX', 'INT8')


def main(argv=None):
    parser = Parser(Path(__file__).name, __doc__, 'The tables lie between <!-- zoo: … --> and <!-- end zoo -->; '
                    'the metafiles are those that model-index.yml lists.')
    parser.add_argument('--check', action='store_true',
                        help='change nothing; exit with status 2 if a file differs from the metafiles')
    args = parser.parse_args(argv)
    with error_boundary(parser):
        for path, wanted in contents().items():
            if path.read_text(encoding='utf-8') == wanted:
                continue
            if args.check:
                raise InputError(f'{path.relative_to(ROOT)} differs from the metafiles: run tools/model_zoo.py')
            path.write_text(wanted, encoding='utf-8')
            print(f'{path.relative_to(ROOT)} written')


def contents() -> dict[Path, str]:
    """The text that each document and config should have."""
    documents = {ROOT / name: with_tables for name in DOCUMENTS}
    configs = {ROOT / 'configs' / entry.task / entry.config.name: partial(with_first_line, entry)
               for entry in entries().values()}
    return {path: rewrite(path.read_text(encoding='utf-8')) for path, rewrite in {**documents, **configs}.items()}


def with_first_line(entry: Entry, text: str) -> str:
    """The text of a config, its first line the record of its model."""
    rest = text.partition('\n')[2] if text.startswith('#') else text
    return f'# {summary(entry)}\n{rest}'


def summary(entry: Entry) -> str:
    """What a model reached, in how long and on what; or that nobody trained it, and the paper's figure."""
    record = entry.metadata
    paper = f'paper: {_paper(record)}' if 'Paper' in record else 'the paper has no figure for it'
    if 'Shape' in record:
        paper = f'{record["Shape"]}; {paper}'
    if not entry.results:
        return f'Not trained yet; {paper}.'
    reached = f'{_scores(entry.results[0]["Metrics"])} on {entry.results[0]["Dataset"]}'
    if entry.weights:
        return f"{reached} with mmpretrain's checkpoint, not trained here; {paper}."
    if 'Epochs' not in record:
        return f'{reached} with {record["Start"]}, without training.'
    time = f' in {record["Training Time"]}' if 'Training Time' in record else ''
    return f'{reached}{time} on {record["Training Resources"]}, from {record["Start"]}.'


def with_tables(text: str) -> str:
    """``text`` with every table between ``<!-- zoo: name -->`` and ``<!-- end zoo -->`` written anew."""
    return re.sub(r'(<!-- zoo: (.+?) -->\n).*?(<!-- end zoo -->)',
                  lambda match: match[1] + _table(match[2]) + match[3], text, flags=re.DOTALL)


def _table(name: str) -> str:
    if name.startswith('results on '):
        header, *rows = _results(name.removeprefix('results on '))
    elif name == 'variants':
        header, *rows = _variants()
    elif name == 'demo':
        header, *rows = _demo()
    else:
        header, *rows = _models(name)
    alignment = ('---' if column in TEXT else '--:' for column in header)
    return '\n'.join([_row(header), f'|{"|".join(alignment)}|', *map(_row, rows), ''])


def _row(cells) -> str:
    return f'| {" | ".join(map(str, cells))} |'


def _variants():
    """All variants as classifiers of ImageNet."""
    yield 'variant', 'branches k', 'SE blocks', 'parameters deployed', 'multiply-adds 224²', 'ImageNet top-1 / top-5'
    for name, arch in ARCHS.items():
        entry = entries().get(f'mobileone-{name}_8xb32_in1k')
        if entry is None:  # a variant of segmentors
            continue
        metrics = entry.results[0]['Metrics'] if entry.results else {}
        yield (name if 'Shape' in entry.metadata else name.upper(), arch['num_conv_branches'][0],
               sum(arch['num_se_blocks']) or '–', *_size(entry),
               ' / '.join(_score(metrics, metric) for metric in metrics) or 'not trained yet')


def _models(task: str):
    """All models of a task."""
    yield 'model', 'image', 'parameters', 'multiply-adds', 'results', 'paper', 'weights'
    for entry in entries().values():
        if entry.task == task:
            results = '; '.join(f'{result["Dataset"]}: {_scores(result["Metrics"])}' for result in entry.results)
            height, width = entry.metadata['Image Size']
            yield (f'[`{entry.name}`](../configs/{task}/{entry.config.name})', f'{height}×{width}', *_size(entry),
                   results or 'not trained yet', _paper(entry.metadata),
                   f'[mmpretrain]({entry.weights})' if entry.weights else '')


def _results(dataset: str):
    """What was measured here on one data set, of both forms where that was done."""
    found = [(entry, result) for entry in entries().values() for result in entry.results
             if result['Dataset'] == dataset]
    columns = [(form, metric) for metric in METRICS for form in ('Metrics', 'Deployed')
               if any(metric in result.get(form, ()) for _, result in found)]
    names = [METRICS[metric][0] + (' deployed' if form == 'Deployed' else '') for form, metric in columns]
    yield 'config', 'start', 'epochs', *names, 'training time'
    for entry, result in found:
        record = entry.metadata
        yield (f'`{entry.config.name}`', record['Start'], record.get('Epochs', '–'),
               *(_score(result.get(form, {}), metric) for form, metric in columns), record.get('Training Time', '–'))


def _demo():
    """What ``make demo`` ends with."""
    yield ('task', 'metric', *FORMS, 'parameters', 'deployed', 'latency ms', *FORMS[1:], 'training time')
    for entry in entries().values():
        record = entry.metadata
        if 'Latency' in record:
            result = entry.results[0]
            metric, = result['Metrics']
            yield (entry.task, METRICS[metric][0],
                   *(_score(result[key], metric) for key in ('Metrics', 'Deployed', 'ONNX', 'INT8')),
                   f'{record["Parameters with Branches"]:,}', f'{record["Parameters"]:,}',
                   *(record['Latency'][form] for form in FORMS), record['Training Time'])


def _size(entry: Entry) -> tuple[str, str]:
    return f'{entry.metadata["Parameters"]:,}', f'{entry.metadata["FLOPs"]:,}'


def _score(metrics: dict, name: str) -> str:
    return f'{metrics[name]:.{METRICS[name][1]}f}' if name in metrics else '–'


def _scores(metrics: dict) -> str:
    return ', '.join(f'{_score(metrics, name)} {METRICS[name][0]}' for name in metrics)


def _paper(record: dict) -> str:
    figures = [f'{value} {METRICS[name][0]}' for name, value in record.get('Paper', {}).items()]
    notes = [record[key] for key in ('Paper Note', 'Shape') if key in record]
    return ', '.join([*figures, *notes])


if __name__ == '__main__':
    main()
