"""``mmone reparameterize`` and ``mmone convert`` as a user runs them."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmone.checkpoints import SOURCES, read_checkpoint, rename
from mmone.models import MobileOne
from tests.conftest import relative_difference
from tests.kit import TASKS, command


@pytest.fixture
def trained(config, tmp_path, moved):
    """A task's tiny config and a checkpoint of its model in training form."""

    def train(task):
        path = config(task)
        cfg = Config.fromfile(path)
        with DefaultScope.overwrite_default_scope(task):
            model = moved(MODELS.build(cfg.model))
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=['a']))),
                   tmp_path / 'epoch_1.pth')
        return str(path)

    return train


@pytest.mark.parametrize('task', TASKS)
def test_a_checkpoint_is_deployed(trained, task, tmp_path, capsys):
    command('reparameterize', trained(task), 'epoch_1.pth', 'deployed.pth')
    assert 'largest relative difference' in capsys.readouterr().out
    checkpoint = read_checkpoint('deployed.pth')
    assert checkpoint['meta']['dataset_meta'] == dict(classes=['a'])
    cfg = Config.fromstring(checkpoint['meta']['cfg'], '.py')
    with DefaultScope.overwrite_default_scope(task):
        model = MODELS.build(cfg.model)
    model.load_state_dict(checkpoint['state_dict'])
    assert model.backbone.deploy


def test_what_cannot_be_done_is_one_line_and_status_2(trained, tmp_path, capsys):
    path = trained('mmpretrain')
    (tmp_path / 'there.pth').write_text('precious')
    (tmp_path / 'truncated.pth').write_bytes((tmp_path / 'epoch_1.pth').read_bytes()[:-99])
    for arguments, words in (
        (['epoch_1.pth', 'there.pth'], '--force'),
        (['missing.pth', 'out.pth'], 'missing.pth does not exist'),
        (['truncated.pth', 'out.pth'], 'truncated'),
        (['epoch_1.pth', 'nowhere/out.pth'], 'no directory'),
        (['epoch_1.pth', 'out.pth', '--cfg-options', 'model.backbone.arch=s1'], 'does not fit'),
    ):
        with pytest.raises(SystemExit) as stop:
            command('reparameterize', path, *arguments)
        error = capsys.readouterr().err.strip()
        assert stop.value.code == 2
        assert words in error and len(error.splitlines()) == 1, error
        assert not (tmp_path / 'out.pth').exists()
    assert (tmp_path / 'there.pth').read_text() == 'precious'
    command('reparameterize', path, 'epoch_1.pth', 'there.pth', '--force')


def test_convert_expand_and_back(config, tmp_path, capsys):
    """Apple's fused weights, given branches by a config's data, deployed again."""
    ours = {f'backbone.{key}': value for key, value in MobileOne('s1', deploy=True).state_dict().items()}
    torch.save(rename(ours, SOURCES['mmpretrain'], SOURCES['apple']), tmp_path / 'in.pth.tar')
    command('convert', 'in.pth.tar', 'branches.pth', '--expand', config('mmpretrain'), '--batches', 2)
    out = capsys.readouterr().out
    assert 'BatchNorm statistics of 8 images' in out
    assert 'in.pth.tar: names of apple, variant s1, fused, no head, SHA-256 ' in out
    assert 'branches.pth: names of mmone, mmpretrain, variant s1, with branches, no head, ' in out
    command('convert', 'branches.pth', 'back.safetensors', '--deploy')
    back = read_checkpoint('back.safetensors')
    model, again = MobileOne('s1', deploy=True).eval(), MobileOne('s1', deploy=True).eval()
    model.load_state_dict({key[len('backbone.'):]: value for key, value in ours.items()})
    again.load_state_dict({key[len('backbone.'):]: value for key, value in back.items()})
    x = torch.randn(1, 3, 64, 64)
    assert relative_difference(again(x)[0], model(x)[0]) < 1e-5
    with pytest.raises(SystemExit) as stop:
        command('convert', 'in.pth.tar', 'branches.pth')
    assert stop.value.code == 2
    assert '--force' in capsys.readouterr().err
