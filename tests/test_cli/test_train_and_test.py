"""Training, resuming and testing as a user does, for all three tasks."""
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmone.config import build_model, load_config
from tests.kit import ROOT, TASKS, command, environment, free_port, losses, run_command

# A hook that kills its own process at a given moment, as a power cut would.
KILLER = '''
import os
import signal
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class Killer(Hook):

    def __init__(self, iteration=None, write=None):
        self.iteration, self.write = iteration, write

    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == self.iteration:
            kill()

    def before_save_checkpoint(self, runner, checkpoint):
        if checkpoint['meta']['epoch'] != self.write:
            return

        def put(backend, content, path):
            with open(path, 'wb') as file:
                file.write(content[:len(content) // 2])
                file.flush()
                kill()

        LocalBackend.put = put
'''


def train(config, work_dir, *args, **kwargs):
    return run_command('train', config, '--work-dir', work_dir, *args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize('task, workers', [('mmpretrain', 0), ('mmdet', 2), ('mmseg', 2)])
def test_killed_run_goes_on_as_if_nothing_happened(config, tmp_path, monkeypatch, task, workers):
    """Killed within the second epoch, then while the second checkpoint is written."""
    (tmp_path / 'killer.py').write_text(KILLER)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    path = config(task, "custom_imports = dict(imports=['killer'])\n"
                        f"train_dataloader['num_workers'] = {workers}\n")

    assert train(path, 'whole').returncode == 0
    whole = losses('whole')
    assert sorted(epoch for epoch, _ in whole) == sorted([1, 2, 3] * 3)

    hooks = "custom_hooks += [dict(type='Killer', {})]\n"
    text = path.read_text()
    path.write_text(text + hooks.format('iteration=5'))
    assert train(path, 'killed').returncode == -9
    path.write_text(text + hooks.format('write=2'))
    killed = train(path, 'killed', '--resume')
    assert killed.returncode == -9
    assert 'resuming from killed/epoch_1.pth, the newest whole checkpoint' in killed.stdout
    half = Path('killed/.epoch_2.pth.partial/epoch_2.pth')  # under no name that anybody reads
    assert sorted(Path('killed').glob('*.pth')) == [Path('killed/epoch_1.pth')]
    shutil.copy(half, 'killed')  # as mmengine's own runner leaves it
    path.write_text(text)
    resumed = train(path, 'killed', '--resume')
    assert resumed.returncode == 0
    assert 'killed/epoch_2.pth is truncated' in resumed.stdout
    assert not list(Path('killed').glob('.*'))
    assert 'resuming from killed/epoch_1.pth, the newest whole checkpoint' in resumed.stdout
    assert losses('killed') == whole

    final = [torch.load(f'{run}/epoch_3.pth', weights_only=False)['state_dict']
             for run in ('whole', 'killed')]
    assert all(torch.equal(final[0][key], final[1][key]) for key in final[0])


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_two_processes(config, task):
    """Train, resume and test by gloo; one process writes, one deployed file a run."""
    path = config(task, "train_cfg['max_epochs'] = 1\n")
    first = train(path, 'run', processes=2)
    assert first.returncode == 0, first.stderr
    assert sorted(p.name for p in Path('run').glob('*.pth')) == ['epoch_1.pth',
                                                                 'epoch_1_deploy.pth']
    if task == 'mmseg' and not torch.cuda.is_available():
        assert first.stdout.count('no GPU: SyncBN is replaced by BN') == 1

    path = config(task, "train_cfg['max_epochs'] = 2\n")
    second = train(path, 'run', '--resume', processes=2)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count('resumed epoch: 1, iter: 2') == 1
    assert sorted(p.name for p in Path('run').glob('*_deploy.pth')) == ['epoch_1_deploy.pth',
                                                                       'epoch_2_deploy.pth']
    assert sorted(losses('run')) == [(1, 1), (1, 2), (2, 3), (2, 4)]


@pytest.mark.slow
def test_dist_scripts(config):
    path = config('mmpretrain', "train_cfg['max_epochs'] = 1\n")
    env = dict(environment(), PORT=str(free_port()))
    del env['PYTHONPATH']  # the scripts find the package
    env['PYTHON'] = sys.executable
    for script, *args in (('dist_train.sh', path, '2', '--work-dir', 'a b'),
                          ('dist_test.sh', path, 'a b/epoch_1.pth', '2', '--work-dir', 'a b')):
        # To a file: processes that outlive a killed launcher would keep a pipe open, and the test waiting.
        log = Path(f'{script}.log')
        with open(log, 'w') as output:
            process = subprocess.Popen([ROOT / 'tools' / script, *args], env=env, stdout=output, stderr=output)
        try:
            assert process.wait(timeout=120) == 0, log.read_text()
        finally:
            process.terminate()  # its processes with it
            process.wait(timeout=60)
    assert 'accuracy/top1' in log.read_text()


@pytest.mark.parametrize(
    'script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_scripts_tell_their_usage(script):
    result = subprocess.run([ROOT / 'tools' / script, 'x'], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count('\n') == 2 and f'{script} ' in result.stderr


@pytest.mark.parametrize('gpus', ['0', '4'])
def test_slurm_scripts_call_srun(tmp_path, monkeypatch, gpus):
    """With a srun that prints what it is given."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    env = dict(environment(), PATH=f'{tmp_path}:/usr/bin:/bin', GPUS='4', GPUS_PER_NODE=gpus,
               SRUN_ARGS='--quiet --exclude=n1')
    for script, tool in (('slurm_train.sh', 'train.py'), ('slurm_test.sh', 'test.py')):
        given = subprocess.run(
            [ROOT / 'tools' / script, 'part', 'a job', 'my config.py', 'fourth', '--amp'], env=env,
            capture_output=True, text=True, check=True).stdout.splitlines()
        assert ('--gres=gpu:4' in given) == (gpus == '4')
        assert {'--job-name=a job', '--ntasks=4', '--quiet', '--exclude=n1'} <= set(given)
        assert given[given.index('my config.py') - 1] == str(ROOT / 'tools' / tool)
        assert given[-4:] == ['fourth', '--launcher', 'slurm', '--amp']


@pytest.fixture
def trained(config, tmp_path):
    """The config of a task and an untrained checkpoint of its model."""

    def make(task):
        path = config(task)
        cfg = Config.fromfile(path)
        with DefaultScope.overwrite_default_scope(task):
            model = MODELS.build(cfg.model)
        model.init_weights()
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'model.pth')
        return str(path), str(tmp_path / 'model.pth')

    return make


def test_weights_alone_of_another_backbone(config, tmp_path, capsys):
    """mmpretrain's EMAHook, which our configs have, looks for the key ``state_dict``.

    And without workers, whatever the config says of them.
    """
    other = tmp_path / 'other.py'
    other.write_text(f"_base_ = {str(config('mmpretrain'))!r}\n"
                     "model = dict(backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=0.1), "
                     'head=dict(in_channels=1280))\n'
                     "custom_hooks = [dict(type='mmpretrain.EMAHook')]\n")
    model = build_model(load_config(str(other)))
    torch.save(model.state_dict(), tmp_path / 'weights.pth')
    command('test', other, tmp_path / 'weights.pth', '--cfg-options', 'test_dataloader.num_workers=0',
            'test_dataloader.persistent_workers=True', 'test_dataloader.prefetch_factor=2')
    assert 'accuracy/top1: ' in capsys.readouterr().out


METRIC = dict(mmpretrain='accuracy/top1', mmdet='coco/bbox_mAP', mmseg='mIoU')


@pytest.mark.parametrize('task', TASKS)
def test_outputs_of_test(trained, task, capsys):
    """Deployed or not, the same predictions; pictures; test-time augmentation."""
    config, checkpoint = trained(task)
    plain = ('--cfg-options', 'custom_hooks=[]')
    # The pictures first: a process has one visualizer of a name, with the first one's folder.
    command('test', config, checkpoint, '--out', 'deployed.pkl', '--deploy', '--show-dir', 'pictures', *plain)
    command('test', config, checkpoint, '--out', 'plain/out.pkl', *plain)
    assert f'{METRIC[task]}: ' in capsys.readouterr().out
    outputs = []
    for path in ('plain/out.pkl', 'deployed.pkl'):
        with open(path, 'rb') as file:
            outputs.append(pickle.load(file))
    names = [sample['img_path'] for sample in outputs[0]]
    assert names and [sample['img_path'] for sample in outputs[1]] == names
    for one, other in zip(*outputs):
        if task == 'mmpretrain':
            torch.testing.assert_close(one['pred_score'], other['pred_score'])
        elif task == 'mmdet':
            torch.testing.assert_close(one['pred_instances']['scores'],
                                       other['pred_instances']['scores'])
        else:
            same = one['pred_sem_seg']['data'] == other['pred_sem_seg']['data']
            assert same.float().mean() > 0.999
    pictures = {re.sub('_0$', '', p.stem) for suffix in ('png', 'jpg')
                for p in Path('pictures').rglob(f'*.{suffix}')}
    assert len(pictures) == len(names) and all(
        any(Path(name).stem in picture for picture in pictures) for name in names)

    command('test', config, checkpoint, '--tta')
    assert f'{METRIC[task]}: ' in capsys.readouterr().out


def test_auto_scale_lr(config, capsys):
    path = config('mmpretrain', 'auto_scale_lr = dict(base_batch_size=16)\n')
    command('train', path, '--auto-scale-lr', '--cfg-options', 'train_cfg.max_epochs=1', 'val_cfg=None',
            'val_dataloader=None', 'val_evaluator=None', 'custom_hooks=[]')
    assert 'Scaling the original LR by 0.25' in capsys.readouterr().out


def test_resume_without_a_checkpoint_starts_anew(config, capsys):
    path = config('mmpretrain', "train_cfg = dict(by_epoch=True, max_epochs=1, val_begin=2)\n")
    command('train', path, '--resume', '--work-dir', 'new')
    assert 'training starts from scratch' in capsys.readouterr().out
    assert Path('new/epoch_1.pth').is_file()
