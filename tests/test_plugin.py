"""Stock tools and registries find mmone by its name in a config, with one library installed."""
import subprocess
import sys
from pathlib import Path

import pytest

from mmone.datasets.shapes import make_dataset

ROOT = Path(__file__).parent.parent
LIBRARIES = ('mmpretrain', 'mmdet', 'mmseg')
# Runs a script as __main__ in a process that has one of the libraries and never says "mmone".
BLOCK = '''
import importlib.abc, runpy, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            raise ModuleNotFoundError('No module named ' + repr(name), name=name)

sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
'''


def run(library, script, *args, cwd):
    blocked = tuple(other for other in LIBRARIES if other != library)
    command = [sys.executable, '-c', BLOCK.format(blocked=blocked), str(script), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_dataset(folder, 25)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('library, pattern', [
    ('mmpretrain', 'classification/*_shapes-*.py'),
    ('mmdet', 'detection/*_shapes-*.py'),
    ('mmseg', 'segmentation/*_shapes-*.py'),
])
def test_stock_tools_train_and_test(library, pattern, shapes, tmp_path):
    config, = (ROOT / 'configs').glob(pattern)
    tools = Path(__import__(library).__file__).parent / '.mim' / 'tools'
    options = ['--cfg-options', 'train_cfg.max_epochs=1', 'model.backbone.init_cfg=None',
               'train_dataloader.batch_size=8']
    options += [f'{phase}_dataloader.dataset.data_root={shapes}' for phase in ('train', 'val', 'test')]

    trained = run(library, tools / 'train.py', config, '--work-dir', tmp_path, *options, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert (tmp_path / 'epoch_1.pth').exists() and (tmp_path / 'epoch_1_deploy.pth').exists()

    tested = run(library, tools / 'test.py', config, tmp_path / 'epoch_1_deploy.pth',
                 '--work-dir', tmp_path, *options, 'model.backbone.deploy=True', cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr[-3000:]

    if library != 'mmpretrain':  # which has no more to do with it than the others
        return
    wrong = run(library, tools / 'test.py', config, tmp_path / 'epoch_1_deploy.pth',
                '--work-dir', tmp_path, *options, cwd=tmp_path)
    assert wrong.returncode != 0
    assert 'set model.backbone.deploy=True' in wrong.stderr


@pytest.mark.parametrize('library', LIBRARIES)
def test_builds_from_each_registry_in_a_process_of_its_own(library, tmp_path):
    script = tmp_path / 'build.py'
    script.write_text(
        f'from {library}.registry import MODELS, HOOKS\n'
        "backbone = MODELS.build(dict(type='mmone.MobileOne', arch='s0', deploy=True))\n"
        "hook = HOOKS.build(dict(type='mmone.DeployHook'))\n"
        'print(type(backbone).__module__, type(hook).__module__)\n'
        'import sys\n'
        f'loaded = [m for m in {LIBRARIES!r} if m in sys.modules]\n'
        f'assert loaded == [{library!r}], loaded\n')
    result = run(library, script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'mmone.models.backbones.mobileone mmone.engine.hooks.deploy_hook' in result.stdout


def test_importing_the_backbone_needs_none_of_the_libraries(tmp_path):
    script = tmp_path / 'build.py'
    script.write_text('from mmone.models import MobileOne\nMobileOne("s0")\n')
    result = run('no library', script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize('imports', ['import mmone, mmengine', 'import mmengine.config, mmone',
                                     'import mmone.zoo', 'from mmpretrain.registry import MODELS; import mmone'])
def test_base_names_resolve_once_mmone_is_imported(imports, tmp_path):
    """Before mmengine or after it; in a process that has been told nothing else."""
    name = 'mobileone-s1_8xb32_in1k.py'
    (tmp_path / 'mine.py').write_text(
        f"_base_ = 'mmone::classification/{name}'\nmodel = dict(head=dict(num_classes=7))\n")
    script = tmp_path / 'read.py'
    script.write_text(f'{imports}\nfrom mmengine.config import Config\n'
                      "model = Config.fromfile('mine.py').model\n"
                      'print(model.head.num_classes, model.backbone.arch)\n')
    result = run('mmpretrain', script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout == '7 s1\n'


def test_inherited_names_are_the_librarys(tmp_path):
    """Read and built by a process that knows nothing of mmone, as the stock tools do."""
    (tmp_path / 'mine.py').write_text(
        "_base_ = __import__('mmone') and ['mmone::_base_/models/ssdlite.py', 'mmone::_base_/runtime_det.py']\n")
    script = tmp_path / 'build.py'
    script.write_text('from mmengine.config import Config\nfrom mmengine.registry import init_default_scope\n'
                      'from mmdet.registry import HOOKS, MODELS\n'
                      "cfg = Config.fromfile('mine.py')\ninit_default_scope('mmdet')\n"
                      'hooks = [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks]\n'
                      'print(type(MODELS.build(cfg.model)).__name__, *hooks)\n')
    result = run('mmdet', script, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == 'SingleStageDetector EMAHook EpochSeedHook DeployHook'


def test_importing_mmone_imports_nothing_else(tmp_path):
    script = tmp_path / 'import.py'
    script.write_text('import sys\nbefore = set(sys.modules)\nimport mmone, mmone.errors, mmone.files, mmone.version\n'
                      'print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before\n'
                      '               if name.partition(".")[0] not in sys.stdlib_module_names}))\n')
    result = run('no library', script, cwd=tmp_path)
    assert result.stdout == 'mmone\n', result.stderr


@pytest.mark.parametrize('module, found', [('mmcv', '3.0.0'), ('mmengine', '0.7.4')])
def test_unsupported_versions_say_what_is_supported(module, found, tmp_path):
    script = tmp_path / 'import.py'
    script.write_text(f'import {module}\n{module}.__version__ = {found!r}\nimport mmone.models\n')
    result = run('no library', script, cwd=tmp_path)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert f'supports {module}>=' in last and f'found {found}' in last and 'pip install' in last
