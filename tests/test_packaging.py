import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmone import compat
from mmone.libraries import FORK
from tests.conftest import not_the_fork

ROOT = Path(__file__).parent.parent
SHIPPED = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md', 'CHANGELOG.md', 'CITATION.cff',
           'model-index.yml', 'requirements', 'requirements.txt', 'configs', 'tools', 'mmone')

# What a build must do without: nobody has installed these when pip asks for mmone's requirements.
BLOCKER = '''
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg', 'mmone'):
            raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Blocker())
'''


def copy_source(folder):
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def mim_files(folder):
    """The files that an installed package is to have in its .mim, relative to it."""
    found = {path.relative_to(folder) for name in ('configs', 'tools') for path in (folder / name).rglob('*')
             if path.is_file() and '__pycache__' not in path.parts}
    return {str(path) for path in found} | {'model-index.yml'}


def requirements(distribution, extra=''):
    """The requirements of a distribution with an extra, or of none, as ``{name: Requirement}``."""
    found = map(Requirement, distribution.requires or ())
    return {req.name: req for req in found
            if (req.marker.evaluate({'extra': extra}) if req.marker else extra == '')}


pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def build_env(tmp_path_factory):
    folder = tmp_path_factory.mktemp('blocker')
    (folder / 'sitecustomize.py').write_text(BLOCKER)
    # Not optimized, which takes GCC a second in place of twenty.
    compiler = folder / 'compiler'
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CC") or sysconfig.get_config_var("CC")} "$@" -O0\n')
    compiler.chmod(0o755)
    env = {**os.environ, 'PYTHONPATH': str(folder), 'PYTHONDONTWRITEBYTECODE': '1', 'PIP_NO_INDEX': '1',
           'CC': str(compiler)}
    blocked = subprocess.run([sys.executable, '-c', 'import torch'], env=env, capture_output=True, text=True)
    assert 'torch is blocked' in blocked.stderr
    return env


@pytest.fixture(scope='module')
def build(build_env):

    def run(*command, cwd):
        result = subprocess.run([sys.executable, *command], cwd=cwd, env=build_env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert result.returncode == 0, result.stdout

    return run


@pytest.fixture(scope='module')
def unpacked_sdist(build, tmp_path_factory):
    source = copy_source(tmp_path_factory.mktemp('source'))
    folder = tmp_path_factory.mktemp('sdist')
    build('setup.py', '--quiet', 'sdist', '--dist-dir', str(folder), cwd=source)
    archive, = folder.glob('mmone-*.tar.gz')
    with tarfile.open(archive) as tar:
        tar.extractall(folder)
    return folder / archive.name[:-len('.tar.gz')]


@pytest.fixture(scope='module')
def wheel(build, unpacked_sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    build('-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--wheel-dir', str(folder), '.',
          cwd=unpacked_sdist)
    path, = folder.glob('mmone-*.whl')
    return path


def test_wheel_from_sdist_has_mim(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        index = archive.read('mmone/.mim/model-index.yml')
    prefix = 'mmone/.mim/'
    assert {name[len(prefix):] for name in names if name.startswith(prefix)} == mim_files(ROOT)
    assert index == (ROOT / 'model-index.yml').read_bytes()


def test_wheel_has_the_package_and_its_compiled_module_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith('mmone/.mim/')}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmone').rglob('*.py') if '.mim' not in path.parts}
    compiled = {'mmone/_ext.abi3.so'}
    page = {str(path.relative_to(ROOT)) for path in (ROOT / 'mmone' / 'lab' / 'page').iterdir()}
    assert {name for name in names if '.dist-info/' not in name} == modules | compiled | page | {'mmone/py.typed'}


def test_build_leaves_the_package_folder_alone(wheel, unpacked_sdist):
    assert not (unpacked_sdist / 'mmone' / '.mim').exists()


def test_metadata(wheel):
    distribution, = importlib.metadata.distributions(path=[str(wheel)])
    assert distribution.metadata['Name'] == 'mmone'
    assert distribution.metadata['Requires-Python'] == '>=3.10'
    assert f"'{distribution.version}'" in (ROOT / 'mmone' / 'version.py').read_text()

    # Whatever else is hard to require would be written over the lite, the fork's or the user's own.
    assert set(requirements(distribution)) == {'numpy', 'torch'}
    extras = {extra: requirements(distribution, extra) for extra in distribution.metadata.get_all('Provides-Extra')}
    mmengine = {'mmengine', 'setuptools'}  # which mmengine imports
    assert {extra: set(found) for extra, found in extras.items() if extra not in ('export', 'lab', 'tests')} == {
        'backbone': mmengine,
        'classification': mmengine | {'mmpretrain'},
        'detection': mmengine | {'mmdet'},
        'segmentation': mmengine | {'mmsegmentation', 'ftfy', 'regex'},
        'mmcv-lite': {'mmcv-lite'},
        'mim': mmengine | {'mmcv'},
        'optional': mmengine | {'mmpretrain', 'mmdet', 'mmsegmentation', 'ftfy', 'regex', 'safetensors'},
        'robustness': {'imagecorruptions-imaug'},
        'all': {*extras['optional'], *extras['export'], *extras['lab'], *extras['robustness']},
    }
    assert {'onnx', 'onnxruntime', 'openvino', 'ncnn', 'pnnx', 'ai-edge-litert', 'coremltools',
            'torchvision'} == set(extras['export'])
    assert {'starlette', 'uvicorn', 'segno'} <= set(extras['lab'])
    assert {'pytest', 'timm'} < set(extras['tests'])
    assert str(extras['mim']['mmcv'].specifier) == str(extras['mmcv-lite']['mmcv-lite'].specifier) == '<2.2.0,>=2.1.0'
    assert str(extras['backbone']['mmengine'].specifier) == '<1.0.0,>=0.10.4'


def test_lower_bounds_are_what_the_lowest_stack_tests(wheel):
    text = (ROOT / 'requirements' / 'constraints-lowest.txt').read_text()
    pins = dict(re.findall(r'^(\S+)==(\S+)$', text, re.MULTILINE))
    distribution, = importlib.metadata.distributions(path=[str(wheel)])
    bounds = {requirement.name: specifier.version for requirement in map(Requirement, distribution.requires)
              for specifier in requirement.specifier if specifier.operator == '>='}
    assert bounds.keys() >= {'torch', 'mmengine', 'mmcv', 'mmcv-lite', 'mmpretrain', 'mmdet', 'mmsegmentation'}
    assert bounds == {name: pins[name.removesuffix('-lite')] for name in bounds}
    assert {name: bounds[name] for name in compat.SUPPORTED} == {
        name: minimum for name, (minimum, _) in compat.SUPPORTED.items()}
    assert f'tried with {distribution.metadata["Requires-Python"].removeprefix(">=")}:' in text.splitlines()[0]


def test_editable_links_to_the_source(build, tmp_path):
    source = copy_source(tmp_path)
    # What `pip install -e` calls; the second time over the links of the first.
    for out in ('first', 'second'):
        build('-c', f'import setuptools.build_meta as backend, os; os.mkdir("{out}"); backend.build_editable("{out}")',
              cwd=source)
    mim = source / 'mmone' / '.mim'
    assert {path.name for path in mim.iterdir()} == {'configs', 'tools', 'model-index.yml'}
    for path in mim.iterdir():
        assert path.is_symlink()
        assert not os.path.isabs(os.readlink(path))
        assert path.resolve() == (source / path.name).resolve()
    # A link of the editable install does not end up in a build that follows it, nor does it lose its target.
    build('setup.py', '--quiet', 'build_py', '--build-lib', 'lib', cwd=source)
    assert not (source / 'lib' / 'mmone' / '.mim' / 'configs').is_symlink()
    assert mim_files(source) == mim_files(ROOT)


def test_second_build_drops_deleted_files(build, tmp_path):
    source = copy_source(tmp_path)
    extra = source / 'configs' / 'gone.py'
    built = source / 'lib' / 'mmone' / '.mim' / 'configs' / 'gone.py'
    extra.touch()
    build('setup.py', '--quiet', 'build_py', '--build-lib', 'lib', cwd=source)
    assert built.exists()
    extra.unlink()
    build('setup.py', '--quiet', 'build_py', '--build-lib', 'lib', cwd=source)
    assert not built.exists()


def imported_packages():
    """The top-level packages that mmone's modules import, each with a file that does."""
    found = {}
    for path in (ROOT / 'mmone').rglob('*.py'):
        if '.mim' in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            else:
                continue
            found.update((name.partition('.')[0], path) for name in names)
    return {name: path for name, path in found.items() if name not in {*sys.stdlib_module_names, 'mmone'}}


@pytest.mark.skipif(sys.version_info < (3, 11), reason='Python 3.10 does not say which distribution brings a module')
@not_the_fork  # its distributions are called otherwise, and no extra of ours asks for them
def test_every_import_is_required():
    """Whatever mmone imports, it requires, or an extra does, or something that they require."""
    distribution = importlib.metadata.distribution('mmone')
    queue = [name for extra in ('', 'all', 'mim') for name in requirements(distribution, extra)]
    provided = set()
    while queue:
        name = re.sub('[-_.]+', '-', queue.pop()).lower()
        if name not in provided:
            provided.add(name)
            queue += requirements(importlib.metadata.distribution(name))
    modules = importlib.metadata.packages_distributions()
    for name, path in imported_packages().items():
        # Where a config names it, and mmcv has the user install it too; and what is imported elsewhere only.
        if name in ('tifffile', 'litert_torch', 'ai_edge_quantizer'):
            continue
        owners = {re.sub('[-_.]+', '-', owner).lower() for owner in modules.get(name, ())}
        assert owners & provided, f'{path} imports {name}, which no requirement of mmone brings'


def test_citation_and_changelog_are_of_this_version():
    version = importlib.metadata.version('mmone')
    assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    assert f'\n## {version}\n' in (ROOT / 'CHANGELOG.md').read_text()


@pytest.mark.parametrize('path', sorted((ROOT / 'requirements').glob('constraints*.txt')), ids=lambda path: path.stem)
def test_constraints_pin_what_mmone_supports(path):
    pins = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith('#'):
            req = Requirement(line)
            pins[req.name] = req.specifier
    distribution = importlib.metadata.distribution('mmone')
    supported = {}
    for extra in ('', 'optional', 'mim'):
        supported.update(requirements(distribution, extra))
    upstream = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmsegmentation')
    for name in ('torch', *(upstream if 'mmcv' in pins else FORK.values())):
        pin, = pins[name]
        assert pin.operator == '=='
        assert name not in supported or pin.version in supported[name].specifier


def test_config_loader_finds_mim(tmp_path):
    """An editable install has no ``site-packages/mmone``: mmengine must be led to the source instead."""
    code = ('import mmone; from mmengine.config.utils import MODULE2PACKAGE; '
            'from mmengine.utils import get_installed_path; print(get_installed_path(MODULE2PACKAGE["mmone"]))')
    # Elsewhere, because in the clone the egg-info of an earlier build would answer.
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(result.stdout.splitlines()[-1], '.mim', 'tools').is_dir()


INSTALLED = '''
import sys
from pathlib import Path
import mmone, mmone.zoo
from mmengine.config import Config

from mmengine.infer import BaseInferencer
assert Path(mmone.__file__).parent.parent == Path(sys.argv[1]), mmone.__file__
assert mmone.zoo.find_config('ssdlite_mobileone-s0_8xb16-200e_coco-320x320')[0].model.bbox_head.type == 'mmone.SSDHead'
Path('mine.py').write_text("_base_ = 'mmone::classification/mobileone-s2_8xb32_in1k.py'\\nx = 1")
assert Config.fromfile('mine.py').model.backbone.arch == 's2'
assert 'mobileone-s4_8xb32_in1k' in BaseInferencer.list_models('mmone')
'''


@not_the_fork  # whose inferencers look for upstream's distributions
def test_names_resolve_through_an_installed_wheel(wheel, tmp_path):
    target, elsewhere = tmp_path / 'site', tmp_path / 'elsewhere'
    elsewhere.mkdir()
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', target,
                    wheel], check=True, capture_output=True)
    site = Path(importlib.metadata.distribution('mmengine').locate_file(''))
    env = dict(PYTHONPATH=f'{target}:{site}', PATH='/usr/bin:/bin', HOME=str(tmp_path))
    # -S: the .pth file of an editable install must not lead to the sources.
    for arguments in (('-c', INSTALLED, str(target)),
                      (target / 'bin/mmone', 'config', 'mobileone-s4_8xb32_in1k', '--save-path', 's4.py')):
        result = subprocess.run([sys.executable, '-S', *arguments], cwd=elsewhere, text=True, env=env,
                                capture_output=True)
        assert result.returncode == 0, result.stderr
    assert "arch='s4'" in (elsewhere / 's4.py').read_text()
