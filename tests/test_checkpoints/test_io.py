"""Reading untrusted files; test_doors has what such a file does at each of the doors."""
import codecs
import os
import pickle
import warnings

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmone import InputError
from mmone.checkpoints.io import read_checkpoint, state_dict_of, write_checkpoint
from tests.conftest import not_the_lowest_torch


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command, )


class Sneaky:
    """Reaches for code through the one getattr that log histories need."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


@pytest.fixture
def evil(tmp_path):
    path = tmp_path / 'evil.pth'
    torch.save(dict(state_dict={}, meta=Evil(f'touch {tmp_path}/ran')), path)
    return path


def test_code_in_a_checkpoint_does_not_run(evil, tmp_path):
    with pytest.raises(InputError, match=r'evil\.pth holds more than weights') as error:
        read_checkpoint(evil)
    assert error.value.parameter == 'trust' and '\n' not in str(error.value)
    assert not (tmp_path / 'ran').exists()
    read_checkpoint(evil, trust=True)
    assert (tmp_path / 'ran').exists()


def test_mmengine_log_history_is_read_as_data(tmp_path):
    hub = MessageHub('test_io')
    hub.update_scalar('loss', 0.25)
    hub.update_info('best_score', torch.tensor(0.5).double().numpy()[()])
    write_checkpoint(dict(state_dict={}, message_hub=hub.state_dict()), tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')['message_hub']
    assert read['log_scalars']['loss'].current() == 0.25
    assert read['runtime_info']['best_score'] == 0.5


def test_getattr_is_allowed_for_log_statistics_only(tmp_path):
    torch.save(dict(a=Sneaky()), tmp_path / 'a.pth')
    with pytest.raises(InputError, match='could run code'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('damage, words', [
    (lambda path: path.unlink(), 'does not exist'),
    (lambda path: (path.unlink(), path.mkdir()), 'is a directory'),
    (lambda path: path.write_bytes(path.read_bytes()[:-500]), 'truncated'),
    (lambda path: path.write_bytes(path.read_bytes()[:300]), 'truncated'),
    (lambda path: path.write_bytes(b''), 'truncated'),
    (lambda path: path.write_text('not a checkpoint'), 'no PyTorch checkpoint'),
    (lambda path: torch.save([1, 2], path), 'holds a list'),
])
def test_unusable_files_are_named_in_one_line(damage, words, tmp_path):
    path = tmp_path / 'checkpoint.pth'
    write_checkpoint(dict(state_dict={'a': torch.zeros(1000)}), path)
    damage(path)
    with pytest.raises(InputError) as error:
        read_checkpoint(path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_written_files_have_the_usual_permissions(tmp_path):
    write_checkpoint(dict(a=1), tmp_path / 'a.pth')
    (tmp_path / 'b').touch()
    assert (tmp_path / 'a.pth').stat().st_mode == (tmp_path / 'b').stat().st_mode


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_weights_of_any_protocol_are_read(tmp_path, protocol):
    content = dict(state_dict={'a': torch.arange(6.).view(2, 3)}, epoch=3, name='x' * 300)
    torch.save(content, tmp_path / 'a.pth', pickle_protocol=protocol)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read = read_checkpoint(tmp_path / 'a.pth')
    assert torch.equal(read['state_dict']['a'], content['state_dict']['a'])
    assert (read['epoch'], read['name']) == (3, 'x' * 300)


class Changes:
    """Gives a class another attribute."""

    def __reduce__(self):
        return getattr, (HistoryBuffer, 'mean'), (None, dict(__doc__='changed'))


def test_nothing_of_the_process_is_changed(tmp_path):
    before = HistoryBuffer.mean.__doc__
    torch.save(dict(a=Changes()), tmp_path / 'a.pth', pickle_protocol=4)
    with pytest.raises(InputError, match='could run code'):
        read_checkpoint(tmp_path / 'a.pth')
    assert HistoryBuffer.mean.__doc__ == before


@pytest.mark.parametrize('content, words', [
    (b'<!DOCTYPE html><html><body>404</body></html>', 'is a web page'),
    (b'  <html>', 'is a web page'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'a pointer of Git LFS'),
    (b'{"error": "not found"}', "a server's error message"),
    (b'PK\x03\x04' + bytes(1000), 'truncated'),
    (pickle.dumps('text', 4), 'no PyTorch checkpoint'),
    (b'\x80\x04\x95', 'no PyTorch checkpoint'),
    (b'\x80\x02' + b'}' * 10 + b'.', 'no PyTorch checkpoint'),
    (codecs.BOM_UTF8, 'no PyTorch checkpoint'),
])
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_checkpoint(tmp_path / 'a.pth')
    assert error.value.parameter is None and '\n' not in str(error.value) and len(str(error.value)) < 400


def test_more_values_than_the_file_holds(tmp_path):
    torch.save(dict(a=torch.zeros(1).expand(1 << 40)), tmp_path / 'a.pth')
    with pytest.raises(InputError, match='a has 1,099,511,627,776 values, more than the file holds'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('value', [
    torch.zeros(2).to(torch.bfloat16), torch.zeros(2, dtype=torch.complex64), torch.eye(3).to_sparse(),
    pytest.param(torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), marks=not_the_lowest_torch),
    'text', None, torch.zeros(0), torch.tensor(True)
], ids=lambda value: str(getattr(value, 'dtype', value)))
def test_values_of_any_kind_are_read(tmp_path, value):
    torch.save(dict(a=value), tmp_path / 'a.pth')
    assert str(read_checkpoint(tmp_path / 'a.pth')['a']) == str(value)


WEIGHTS = {'stem.weight': torch.zeros(2), 'stem.num_batches_tracked': torch.tensor(0)}


@pytest.mark.parametrize('checkpoint', [
    WEIGHTS,
    dict(state_dict=WEIGHTS, optimizer=dict(state={})),
    {'state_dict': WEIGHTS, 'pytorch-lightning_version': '2.0', 'hyper_parameters': dict(model='x')},
    dict(model=WEIGHTS, state_dict_ema=None),
    dict(model={'x.weight': torch.ones(1)}, ema=dict(module=WEIGHTS, updates=3)),
    dict(state_dict={'x.weight': torch.ones(1)}, model_ema={f'module.{key}': value for key, value in WEIGHTS.items()}
         | dict(n_averaged=torch.tensor(3))),
    dict(model=dict(state_dict=WEIGHTS), ema=dict(decay=0.9)),
    {f'module._orig_mod.{key}': value for key, value in WEIGHTS.items()},
    {f'_orig_mod.module.{key}': value for key, value in WEIGHTS.items()} | dict(steps=torch.tensor([3])),
])
def test_containers_and_wrappers_are_taken_off(checkpoint):
    assert state_dict_of(checkpoint) == WEIGHTS


def test_a_container_of_itself():
    checkpoint = dict(state_dict={})
    checkpoint['state_dict']['model'] = checkpoint
    state_dict_of(checkpoint)
