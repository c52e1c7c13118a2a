"""Files that are written whole or not at all."""
import hashlib
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from mmone import InputError
from mmone.files import (
    check_output,
    publish,
    remove_leftovers,
    scratch_folder,
    sha256,
    temporary_files,
    written_whole,
)

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


# Replaces a folder, and is killed when the old one has lost its name.
REPLACER = '''
import os, signal, sys
from pathlib import Path
from mmone.files import publish, scratch_folder
out = Path(sys.argv[1])
with scratch_folder(out) as folder:
    (folder / out.name).mkdir()
    replace, calls = os.replace, []
    def die(*paths):
        if calls:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(replace(*paths))
    os.replace = die
    publish(folder / out.name, out)
'''


def test_a_folder_that_was_being_replaced_is_there_again(tmp_path):
    out = tmp_path / 'out'
    (out / 'old').mkdir(parents=True)
    assert subprocess.run([sys.executable, '-c', REPLACER, str(out)]).returncode == -signal.SIGKILL
    assert names(tmp_path) == ['.out.partial']
    with scratch_folder(out):
        assert names(out) == ['old']
    assert names(tmp_path) == ['out']


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    for name in ('.a.pth.partial', '.b.pth.partial', '.hidden', 'c.partial', '.partial'):
        (tmp_path / name / 'deep').mkdir(parents=True)
    with scratch_folder(tmp_path / 'b.pth'):
        remove_leftovers(tmp_path)
        assert names(tmp_path) == ['.b.pth.partial', '.hidden', '.partial', 'c.partial']
    remove_leftovers(tmp_path / 'nowhere')


TEMPORARY = '''
import os, signal, sys, tempfile
from mmone.files import temporary_files
with temporary_files():
    print(tempfile.mkdtemp(), os.environ['TMPDIR'], flush=True)
    sys.stdin.read(1)
'''


def test_temporary_files_of_killed_processes_are_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', None)
    base = tempfile.mkdtemp()  # whose path is short
    monkeypatch.setenv('TMPDIR', base)
    monkeypatch.setattr(tempfile, 'tempdir', base)
    prefix = f'mmone-{os.getuid()}-'
    (tmp_path / 'precious').touch()
    os.symlink(tmp_path, f'{base}/{prefix}0')  # somebody else's name
    os.mkdir(f'{base}/others')
    processes = [subprocess.Popen([sys.executable, '-c', TEMPORARY], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  text=True) for _ in range(2)]
    folders = [process.stdout.readline().split() for process in processes]
    assert sorted(folder for _, folder in folders) == [f'{base}/{prefix}1', f'{base}/{prefix}2']
    assert all(os.path.dirname(made) == folder for made, folder in folders)
    processes[0].kill()
    processes[0].wait()
    with temporary_files():
        assert os.environ['TMPDIR'] == tempfile.gettempdir() == folders[0][1]
        assert names(folders[0][1]) == [] and os.stat(folders[0][1]).st_mode & 0o77 == 0
        with temporary_files():  # of a command that a command starts
            assert tempfile.gettempdir() == folders[0][1]
        assert os.path.exists(folders[1][0])
    assert tempfile.gettempdir() == base == os.environ['TMPDIR']
    processes[1].communicate(input=' ')
    assert names(base) == [f'{prefix}0', 'others'] and names(tmp_path) == ['precious']
    for process in processes:
        process.stdout.close()
        process.stdin.close()
