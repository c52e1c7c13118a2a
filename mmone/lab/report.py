"""The report of a lab's file: a folder of Markdown with pictures, and the same as one page that needs nothing else.

The words in it are made from the numbers (:mod:`.findings`), so that a second report of more measurements replaces the
first and says what is true of them.
"""
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mmone.errors import InputError
from mmone.lab import document, findings, paper, plots
from mmone.lab.document import Block, Heading, Items, Link, Picture, Table, Text, plain
from mmone.lab.findings import Panel, described, listed, milliseconds, panels, rate, short, signed
from mmone.lab.statistics import spearman
from mmone.lab.store import Machine, Measurement, Setting

TITLE = 'Latency report'
UNSTEADY = ' †'
WITH_BRANCHES = '-branches'  # how the name of a runtime ends that computes train-time branches


def write_report(measurements: Sequence[Measurement], folder: str | Path) -> Path:
    """Write the report of all measurements of a lab's file, whole or not at all.

    Args:
        measurements (Sequence[Measurement]): From :class:`~mmone.lab.store.Store`.
        folder (str | Path): Is made, or replaced if a report wrote it.

    Returns:
        Path: The Markdown.

    Raises:
        InputError: If there are no measurements, or the folder has files that no report wrote.
    """
    document.check_folder(Path(folder).absolute())
    if not measurements:
        raise InputError('there are no measurements to report on')
    with plots.style():
        return document.write(folder, lambda made: _blocks([_harmless(one) for one in measurements], made))


def _harmless(one: Measurement) -> Measurement:
    """With names of one printable line each."""
    machine = replace(one.machine, name=plain(one.machine.name) or 'unnamed', processor=plain(one.machine.processor),
                      system=plain(one.machine.system), governor=plain(one.machine.governor or '') or None,
                      versions={plain(name): plain(version) for name, version in one.machine.versions.items()})
    model = replace(one.model, name=plain(one.model.name), family=plain(one.model.family))
    return replace(one, machine=machine, model=model)


def _blocks(measurements: list[Measurement], folder: Path) -> Iterator[Block]:
    """The report; pictures are written as it goes."""
    shown = panels(one for one in measurements if not one.setting.runtime.endswith(WITH_BRANCHES))
    markers = plots.Markers([one.model.family for panel in shown for one in panel.networks])
    networks, machines = (len(names) for names in ({one.model.name for one in measurements},
                                                   {one.machine.key for one in measurements}))
    yield Heading(1, TITLE)
    yield Text(f'{len(measurements)} measurements of {networks} networks on {machines} '
               f'machine{"s" if machines != 1 else ""}. Latency is the median of the runs that are kept, of the whole '
               'round trip from the image in memory to the answer in memory. Parameters and multiply-adds are those of '
               'the network as it is timed, with branches folded.' + _unsteady(measurements))
    yield from _summary(shown)
    yield from _branches(measurements)
    names = _names(measurements)
    for machine in {one.machine.key: one.machine for one in measurements}.values():
        yield Heading(2, machine.name)
        yield _machine(machine)
        for panel in shown:
            if panel.machine.key == machine.key:
                yield from _panel(panel, markers, f'{names[machine.key]}-{_file_name(panel.setting)}', folder)
    yield from _accuracies(measurements)
    yield from _reading()


def _unsteady(measurements: Sequence[Measurement]) -> str:
    count = sum(not one.latency.steady for one in measurements)
    return f' {count} are marked with{UNSTEADY}: their spread stayed too large to rely on.' if count else ''


def _names(measurements: Sequence[Measurement]) -> dict[str, str]:
    """What names of pictures begin with, by the machine's key: its name, and a number where another has the same."""
    found: dict[str, str] = {}
    for machine in {one.machine.key: one.machine for one in measurements}.values():
        name = '-'.join(re.findall(r'[a-z0-9]+', machine.name.lower()))[:40].strip('-') or 'machine'
        same = sum(re.fullmatch(rf'{name}(-\d+)?', other) is not None for other in found.values())
        found[machine.key] = f'{name}-{same + 1}' if same else name
    return found


def _words(setting: Setting) -> str:
    return ', '.join(_parts(setting).values())


def _parts(setting: Setting) -> dict[str, str]:
    threads = f'{setting.threads} thread{"s" if setting.threads != 1 else ""}' if setting.threads else 'threads unknown'
    return dict(runtime=plain(setting.runtime), device=plain(setting.device), precision=plain(setting.precision),
                threads=threads, batch=f'batch {setting.batch}', size=f'{setting.height}×{setting.width}')


def _labels(shown: Sequence[Panel]) -> list[str]:
    """What tells panels apart, in few words."""
    parts = [_parts(panel.setting) for panel in shown]
    said = {name for name in (parts[0] if parts else ()) if len({part[name] for part in parts}) > 1}
    said |= {'runtime', 'threads'}
    machines = {panel.machine.key for panel in shown}
    return [(f'{panel.machine.name}: ' if len(machines) > 1 else '')
            + ', '.join(text for name, text in part.items() if name in said) for panel, part in zip(shown, parts)]


def _file_name(setting: Setting) -> str:
    words = f'{setting.runtime} {setting.device} {setting.precision} {setting.threads}t'
    if (setting.batch, setting.height, setting.width) != (1, 224, 224):
        words += f' {setting.batch}x{setting.height}x{setting.width}'
    return '-'.join(re.findall(r'[a-z0-9]+', words.lower()))[:60]


# All machines


def _summary(shown: Sequence[Panel]) -> Iterator[Block]:
    yield Heading(2, 'In short')
    labels = _labels(shown)
    verdicts = [{claim.key: claim.verdict for claim in panel.claims()} for panel in shown]
    yield Items([f'{title.title}: {_tally(key, verdicts, labels)}' for key, title in findings.CLAIMS.items()
                 if any(key in found for found in verdicts)] or ['Too few networks to say anything of the claims.'])
    yield Heading(3, 'Where the paper’s claims held')
    columns = [title.column for title in findings.CLAIMS.values()]
    yield Table(['setting', *columns], [[label, *(found.get(key, '') for key in findings.CLAIMS)]
                                        for label, found in zip(labels, verdicts)])
    yield Heading(3, 'Rank correlation of latency')
    yield Table(['setting', 'networks>', 'ρ multiply-adds>', '95% interval>', 'ρ parameters>', '95% interval>',
                 'MobileOne on the front>'], [*_summary_rows(shown, labels), *_paper_rows()])
    yield Text('ρ is Spearman’s rank correlation with latency: 1 where a network of more always takes longer, 0 where '
               'the number says nothing. The last rows are the paper’s; those of its Table 9 are computed here, from '
               'the figures that it prints.')


def _tally(key: str, verdicts: Sequence[dict[str, str]], labels: Sequence[str]) -> str:
    """In how many settings a claim has each verdict, and in which, where it has several."""
    count = sum(key in found for found in verdicts)
    places = {verdict: [label for label, found in zip(labels, verdicts) if found.get(key) == verdict]
              for verdict in findings.VERDICTS}
    for verdict, where in places.items():
        if len(where) == count:
            return f'{verdict} {f"in all {count} settings" if count > 1 else ""}'.strip() + '.'
    said = [f'{verdict} in {len(where)} of {count} settings ({"; ".join(where)})'
            for verdict, where in places.items() if where]
    return f'{listed(said)}.'


def _summary_rows(shown: Sequence[Panel], labels: Sequence[str]) -> Iterator[list[str]]:
    for panel, label in zip(shown, labels):
        if panel.networks:
            ours = [one for one in panel.ours if one.model.top1 is not None]
            on_front = sum(not panel.dominators[one.model.name] for one in ours)
            yield [label, str(len(panel.networks)), *_rho(panel.correlation('multiply_adds')),
                   *_rho(panel.correlation('parameters')), f'{on_front} of {len(ours)}' if ours else '']


def _paper_rows() -> Iterator[list[str]]:
    for device, ranks in paper.CORRELATIONS.items():
        yield [f'the paper’s Table 1, {device}', '', f'{ranks["multiply_adds"].rho:.2f}', '',
               f'{ranks["parameters"].rho:.2f}', '', '']
    rows = list(paper.LATENCIES.values())
    for device, column in ((paper.PHONE, 'phone'), (paper.CPU, 'cpu')):
        latencies = [getattr(row, column) for row in rows]
        yield [f'the paper’s Table 9, {device}', str(len(rows)),
               *_rho(spearman([row.multiply_adds for row in rows], latencies)),
               *_rho(spearman([row.parameters for row in rows], latencies)), '']


def _rho(found: findings.Correlation | None) -> list[str]:
    return ['', ''] if found is None else [signed(found.rho), f'{signed(found.low)} to {signed(found.high)}']


def _branches(measurements: Sequence[Measurement]) -> Iterator[Block]:
    """What folding saves, where networks were timed in both forms."""
    key = {(one.machine.key, one.model.name, one.setting): one for one in measurements}
    rows = []
    for one in measurements:
        runtime = one.setting.runtime.removesuffix(WITH_BRANCHES)
        folded = key.get((one.machine.key, one.model.name, replace(one.setting, runtime=runtime)))
        if folded and folded is not one:
            rows.append([one.model.name, one.machine.name, _words(folded.setting), _ms(one), _ms(folded),
                         f'{one.latency.median / folded.latency.median:.2f}'])
    if rows:
        yield Heading(2, 'What folding the branches saves')
        yield Table(['network', 'machine', 'setting', 'with branches (ms)>', 'folded (ms)>', 'times>'], rows)


def _machine(machine: Machine) -> Block:
    memory = f'{machine.memory / 2**30:.1f} GiB' if machine.memory else 'not told'
    rows = [['kind', machine.kind], ['processor', machine.processor or 'not told'],
            ['cores', str(machine.cores or 'not told')], ['memory', memory], ['system', machine.system or 'not told'],
            ['frequency governor', machine.governor or 'not told'],
            ['versions', ', '.join(f'{name} {version}' for name, version in machine.versions.items()) or 'not told']]
    return Table(['machine', ''], rows)


def _accuracies(measurements: Sequence[Measurement]) -> Iterator[Block]:
    known = {one.model.name: one.model for one in measurements if one.model.top1 is not None}
    if known:
        yield Heading(2, 'Published accuracies')
        yield Table(['network', 'top-1 (%)>', 'published in'], [
            [model.name, _percent(model.top1), plain(model.top1_source or '')] for _, model in sorted(known.items())])


def _reading() -> Iterator[Block]:
    yield Heading(2, 'How the words are chosen')
    yield Items([
        'A claim is the paper’s: it held where the figures agree with it. Nothing is said of all networks where they '
        f'are fewer than {findings.FEWEST}.',
        f'A number says little about latency where ρ is below {findings.WEAK}, and latency follows it where ρ is '
        f'{findings.STRONG} or more; between the two the claim held in part. p is for no correlation at all; the '
        'interval is that of 2,000 bootstrap samples.',
        'A network is on the Pareto front where no other is at least as fast and as accurate. Accuracy is what each '
        'network’s authors or the package that has it published, by training recipes that differ: a newer recipe is '
        'worth some points of top-1.',
        f'Latencies are alike where they differ by at most {findings.LIKE:.0%} of MobileOne’s.',
        f'Rates are the same where they differ by less than {findings.SAME_RATE:.0%}. Dynamic activations cost many '
        f'times more where each takes {findings.MANY} times as long as ReLU or longer. A block costs more than its '
        f'multiply-adds account for where it takes over {findings.HIDDEN - 1:.0%} longer than they say.'])
    yield Link('The paper’s figures are those of its Tables 1, 2 and 9; those of its Table 3 are not public.',
               paper.SOURCE)


# One machine with one setting


def _panel(panel: Panel, markers: plots.Markers, name: str, folder: Path) -> Iterator[Block]:
    title = _title(panel)
    yield Heading(3, _words(panel.setting))
    yield Items([f'{claim.title}: {claim.verdict}. {claim.words}' for claim in panel.claims()] or [
        'Too few networks to say anything of the paper’s claims.'])
    if len(panel.networks) > 1 and any(one.model.multiply_adds for one in panel.networks):
        figure = plots.latency_against_counts(panel, markers, title)
        yield _picture(figure, f'{name}-counts', folder, f'Latency against multiply-adds and parameters, {title}')
    if len(panel.published) > 1:
        figure = plots.accuracy_against_latency(panel, markers, title)
        yield _picture(figure, f'{name}-accuracy', folder, f'Top-1 against latency, {title}')
        yield from _budgets(panel)
    yield from _like(panel)
    yield from _beside_paper(panel)
    if panel.networks:
        yield Heading(4, 'All networks')
        yield _table(panel)
    yield from _ablation(panel, name, folder)


def _title(panel: Panel) -> str:
    return f'{plain(panel.machine.name, 60)}: {_words(panel.setting)}'


def _picture(figure: plots.Figure, name: str, folder: Path, text: str) -> Picture:
    for suffix in ('.png', '.svg'):
        plots.save(figure, folder / f'{name}{suffix}')
    return Picture(name, text)


def _ms(one: Measurement) -> str:
    return _number(one.latency.median) + ('' if one.latency.steady else UNSTEADY)


def _number(value: float) -> str:
    return milliseconds(value).removesuffix(' ms')


def _percent(value: float | None) -> str:
    return '' if value is None else f'{value:.1f}'


def _budgets(panel: Panel) -> Iterator[Block]:
    yield Heading(4, 'The most accurate for a budget')
    rows = [[f'{_number(one.latency.median)} ms', one.model.name + ('' if one.latency.steady else UNSTEADY),
             _percent(one.model.top1)] for one in panel.front]
    yield Table(['from a budget of>', 'network', 'published top-1 (%)>'], rows)


def _like(panel: Panel) -> Iterator[Block]:
    rows = []
    for one in panel.ours:
        others = sorted(panel.like(one), key=lambda other: -(other.model.top1 or 0))
        if one.model.top1 is None or not others:
            continue
        rows.append([one.model.name, '', _ms(one), _percent(one.model.top1), ''])
        rows += [['', other.model.name, _ms(other), _percent(other.model.top1),
                  signed((other.model.top1 or 0) - one.model.top1, '+.1f')] for other in others]
    if rows:
        yield Heading(4, 'MobileOne beside networks of like latency')
        yield Table(['MobileOne', 'beside it', 'latency (ms)>', 'published top-1 (%)>', 'more than MobileOne>'], rows)


def _beside_paper(panel: Panel) -> Iterator[Block]:
    known = [(one, paper.LATENCIES[one.model.name]) for one in panel.networks if one.model.name in paper.LATENCIES]
    if not known:
        return
    yield Heading(4, 'Beside the paper')
    ours = [one.latency.median for one, _ in known]
    devices = ((paper.PHONE, 'phone'), (paper.CPU, 'cpu'))
    agreement = [f'{described(found)} with its {device}' for device, column in devices
                 if (found := spearman([getattr(row, column) for _, row in known], ours))]
    if agreement:
        yield Text(f'The order of latencies here and in the paper’s Table 9: {listed(agreement)}.')
    rows = [[row.title, _ms(one), f'{row.cpu:.2f}', f'{row.phone:.2f}', '' if row.gpu is None else f'{row.gpu:.2f}']
            for one, row in known]
    yield Table(['network', 'here (ms)>', f'paper, {paper.CPU} (ms)>', f'paper, {paper.PHONE} (ms)>',
                 f'paper, {paper.GPU} (ms)>'], rows)


def _table(panel: Panel) -> Block:
    front = {one.model.name for one in panel.front}
    rows = []
    for one in panel.networks:
        model, latency, found = one.model, one.latency, rate(one)
        rows.append([
            model.name, _ms(one), f'{_number(latency.p10)} to {_number(latency.p90)}', _number(latency.minimum),
            f'{latency.runs} ({latency.discarded})', _millions(model.multiply_adds), _millions(model.parameters),
            '' if found is None else f'{found:.1f}', _percent(model.top1), 'yes' if model.name in front else ''])
    return Table(['network', 'median (ms)>', 'p10 to p90>', 'least>', 'runs (discarded)>', 'multiply-adds (M)>',
                  'parameters (M)>', 'billion multiply-adds a second>', 'published top-1 (%)>', 'on the front'], rows)


def _millions(count: int | None) -> str:
    return '' if count is None else f'{count / 1e6:,.0f}' if count >= 1e8 else f'{count / 1e6:.2f}'


def _ablation(panel: Panel, name: str, folder: Path) -> Iterator[Block]:
    base = next((one for one in panel.ablation if one.model.name == paper.PLAIN), None)
    if base is None or len(panel.ablation) == 1:
        return
    title = _title(panel)
    yield Heading(4, 'The ablations of a 30-layer network')
    yield _picture(plots.ablations(panel, title), f'{name}-ablations', folder,
                   f'Latency by activation and block as multiples of the plain chain with ReLU, {title}')
    rows = []
    for one in panel.ablation:
        theirs = paper.ACTIVATIONS.get(one.model.name)
        rows.append([short(one.model.name), _ms(one), f'{one.latency.median / base.latency.median:.2f}',
                     _millions(one.model.multiply_adds), '' if theirs is None else f'{theirs:.2f}',
                     '' if theirs is None else f'{theirs / paper.ACTIVATIONS[paper.PLAIN]:.2f}'])
    yield Table(['activation or block', 'median (ms)>', 'times ReLU>', 'multiply-adds (M)>',
                 f'paper’s Table 2, {paper.PHONE} (ms)>', 'times ReLU>'], rows)
