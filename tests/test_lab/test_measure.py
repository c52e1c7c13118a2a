"""The protocol, by hand-computed values, a fake clock and a fake process; no test asserts a latency."""
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmone.errors import InputError
from mmone.lab import machine, measure, protocol, runtimes
from mmone.lab.cache import Prepared, difference, folder_of, read
from mmone.lab.store import Model, Setting, Store
from mmone.lab.subject import Subject
from mmone.lab.subjects import find_subject
from mmone.lab.worker import Died, Refused, Worker
from tests.conftest import CUDA

# The protocol


def test_outliers_are_slow_ones_beyond_three_standard_deviations():
    # Median 10, median absolute deviation 1: the limit is 10 + 3 · 1.4826 = 14.4478.
    times = [9, 10, 11, 8, 12, 10, 9, 11, 10, 14.4, 14.5, 30, 2]
    assert protocol.kept(times) == [9, 10, 11, 8, 12, 10, 9, 11, 10, 14.4, 2]


def test_where_nearly_all_times_are_the_same_small_differences_are_no_outliers():
    # The deviation is 0: 2% of the median stand for it, and the limit is 10 + 3 · 0.2.
    assert protocol.kept([10, 10, 10, 10, 10.59, 10.61]) == [10, 10, 10, 10, 10.59]


def test_what_a_measurement_says():
    found = protocol.summarize([*range(100, 111), 1000], 'now', 0.25)
    # Of 100 to 110, whose 10th and 90th percentiles are 101 and 109.
    assert (found.runs, found.discarded, found.median, found.p10, found.p90, found.minimum) == (
        11, 1, 105, 101, 109, 100)
    assert found.steady and (found.started, found.load) == ('now', 0.25)
    assert protocol.spread(found) == pytest.approx(8 / 105)


@pytest.mark.parametrize('half, steady', [(0.12, True), (0.13, False)])
def test_steady_is_what_varies_by_less_than_a_quarter(half, steady):
    times = [1 - half] * 30 + [1.0] * 41 + [1 + half] * 30
    found = protocol.summarize(times, 'now')
    assert found.discarded == 0 and found.steady is steady


@pytest.mark.parametrize('slow, steady', [(25, True), (26, False)])
def test_more_than_a_quarter_of_the_runs_are_no_outliers(slow, steady):
    found = protocol.summarize([1.0] * (100 - slow) + [3.0] * slow, 'now')
    assert (found.discarded, found.p90, found.steady) == (slow, 1.0, steady)


@pytest.mark.parametrize('runs, expected', [(1, [1]), (3, [1, 1, 1]), (23, [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]),
                                            (100, [10] * 10)])
def test_runs_are_cut_into_rounds(runs, expected):
    assert protocol.chunks(runs) == expected


def test_models_take_turns_in_opposite_orders():
    assert list(protocol.turns('abc', 3)) == [
        (0, 'a'), (0, 'b'), (0, 'c'), (1, 'c'), (1, 'b'), (1, 'a'), (2, 'a'), (2, 'b'), (2, 'c')]


def test_warm_up_ends_when_two_windows_agree():
    # Medians of windows of five: 9, 6, 4, 4.
    times = [9] * 5 + [6] * 5 + [1, 4, 4, 4, 50] + [4] * 5
    left = iter(times)
    assert protocol.warm_up(lambda: next(left), clock=lambda: 0.0) == 20
    assert list(left) == []


def test_warm_up_ends_after_its_time_even_if_times_never_agree():
    times, clock = iter(range(1, 1000)), iter(range(0, 1000, 4))
    assert protocol.warm_up(lambda: 2.0**next(times), clock=lambda: next(clock)) == 15  # at 4, 8 and 12 of 10 seconds


# Measuring


def subject(name, factory='tests.test_lab.test_measure:nothing', **more):
    return Subject(Model(name, 'timm', 'resnet'), factory, **more)


class FakeWorker:
    """In place of a process: what it is asked, and times that a test gives."""
    asked: list = []
    times: dict = {}  # name -> function of how often it was asked before, to the times of a run; or an exception
    dies: set = set()  # of models that end the process when they are opened

    def __init__(self, threads, turn):
        self.asked.append(('start', threads))
        self.names = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.asked.append(('end', ))

    def prepare(self, model, batch, shape, folder):
        self.asked.append(('prepare', model.model.name))
        if model.model.name == 'unbuildable':
            raise Refused('no such layer')
        folder.mkdir(parents=True)
        prepared = Prepared(folder, 1000, 2000, branches=model.model.name == 'ours')
        prepared.write()
        return prepared

    def open(self, number, model, setting, folder):
        self.names[number] = model.model.name
        self.asked.append(('open', model.model.name))
        if model.model.name in self.dies:
            raise Died('its process was killed')

    def run(self, number, count):
        name = self.names[number]
        self.asked.append(('run', name))
        made = sum(one == ('run', name) for one in self.asked) - 1
        times = self.times.get(name, lambda made: 5.0)(made)
        if isinstance(times, BaseException):
            raise times
        return [times] * count


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(measure, 'Worker', FakeWorker)
    monkeypatch.setattr(measure, 'REST', 0)
    monkeypatch.setattr(measure, 'load_average', lambda: 0.5)
    monkeypatch.setattr(FakeWorker, 'asked', [])
    monkeypatch.setattr(FakeWorker, 'times', {})
    monkeypatch.setattr(FakeWorker, 'dies', set())
    return FakeWorker


@pytest.fixture
def lab(tmp_path):
    """Measure models by their names with ONNX Runtime; returns the failures."""

    def run(*names, runs=3, again=False, runtimes=('onnxruntime', ), listen=lambda progress: None, **more):
        tasks = measure.plan([subject(name) for name in names], runtimes, **more)
        with Store(tmp_path / 'lab.db') as store:
            return measure.measure(tasks, store, runs, again, listen, tmp_path / 'cache')

    run.rows = lambda: {one.model.name: one for one in _rows(tmp_path / 'lab.db')}
    return run


def _rows(path):
    with Store(path) as store:
        return store.measurements()


def test_each_model_has_its_turn_in_each_round_and_a_row(fake, lab):
    steps = []
    assert lab('a', 'b', listen=steps.append) == []
    assert fake.asked == [('start', machine.usable_cores()), ('prepare', 'a'), ('prepare', 'b'), ('end', ),
                          ('start', 1), ('open', 'a'), ('open', 'b'), ('run', 'a'), ('run', 'b'), ('run', 'b'),
                          ('run', 'a'), ('run', 'a'), ('run', 'b'), ('end', )]
    row = lab.rows()['a']
    assert (row.latency.runs, row.latency.median, row.latency.load, row.latency.steady) == (3, 5.0, 0.5, True)
    assert (row.model.parameters, row.model.multiply_adds) == (1000, 2000)
    assert row.machine.key == machine.this_machine().key
    assert [step.done for step in steps if 'round' in step.text or 'ready' in step.text] == list(range(1, 9))
    assert steps[-1].done == steps[-1].total == 8
    assert [step.measurement.model.name for step in steps if step.measurement] == ['a', 'b']


def test_what_the_file_has_is_not_made_again_unless_asked(fake, lab):
    lab('a')
    fake.asked.clear()
    lab('a', 'b')
    assert ('run', 'a') not in fake.asked and fake.asked.count(('run', 'b')) == 3
    fake.asked.clear()
    lab('a', again=True)
    assert fake.asked.count(('run', 'a')) == 3 and ('prepare', 'a') not in fake.asked


def test_a_run_goes_on_after_the_round_in_which_it_was_interrupted(fake, lab):
    fake.times['b'] = lambda made: KeyboardInterrupt() if made == 1 else 5.0
    with pytest.raises(KeyboardInterrupt):
        lab('a', 'b')
    assert lab.rows() == {}
    fake.asked.clear()
    fake.times.clear()
    assert lab('a', 'b') == []
    # Rounds: 0 of both was made, in round 1 b's turn comes first.
    assert [one for one in fake.asked if one[0] == 'run'] == [
        ('run', 'b'), ('run', 'a'), ('run', 'a'), ('run', 'b')]
    assert {name: row.latency.runs for name, row in lab.rows().items()} == dict(a=3, b=3)


def test_a_measurement_that_is_not_steady_is_made_again_and_marked_if_it_stays_so(fake, lab):
    spreads = [0.6, 0.4, 0.5]  # of three attempts of ten runs

    def varying(made):
        spread = spreads[made // 10 % 3]
        return 10 * (1 + spread * (made % 10 / 9 - 0.5))

    fake.times.update(wild=varying, calm_at_last=lambda made: varying(made) if made < 10 else 7.0)
    steps = []
    assert lab('wild', 'calm_at_last', runs=10, listen=steps.append) == []
    assert [fake.asked.count(('run', name)) for name in ('wild', 'calm_at_last')] == [30, 20]
    wild, calm = (lab.rows()[name].latency for name in ('wild', 'calm_at_last'))
    assert not wild.steady and protocol.spread(wild) == pytest.approx(0.4 * 0.8)  # the steadiest of three
    assert calm.steady and calm.median == 7.0
    assert sum('not steady' in step.text for step in steps) == 3
    assert steps[-1].done == steps[-1].total


def test_models_that_cannot_be_measured_are_named_and_the_rest_is_measured(fake, lab):
    fake.times['breaks'] = lambda made: Refused('an operator is missing')
    steps = []
    failures = lab('unbuildable', 'a', 'breaks', listen=steps.append)
    assert {(failure.task.subject.model.name, failure.reason) for failure in failures} == {
        ('unbuildable', 'no such layer'), ('breaks', 'an operator is missing')}
    assert list(lab.rows()) == ['a']
    assert [step.text for step in steps if 'ready' in step.text] == [
        'unbuildable cannot be made ready', 'a is ready', 'breaks is ready']
    assert steps[-1].done == steps[-1].total


def test_a_model_that_ends_the_process_is_tried_alone_and_the_others_go_on(fake, lab):
    fake.dies.add('huge')
    failure, = lab('a', 'huge', 'b')
    assert failure.task.subject.model.name == 'huge' and failure.reason == 'its process was killed'
    assert set(lab.rows()) == {'a', 'b'}
    assert [one[1] for one in fake.asked if one[0] == 'open'] == ['a', 'huge', 'a', 'b', 'huge']


def test_only_models_with_branches_are_measured_with_them(fake, lab):
    steps = []
    assert lab('ours', 'theirs', runtimes=('torch-branches', ), listen=steps.append) == []
    assert list(lab.rows()) == ['ours']
    assert any('theirs' in step.text and 'no branches' in step.text for step in steps)
    assert steps[-1].done == steps[-1].total


def test_multiply_adds_are_those_of_the_models_own_size(fake, lab):
    lab('a')
    lab('a', shape=(64, 64))
    assert lab.rows()['a'].model.multiply_adds == 2000
    assert {(one.setting.height, one.model.multiply_adds) for one in lab.rows().values()} == {(64, 2000)}


def test_every_runtime_and_number_of_threads_has_a_process_of_its_own(fake, lab):
    lab('a', runtimes=('onnxruntime', 'openvino'), threads=(1, 2))
    assert [one for one in fake.asked if one[0] in ('start', 'end')][2:] == [
        ('start', 1), ('end', ), ('start', 1), ('end', ), ('start', 2), ('end', ), ('start', 2), ('end', )]


@pytest.mark.parametrize('device', [CUDA])
def test_a_gpu_is_timed_in_both_precisions(device, tmp_path):
    tasks = measure.plan([find_subject('mobileone-micro68')], shape=(64, 64), device=device)
    with Store(tmp_path / 'lab.db') as store:
        assert measure.measure(tasks, store, 2, cache=tmp_path / 'cache') == []
        assert {(one.setting.runtime, one.setting.device, one.setting.precision) for one in store.measurements()} == {
            ('torch', 'cuda', 'float32'), ('torch', 'cuda', 'float16')}


# What is asked for


def test_an_exported_file_is_computed_by_its_own_runtime():
    file = subject('model.xml@12345678', '', path='/model.xml', runtime='openvino', precision='float16', shape=(32, 48))
    task, = measure.plan([file])
    assert task.setting == Setting('openvino', precision='float16', height=32, width=48)
    with pytest.raises(InputError, match='/model.xml is computed by openvino only'):
        measure.plan([file], ['onnxruntime'])


def test_a_model_that_is_named_twice_is_measured_once():
    assert len(measure.plan([subject('a'), subject('a')], ['onnxruntime', 'onnxruntime'])) == 1


@pytest.mark.parametrize('name, device, message', [
    ('tensorrt', 'cpu', "unknown runtime 'tensorrt': expected onnxruntime, openvino, ncnn, torch"),
    ('onnxruntime', 'cuda', 'onnxruntime is not measured on cuda: expected torch'),
])
def test_runtimes_that_are_not_there(name, device, message):
    with pytest.raises(InputError, match=message):
        runtimes.check([name], device)


def test_a_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(runtimes, 'find_spec', lambda name: None if name == 'openvino' else object())
    with pytest.raises(InputError, match='runtime openvino needs openvino, not installed here: pip install openvino'):
        runtimes.check(['openvino'])
    if sys.platform != 'darwin':
        with pytest.raises(InputError, match='coreml computes on macOS only'):
            runtimes.check(['coreml'])


# What is kept of a model


def nothing():
    raise AssertionError('no test here builds it')


def test_a_models_folder_is_another_for_whatever_it_is_made_from(tmp_path):
    given = subject('a/b', arguments=dict(depth=2))
    folder = folder_of(given, 1, (64, 64), tmp_path)
    assert folder.parent == tmp_path and folder == folder_of(given, 1, (64, 64), tmp_path)
    others = [folder_of(replace(given, arguments=dict(depth=3)), 1, (64, 64), tmp_path),
              folder_of(given, 2, (64, 64), tmp_path), folder_of(given, 1, (64, 32), tmp_path),
              folder_of(replace(given, fuse=False), 1, (64, 64), tmp_path),
              folder_of(replace(given, digest='checkpoint'), 1, (64, 64), tmp_path)]
    assert len({folder, *others}) == 6
    assert read(folder) is None


@pytest.mark.parametrize('found, expected', [
    ([[1.0, 2.0]], 0.0), ([[1.0, 2.02]], 0.01), ([[float('nan'), 2.0]], float('inf')), ([[1.0]], float('inf')),
    ([], float('inf')), ([[1.0, 2.0], [3.0]], float('inf'))])
def test_differences_are_relative_to_the_largest_answer(found, expected):
    arrays = [np.array(one, np.float32) for one in found]
    assert difference(arrays, [np.array([1.0, 2.0])]) == pytest.approx(expected, abs=1e-6)


# Processes


def test_a_process_that_is_killed_says_so(tmp_path):
    with Worker(1, tmp_path) as worker:
        worker._process.kill()
        with pytest.raises(Died, match='was killed, as the system does where memory runs out'):
            worker.run(0, 1)


def test_a_process_does_not_outlive_the_one_that_asks(tmp_path):
    code = ('import os\nfrom pathlib import Path\nfrom mmone.lab.worker import Worker\n'
            f'worker = Worker(1, Path({str(tmp_path)!r}))\nprint(worker._process.pid, flush=True)\nos._exit(1)')
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    pid = int(found.stdout)
    assert any(_is_gone(pid) or time.sleep(0.05) for _ in range(600))


def _is_gone(pid):
    try:
        os.kill(pid, 0)
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_this_machine_is_known_again_whatever_is_installed(monkeypatch):
    here = machine.this_machine()
    monkeypatch.setattr(machine, '_versions', lambda: {'torch': '9.9'})
    there = machine.this_machine()
    assert there.key == here.key and there.versions != here.versions
    assert here.versions['mmone'] and here.cores == machine.usable_cores() and here.memory > 1 << 28
    monkeypatch.setattr(machine, 'usable_cores', lambda: 999)
    assert machine.this_machine().key != here.key
    assert json.dumps(here.versions)
