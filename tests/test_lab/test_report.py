"""Statistics, findings and the report, from measurements that are made up."""
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from mmone.cli import main
from mmone.errors import InputError
from mmone.lab import measure as measuring
from mmone.lab import paper
from mmone.lab.ablation import NETWORKS
from mmone.lab.document import Table, markdown_text, to_markdown
from mmone.lab.findings import FAILED, HELD, PARTLY, listed, milliseconds, panels, rate
from mmone.lab.labels import add_labels
from mmone.lab.peers import PEERS
from mmone.lab.report import write_report
from mmone.lab.statistics import dominators, spearman
from mmone.lab.store import Latency, Machine, Measurement, Model, Setting, Store

DESK = Machine('desk', 'A desk, 2 cores', 'computer', 'CPU', 2, 8 << 30, 'Linux', None, {'torch': '2.11.0'})
NASTY = '<script>alert(1)</script> | *b* `c` [x](http://e.vil) $y$ _z_ ~q~ &amp; www.e.vil\n# 7'
PHONE = Machine('phone', NASTY, 'browser', '', None, None, NASTY, None, {NASTY: NASTY})


def measured(name, family, ms, top1=None, multiply_adds=None, parameters=None, machine=DESK, steady=True, **setting):
    model = Model(name, 'made up', family, parameters, multiply_adds, top1)
    setting = Setting(**{'runtime': 'onnxruntime', **setting})
    return Measurement(machine, model, setting, Latency('2026-01-01T00:00:00Z', 97, 3, ms, 0.9 * ms, 1.2 * ms, 0.8 * ms,
                                                        steady))


def study(**changes):
    """Latency follows multiply-adds, but for a pair; one MobileOne is on the front, the other is not."""
    rows = [('mobileone-s0', 'mobileone', 7, 71.4, 275, 2.1), ('mobileone-s1', 'mobileone', 21, 75.9, 825, 4.8),
            ('v4-small', 'mobilenet', 8, 73.8, 280, 3.8), ('v4-medium', 'mobilenet', 20, 79.9, 840, 9.7),
            ('v3-small', 'mobilenet', 3, 67.4, 56, 2.5), ('resnet18', 'resnet', 42, 69.8, 1800, 11.7),
            ('slow', 'other', 60, 60.0, 1900, 12.), ('slower', 'other', 70, 61.0, 2000, 13.)]
    return [measured(name, family, ms, top1, int(adds * 1e6), int(size * 1e6), **changes)
            for name, family, ms, top1, adds, size in rows]


def ablation(machine=DESK, runtime='onnxruntime', **times):
    return [measured(f'ablation-{name.replace("_", "-")}', 'ablation', 10 * factor, multiply_adds=200 * adds,
                     machine=machine, runtime=runtime) for name, (factor, adds) in dict(relu=(1, 1), **times).items()]


def claims(measurements):
    panel, = panels(measurements)
    return {claim.key: claim for claim in panel.claims()}


# Statistics


def test_spearman_by_hand():
    found = spearman([1, 2, 3, 4, 5], [10, 30, 20, 50, 40])
    assert found.rho == pytest.approx(1 - 6 * 4 / (5 * 24))  # four ranks differ by 1
    assert found.p == pytest.approx(0.1041, abs=1e-4)  # t = 0.8 √(3 / 0.36) = 2.309 with 3 degrees of freedom
    assert found.count == 5
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]).rho == pytest.approx(4.5 / (4.5 * 5)**0.5)  # ties share ranks


def test_interval_holds_the_estimate_and_is_the_same_each_time():
    x = list(range(20))
    y = [value + 7 * (value % 3) for value in x]
    found = spearman(x, y)
    assert -1 < found.low < found.rho < found.high < 1
    assert found == spearman(x, y)
    exact = spearman(x, [value**2 for value in x])
    assert (exact.low, exact.high) == pytest.approx((1, 1))


@pytest.mark.parametrize('x', [[1, 2, 3], [5, 5, 5, 5]], ids=['few', 'constant'])
def test_no_correlation_of_too_little(x):
    assert spearman(x, list(range(len(x)))) is None


def test_pareto_front_by_hand():
    #         a   b   c   d   e: d costs more than b and gains less; e is like c; a is the cheapest.
    costs = [1., 2., 3., 3., 3.]
    gains = [50., 70., 80., 60., 80.]
    assert dominators(costs, gains) == [[], [], [], [1, 2, 4], []]


# Findings


def test_latency_that_follows_the_count_is_said_to():
    found = claims(study())['multiply_adds']
    assert found.verdict == FAILED
    assert re.sub('interval .* to', 'interval LOW to', found.words) == (
        'Latency follows multiply-adds here: ρ = 0.98 (p < 0.001, 95% interval LOW to 1.00) over 8 networks. The paper '
        'has 0.47 (iPhone 12, Core ML) and 0.06 (Xeon Gold 5118).')


def test_latency_that_does_not_is_said_not_to():
    shuffled = [measured(f'net{i}', 'other', ms, multiply_adds=adds, parameters=adds)
                for i, (ms, adds) in enumerate([(1, 3), (2, 9), (3, 1), (4, 8), (5, 2), (6, 7), (7, 4), (8, 5)])]
    assert not claims(shuffled[:7])  # of so few nothing is said
    found = claims(shuffled)
    assert found['multiply_adds'].verdict == HELD and 'does not follow multiply-adds' in found['multiply_adds'].words
    assert 'does not follow the number of parameters' in found['parameters'].words


def test_who_dominates_whom():
    found = claims(study())
    assert found['front'].verdict == PARTLY
    assert found['front'].words == ('1 of 2 on the front. mobileone-s0 is on it; mobileone-s1 is not: v4-medium is at '
                                    'least as fast and as accurate.')
    # Within 15% of 7 ms, which are 1.05, is v4-small; of 21 ms v4-medium.
    assert found['like'].verdict == FAILED
    assert found['like'].words == ('Within 15% of its latency: mobileone-s0 is behind v4-small, of 1 other; '
                                   'mobileone-s1 is behind v4-medium, of 1 other.')


def test_rates():
    one = measured('a', 'b', 4.0, multiply_adds=2_000_000_000, batch=8)
    assert rate(one) == pytest.approx(8 * 2 / 0.004)  # eight images of 2 billion in 4 ms
    found = claims(study())['rate']  # ours 39.3 twice; others 35, 42, 18.7, 42.9, 31.7, 28.6
    assert found.verdict == HELD
    assert '39.3 billion' in found.words and '33.3 (median of 6; the most, resnet18, 42.9)' in found.words


def test_activations_beside_the_paper():
    found = claims(ablation(gelu=(1.5, 1), dynamic_relu_a=(5, 1), block_skip=(1.3, 1), block_branches_2=(2, 2)))
    assert found['activation'].verdict == HELD
    assert found['activation'].words == ('Times the latency with ReLU: gelu 1.50 (paper 1.07) and dynamic-relu-a 5.00 '
                                         '(paper 178.75).')
    assert found['block'].verdict == PARTLY  # two branches take as long as they have multiply-adds
    assert 'branches-2 2.00 (2.00) and skip 1.30 (1.00)' in found['block'].words
    assert claims(ablation(dynamic_relu_a=(1, 1)))['activation'].verdict == FAILED


def test_the_study_and_the_ablations_are_apart():
    panel, = panels(study() + ablation(gelu=(2, 1)))
    assert [one.model.name for one in panel.ablation] == ['ablation-relu', 'ablation-gelu']
    assert len(panel.networks) == 8
    assert len(panels(study() + study(threads=2) + study(machine=PHONE))) == 3


def test_numbers_and_lists():
    assert [milliseconds(value) for value in (0.5, 9.876, 12.34, 123.4)] == ['0.50 ms', '9.88 ms', '12.3 ms', '123 ms']
    assert listed(['a']) == 'a' and listed('abc') == 'a, b and c'


def test_names_of_the_papers_tables_are_those_that_are_measured():
    in_no_package = {'mobilenext-1.0', 'mobilenext-1.4', 'mobileformer-52', 'mobileformer-96'}
    assert {*paper.LATENCIES} - {*PEERS} == in_no_package
    assert {*paper.ACTIVATIONS} < {*NETWORKS} and paper.PLAIN in NETWORKS


# Pictures


def test_labels_cover_neither_each_other_nor_the_frame():
    figure = Figure(figsize=(7, 5), dpi=100)
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    xs = [2 + (7 * i % 11) / 3 for i in range(24)]
    ys = [3 + (5 * i % 13) / 5 for i in range(24)]
    figure.draw_without_rendering()
    texts = add_labels(axes, xs, ys, [f'network_{i}_of_the_study' for i in range(24)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    assert not [(i, j) for i in range(24) for j in range(i) if boxes[i].overlaps(boxes[j])]
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    points = axes.transData.transform(list(zip(xs, ys)))
    assert not [1 for box in boxes for x, y in points if box.x0 < x < box.x1 and box.y0 < y < box.y1]


# The report


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ('src', 'href')]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp('reports') / 'report'
    write_report([*study(), *study(runtime='torch-branches')[:1], *study(runtime='torch')[:1], *ablation(gelu=(2, 1)),
                  *study(machine=PHONE, steady=False, runtime='web', device='wasm')], folder)
    return folder


def test_report_is_a_folder_of_small_files(report):
    pictures = {path.name for path in report.glob('*.png')}
    assert {path.name for path in report.iterdir()} == {'report.html', 'report.md'} | pictures
    assert 'a-desk-2-cores-onnxruntime-cpu-float32-1t-counts.png' in pictures
    assert len(pictures) == 2 * 2 + 1  # two of each study, and one of the ablation
    assert all(path.stat().st_size < 200_000 for path in report.glob('*.png'))
    assert [*report.parent.iterdir()] == [report]
    assert {*re.findall(r'\]\((\S+\.png)\)', (report / 'report.md').read_text())} == pictures


def test_page_needs_nothing_else_and_shows_names_as_they_are(report):
    text = (report / 'report.html').read_text()
    page = Page(text)
    assert "default-src 'none'" in text
    assert 'script' not in page.tags and page.tags.count('img') == 5
    assert all(re.match(f'data:image/svg|#section-|{re.escape(paper.SOURCE)}$', address) for address in page.addresses)
    assert any('<script>alert(1)</script> | *b* `c` [x]' in data for data in page.text)


def test_markdown_shows_names_as_they_are(report):
    rendered = MarkdownIt('commonmark', {'html': True}).enable('table').render((report / 'report.md').read_text())
    page = Page(rendered)
    assert not {'script', 'em', 'code', 's'} & {*page.tags}
    assert {address for address in page.addresses if not address.endswith('.png')} == {paper.SOURCE}
    assert any('<script>alert(1)</script> | *b* `c` [x](http://e.vil) $y$' in ''.join(data) for data in [page.text])


@pytest.mark.parametrize('text', ['- a', '# b', '1. c', '2) d', '+ e', '===', 'a_b_c', 'x | y', '\\*', '&lt;', '-0.02',
                                  '0.96', '<https://e.vil>', '![i](j)', '~~k~~', '`l`'])
def test_markdown_text(text):
    markdown = MarkdownIt('commonmark', {'html': True}).enable(['table', 'strikethrough'])
    shown = text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    assert markdown.render(markdown_text(text)) == f'<p>{shown}</p>\n'
    assert f'<td style="text-align:right">{shown}</td>' in markdown.render(to_markdown([Table(['head>'], [[text]])]))


def test_numbers_stay_as_they_are_in_the_source():
    assert markdown_text('0.96') == '0.96' and markdown_text('-0.02') == '-0.02'


def test_report_says_what_is_in_the_measurements(report):
    text = (report / 'report.md').read_text()
    assert '## A desk, 2 cores\n' in text and '### onnxruntime, cpu, float32, 1 thread, batch 1, 224×224' in text
    assert '| 3.00 ms | v3-small | 67.4 |\n| 7.00 ms | mobileone-s0 | 71.4 |' in text  # the front as a table
    assert '| MobileOne-S0 | 7.00 | 10.55 | 0.79 | 0.56 |' in text  # beside the paper's Table 9
    assert '| gelu | 20.0 | 2.00 | 0.00 | 1.63 | 1.07 |' in text  # and its Table 2
    assert '7.00 † |' in text and '8 are marked with †' in text
    assert '## What folding the branches saves' in text and '#### The ablations of a 30-layer network' in text
    assert '| the paper’s Table 1, iPhone 12, Core ML |  | 0.47 |' in text
    assert '- Multiply-adds say little about latency: did not hold in all 2 settings.' in text


def test_second_report_replaces_the_first_whole(tmp_path):
    folder = tmp_path / 'report'
    write_report(ablation(gelu=(2, 1)), folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(ablation(gelu=(2, 1)), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    write_report(ablation(runtime='torch', gelu=(2, 1)), folder)
    assert not {path.name for path in folder.glob('*.png')} & {*first}
    (folder / 'screenshot.png').write_bytes(b'')
    with pytest.raises(InputError, match='screenshot.png, which no report wrote'):
        write_report(ablation(gelu=(2, 1)), folder)


def test_nothing_of_others_is_replaced(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(InputError, match='notes.txt, which no report wrote'):
        write_report(study(), tmp_path)
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'pictures' / 'cat.png').write_bytes(b'')
    with pytest.raises(InputError, match='cat.png, which no report wrote'):
        write_report(study(), tmp_path / 'pictures')
    with pytest.raises(InputError, match='no measurements'):
        write_report([], tmp_path / 'report')
    with pytest.raises(InputError, match='there is no directory'):
        write_report(study(), tmp_path / 'a' / 'b')
    assert sorted(path.name for path in tmp_path.rglob('*')) == ['cat.png', 'notes.txt', 'pictures']


def test_machines_of_one_name_have_files_of_their_own(tmp_path):
    other = Machine('other', 'A desk, 2 cores', 'computer', 'CPU')
    write_report([*ablation(gelu=(2, 1)), *ablation(machine=other, gelu=(2, 1))], tmp_path / 'report')
    names = {path.name.partition('-onnxruntime')[0] for path in (tmp_path / 'report').glob('*.png')}
    assert names == {'a-desk-2-cores', 'a-desk-2-cores-2'}


def test_one_network_alone_is_a_table(tmp_path):
    text = write_report(study()[:1], tmp_path / 'report').read_text()
    assert 'Too few networks' in text and '| mobileone-s0 | 7.00 |' in text
    assert not [*(tmp_path / 'report').glob('*.png')]


# The command


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A lab's folder, where measuring keeps made-up rows instead."""
    asked = []

    def measure(tasks, store, runs, again, listen):
        asked.extend(tasks)
        store.add(study()[0])
        return [measuring.Failure(asked[0], 'too large')] if runs == 1 else []

    monkeypatch.setattr(measuring, 'measure', measure)
    monkeypatch.chdir(tmp_path)
    return asked


def test_study_measures_what_is_asked_and_reports(lab, tmp_path, capsys):
    assert main(['lab', 'study', '--models', 'mobileone-s0', '--threads', '1', '2', '--report', 'r']) == 0
    assert [(task.subject.model.name, task.setting.threads) for task in lab] == [
        ('mobileone-s0', 1), ('mobileone-s0', 2)]
    assert 'report.md' in capsys.readouterr().out and (tmp_path / 'r' / 'report.html').is_file()
    assert main(['lab', 'study', '--models', 'mobileone-s0', '--runs', '1']) == 1
    assert 'not measured: mobileone-s0, onnxruntime float32 on cpu, 1 thread: too large' in capsys.readouterr().err


def test_ablation_measures_its_networks(lab):
    assert main(['lab', 'ablation']) == 0
    assert [task.subject.model.name for task in lab] == [*NETWORKS]


def test_report_alone(tmp_path, capsys):
    with Store(tmp_path / 'lab.db') as store:
        store.add(study()[0])
    assert main(['lab', 'report', '--out', str(tmp_path / 'lab.db'), '--report', str(tmp_path / 'r')]) == 0
    assert (tmp_path / 'r' / 'report.md').is_file()


def test_bad_input_is_one_line_and_nothing_is_measured(lab, tmp_path, capsys):
    (tmp_path / 'lab-report').mkdir()
    (tmp_path / 'lab-report' / 'thesis.tex').write_text('mine')
    for arguments, said in ((['study'], 'thesis.tex'), (['report', '--report', 'r'], 'lab.db does not exist')):
        with pytest.raises(SystemExit, match='2'):
            main(['lab', *arguments])
        error = capsys.readouterr().err
        assert said in error and error.count('\n') == 1
    assert not lab and sorted(path.name for path in tmp_path.iterdir()) == ['lab-report']


def test_interrupted_study_says_how_to_go_on(lab, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, 'measure', interrupt)
    assert main(['lab', 'study', '--models', 'mobileone-s0']) == 130
    assert 'goes on with the rest' in capsys.readouterr().err
