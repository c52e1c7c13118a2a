"""The model zoo as Markdown tables."""
import re

from mmone.models.backbones.archs import ARCHS
from mmone.zoo import Entry, entries


def with_tables(text: str) -> str:
    """``text`` with every table between ``<!-- zoo: name -->`` and ``<!-- end zoo -->`` anew."""
    return re.sub(r'(<!-- zoo: (\w+) -->\n).*?(<!-- end zoo -->)',
                  lambda match: match[1] + _TABLES[match[2]]() + match[3], text, flags=re.DOTALL)


def _variants() -> str:
    lines = ['| variant | branches k | SE blocks | parameters deployed | multiply-adds 224² | '
             'ImageNet top-1 / top-5 |', '|---|--:|--:|--:|--:|--:|']  # yapf: disable
    for name, arch in ARCHS.items():
        entry = entries()[f'mobileone-{name}_8xb32_in1k']
        metrics = entry.results[0]['Metrics']
        lines.append(
            f'| {name.upper()} | {arch["num_conv_branches"][0]} | {sum(arch["num_se_blocks"]) or "–"} | '
            f'{entry.metadata["Parameters"]:,} | {entry.metadata["FLOPs"]:,} | '
            f'{metrics["Top 1 Accuracy"]:.2f} / {metrics["Top 5 Accuracy"]:.2f} |')
    return '\n'.join(lines) + '\n'


def _models(task: str) -> str:
    lines = ['| model | image | parameters | multiply-adds | results | weights |',
             '|---|--:|--:|--:|---|---|']  # yapf: disable
    for entry in entries().values():
        if entry.task == task:
            lines.append(_row(entry))
    return '\n'.join(lines) + '\n'


def _row(entry: Entry) -> str:
    results = '; '.join(
        f'{result["Dataset"]}: ' + ', '.join(
            f'{metric} {value:.2f}' for metric, value in result['Metrics'].items())
        for result in entry.results)
    config = f'../configs/{entry.task}/{entry.config.name}'
    weights = f'[mmpretrain]({entry.weights})' if entry.weights else ''
    height, width = entry.metadata['Image Size']
    return (f'| [`{entry.name}`]({config}) | {height}×{width} | {entry.metadata["Parameters"]:,} | '
            f'{entry.metadata["FLOPs"]:,} | {results} | {weights} |')


_TABLES = dict(
    variants=_variants,
    classification=lambda: _models('classification'),
    detection=lambda: _models('detection'),
    segmentation=lambda: _models('segmentation'))
