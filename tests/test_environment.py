"""The environment script, run on a small clone whose packages are stubs: no network, no compiler, no torch."""
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
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
        files = ('runtime', 'mminstall', 'optional', 'export', 'tests')
        wanted = ''.join((self.root / 'requirements' / f'{name}.txt').read_text() for name in files)
        names = {*re.findall(r'^([a-z][\w-]*)', wanted, re.MULTILINE), 'torchvision', 'wheel', 'ninja', 'psutil'}
        for name in names.difference(without, {'mmcv'}):
            pin = re.search(rf'^{name}==(\S+)', pins, re.MULTILINE)
            modules = ['torchvision/ops.py'] if name == 'torchvision' else []
            write_wheel(self.index, name.replace('-', '_'), pin.group(1) if pin else '1.0', *modules)

    def cache_mmcv(self):
        write_wheel = load(self.root / 'stubs' / 'stub.py', 'stub').write_wheel
        version = re.search(r'^mmcv==(\S+)', (self.root / 'requirements/constraints.txt').read_text(), re.M).group(1)
        built = write_wheel(self.index, 'mmcv', version, 'mmcv/ops.py')
        code = ('import pathlib, runpy; script = runpy.run_path("requirements/make_env.py"); '
                'print(script["cached_wheel"](pathlib.Path("requirements/constraints.txt")))')
        kept = Path(self.run('-c', code).stdout.strip())
        kept.parent.mkdir(parents=True)
        # Its tag would promise compiled code for this platform, and the stub has none: that is all the same to pip.
        shutil.move(built, kept)

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


def test_unknown_stack_is_named(clone):
    assert 'no stack torch1.0: there are reference, torch2.1' in last_line(clone.make('torch1.0'))


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
    assert re.search(r'mmcv +done', first.stdout)
    assert 'step requirements failed: the package index has no timm that agrees' in last_line(first)

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
    half = clone.root / '.venv/lib/python3.11/site-packages/ruff-0.dist-info'
    half.mkdir()
    third = clone.make()
    assert third.returncode == 0, third.stdout
    assert 'another run is making it, waiting' in third.stdout
    done_before = re.findall(r'^  (.+?) +done before$', third.stdout, re.MULTILINE)
    assert done_before == ['venv', 'torch', 'build tools', 'mmcv', 'requirements']
    assert not half.exists()

    # Up to date: silent, and pip is not even started.
    (clone.root / '.venv/lib/python3.11/site-packages/pip/__main__.py').write_text('raise SystemExit("started")')
    fourth = clone.make()
    assert (fourth.returncode, fourth.stdout) == (0, '')

    # A changed requirement outdates its step and those after it, and no other.
    with open(clone.root / 'requirements' / 'tests.txt', 'a') as file:
        file.write('# changed\n')
    assert 'step requirements failed' in last_line(clone.make())
    # What a failed step may have changed is not taken for done, even with the old requirements back.
    shutil.copy(ROOT / 'requirements' / 'tests.txt', clone.root / 'requirements' / 'tests.txt')
    assert 'step requirements failed' in last_line(clone.make())


def test_kept_wheels_differ_where_they_must(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    stacks = [make_env.cached_wheel(make_env.constraints_file(stack)) for stack in ('reference', 'torch2.1')]
    monkeypatch.setattr(make_env, 'with_cuda', lambda: True)
    stacks.append(make_env.cached_wheel(make_env.constraints_file('reference')))
    assert len(set(stacks)) == 3
    assert all(path.is_relative_to(tmp_path / 'mmone' / 'wheels') for path in stacks)
    assert all(re.fullmatch(r'mmcv-2\.1\.0-cp311-cp311-\w+\.whl', path.name) for path in stacks)


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
def test_headers_are_precompiled_once_or_not_at_all(tmp_path, takes_headers):
    folder = tmp_path / 'a folder'
    folder.mkdir()
    header = folder / 'pytorch_cpp_helper.hpp'
    header.write_text('#pragma once\ninline int answer() { return 42; }\n')
    compiler = tmp_path / 'compiler'
    refuse = '' if takes_headers else 'case "$*" in *c++-header*) exit 1;; esac\n'
    compiler.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n{refuse}exec c++ "$@"\n')
    compiler.chmod(0o755)
    env = dict(os.environ, PATH=f'{ROOT / "requirements"}{os.pathsep}{os.environ["PATH"]}', MMONE_CXX=str(compiler))
    for name in ('first', 'second'):
        source, out = tmp_path / f'{name}.cpp', tmp_path / f'{name}.o'
        source.write_text('#include "pytorch_cpp_helper.hpp"\nint f() { return answer(); }\n')
        subprocess.run(['precompiled_cxx.py', '-MMD', '-MF', f'{out}.d', '-O1', f'-I{folder}', '-c', source, '-o', out],
                       env=env, check=True)
        assert out.stat().st_size > 0
    calls = (tmp_path / 'calls').read_text().splitlines()
    assert len(calls) == 3 and 'c++-header' in calls[0] and '-O1' in calls[0] and 'first' not in calls[0]
    assert header.with_suffix('.hpp.gch').exists() == takes_headers
    assert all(('-include' in call) == takes_headers for call in calls[1:])
