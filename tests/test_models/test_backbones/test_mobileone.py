"""The backbone: deploying, strides, freezing, what its arguments reach."""
import copy

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from mmone import InputError
from mmone.models import MobileOne
from mmone.models.backbones.archs import ARCHS, stage_channels
from mmone.models.blocks.rivals import RIVALS
from tests.conftest import TINY, relative_difference

ALL = ('stem', 0, 1, 2, 3)


@pytest.mark.parametrize('arch', ['s0', 's4', TINY], ids=['s0', 's4', 'dict'])
class TestEveryVariant:
    """S1 to S3 differ in widths only."""

    def test_deployed_equals_branches(self, arch, moved):
        model32 = moved(MobileOne(arch, out_indices=ALL)).eval()
        model = copy.deepcopy(model32).double()
        inputs = [torch.randn(1, 3, *size, dtype=torch.float64) for size in [(32, 32), (67, 93)]]
        with torch.no_grad():
            expected = [(model(x), model32(x.float())) for x in inputs]
            model.switch_to_deploy()
            model32.switch_to_deploy()
            for x, (outs, outs32) in zip(inputs, expected):
                for a, b in zip(model(x), outs):
                    assert relative_difference(a, b) < 1e-10
                for a, b in zip(model32(x.float()), outs32):
                    assert relative_difference(a, b) < 1e-5

    def test_output_shapes(self, arch):
        model = MobileOne(arch, out_indices=ALL, deploy=True)
        outs = model(torch.randn(1, 3, 64, 96))
        assert [tuple(out.shape) for out in outs] == [
            (1, channels, 64 // stride, 96 // stride)
            for channels, stride in zip(stage_channels(model.arch), (2, 4, 8, 16, 32))]

    def test_se_layers_are_in_the_last_pairs_of_a_stage(self, arch):
        with torch.device('meta'):
            model = MobileOne(arch)
        for stage, depth, count in zip(model.stages, model.arch['num_blocks'], model.arch['num_se_blocks']):
            with_se = [block.se_cfg is not None for block in getattr(model, stage)]
            assert with_se == [False] * 2 * (depth - count) + [True] * 2 * count


@pytest.mark.parametrize('strides, dilations, stem_stride, output_stride', [
    ((2, 2, 2, 2), (1, 1, 1, 1), 2, 32),
    ((2, 2, 2, 1), (1, 1, 1, 2), 2, 16),
    ((2, 2, 1, 1), (1, 1, 2, 4), 2, 8),
    ((2, 2, 2, 1), (1, 1, 1, 1), 1, 8),
])
@pytest.mark.parametrize('branches', ['mobileone', *RIVALS])
def test_output_strides_and_dilations(strides, dilations, stem_stride, output_stride, branches, moved):
    model = moved(MobileOne(TINY, strides=strides, dilations=dilations, stem_stride=stem_stride,
                            branches=branches)).double().eval()
    x = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    out = model(x)[-1]
    assert out.shape[2:] == tuple(-(-n // output_stride) for n in (65, 97))
    model.switch_to_deploy()
    assert relative_difference(model(x)[-1], out) < 1e-10


@pytest.mark.parametrize('options', [
    dict(strides=(2, 2, 1, 1)), dict(strides=(2, 2, 2, 1)), dict(strides=(1, 1, 1, 1), stem_stride=1)], ids=str)
def test_a_classifiers_checkpoint_fits_at_any_strides(options):
    dense = MobileOne(TINY, **options)
    dense.load_state_dict(MobileOne(TINY).state_dict(), strict=True)


def test_first_block_of_a_dilated_stage_keeps_the_previous_rate():
    model = MobileOne('s0', strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4), deploy=True)
    rates = [[block.dilation for block in stage if block.kernel_size == 3]
             for stage in (model.stage2, model.stage3, model.stage4)]
    assert rates == [[1] * 8, [1] + [2] * 9, [2]]
    assert [stage[0].stride for stage in (model.stage1, model.stage2, model.stage3, model.stage4)] == [2, 2, 1, 1]
    assert (model.stage0.stride, model.stage0.dilation) == (2, 1)


def test_dilation_is_the_strided_network_seen_at_every_position():
    """Output stride 16 subsampled is output stride 32: the reason for the rule above."""
    arch = dict(TINY, num_blocks=(1, 1, 1, 3), num_se_blocks=(0, 0, 0, 0))  # SE sees all positions
    strided = MobileOne(arch, deploy=True).double().eval()
    dilated = MobileOne(arch, strides=(2, 2, 2, 1), dilations=(1, 1, 1, 2), deploy=True).double().eval()
    dilated.load_state_dict(strided.state_dict())
    assert dilated.stage4[2].dilation == 2
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    torch.testing.assert_close(dilated(x)[0][..., ::2, ::2], strided(x)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('out_indices, expected', [
    ((0, ), [0]), (-1, [3]), ((-2, -1), [2, 3]), ((0, 2), [0, 2]), (range(4), [0, 1, 2, 3]),
    ((3, 1, 1), [1, 3]), ('stem', ['stem']), (['stem', -1], ['stem', 3]), ((1, 'stem'), ['stem', 1])], ids=str)
def test_out_indices(out_indices, expected):
    model = MobileOne(TINY, out_indices=out_indices)
    assert list(model.out_indices) == expected
    whole = MobileOne(TINY, out_indices=ALL)
    model.load_state_dict(whole.state_dict())
    x = torch.randn(2, 3, 32, 32)
    outs, everything = model.eval()(x), dict(zip(ALL, whole.eval()(x)))
    assert len(outs) == len(expected)
    for index, out in zip(expected, outs):
        assert torch.equal(out, everything[index])


def test_only_stages_that_are_needed_are_built():
    model = MobileOne(TINY, out_indices=('stem', 1), frozen_stages=4)
    assert model.stages == ['stage1', 'stage2'] and not hasattr(model, 'stage3')
    assert MobileOne(TINY, out_indices='stem').stages == []
    assert MobileOne(TINY).stages == ['stage1', 'stage2', 'stage3', 'stage4']


@pytest.mark.parametrize('kwargs, words', [
    (dict(out_indices=(4, )), ['out_indices', '4', '0 to 3', "'stem'"]),
    (dict(out_indices=(-5, )), ['out_indices', '-5']),
    (dict(out_indices='head'), ['out_indices', "'head'"]),
    (dict(out_indices=()), ['out_indices']),
    (dict(out_indices={}), ['out_indices']),
    (dict(strides=(2, 2, 2, 2, 2)), ['strides', '4', 'stage1 to stage4']),
    (dict(strides=(2, 2, 2, 3)), ['strides', '3']),
    (dict(dilations=(1, 1, 1, 0)), ['dilations', '0']),
    (dict(stem_stride=4), ['stem_stride', '4']),
    (dict(frozen_stages=5), ['frozen_stages', '5']),
    (dict(conv_cfg=dict(type='ConvWS')), ['conv_cfg', 'ConvWS', 'Conv2d']),
    (dict(branches='inception'), ['branches', 'inception', 'mobileone', 'dbb']),
], ids=str)
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
    for i, name in enumerate(('stage0', *model.stages)):
        stage, frozen = getattr(model, name), i <= frozen_stages
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
    norms = [norm for block in model.blocks().values() for _, norm in block.branches()]
    assert norms and not any(norm.training for norm in norms)
    statistics = {k: v.clone() for k, v in model.state_dict().items() if 'running' in k}
    model(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    after = model.state_dict()
    assert statistics and all(torch.equal(after[k], v) for k, v in statistics.items())
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


def test_the_example_of_the_docstring():
    model = MobileOne('s0', out_indices=(0, 1, 2, 3)).eval()
    shapes = [tuple(out.shape) for out in model(torch.rand(1, 3, 224, 224))]
    assert str(shapes) in MobileOne.__doc__
    assert tuple(shape[1] for shape in shapes) == stage_channels(ARCHS['s0'])[1:]
