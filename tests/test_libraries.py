"""What is missing or broken of an installation is told in one line, with the command that mends it."""
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmcv import cnn
from packaging.requirements import Requirement

from mmone import compat, libraries
from mmone.cli import COMMANDS
from mmone.errors import InputError
from mmone.models import MobileOne
from mmone.models.blocks import plain_layers
from tests.conftest import not_the_fork

ROOT = Path(__file__).parent.parent
# Runs code in a process that does not find some modules, and some elsewhere: None is a folder without an __init__.py.
ELSEWHERE = '''
import importlib.util
from importlib.machinery import PathFinder
from pathlib import Path

find, missing, moved = PathFinder.find_spec, set(), {}

def find_spec(cls, name, path=None, target=None):
    if name in moved:
        return (importlib.util.spec_from_file_location(name, moved[name]) if moved[name] else
                importlib.machinery.ModuleSpec(name, None, is_package=True))
    return None if missing & {name, name.partition('.')[0]} else find(name, path, target)

PathFinder.find_spec = classmethod(find_spec)
'''
BUILD = ('pip install "setuptools<82" wheel ninja && '
         'pip install --no-build-isolation --no-cache-dir "mmcv>=2.1.0,<2.2.0"')
REBUILD = f'pip uninstall -y mmcv mmcv-lite && {BUILD}'


def run(code, cwd):
    done = subprocess.run([sys.executable, '-c', ELSEWHERE + code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def upstream(monkeypatch):
    """An environment of upstream's libraries that mmcv can be built in, whatever the tests run in."""
    monkeypatch.setattr(libraries, '_has_fork', lambda: False)
    versions = dict(torch='2.11.0', numpy='2.4.1', mmcv='2.1.0', mmdet='3.3.0', mmpretrain='1.2.0')
    monkeypatch.setattr(libraries, '_version', versions.get)
    monkeypatch.setattr(sys, 'version_info', (3, 11, 0))


def raised_in(module, error):
    """An exception that code of a module has raised."""
    try:
        exec('raise error', dict(__name__=module, error=error))
    except type(error) as raised:
        return raised


# No mmengine

ENGINE = 'pip install onedl-mmengine' if libraries._has_fork() else 'pip install "mmengine>=0.10.4,<1.0.0"'


def test_every_command_says_how_to_install_what_is_missing(tmp_path):
    """One line, status 2: pip is not told to bring mmengine, which has several names."""
    (tmp_path / 'x.py').touch()
    (tmp_path / 'x.pth').touch()
    arguments = dict(train=['x.py'], test=['x.py', 'x.pth'], predict=['x.pth', '--model', 'x.py'],
                     export=['x.py', 'x.pth', '--out', 'y.onnx'],
                     quantize=['x.py', 'x.pth', '--out', 'y.onnx', '--images', 'z'], new=['z'],
                     convert=['x.pth', 'y.pth'],
                     reparameterize=['x.py', 'x.pth', 'y.pth'], flops=['x.py'], browse=['x.py', '--out-dir', 'y'],
                     inspect=['x.py'],
                     config=['x.py'], shapes=['y', '--images', '1'], zoo=[], bench=['x'], demo=[],
                     ablate=['k', 'x.py'], robustness=['x.py', 'x.pth'], compare=['x', 'y'])
    assert {*arguments, 'info', 'lab'} == set(COMMANDS)  # the lab's actions have a line each
    lines = run(f'''
import contextlib, io, sys
from mmone.cli import main
missing.update(['mmengine', 'yaml', 'cv2'])
for command, given in {arguments!r}.items():
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        try:
            status = main([command, *given])
        except SystemExit as stop:
            status = stop.code
    print(command, status, stream.getvalue(), end='')
''', tmp_path)
    assert len(lines) == len(arguments)
    for command, line in zip(arguments, lines):
        assert line == f'{command} 2 mmone {command}: error: mmone needs mmengine, not installed here: {ENGINE}'


def test_modules_say_how_to_install_what_they_import(tmp_path):
    """And to nobody else: whoever looks for mmengine by other means finds nothing, as without mmone."""
    told = f'mmone needs mmengine, not installed here: {ENGINE}'
    assert run('''
import mmone
missing.add('mmengine')
for name in ('mmone.models', 'mmone.apis', 'mmone.zoo'):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(error, error.name)
print(importlib.util.find_spec('mmengine'))
try:
    import mmengine
except ModuleNotFoundError as error:
    print(error)
''', tmp_path) == 3 * [f'{told} mmengine'] + ['None', "No module named 'mmengine'"]


# No mmcv

def signature(model):
    """What tells a model from another one: the weights that it draws, and what it computes of them."""
    model.init_weights()
    total = sum(value.double().abs().sum() for value in model.eval().state_dict().values())
    with torch.no_grad():
        out, = model(torch.ones(1, 3, 64, 64))
    return [len(model.state_dict()), round(total.item(), 3), round(out.double().sum().item(), 6)]


def test_the_backbone_without_mmcv_is_the_same(tmp_path):
    lines = run(f'''
import sys
import torch
missing.add('mmcv')
from mmone.convert import deployed_copy
from mmone.models import MobileOne
{inspect.getsource(signature)}
torch.manual_seed(0)
model = MobileOne('s4')
print(signature(model))
deployed_copy(model)
assert 'mmcv' not in sys.modules
''', tmp_path)
    torch.manual_seed(0)
    assert lines[-1] == str(signature(MobileOne('s4')))


@pytest.mark.parametrize('cfg', [dict(type='BN'), dict(type='BN2d', eps=1e-3), dict(type='SyncBN', momentum=0.5),
                                 dict(type='BN', requires_grad=False), dict(type=torch.nn.BatchNorm2d)], ids=str)
def test_norms_without_mmcv(cfg):
    ours, theirs = (module.build_norm_layer(cfg, 8)[1] for module in (plain_layers, cnn))
    assert type(ours) is type(theirs) and repr(ours) == repr(theirs)
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]


@pytest.mark.parametrize('cfg', [dict(type='ReLU', inplace=True), dict(type='HSwish'), dict(type='GELU'),
                                 dict(type='LeakyReLU', negative_slope=0.2), dict(type='Sigmoid')], ids=str)
def test_activations_without_mmcv(cfg):
    ours, theirs = (module.build_activation_layer(cfg) for module in (plain_layers, cnn))
    assert type(ours) is type(theirs) and repr(ours) == repr(theirs)


@pytest.mark.parametrize('bias, conv_cfg, act_cfg', [
    ('auto', None, dict(type='ReLU')), (False, dict(type='Conv2d'), dict(type='Sigmoid')),
    (True, dict(type='Conv', padding_mode='zeros'), dict(type='LeakyReLU'))])
def test_convolutions_without_mmcv(bias, conv_cfg, act_cfg):
    pair = []
    for module in (plain_layers, cnn):
        torch.manual_seed(0)
        pair.append(module.ConvModule(4, 6, 1, bias=bias, conv_cfg=conv_cfg, act_cfg=act_cfg))
    ours, theirs = pair
    assert repr(ours) == repr(theirs)
    for (name, value), (other, expected) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other and torch.equal(value, expected)


def test_layers_that_mmcv_has_alone(upstream, monkeypatch):
    monkeypatch.setattr(plain_layers.MODELS, 'get', lambda name: None)
    with pytest.raises(InputError, match="'HSigmoid' is no layer of PyTorch.*pip install \"mmcv-lite"):
        plain_layers.build_activation_layer(dict(type='HSigmoid'))


# mmcv, and the libraries

@pytest.mark.skipif(sys.version_info < (3, 11), reason='it takes Python for 3.11, which has modules that 3.10 lacks')
@not_the_fork
def test_libraries_that_cannot_be_imported(tmp_path):
    """mmcv missing, without its operators, with those for another PyTorch, put over another and removed; what
    mmsegmentation forgot to require."""
    lines = run('''
import sys
from mmone import libraries
from mmone.errors import InputError
libraries._has_fork = lambda: False
libraries.sys.version_info = (3, 11, 0)
version = libraries._version
libraries._version = lambda name: '2.11.0' if name == 'torch' else version(name)

def told(library):
    try:
        libraries.import_library(library)
        print('imported')
    except InputError as error:
        print(error)

missing.add('mmcv')
told('mmpretrain'), told('mmdet')
missing.symmetric_difference_update(['mmcv', 'mmcv._ext'])
told('mmdet')
missing.clear()
moved['mmcv._ext'] = 'mmcv/_ext.so'
Path('mmcv').mkdir()
Path('mmcv/_ext.so').write_bytes(b'')
told('mmdet')
moved.clear()
missing.update(['ftfy', 'regex'])
told('mmseg')
missing.clear()
told('mmseg'), told('nothing of ours')
for name in [name for name in sys.modules if name.partition('.')[0] in ('mmcv', 'mmdet')]:
    del sys.modules[name]
moved['mmcv'] = None
told('mmdet')
''', tmp_path)
    mmcv_version = importlib.metadata.version('mmcv')
    assert lines == [
        'mmpretrain needs mmcv, not installed here: pip install "mmcv-lite>=2.1.0,<2.2.0"',
        f'mmdet needs mmcv with its compiled operators, which is not installed: {BUILD}',
        f'mmdet needs the compiled operators of mmcv, and mmcv {mmcv_version} was installed without: {REBUILD}',
        f'the operators of mmcv {mmcv_version} were not compiled for torch 2.11.0 (_ext.so: file too short): '
        + REBUILD,
        'mmseg needs ftfy, regex, not installed here: pip install ftfy regex',
        'imported', 'imported',
        f'mmcv was removed in part, as by removing an mmcv-lite that lay over it: {REBUILD}']


@pytest.mark.parametrize('error, needed_by, line', [
    (AssertionError('MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.'), 'mmdet',
     f'mmdet 3.3.0 refuses mmcv 2.2.0: {REBUILD}'),
    (raised_in('mmdet', AssertionError('MMCV==2.2.0 is used but incompatible.')), 'mmpretrain',  # which imports mmdet
     f'mmdet 3.3.0 refuses mmcv 2.2.0: {REBUILD}'),
    (AssertionError('MMEngine==0.7.0 is used but incompatible.'), 'mmpretrain',
     'mmpretrain 1.2.0 refuses mmengine 0.7.0: pip install "mmengine>=0.10.4,<1.0.0"'),
    (AssertionError('ball_query_forward miss in module _ext'), 'mmdet',
     'the operators of mmcv 2.1.0 were not compiled for torch 2.11.0 (ball_query_forward miss in module _ext): '
     + REBUILD),
    (ModuleNotFoundError("No module named 'pkg_resources'", name='pkg_resources'), 'mmone',
     'mmone needs pkg_resources, not installed here: pip install "setuptools<82"'),
    (ModuleNotFoundError('mmsegmentation is not installed, please install mmsegmentation manually'), 'mmone',
     'segmentation needs mmseg, ftfy, not installed here: pip install mmsegmentation ftfy'),
    (ModuleNotFoundError("No module named 'mine'", name='mine'), 'mmone', None),  # nobody knows what brings it
    (ModuleNotFoundError("No module named 'mmdet.nonsense'", name='mmdet.nonsense'), 'mmone', None),
    (ImportError("cannot import name 'x' from 'mmdet'", name='mmdet'), 'mmone', None),
    (AssertionError('something else'), 'mmdet', None),
], ids=str)
def test_lines(error, needed_by, line, upstream, monkeypatch):
    there = {'mine': False, 'pkg_resources': False, 'mmseg': False, 'ftfy': False}
    monkeypatch.setattr(libraries, '_is_there', lambda name, whole=True: whole and there.get(name, True))
    assert libraries.explain(error, needed_by) == line


def test_modules_that_were_compiled_for_another_numpy(upstream):
    for error in (ValueError('numpy.dtype size changed, may indicate binary incompatibility'),
                  ImportError('numpy.core.multiarray failed to import')):
        assert libraries.explain(raised_in('pycocotools._mask', error)) == (
            'pycocotools was compiled for another NumPy than 2.4.1, which is installed: '
            'pip install --upgrade --force-reinstall --no-deps pycocotools')


def test_pytorch_that_was_compiled_for_another_numpy(monkeypatch):
    def refuse(array):
        raise RuntimeError('Numpy is not available')

    compat.check_versions()
    monkeypatch.setattr(torch, 'from_numpy', refuse)
    with pytest.raises(InputError, match=r'^torch \S+ was compiled for another NumPy than .*: pip install "numpy<2"$'):
        compat.check_versions()


def test_the_command_that_builds_mmcv(upstream, monkeypatch):
    assert libraries.build_mmcv() == BUILD
    monkeypatch.setattr(libraries, '_version', {'torch': '2.14.1'}.get)  # whose headers are C++20
    assert libraries.build_mmcv() == f'pip install "torch<2.14" torchvision && {BUILD}'
    monkeypatch.setattr(libraries, '_has_fork', lambda: True)
    assert 'setuptools>=80' in libraries.build_mmcv() and '"mmcv' not in libraries.build_mmcv(replace=True)
    monkeypatch.setattr(libraries, '_has_fork', lambda: False)
    monkeypatch.setattr(sys, 'version_info', (3, 13, 1))
    assert libraries.build_mmcv(replace=True).startswith('make an environment with Python 3.12 or earlier')


def test_commands_name_what_the_requirements_do():
    """The versions that pip is asked for stand in requirements/mminstall.txt."""
    required = {}
    for line in (ROOT / 'requirements/mminstall.txt').read_text().splitlines():
        if not line.startswith('#'):
            required[Requirement(line).name] = Requirement(line).specifier
    said = {Requirement(name).name: Requirement(name).specifier
            for name in (*libraries.DISTRIBUTIONS.values(), libraries.MMCV)}
    assert {name: said[name] for name in required} == required
    assert said['mmcv-lite'] == required['mmcv']


def test_the_fork_is_told_of_its_own(monkeypatch):
    monkeypatch.setattr(libraries, '_installed', {'onedl-mmcv': '2.3.6'}.get)
    error = ModuleNotFoundError("No module named 'mmdet'", name='mmdet')
    monkeypatch.setattr(libraries, '_is_there', lambda name, whole=True: False)
    assert libraries.explain(error, 'mmdet').endswith(': pip install onedl-mmdetection')
