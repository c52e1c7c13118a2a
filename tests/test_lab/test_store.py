"""The lab's file: what a killed process, a second one, and somebody else's file do to it."""
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from mmone.errors import InputError
from mmone.lab import store as schema
from mmone.lab.store import Latency, Machine, Measurement, Model, Setting, Store
from tests.kit import environment

MACHINE = Machine('key', 'a machine', 'computer', 'a processor', 2, 1 << 30, 'Linux', 'performance',
                  {'torch': '2.11.0'})
MODEL = Model('net', 'timm', 'resnet', 10, 20, 70.5, 'a paper')
LATENCY = Latency('2026-01-01T00:00:00+00:00', 9, 1, 5.0, 4.5, 5.5, 4.0, True, 0.5)


def measurement(**setting):
    return Measurement(MACHINE, MODEL, Setting('onnxruntime', **setting), LATENCY)


def writing(path, threads):
    """A process that adds a row for each of some numbers of threads, one line after each."""
    code = ('from mmone.lab.store import *\n'  # nothing that takes long to import
            f'with Store({str(path)!r}) as store:\n'
            f'    for threads in {threads!r}:\n'
            '        setting = Setting("onnxruntime", threads=threads)\n'
            f'        store.add(Measurement({MACHINE!r}, {MODEL!r}, setting, {LATENCY!r}))\n'
            '        print(threads, flush=True)\n')
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, env=environment())


def test_what_is_added_is_read_and_the_same_again_is_replaced(tmp_path):
    with Store(tmp_path / 'lab.db') as store:
        store.add(measurement())
        store.add(measurement(batch=8))
        assert store.measurements() == [measurement(), measurement(batch=8)]
        store.add(replace(measurement(), latency=replace(LATENCY, median=6.0, steady=False)))
        assert [one.latency.median for one in store.measurements()] == [6.0, 5.0]
        assert not store.measurements()[0].latency.steady
        assert store.has('key', 'net', Setting('onnxruntime')) and not store.has('key', 'net', Setting('openvino'))


def test_what_a_browser_does_not_know_of_a_model_stays(tmp_path):
    with Store(tmp_path / 'lab.db') as store:
        store.add(measurement())
        store.add(Measurement(replace(MACHINE, key='phone'), Model('net', 'timm', 'resnet'), Setting('web'), LATENCY))
        assert {one.model for one in store.measurements()} == {MODEL}


def test_rounds_are_kept_until_they_are_forgotten(tmp_path):
    with Store(tmp_path / 'lab.db') as store:
        store.add_round('a', 0, [1.0, 2.0])
        store.add_round('a', 3, [4.0])
        store.add_round('a', 3, [5.0])
        store.add_round('b', 0, [9.0])
    with Store(tmp_path / 'lab.db') as store:
        assert store.rounds('a') == {0: [1.0, 2.0], 3: [5.0]}
        store.forget_rounds('a')
        assert store.rounds('a') == {} and store.rounds('b') == {0: [9.0]}


def test_a_killed_process_loses_nothing_that_it_said_was_kept(tmp_path):
    process = writing(tmp_path / 'lab.db', range(1, 100_000))
    said = [process.stdout.readline() for _ in range(5)][-1]
    process.send_signal(signal.SIGKILL)
    said = ([said] + process.stdout.read().split('\n')[:-1])[-1]
    process.wait()
    process.stdout.close()
    with Store(tmp_path / 'lab.db') as store:
        found = [one.setting.threads for one in store.measurements()]
        assert found == list(range(1, len(found) + 1)) and len(found) - int(said) in (0, 1)
        store.add(measurement(threads=0))


def test_two_processes_write_one_new_file(tmp_path):
    processes = [writing(tmp_path / 'lab.db', range(first, 80, 2)) for first in (0, 1)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Store(tmp_path / 'lab.db') as store:
        assert sorted(one.setting.threads for one in store.measurements()) == list(range(80))


def test_a_file_of_an_earlier_version_is_migrated(tmp_path, monkeypatch):
    with Store(tmp_path / 'lab.db') as store:
        store.add(measurement())
    monkeypatch.setattr(schema, 'MIGRATIONS', (*schema.MIGRATIONS, 'ALTER TABLE machines ADD COLUMN weight REAL'))
    with Store(tmp_path / 'lab.db') as store:
        assert store.measurements() == [measurement()]
    with sqlite3.connect(tmp_path / 'lab.db') as connection:
        assert connection.execute('SELECT weight FROM machines').fetchall() == [(None, )]
        assert connection.execute('PRAGMA user_version').fetchone() == (len(schema.MIGRATIONS), )


@pytest.mark.parametrize('damage, message', [
    ('newer', 'was written by a newer mmone'),
    ('other', 'is a database of something else'),
    ('text', 'file is not a database'),
    ('folder', 'expected a file in a directory that exists'),
    ('nowhere', 'expected a file in a directory that exists'),
])
def test_files_that_are_not_the_labs_are_refused_and_left_as_they_are(tmp_path, damage, message):
    path = tmp_path / 'lab.db'
    if damage == 'newer':
        with Store(path):
            pass
        sqlite3.connect(path).execute(f'PRAGMA user_version = {len(schema.MIGRATIONS) + 1}')
    elif damage == 'other':
        with sqlite3.connect(path) as connection:
            connection.execute('CREATE TABLE recipes (name TEXT)')
    elif damage == 'text':
        path.write_text('no database, and longer than the header of one\n' * 10)
    elif damage == 'folder':
        path.mkdir()
    elif damage == 'nowhere':
        path = tmp_path / 'missing' / 'lab.db'
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InputError, match=message):
        Store(path)
    assert (path.read_bytes() if path.is_file() else None) == before
