"""Loading never goes silently wrong, by whatever door the checkpoint comes in."""
import copy

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict
from torch import nn

from mmone import InputError
from mmone.checkpoints import SOURCES, rename
from mmone.models import MobileOne
from mmone.models.blocks.rivals import RIVALS
from tests.conftest import TINY


class Detector(nn.Module):
    """Any model that has the backbone under a name."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = MobileOne(TINY, **kwargs)
        self.head = nn.Linear(3, 3)


def _torch_strict(model, path):
    model.load_state_dict(torch.load(path)['state_dict'])


def _torch_loose(model, path):
    model.load_state_dict(torch.load(path)['state_dict'], strict=False)


def _load_from(model, path):
    load_checkpoint(model, str(path), map_location='cpu')


def _pretrained(model, path):
    model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model.backbone._is_init = False
    model.backbone.init_weights()


DOORS = [_torch_strict, _torch_loose, _load_from, _pretrained]
doors = pytest.mark.parametrize('load', DOORS, ids=lambda f: f.__name__)


@pytest.fixture
def save(tmp_path):

    def save(state_dict):
        torch.save(dict(state_dict=state_dict), tmp_path / 'checkpoint.pth')
        return tmp_path / 'checkpoint.pth'

    return save


@doors
@pytest.mark.parametrize('branches', ['mobileone', *RIVALS])
def test_branches_are_reparameterized_while_they_load(load, branches, save, moved):
    trained = moved(Detector(branches=branches)).double().eval()
    deployed = Detector(branches=branches, deploy=True).double().eval()
    load(deployed, save(trained.state_dict()))
    x = torch.randn(1, 3, 65, 64, dtype=torch.float64)
    torch.testing.assert_close(deployed.backbone(x)[0], trained.backbone(x)[0],
                               rtol=1e-10, atol=1e-10)


@doors
def test_branches_load_into_a_model_that_was_switched(load, save, moved):
    trained, other = moved(Detector()).eval(), Detector().eval()
    other.backbone.switch_to_deploy()
    load(other, save(trained.state_dict()))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other.backbone(x)[0], trained.backbone(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('norm_cfg', [dict(type='BN', eps=0.1), dict(type='SyncBN', eps=1e-3)], ids=str)
def test_branches_are_folded_with_the_eps_of_their_norms(norm_cfg, moved):
    trained = moved(MobileOne(TINY, norm_cfg=norm_cfg)).double().eval()
    deployed = MobileOne(TINY, norm_cfg=norm_cfg, deploy=True).double().eval()
    deployed.load_state_dict(trained.state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(deployed(x)[0], trained(x)[0], rtol=1e-10, atol=1e-10)


def test_half_branches_are_folded_in_float32(moved):
    trained = moved(MobileOne(TINY)).half()
    exact = MobileOne(TINY).double()
    exact.load_state_dict(trained.state_dict())
    exact.switch_to_deploy()
    deployed = MobileOne(TINY, deploy=True)
    deployed.load_state_dict(trained.state_dict())
    expected = exact.state_dict()
    assert deployed.state_dict().keys() == expected.keys()
    for name, value in deployed.state_dict().items():
        torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6, msg=name)


@doors
def test_the_branches_of_another_block_are_refused(load, save):
    path, model = save(Detector(branches='dbb').state_dict()), Detector(branches='acnet')
    before = copy.deepcopy(model.backbone.state_dict())
    with pytest.raises(InputError, match=r'missing: .*branch_chains\.1xk.*give one of the same arch and branches'):
        load(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items()
               if '.branch_chains.' in name)


@doors
@pytest.mark.parametrize('deploy', [False, True])
def test_the_same_form_loads(load, save, deploy, moved):
    source, target = moved(Detector(deploy=deploy)), Detector(deploy=deploy)
    load(target, save(source.state_dict()))
    for (name, a), b in zip(target.backbone.state_dict().items(),
                            source.backbone.state_dict().values(), strict=False):
        assert torch.equal(a, b), name


@doors
def test_deployed_weights_for_a_training_backbone_say_what_to_set(load, save):
    path = save(Detector(deploy=True).state_dict())
    with pytest.raises(InputError, match=r'deployed weights .*stage0\.branch_reparam\.weight.*'
                                         r'set model\.backbone\.deploy=True'):
        load(Detector(), path)


def _half(state_dict):
    return {k: v for k, v in state_dict.items() if 'stage3' not in k and 'stage4' not in k}


def _renamed(state_dict):
    return {k.replace('stage1.0', 'stage1.9'): v for k, v in state_dict.items()}


def _wider(state_dict):
    return {k: torch.cat([v, v]) if k.endswith('stage0.branch_scale.norm.weight')
            or k.endswith('stage0.branch_reparam.bias') else v for k, v in state_dict.items()}


def _no_se(state_dict):
    return {k: v for k, v in state_dict.items() if '.se.' not in k}


def _other_k(state_dict):
    return {k: v for k, v in state_dict.items() if 'stage2.0.branch_conv_list.2.' not in k}


# Deployed weights have no number of branches.
MISMATCHES = [(target, damage) for target in ('training', 'deployed', 'folded while loading')
              for damage in (_half, _renamed, _wider, _no_se, _other_k)
              if target != 'deployed' or damage is not _other_k]


@doors
@pytest.mark.parametrize('target, damage', MISMATCHES)
def test_any_other_mismatch_is_an_error(load, save, target, damage):
    source = Detector(deploy=target == 'deployed')
    model = Detector(deploy=target != 'training')
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match='does not fit the MobileOne backbone') as error:
        load(model, save(damage(source.state_dict())))
    assert '\n' not in str(error.value) and len(str(error.value)) < 400
    for name, value in model.backbone.state_dict().items():
        if load is _pretrained and '.se.' in name:
            continue  # init_weights() gives SE its own initialization before it loads
        assert torch.equal(value, before['backbone.' + name]), 'half of it was loaded'


@doors
def test_weights_of_nobody_are_an_error(load, save):
    path = save({'head.weight': torch.zeros(3, 3), 'backbone.layer1.weight': torch.zeros(1)})
    with pytest.raises(InputError, match='has no weights for the MobileOne backbone'):
        load(Detector(), path)


def test_a_forgotten_prefix_does_no_harm(save):
    whole = Detector()
    model = MobileOne(TINY, init_cfg=dict(
        type='Pretrained', checkpoint=str(save(whole.state_dict()))))
    model.init_weights()
    for name, value in whole.backbone.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_an_unknown_prefix_is_named(save):
    state_dict = {f'student.{key}': value for key, value in Detector().state_dict().items()}
    model = MobileOne(TINY, init_cfg=dict(type='Pretrained', checkpoint=str(save(state_dict))))
    with pytest.raises(InputError, match="prefix='student.backbone.'"):
        model.init_weights()


@pytest.mark.parametrize('arch, deploy, other', [('s0', False, 's1'), ('s2', True, 's3')])
def test_another_variant_is_named(arch, deploy, other):
    with torch.device('meta'):
        model, weights = MobileOne(arch, deploy=deploy), MobileOne(other).state_dict()
    with pytest.raises(InputError, match=f"arch='{other}'"):
        model.load_state_dict(weights, strict=False)


def test_stages_that_are_not_built_are_left_out_of_a_checkpoint(save):
    whole = MobileOne(TINY)
    part = MobileOne(TINY, out_indices=(0, 1))
    part.load_state_dict(whole.state_dict())
    assert not hasattr(part, 'stage3')
    assert torch.equal(part.stage0.branch_scale.conv.weight, whole.stage0.branch_scale.conv.weight)


def test_the_caller_keeps_its_state_dict():
    state_dict = Detector().state_dict()
    keys = list(state_dict)
    Detector(deploy=True).load_state_dict(state_dict)
    load_state_dict(Detector(deploy=True), state_dict)
    assert list(state_dict) == keys


def test_a_counter_that_old_checkpoints_lack_may_be_missing():
    state_dict = {k: v for k, v in Detector().state_dict().items() if 'num_batches' not in k}
    load_state_dict(Detector(), state_dict)
    load_state_dict(Detector(deploy=True), state_dict)


# Not strict: as PyTorch has it, but for the weights of this backbone


def _missed(state_dict):
    """The keys that PyTorch misses: not the counters, which a state dict without a version need not have."""
    return {key for key in state_dict if not key.endswith('num_batches_tracked')}


def test_a_head_alone():
    model, before = Detector(), Detector().state_dict()
    model.load_state_dict(before)
    head = {'head.weight': torch.ones(3, 3), 'head.bias': torch.ones(3)}
    result = model.load_state_dict(head, strict=False)
    assert set(result.missing_keys) == _missed(before) - set(head) and not result.unexpected_keys
    assert torch.equal(model.head.weight, head['head.weight'])
    load_state_dict(model, head)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if key not in head)
    with pytest.raises(RuntimeError, match='Missing key.*backbone.stage0'):
        model.load_state_dict(head)


class WithAdapters(MobileOne):
    """Has layers of somebody's own, beside the stages and in a block."""

    def __init__(self, **kwargs):
        super().__init__(TINY, **kwargs)
        self.adapter = nn.Conv2d(64, 64, 1)
        self.stage1[0].lora = nn.Linear(2, 2)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_adapters(prefix, save):
    plain, model = MobileOne(TINY), WithAdapters()
    whole = nn.ModuleDict(dict(backbone=model)) if prefix else model
    adapters = {f'{prefix}{key}': torch.ones_like(value) for key, value in model.state_dict().items()
                if 'adapter' in key or 'lora' in key}
    assert len(adapters) == 4
    assert not whole.load_state_dict(adapters, strict=False).unexpected_keys
    assert (model.adapter.weight == 1).all() and (model.stage1[0].lora.bias == 1).all()
    # The backbone's own weights without them, and them into a backbone without.
    own = {prefix + key: value for key, value in plain.state_dict().items()}
    assert set(whole.load_state_dict(own, strict=False).missing_keys) == set(adapters)
    assert torch.equal(model.stage4[0].branch_scale.conv.weight, plain.stage4[0].branch_scale.conv.weight)
    load_checkpoint(whole, str(save(own)))
    with pytest.raises(RuntimeError, match='adapter'):
        whole.load_state_dict(own)
    other = nn.ModuleDict(dict(backbone=MobileOne(TINY))) if prefix else MobileOne(TINY)
    assert set(other.load_state_dict({**own, **adapters}, strict=False).unexpected_keys) == set(adapters)


def test_a_backbone_by_itself_and_what_is_none_of_it():
    backbone = MobileOne(TINY)
    for state_dict in ({}, {'head.fc.weight': torch.zeros(1)}, {'layer1.0.conv1.weight': torch.zeros(1)}):
        result = backbone.load_state_dict(state_dict, strict=False)
        assert set(result.missing_keys) == _missed(backbone.state_dict())
        assert result.unexpected_keys == list(state_dict)
        with pytest.raises((InputError, RuntimeError)):
            backbone.load_state_dict(state_dict)
    load_state_dict(backbone, {'head.fc.weight': torch.zeros(1), 'bbox_head.a.weight': torch.zeros(1)})
    with pytest.raises(InputError, match='no weights for the MobileOne backbone'):
        load_state_dict(backbone, {'layer1.0.conv1.weight': torch.zeros(1)})


@pytest.mark.parametrize('name', SOURCES)
def test_a_whole_classifier_is_not_strictly_a_backbone(name):
    whole = {f'backbone.{key}': value for key, value in MobileOne(TINY).state_dict().items()}
    whole['head.fc.weight'] = torch.zeros(7, 64)
    backbone = MobileOne(TINY)
    before = copy.deepcopy(backbone.state_dict())
    theirs = rename(whole, SOURCES['mmpretrain'], SOURCES[name])
    with pytest.raises(InputError, match='head.fc.weight has no place in a backbone: load them with strict=False'):
        backbone.load_state_dict(theirs)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert backbone.load_state_dict(theirs, strict=False).unexpected_keys == ['head.fc.weight']
    del theirs[next(key for key in theirs if 'head' in key or 'linear' in key or 'classifier' in key)]
    backbone.load_state_dict(theirs)
    assert torch.equal(backbone.stage0.branch_scale.conv.weight, whole['backbone.stage0.branch_scale.conv.weight'])


class Net(nn.Module):
    """Somebody's own, which has the backbone under a name of its own."""

    def __init__(self, name):
        super().__init__()
        self.add_module(name, MobileOne(TINY))
        self.decoder = nn.Linear(1, 1)


@pytest.mark.parametrize('name', ['encoder', 'model', 'mobileone'])
@pytest.mark.parametrize('decoder', [True, False])
def test_a_model_of_other_names_keeps_them(name, decoder, save, tmp_path):
    """Though they are those that wrappers have: its own checkpoints load, in files of any shape."""
    source = Net(name)
    state_dict = {key: value for key, value in source.state_dict().items() if decoder or 'decoder' not in key}
    torch.save(state_dict, tmp_path / 'bare.pth')
    for path in (save(state_dict), tmp_path / 'bare.pth'):
        model = Net(name)
        load_checkpoint(model, str(path))
        loaded = model.state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state_dict.items())


def test_weights_under_another_name_do_not_go_unnoticed(save):
    """A file has them, the model that they are for asks for others: not strict, nobody would see it."""
    model = Net('mobileone')
    for prefix in ('', 'backbone.', 'encoder.', 'student.backbone.'):
        path = save({prefix + key: value for key, value in MobileOne(TINY).state_dict().items()})
        with pytest.raises(InputError, match=f'has no weights for the MobileOne backbone.*set prefix={prefix!r}'):
            load_checkpoint(model, str(path))


def test_a_prefix_that_is_not_there(save):
    for state_dict in (Detector().state_dict(), {'layer1.weight': torch.zeros(1)}):
        model = MobileOne(TINY, init_cfg=dict(type='Pretrained', checkpoint=str(save(state_dict)), prefix='student.'))
        with pytest.raises(InputError, match="has nothing under prefix='student.'"):
            model.init_weights()


def test_nothing_to_initialize_from(save):
    for state_dict in ({}, {'head.fc.weight': torch.zeros(1)}, {'layer1.weight': torch.zeros(1)}):
        model = MobileOne(TINY, init_cfg=dict(type='Pretrained', checkpoint=str(save(state_dict))))
        with pytest.raises(InputError, match='has no weights for the MobileOne backbone'):
            model.init_weights()
