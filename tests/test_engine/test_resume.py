"""Which checkpoint a training goes on from."""
import pytest
import torch
from mmengine.fileio import LocalBackend, io
from mmengine.fileio.backends import registry_utils
from mmengine.runner.checkpoint import CheckpointLoader

import mmone.engine.train
from mmone import InputError
from mmone.convert import reparameterize_checkpoint
from mmone.convert.rename import convert
from mmone.engine.resume import newest_whole_checkpoint
from tests.kit import command

FAST = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', 'train_cfg.val_interval=9']


@pytest.fixture
def run(tmp_path):
    for name in ('epoch_2', 'epoch_10', 'best_acc_epoch_9', 'epoch_12_deploy'):
        torch.save(dict(a=1), tmp_path / f'{name}.pth')
    return tmp_path


def hint(folder, text):
    (folder / 'last_checkpoint').write_text(text)


def test_the_latest_that_is_whole(run):
    hint(run, f'{run}/epoch_2.pth')
    assert newest_whole_checkpoint(run)[0] == f'{run}/epoch_10.pth'
    (run / 'epoch_11.pth').write_bytes((run / 'epoch_10.pth').read_bytes()[:-50])
    found, notes = newest_whole_checkpoint(run)
    assert found == f'{run}/epoch_10.pth' and 'epoch_11.pth is truncated' in notes[0][1]


def test_a_first_run_starts_from_the_weights_that_its_config_names(trained, capfd, tmp_path, monkeypatch):
    """The same line, with --resume, is for the first run and for all after it."""
    monkeypatch.chdir(tmp_path)
    path, weights = trained('mmpretrain')
    options = ['--work-dir', 'run', '--resume', '--cfg-options', *FAST, f'load_from={weights}']
    assert command('train', path, *options, 'train_cfg.max_epochs=1') == 0
    first = capfd.readouterr().out
    assert f'Load checkpoint from {weights}' in first and 'resumed epoch' not in first
    assert command('train', path, *options, 'train_cfg.max_epochs=2') == 0
    assert 'resumed epoch: 1' in capfd.readouterr().out


def test_a_folder_elsewhere_and_other_names(run, tmp_path_factory):
    other = tmp_path_factory.mktemp('other')
    hint(other, f'{run}/epoch_2.pth')
    assert newest_whole_checkpoint(other)[0] == f'{run}/epoch_10.pth'
    for path in run.glob('epoch_*'):
        path.unlink()
    hint(other, f'{run}/best_acc_epoch_9.pth')
    assert newest_whole_checkpoint(other)[0] == f'{run}/best_acc_epoch_9.pth'
    for text in ('', '\0' * 20, f'{run}/gone.pth'):  # as a machine that lost power leaves it
        hint(other, text)
        assert newest_whole_checkpoint(other)[0] is None


@pytest.mark.parametrize('name', ['s3://runs/x/epoch_{}.pth', 'petrel://runs/epoch_{}.pth', 'site:s3://x/epoch_{}.pth',
                                  'https://example.org/epoch_{}.pth', 'http://example.org/iter_{}.pth'])
def test_what_is_kept_elsewhere(run, tmp_path_factory, name):
    """``last_checkpoint`` is written after it, and mmengine reads it."""
    hint(run, name.format(11))
    found, notes = newest_whole_checkpoint(run)
    assert found == name.format(11) and found in notes[0][1]
    hint(run, name.format(9))
    assert newest_whole_checkpoint(run)[0] == f'{run}/epoch_10.pth'
    empty = tmp_path_factory.mktemp('empty')
    hint(empty, name.format(3) + '\n')
    assert newest_whole_checkpoint(empty)[0] == name.format(3)


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """Object storage, as the back end that mmengine has for it sees it."""

    class Storage(LocalBackend):

        def __init__(self, **kwargs):
            pass

        def get(self, filepath):
            return (tmp_path / filepath.partition('://')[2]).read_bytes()

    # In place: mmengine has both under other names too, and keeps the back ends that it has made.
    monkeypatch.setitem(registry_utils.backends, 'petrel', Storage)
    for prefix in ('s3', 'petrel'):
        monkeypatch.setitem(registry_utils.prefix_to_backends, prefix, Storage)
    monkeypatch.setattr(io, 'backend_instances', {})
    (tmp_path / 'bucket').mkdir()
    return tmp_path / 'bucket'


def test_a_run_goes_on_from_storage(config, storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(config('mmpretrain'))
    mmone.engine.train.train(path, 'run', cfg_options=[*FAST, 'train_cfg.max_epochs=1'])
    (tmp_path / 'run' / 'epoch_1.pth').rename(storage / 'epoch_1.pth')
    hint(tmp_path / 'run', 's3://bucket/epoch_1.pth')
    runner = mmone.engine.train.train(path, 'run', resume='auto', cfg_options=[*FAST, 'train_cfg.max_epochs=2'])
    assert runner.epoch == 2 and not (tmp_path / 'run' / 'epoch_1.pth').exists()
    hint(tmp_path / 'run', 's3://bucket/epoch_7.pth')
    with pytest.raises(InputError, match='epoch_7.pth cannot be read from where it is stored'):
        mmone.engine.train.train(path, 'run', resume='auto', cfg_options=[*FAST, 'train_cfg.max_epochs=9'])


def test_weights_alone_are_nothing_to_resume(config, storage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = config('mmpretrain')
    runner = mmone.engine.train.train(str(path), 'run', cfg_options=[*FAST, 'train_cfg.max_epochs=1'])
    reparameterize_checkpoint(runner.cfg, 'run/epoch_1.pth', 'deployed.pth')
    convert('run/epoch_1.pth', 'published.pth')
    convert('run/epoch_1.pth', 'timm.safetensors', to='timm')
    torch.save(dict(torch.load('published.pth'), meta=dict(epoch=1, iter=3)), storage / 'epoch_1.pth')
    for name in ('run/epoch_1_deploy.pth', 'deployed.pth', 'published.pth', 'timm.safetensors',
                 's3://bucket/epoch_1.pth'):
        for arguments in (dict(resume=name), dict(cfg_options=['resume=True', f'load_from={name}'])):
            options = [*FAST, 'train_cfg.max_epochs=2', *arguments.pop('cfg_options', ())]
            with pytest.raises(InputError, match='no training state') as error:
                mmone.engine.train.train(str(path), 'run2', cfg_options=options, **arguments)
            assert f"load_from='{name}'" in str(error.value) and '\n' not in str(error.value)
    hint(tmp_path / 'run2', str(tmp_path / 'deployed.pth'))
    with pytest.raises(InputError, match=f"load_from='{tmp_path}/deployed.pth'"):
        mmone.engine.train.train(str(path), 'run2', resume='auto', cfg_options=FAST)


def test_a_sites_own_loader_goes_first(stock_loaders, tmp_path):
    CheckpointLoader.register_scheme('s3://', lambda filename, map_location=None: dict(a=filename), force=True)
    assert CheckpointLoader.load_checkpoint('s3://x') == dict(a='s3://x')
