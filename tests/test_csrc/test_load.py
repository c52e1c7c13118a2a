"""A build that is there but does not load says why; none at all is no fault."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmone import csrc

ROOT = Path(__file__).resolve().parents[2]
BUILD = csrc.FOLDER / '_ext.abi3.so'

# An editable install would find what the copy of the package lacks.
COPY_ALONE = '''
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in getattr(finder, '__module__', '')]
'''
ONLY_LOAD = 'import torch\nfrom mmone import csrc\nprint("module:", csrc.load())'
IMPORTED = '''
from mmone.models.blocks import compiled
from mmone.models import MobileOne
print('module:', compiled._ext)
'''


@pytest.fixture
def package(tmp_path):
    """A copy of the package without its compiled module."""
    shutil.copytree(csrc.FOLDER, tmp_path / 'mmone', ignore=shutil.ignore_patterns('_ext.*', '.mim', '__pycache__'))
    return tmp_path / 'mmone'


def run(package, code):
    env = dict(os.environ, PYTHONPATH=str(package.parent), PYTHONDONTWRITEBYTECODE='1', OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, '-c', COPY_ALONE + code], cwd=package.parent, env=env, capture_output=True,
                          text=True)


def test_what_was_not_built_is_no_fault(package):
    result = run(package, ONLY_LOAD)
    assert result.returncode == 0 and result.stdout == 'module: None\n' and 'Warning' not in result.stderr


# Cut off in its header, its list of segments, a segment, at all of which the loader of Linux would otherwise end the
# process by a bus error; and what the loader refuses by itself.
@pytest.mark.parametrize('content, reason', [
    (lambda whole: b'', 'too short'),
    (lambda whole: whole[:100], 'ends before its list of segments'),
    (lambda whole: whole[:5000], 'cut off after 5000 bytes'),
    (lambda whole: whole[:400000], 'cut off after 400000 bytes'),
    (lambda whole: b'no library', 'too short|invalid ELF header|file data'),
    (lambda whole: whole.replace(b'PyInit__ext', b'PyInit__old'), 'PyInit__ext'),
    (lambda whole: whole.replace(b'GOMP_parallel', b'GOMP_parallol'), 'undefined symbol: GOMP_parallol'),
    (lambda whole: whole.replace(b'INTERFACE\0', b'INTERFACD\0'), 'other sources'),
], ids=['empty', 'header', 'first segment', 'segment', 'text', 'other module', 'other OpenMP', 'other interface'])
def test_what_does_not_load_says_why(content, reason, tmp_path, monkeypatch):
    (tmp_path / '_ext.abi3.so').write_bytes(content(BUILD.read_bytes()))
    monkeypatch.setattr(csrc, 'FOLDER', tmp_path)
    monkeypatch.setattr(csrc, 'import_module', lambda name: _import(tmp_path / '_ext.abi3.so', name))
    with pytest.raises(ImportError, match=rf'_ext\.abi3\.so in {re.escape(str(tmp_path))} does not load: .*({reason})'):
        csrc.load()


def _import(path, name):
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_whole_file_is_no_reason(tmp_path, monkeypatch):
    shutil.copy(BUILD, tmp_path)
    monkeypatch.setattr(csrc, 'FOLDER', tmp_path)
    monkeypatch.setattr(csrc, 'import_module', lambda name: _import(tmp_path / BUILD.name, name))
    assert csrc.load().INTERFACE == csrc.INTERFACE


@pytest.mark.slow
def test_one_warning_and_a_line_of_info(package):
    # Of another Python: its name tells, so that this one does not find it.
    shutil.copy(BUILD, package / '_ext.cpython-27-x86_64-linux-gnu.so')
    result = run(package, IMPORTED)
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'module: None\n'
    assert len(re.findall(r'RuntimeWarning: _ext\.cpython-27\S+ in \S+ does not load: ', result.stderr)) == 1
    info = run(package, 'from mmone.cli import main\nraise SystemExit(main(["info"]))')
    assert re.search(r'^  mmone\._ext +not loaded: _ext\.cpython-27\S+ in \S+ does not load: ', info.stdout,
                     re.MULTILINE), info.stdout
    assert 'RuntimeWarning' not in info.stderr
