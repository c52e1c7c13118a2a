"""Files that are written whole or not at all."""
import hashlib
import os
import signal
import subprocess
import sys

import pytest

from mmone import InputError
from mmone.files import check_output, publish, scratch_folder, sha256, written_whole

# Takes a scratch folder, leaves a file in it, says so and waits to be killed.
WRITER = '''
import sys, time
from mmone.files import scratch_folder
with scratch_folder(sys.argv[1]) as folder:
    (folder / 'half').write_text('half')
    (folder / 'deep').mkdir()
    print('writing', flush=True)
    time.sleep(60)
'''


def names(folder):
    return sorted(os.listdir(folder))


def test_sha256(tmp_path):
    (tmp_path / 'a').write_bytes(b'a' * (3 << 20))
    assert sha256(tmp_path / 'a') == hashlib.sha256(b'a' * (3 << 20)).hexdigest()


def test_what_cannot_be_written_is_told_before_any_work(tmp_path):
    (tmp_path / 'there').touch()
    for path, words, parameter in ((tmp_path, 'is a directory', None),
                                   (tmp_path / 'no' / 'out', 'there is no directory', None),
                                   (tmp_path / 'there', 'exists', 'overwrite')):
        with pytest.raises(InputError, match=words) as error:
            check_output(path, overwrite=False)
        assert error.value.parameter == parameter
    check_output(tmp_path / 'there', overwrite=True)
    check_output(tmp_path / 'new', overwrite=False)


def test_a_file_is_there_when_it_is_complete(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with written_whole(path) as made:
        made.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new' and names(tmp_path) == ['file']
    with pytest.raises(OSError, match='full'):
        with written_whole(path) as made:
            made.write_text('half')
            raise OSError('the disk is full')
    assert path.read_text() == 'new' and names(tmp_path) == ['file']


def test_a_folder_is_replaced(tmp_path):
    (tmp_path / 'out' / 'old').mkdir(parents=True)
    with scratch_folder(tmp_path / 'out') as folder:
        (folder / 'out' / 'new').mkdir(parents=True)
        publish(folder / 'out', tmp_path / 'out')
    assert names(tmp_path) == ['out'] and names(tmp_path / 'out') == ['new']


def test_one_process_at_a_time_and_a_killed_one_leaves_nothing_for_long(tmp_path):
    path = tmp_path / 'out'
    process = subprocess.Popen([sys.executable, '-c', WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == 'writing\n'
        with pytest.raises(InputError, match='another process is writing it'), scratch_folder(path):
            pass
        with scratch_folder(tmp_path / 'other'):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert names(tmp_path) == ['.out.partial']
    with scratch_folder(path) as folder:
        assert names(folder) == []
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'nowhere' / 'out', tmp_path / 'file' / 'out'):
        with pytest.raises(InputError, match='cannot write'), scratch_folder(path):
            pass
