"""Reading untrusted files."""
import os

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmone import InputError
from mmone.checkpoints.io import read_checkpoint, write_checkpoint


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
