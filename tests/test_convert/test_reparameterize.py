"""Whole model trees, checkpoints, and what must not be written."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from torch import nn

from mmone import InputError
from mmone.checkpoints import SOURCES, read_checkpoint, rename, write_checkpoint
from mmone.convert import deployables, deployed_copy, reparameterize_checkpoint, switch_to_deploy
from mmone.models import MobileOne, MobileOneBlock
from tests.conftest import TINY


def _deployed(model):
    blocks = [m for m in model.modules() if isinstance(m, MobileOneBlock)]
    return blocks and all(block.deploy for block in blocks)


@pytest.mark.parametrize('wrap', [
    lambda m: m, nn.Sequential, lambda m: nn.ModuleDict(dict(a=nn.ModuleList([m]))),
    ExponentialMovingAverage, nn.DataParallel
], ids=['bare', 'sequential', 'nested', 'ema', 'wrapper'])
def test_switch_to_deploy_finds_modules_in_any_tree(wrap):
    model = wrap(MobileOne(TINY))
    assert switch_to_deploy(model) == 1
    assert _deployed(model)
    assert switch_to_deploy(model) == 0


def test_switch_to_deploy_takes_lone_blocks_and_mmpretrains_repvgg(moved):
    from mmpretrain.models import RepVGG
    from mmpretrain.registry import MODELS
    repvgg = MODELS.build(dict(type='RepVGG', arch='A0'))
    assert isinstance(repvgg, RepVGG)
    model = moved(nn.ModuleList([repvgg, MobileOneBlock(4, 4, 3, 2)])).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = repvgg(x)[0]
    deployed, report = deployed_copy(model)
    assert report.modules == 2 and report.difference < 1e-5
    torch.testing.assert_close(deployed[0](x)[0], expected, rtol=1e-3, atol=1e-4)
    assert switch_to_deploy(deployed) == 0
    assert len(list(deployables(model))) == 2, 'the original was touched'


def test_deployed_copy_reports_and_leaves_the_model_alone(moved):
    model = moved(MobileOne('s0')).train()
    before = copy.deepcopy(model.state_dict())
    deployed, report = deployed_copy(model)
    assert _deployed(deployed) and not _deployed(model) and model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert report.params_after == 1_053_504 == sum(p.numel() for p in deployed.parameters())
    assert report.params_before == sum(p.numel() for p in model.parameters())
    assert report.layers_after == 43
    assert 0 < report.difference < 1e-5
    assert deployed_copy(deployed)[1] is None


@pytest.mark.parametrize('damage', [float('nan'), float('inf')])
def test_deployed_copy_stops_above_tolerance(damage, moved):
    model = moved(MobileOne(TINY))
    model.stage2[0].branch_scale.norm.weight.data[0] = damage
    with pytest.raises(ValueError, match='more than the tolerance'):
        deployed_copy(model)


def test_deployed_copy_finds_a_wrong_fold(moved):
    model = moved(MobileOne(TINY))
    block = model.stage1[0]
    right = block.equivalent_kernel_bias
    block.equivalent_kernel_bias = lambda: tuple(t * 1.1 for t in right())
    with pytest.raises(ValueError, match='differs from its branches'):
        deployed_copy(model)


@pytest.fixture
def trained(tmp_path, moved):
    """A config, and a checkpoint as mmengine's runner writes it."""
    cfg = Config(dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='mmone.MobileOne', arch=TINY),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=64))))
    from mmpretrain.registry import MODELS
    model = moved(MODELS.build(cfg.model))
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(
        state_dict=model.state_dict(),
        meta=dict(dataset_meta=dict(classes=('a', 'b', 'c')), cfg=cfg.pretty_text, epoch=1),
        optimizer=dict(state={})), path)
    return cfg, model.eval(), path


def test_reparameterized_checkpoint_is_the_same_function(trained, tmp_path):
    cfg, model, path = trained
    out = tmp_path / 'deployed.pth'
    report = reparameterize_checkpoint(cfg, path, out)
    assert report.difference < 1e-5
    checkpoint = torch.load(out, weights_only=True)
    meta = checkpoint['meta']
    assert meta['dataset_meta']['classes'] == ('a', 'b', 'c')
    assert meta['source_checkpoint'] == str(path) and meta['mmone_version']
    assert 'optimizer' not in checkpoint
    deployed_cfg = Config.fromstring(meta['cfg'], '.py')
    assert deployed_cfg.model.backbone.deploy is True

    from mmpretrain.registry import MODELS
    deployed = MODELS.build(deployed_cfg.model).eval()
    deployed.load_state_dict(checkpoint['state_dict'])
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(deployed(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('contain', [
    lambda weights: weights,
    lambda weights: dict(model_state_dict=weights),
    lambda weights: dict(state_dict={key: value + 1 for key, value in weights.items()}, state_dict_ema=weights),
    lambda weights: dict(model={f'module.{key}': value for key, value in weights.items()}),
    *(lambda weights, to=to: rename(weights, SOURCES['mmpretrain'], SOURCES[to])
      for to in ('apple', 'timm', 'cvnets')),
], ids=['bare', 'model_state_dict', 'averaged', 'parallel', 'apple', 'timm', 'cvnets'])
def test_whatever_can_be_converted_can_be_reparameterized(trained, tmp_path, contain):
    cfg, model, path = trained
    reparameterize_checkpoint(cfg, path, tmp_path / 'expected.pth')
    torch.save(contain(model.state_dict()), path)
    reparameterize_checkpoint(cfg, path, tmp_path / 'deployed.pth')
    expected, deployed = (read_checkpoint(tmp_path / f'{name}.pth')['state_dict'] for name in ('expected', 'deployed'))
    assert expected.keys() == deployed.keys()
    assert all(torch.equal(value, deployed[key]) for key, value in expected.items())


def test_what_must_not_be_overwritten_is_not(trained, tmp_path):
    cfg, _, path = trained
    out = tmp_path / 'deployed.pth'
    out.write_text('precious')
    with pytest.raises(InputError, match='exists'):
        reparameterize_checkpoint(cfg, path, out)
    assert out.read_text() == 'precious'
    with pytest.raises(InputError, match='the checkpoint itself'):
        reparameterize_checkpoint(cfg, path, path, overwrite=True)
    with pytest.raises(InputError, match='no directory'):
        reparameterize_checkpoint(cfg, path, tmp_path / 'nowhere' / 'out.pth')
    with pytest.raises(InputError, match='is a directory'):
        reparameterize_checkpoint(cfg, path, tmp_path, overwrite=True)
    reparameterize_checkpoint(cfg, path, out, overwrite=True)
    assert torch.load(out)['meta']['mmone_version']


def test_nothing_is_written_when_the_check_fails(trained, tmp_path):
    cfg, model, path = trained
    with pytest.raises(ValueError, match='tolerance'):
        reparameterize_checkpoint(cfg, path, tmp_path / 'deployed.pth', tolerance=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['epoch_1.pth']


def test_deployed_or_foreign_weights_are_refused(trained, tmp_path):
    cfg, model, path = trained
    switch_to_deploy(model)
    torch.save(dict(state_dict=model.state_dict()), path)
    with pytest.raises(InputError, match='deployed weights'):
        reparameterize_checkpoint(cfg, path, tmp_path / 'deployed.pth')
    torch.save(dict(state_dict={'conv1.weight': torch.zeros(1)}), path)
    with pytest.raises(InputError, match='no weights for the MobileOne backbone'):
        reparameterize_checkpoint(cfg, path, tmp_path / 'deployed.pth')


def test_a_head_that_does_not_fit_is_refused(trained, tmp_path):
    cfg, _, path = trained
    cfg.model.head.num_classes = 5
    with pytest.raises(InputError, match='head.fc'):
        reparameterize_checkpoint(cfg, path, tmp_path / 'deployed.pth')


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    write_checkpoint(dict(a=1), path)

    class Unpicklable:

        def __reduce__(self):
            raise RuntimeError('cannot be written')

    with pytest.raises(RuntimeError, match='cannot be written'):
        write_checkpoint(dict(a=torch.zeros(1000), b=Unpicklable()), path)
    assert read_checkpoint(path) == dict(a=1)
    assert [p.name for p in tmp_path.iterdir()] == ['checkpoint.pth']
