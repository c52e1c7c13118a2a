"""The environment script, run on a small clone whose packages are stubs: no network, no compiler, no torch."""
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = Path('requirements', 'make_env.py')

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.version_info[:2] != (3, 11),
                                                   reason='environments are made with Python 3.11')]

# The build backend of the stub of mmone. Its first run is slow, to be killed in the middle.
BACKEND = '''
import pathlib, sys, time
sys.path.insert(0, 'stubs')
from stub import write_wheel

def build_editable(folder, config_settings=None, metadata_directory=None):
    once = pathlib.Path('started')
    if not once.exists():
        once.touch()
        time.sleep(3)
    return write_wheel(folder, 'mmone', '0.1.0').name

build_wheel = build_editable
'''

STUB = '''
import pathlib, zipfile

def write_wheel(folder, name, version, *modules):
    path = pathlib.Path(folder, f'{name}-{version}-py3-none-any.whl')
    info = f'{name}-{version}.dist-info'
    with zipfile.ZipFile(path, 'w') as wheel:
        for module in modules:
            wheel.writestr(module, '')
        wheel.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')
        wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
        wheel.writestr(f'{info}/RECORD', '')
    return path
'''


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_env = load(ROOT / SCRIPT, 'make_env')


class Clone:
    """A clone of the files that the script reads, with an index of stub packages beside it."""

    def __init__(self, folder):
        self.root = folder / 'a clone'  # with the space that paths may have
        self.index = folder / 'index'
        self.index.mkdir()
        shutil.copytree(ROOT / 'requirements', self.root / 'requirements')
        shutil.copytree(ROOT / 'mmone' / 'csrc', self.root / 'mmone' / 'csrc')
        for name in ('setup.py', 'requirements.txt', 'mmone/version.py'):
            shutil.copy(ROOT / name, self.root / name)
        (self.root / 'pyproject.toml').write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n')
        (self.root / 'backend.py').write_text(BACKEND)
        (self.root / 'stubs').mkdir()
        (self.root / 'stubs' / 'stub.py').write_text(STUB)
        self.env = {
            **os.environ, 'XDG_CACHE_HOME': str(folder / 'cache'), 'PIP_CONFIG_FILE': os.devnull,
            'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': self.index.as_uri(), 'CUDA_VISIBLE_DEVICES': '',
        }

    def fill_index(self, without=()):
        write_wheel = load(self.root / 'stubs' / 'stub.py', 'stub').write_wheel
        pins = (self.root / 'requirements' / 'constraints.txt').read_text()
        wanted = ''.join(path.read_text() for path in (self.root / 'requirements').glob('[!c]*.txt'))
        names = {*re.findall(r'^([a-z][\w-]*)', wanted, re.MULTILINE),
                 'torchvision', 'setuptools', 'wheel', 'packaging', 'ninja', 'psutil'}
        for name in names.difference(without, {'mmcv'}):
            pin = re.search(rf'^{name}==(\S+)', pins, re.MULTILINE)
            modules = ['torchvision/ops.py'] if name == 'torchvision' else []
            write_wheel(self.index, name.replace('-', '_'), pin.group(1) if pin else '1.0', *modules)

    def cache_mmcv(self):
        write_wheel = load(self.root / 'stubs' / 'stub.py', 'stub').write_wheel
        version = re.search(r'^mmcv==(\S+)', (self.root / 'requirements/constraints.txt').read_text(), re.M).group(1)
        code = 'import runpy; print(runpy.run_path("requirements/make_env.py")["Environment"]().wheels)'
        kept = Path(self.run('-c', code).stdout.strip())
        kept.mkdir(parents=True)
        write_wheel(kept, 'mmcv', version, 'mmcv/ops.py')

    def run(self, *args, **env):
        return subprocess.run([sys.executable, *args], cwd=self.root, env={**self.env, **env}, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def make(self, *args, **env):
        return self.run(str(SCRIPT), *args, **env)


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def last_line(result):
    assert result.returncode == 1
    assert 'Traceback' not in result.stdout
    return result.stdout.splitlines()[-1]


def test_wrong_python_is_named(clone):
    code = f'import sys, runpy; sys.version_info = (3, 13, 1); sys.argv = ["make_env"]; runpy.run_path("{SCRIPT}", ' \
           'run_name="__main__")'
    message = last_line(clone.run('-c', code))
    assert 'step python failed: Python 3.11 is needed' in message
    assert 'PYTHON=python3.11' in message
    assert not (clone.root / '.venv').exists()


@pytest.mark.parametrize('first, tried, taken', [
    ('Python 3.11.', (3, 11, 7), True), ('Python 3.11.', (3, 12, 0), False), ('Python 3.11.', (3, 9, 0), False),
    ('Python 3.9 or newer', (3, 13, 0), True), ('Python 3.11 or newer', (3, 10, 1), False),
    ('Python 3.11 or newer, tried with 3.13', (3, 11, 0), True)])
def test_stacks_name_their_python(monkeypatch, first, tried, taken):
    monkeypatch.setattr(sys, 'version_info', tried)
    with nullcontext() if taken else pytest.raises(SystemExit, match='is needed'):
        make_env.check_python(f'# A stack, {first}\n')


def test_unknown_stack_is_named(clone):
    assert 'no stack torch1.0: there are reference, lowest, newest, onedl' in last_line(clone.make('torch1.0'))


def test_missing_compiler_is_found_before_anything_is_fetched(clone, tmp_path):
    (tmp_path / 'bin').mkdir()
    message = last_line(clone.make(PATH=str(tmp_path / 'bin')))
    assert 'step mmcv failed: no C++ compiler (c++ is not on the PATH)' in message
    assert 'apt install g++' in message
    assert not (clone.root / '.venv' / 'bin').exists()


def test_no_network_is_named(clone, tmp_path):
    # No compiler either: a kept wheel needs none.
    clone.cache_mmcv()
    (tmp_path / 'bin').mkdir()
    # A port that nothing listens on.
    result = clone.make(PATH=str(tmp_path / 'bin'), PIP_NO_INDEX='0', PIP_INDEX_URL='http://127.0.0.1:9/',
                        PIP_RETRIES='1')
    assert 'step torch failed: the package index cannot be reached' in last_line(result)


def test_made_step_by_step(clone):
    """A failure, a kill and an uninterrupted run, each going on where the one before it stopped."""
    clone.cache_mmcv()
    clone.fill_index(without=['timm'])
    first = clone.make()
    assert re.search(r'mmcv +done', first.stdout)  # beside what fails
    assert 'step requirements failed: the package index has no timm' in last_line(first)

    clone.fill_index()
    killed = subprocess.Popen([sys.executable, str(SCRIPT)], cwd=clone.root, env=clone.env,
                              stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (clone.root / 'started').exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    # pip was left behind and is still at work: the next run must not get in its way.
    site = clone.root / '.venv/lib/python3.11/site-packages'
    half = site / 'ruff-0.dist-info'
    half.mkdir()
    torch, = site.glob('torch-*.dist-info')
    installed = torch.stat().st_mtime_ns
    third = clone.make()
    assert third.returncode == 0, third.stdout
    assert 'another run is making it, waiting' in third.stdout
    assert torch.stat().st_mtime_ns == installed
    assert not half.exists()
    assert (site / 'mmcv' / 'ops.py').exists()

    # Up to date: silent, and pip is not even started.
    (site / 'pip/__main__.py').write_text('raise SystemExit("started")')
    fourth = clone.make()
    assert (fourth.returncode, fourth.stdout) == (0, '')

    # A requirement that has changed outdates it.
    with open(clone.root / 'requirements' / 'tests.txt', 'a') as file:
        file.write('# changed\n')
    assert 'step torch failed' in last_line(clone.make())
    # What a failed run may have changed is not taken for done, even with the old requirements back.
    shutil.copy(ROOT / 'requirements' / 'tests.txt', clone.root / 'requirements' / 'tests.txt')
    assert 'step torch failed' in last_line(clone.make())


def test_kept_wheels_differ_where_they_must(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    folders = [make_env.Environment(stack).wheels for stack in ('reference', 'lowest')]
    monkeypatch.setattr(make_env, 'with_cuda', lambda: True)
    folders.append(make_env.Environment().wheels)
    monkeypatch.setattr(make_env, 'PYTHON', 'python3.12')
    monkeypatch.setattr(make_env, 'check_python', lambda constraints: None)
    folders.append(make_env.Environment().wheels)
    assert len(set(folders)) == 4
    assert all(path.is_relative_to(tmp_path / 'mmone' / 'wheels') for path in folders)


def test_mmcv_is_compiled_once(tmp_path, monkeypatch):
    """The wheel gets its name when it is whole; the compiler and its flags are the build's alone."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    environment, calls = make_env.Environment(), []

    def pip(step, *args, **env):
        calls.append(env)
        folder = Path(next(arg for arg in args if arg.startswith('--wheel-dir=')).partition('=')[2])
        folder.mkdir(parents=True)
        (folder / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl').touch()
        assert not environment.has_mmcv()

    monkeypatch.setattr(environment, 'pip', pip)
    environment.build_mmcv('mmcv')
    environment.build_mmcv('mmcv')
    assert len(calls) == 1 and calls[0]['CXX'] == 'precompiled_cxx.py'
    assert [path.name for path in environment.wheels.iterdir()] == ['mmcv-2.1.0-cp311-cp311-linux_x86_64.whl']
    assert environment.has_mmcv()


@pytest.mark.parametrize('log, meaning', [
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", 'disk is full'),
    ("c++: fatal error: Killed signal terminated program cc1plus", 'out of memory'),
    ("nms.cpp:1:10: fatal error: missing.h: No such file\nerror: command 'c++' failed", 'the compiler failed'),
    ("Retrying after connection broken by 'NewConnectionError(...)'\nERROR: No matching distribution found for torch",
     'cannot be reached'),
    ('something else', 'see the lines above'),
])
def test_diagnosis(log, meaning):
    assert meaning in make_env.diagnose(log)


@pytest.mark.skipif(shutil.which('c++') is None, reason='no C++ compiler')
@pytest.mark.parametrize('takes_headers', [True, False])
@pytest.mark.parametrize('standard', ['17', '20'])
def test_headers_are_precompiled_once_or_not_at_all(tmp_path, takes_headers, standard):
    folder = tmp_path / 'a folder'
    (folder / 'ATen').mkdir(parents=True)
    (folder / 'ATen' / 'ATen.h').write_text(
        f'#if __cplusplus < 20{standard}00L\n#error C++{standard} or later compatible compiler is required\n#endif\n')
    header = folder / 'pytorch_cpp_helper.hpp'
    header.write_text('#pragma once\n#include <ATen/ATen.h>\ninline int answer() { return 42; }\n')
    compiler = tmp_path / 'compiler'
    refuse = '' if takes_headers else 'case "$*" in *c++-header*) exit 1;; esac\n'
    compiler.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n{refuse}exec c++ "$@"\n')
    compiler.chmod(0o755)
    env = dict(os.environ, PATH=f'{ROOT / "requirements"}{os.pathsep}{os.environ["PATH"]}', MMONE_CXX=str(compiler))
    for name in ('first', 'second'):
        source, out = tmp_path / f'{name}.cpp', tmp_path / f'{name}.o'
        source.write_text('#include "pytorch_cpp_helper.hpp"\nint f() { return answer(); }\n')
        subprocess.run(['precompiled_cxx.py', '-MMD', '-MF', f'{out}.d', '-O1', '-std=c++17', f'-I{folder}',
                        '-c', source, '-o', out], env=env, check=True)
        assert out.stat().st_size > 0
    calls = (tmp_path / 'calls').read_text().splitlines()
    assert len(calls) == 3 and 'c++-header' in calls[0] and '-O1' in calls[0] and 'first' not in calls[0]
    assert header.with_suffix('.hpp.gch').exists() == takes_headers
    assert all(('-include' in call) == takes_headers for call in calls[1:])
