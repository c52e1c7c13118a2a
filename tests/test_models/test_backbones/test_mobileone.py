"""The backbone: variants, strides, freezing, parity with its peers."""
import copy

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from mmone import InputError
from mmone.models import MobileOne
from mmone.models.backbones.mobileone import ARCHS, stage_channels
from tests.conftest import relative_difference

VARIANTS = list(ARCHS)
TINY = dict(
    num_blocks=[1, 2, 1, 1],
    width_factor=(0.25, 0.25, 0.125, 0.125),
    num_conv_branches=[2, 3, 1, 2],
    num_se_blocks=(0, 1, 0, 1))


@pytest.mark.parametrize('arch', VARIANTS)
@pytest.mark.parametrize('size', [(64, 64), (67, 93)])
def test_deployed_equals_branches(arch, size, moved):
    model = moved(MobileOne(arch, out_indices=(0, 1, 2, 3, 4))).eval()
    model32 = copy.deepcopy(model)
    model.double()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected, expected32 = model(x), model32(x.float())
        model.switch_to_deploy()
        model32.switch_to_deploy()
        for a, b in zip(model(x), expected):
            assert relative_difference(a, b) < 1e-10
        for a, b in zip(model32(x.float()), expected32):
            assert relative_difference(a, b) < 1e-5


@pytest.mark.parametrize('strides, dilations, output_stride', [
    ((2, 2, 2, 2, 2), (1, 1, 1, 1, 1), 32),
    ((2, 2, 2, 2, 1), (1, 1, 1, 1, 2), 16),
    ((2, 2, 2, 1, 1), (1, 1, 1, 2, 4), 8),
    ((1, 2, 2, 2, 1), (1, 1, 1, 1, 1), 8),
])
def test_output_strides_and_dilations(strides, dilations, output_stride, moved):
    model = moved(MobileOne(TINY, strides=strides, dilations=dilations)).double().eval()
    x = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    out = model(x)[-1]
    assert out.shape[2:] == tuple(-(-n // output_stride) for n in (65, 97))
    model.switch_to_deploy()
    assert relative_difference(model(x)[-1], out) < 1e-10


@pytest.mark.parametrize('strides', [(2, 2, 2, 1, 1), (2, 2, 2, 2, 1), (1, 1, 1, 1, 1)])
def test_a_classifiers_checkpoint_fits_at_any_strides(strides):
    dense = MobileOne(TINY, strides=strides)
    dense.load_state_dict(MobileOne(TINY).state_dict(), strict=True)


def test_first_block_of_a_dilated_stage_keeps_the_previous_rate():
    model = MobileOne('s0', strides=(2, 2, 2, 1, 1), dilations=(1, 1, 1, 2, 4), deploy=True)
    rates = [[block.dilation for block in stage if block.kernel_size == 3]
             for stage in (model.stage2, model.stage3, model.stage4)]
    assert rates == [[1] * 8, [1] + [2] * 9, [2]]


def test_dilation_is_the_strided_network_seen_at_every_position():
    """Output stride 16 subsampled is output stride 32: the reason for the rule above."""
    strided = MobileOne('s1', deploy=True).double().eval()
    dilated = MobileOne('s1', strides=(2, 2, 2, 2, 1), dilations=(1, 1, 1, 1, 2), deploy=True)
    dilated.double().eval().load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    torch.testing.assert_close(dilated(x)[0][..., ::2, ::2], strided(x)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('out_indices, expected', [
    ((0, ), [0]), (-1, [4]), ((-2, -1), [3, 4]), ((0, 2), [0, 2]), (range(5), [0, 1, 2, 3, 4])])
def test_out_indices(out_indices, expected):
    model = MobileOne('s0', out_indices=out_indices)
    channels = stage_channels(ARCHS['s0'])
    outs = model(torch.randn(2, 3, 32, 32))
    assert [out.shape[1] for out in outs] == [channels[i] for i in expected]
    assert hasattr(model, 'stage4') == (4 in expected)


@pytest.mark.parametrize('kwargs, words', [
    (dict(arch='s5'), ["'s5'", 's0, s1, s2, s3, s4']),
    (dict(arch=None), ['NoneType']),
    (dict(arch={**TINY, 'depth': [1] * 4}), ["'depth' is unknown"]),
    (dict(arch={k: v for k, v in TINY.items() if k != 'num_se_blocks'}),
     ["'num_se_blocks' is missing"]),
    (dict(arch={**TINY, 'num_blocks': [1, 2, 3]}), ["'num_blocks'", '[1, 2, 3]']),
    (dict(arch={**TINY, 'num_conv_branches': [1, 0, 1, 1]}), ["'num_conv_branches'", '0']),
    (dict(arch={**TINY, 'num_conv_branches': [1, 1.5, 1, 1]}), ["'num_conv_branches'", '1.5']),
    (dict(arch={**TINY, 'num_blocks': [True, 1, 1, 1]}), ["'num_blocks'", 'True']),
    (dict(arch={**TINY, 'width_factor': [1, -1, 1, 1]}), ["'width_factor'", '-1']),
    (dict(arch={**TINY, 'width_factor': [0.001, 1, 1, 1]}), ["'width_factor'"]),
    (dict(arch={**TINY, 'num_se_blocks': [0, 3, 0, 0]}), ["'num_se_blocks'", 'stage2']),
    (dict(out_indices=(5, )), ['out_indices', '5']),
    (dict(out_indices=(3, 1)), ['out_indices', 'ascending']),
    (dict(out_indices=()), ['out_indices']),
    (dict(strides=(2, 2, 2, 2)), ['strides', '5']),
    (dict(strides=(2, 2, 2, 2, 3)), ['strides', '3']),
    (dict(dilations=(1, 1, 1, 1, 0)), ['dilations', '0']),
    (dict(frozen_stages=5), ['frozen_stages', '5']),
], ids=str)  # yapf: disable
def test_wrong_arguments_are_named(kwargs, words):
    with pytest.raises(InputError) as error:
        MobileOne(**kwargs)
    for word in words:
        assert word in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_frozen_stages_stay_frozen_and_in_eval(frozen_stages):
    model = MobileOne(TINY, frozen_stages=frozen_stages)
    model.init_weights()
    model.train()
    for i, stage in enumerate(model.stages):
        frozen = i <= frozen_stages
        assert all(p.requires_grad != frozen for p in stage.parameters())
        assert all(m.training != frozen for m in stage.modules())
    before = copy.deepcopy(model.state_dict())
    if frozen_stages < 4:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model(torch.randn(2, 3, 64, 64))[-1].sum().backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        if int(name[5]) <= frozen_stages:
            assert torch.equal(value, before[name]), name


def test_norm_eval_keeps_statistics_while_training():
    model = MobileOne(TINY, norm_eval=True).train()
    assert model.training and model.stage1[0].training
    before = model.stage1[0].branch_norm
    assert before is None or not before.training
    statistics = {k: v.clone() for k, v in model.state_dict().items() if 'running' in k}
    model(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in statistics.items())
    assert model.stage0.branch_scale.norm.weight.grad.abs().sum() > 0


def test_norm_cfg_reaches_every_norm():
    model = MobileOne(TINY, norm_cfg=dict(type='SyncBN', eps=1e-3, momentum=0.03))
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert norms and all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


def test_in_channels_act_cfg_and_with_cp_reach_the_blocks():
    model = MobileOne(TINY, in_channels=5, act_cfg=dict(type='GELU'), with_cp=True)
    assert all(isinstance(b.act, torch.nn.GELU) and b.with_cp for b in model.blocks().values())
    x = torch.randn(2, 5, 32, 32, requires_grad=True)
    model(x)[-1].sum().backward()
    assert x.grad.abs().sum() > 0


def test_init_gamma_is_for_convolutions_and_not_for_pretrained_weights(tmp_path):
    model = MobileOne(TINY, init_gamma=0.1)
    model.init_weights()
    gammas = {conv is None: norm.weight.unique().item()
              for block in model.blocks().values() for conv, norm in block.branches()}
    assert gammas == {True: 1.0, False: pytest.approx(0.1)}
    torch.save(MobileOne(TINY).state_dict(), tmp_path / 'a.pth')
    model = MobileOne(TINY, init_gamma=0.1, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'a.pth')))
    model.init_weights()
    assert model.stage0.branch_scale.norm.weight.unique().item() == 1


@pytest.mark.parametrize('weights', [torch.contiguous_format, torch.channels_last])
def test_channels_last_training_on_cpu_equals_contiguous(weights):
    model = MobileOne(TINY).train()
    twin = MobileOne(TINY, channels_last=True).train()
    twin.load_state_dict(model.state_dict())
    twin.to(memory_format=weights)
    x = torch.randn(4, 3, 65, 64)
    model(x)[-1].square().mean().backward()
    out = twin(x)[-1]
    out.square().mean().backward()
    assert out.is_contiguous(memory_format=torch.channels_last)
    for (name, a), b in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-4, msg=name)


def test_builds_from_mmengine_root_without_an_import():
    assert type(MODELS.build(dict(type='mmone.MobileOne', arch='s0'))) is MobileOne


@pytest.mark.parametrize('arch', ['s0', 's4', TINY], ids=['s0', 's4', 'dict'])
@pytest.mark.parametrize('mode', ['train', 'eval', 'deployed'])
def test_parity_with_mmpretrain(arch, mode, moved):
    """The same weights give the same outputs and gradients, in float64."""
    from mmpretrain.models import MobileOne as Peer
    lists = arch if isinstance(arch, str) else {k: list(v) for k, v in arch.items()}
    peer = moved(Peer(lists, out_indices=(0, 1, 2, 3))).double()
    ours = MobileOne(arch, out_indices=(1, 2, 3, 4)).double()
    ours.load_state_dict(peer.state_dict(), strict=True)
    assert list(ours.state_dict().keys() ^ peer.state_dict().keys()) == []
    for model in (peer, ours):
        model.train(mode == 'train')
        if mode == 'deployed':
            model.switch_to_deploy()
    inputs = [torch.randn(2, 3, 65, 71, dtype=torch.float64, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outs = [model(x) for model, x in zip((peer, ours), inputs)]
    for a, b in zip(*outs):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
    for out in outs:
        sum(o.square().mean() for o in out).backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-6, atol=1e-12)
    if mode != 'deployed':  # mmpretrain detaches its deployed parameters
        theirs = dict(peer.named_parameters())
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-6, atol=1e-9,
                                       msg=name)
    if mode == 'train':
        for name, value in peer.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-9, atol=1e-9)
