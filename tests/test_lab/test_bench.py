"""``mmone bench``, on networks that are tiny."""
import re
import sqlite3

import pytest

from mmone.apis import get_model
from mmone.cli import bench
from mmone.export import export_model
from mmone.lab import measure as measuring
from mmone.lab.store import Setting, Store
from tests.kit import command


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)


def rows():
    with Store('lab.db') as store:
        return store.measurements()


def test_networks_and_files_are_measured_and_not_again(trained, capsys):
    path, weights = trained('mmpretrain')
    export_model(get_model(path, weights, 'cpu'), 'model.onnx')
    asked = ('bench', path, 'model.onnx', '--runs', 3)
    assert command(*asked) == 0
    out, err = capsys.readouterr()
    config, file = sorted(rows(), key=lambda one: one.model.source, reverse=True)
    assert (config.model.name, config.model.family, config.model.source) == ('tiny_mmpretrain', 'mobileone', 'mmone')
    assert config.setting == Setting('onnxruntime', height=32, width=32) and config.model.parameters
    assert file.model.name.startswith('model.onnx@') and file.setting == config.setting
    assert {one.latency.runs + one.latency.discarded for one in rows()} == {3}
    assert out.count('tiny_mmpretrain') == 1 and ' ms' in err
    before = rows()
    assert command(*asked) == 0
    assert rows() == before and 'tiny_mmpretrain' in capsys.readouterr().out
    # The same model, which is ready, with its branches in PyTorch.
    assert command('bench', path, '--runtime', 'torch-branches', '--runs', 2) == 0
    assert rows()[:2] == before and rows()[2].setting.runtime == 'torch-branches'


@pytest.mark.parametrize('arguments, message', [
    (['mobilenetv2_10'], "no model 'mobilenetv2_10': .*nearest names are .*mobilenetv2_100,"),
    (['mobileone-s0', '--runtime', 'tensorrt'], r"unknown runtime 'tensorrt': expected .* \(--runtime\)"),
    (['mobileone-s0', '--threads', '0'], 'must be at least 1, got 0'),
    (['mobileone-s0', '--out', 'missing/lab.db'], 'cannot keep measurements in missing/lab.db'),
    (['mobileone-s0', '--out', 'other.db'], 'other.db is a database of something else'),
])
def test_bad_input_is_one_line_and_measures_nothing(arguments, message, capsys):
    with sqlite3.connect('other.db') as connection:
        connection.execute('CREATE TABLE recipes (name TEXT)')
    with pytest.raises(SystemExit) as exit:
        command('bench', *arguments)
    lines = capsys.readouterr().err.strip().split('\n')
    assert exit.value.code == 2 and len(lines) == 1
    assert re.search(message, lines[0])


def test_what_could_not_be_measured_is_named_and_the_status_is_1(monkeypatch, capsys):
    def failing(tasks, *args, **kwargs):
        return [measuring.Failure(tasks[0], 'it does not fit into the memory')]

    monkeypatch.setattr(measuring, 'measure', failing)
    assert command('bench', 'mobileone-s0') == 1
    assert capsys.readouterr().err.strip() == (
        'not measured: mobileone-s0, onnxruntime float32 on cpu, 1 thread: it does not fit into the memory')


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, 'measure', interrupted)
    assert command('bench', 'mobileone-s0') == 130
    assert capsys.readouterr().err.strip() == (
        'interrupted: what was measured is in lab.db, and the same command goes on with the rest')


def test_a_bar_is_for_terminals_only(capsys):
    with bench.shown() as listen:
        listen(measuring.Progress(1, 2, 'a model is ready'))
    assert capsys.readouterr().err == ''
