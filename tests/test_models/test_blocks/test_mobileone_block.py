"""Blocks: branches and the folded convolution are one function."""
import copy

import pytest
import torch
from torch import nn

from mmone import InputError
from mmone.models.blocks.mobileone_block import MobileOneBlock, PointwiseConv2d
from mmone.models.blocks.rivals import RIVALS
from tests.conftest import relative_difference

# in, out, kernel, groups: stem-like dense, depthwise, pointwise with and without the skip branch, grouped
SHAPES = [(3, 8, 3, 1), (8, 8, 3, 8), (8, 8, 1, 1), (8, 12, 1, 1), (8, 12, 5, 4)]
# Whose branches, and k where there is one.
LISTS = [('mobileone', 1), ('mobileone', 4), *((rival, 1) for rival in RIVALS)]
lists = pytest.mark.parametrize('branches', ['mobileone', *RIVALS])


def _trained(block, channels, steps=3):
    """Real SGD steps, so that statistics, affine parameters and weights have all moved."""
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(steps):
        x = torch.randn(4, channels, 9, 11).to(next(block.parameters()).dtype) * 2 + 0.5
        loss = (block.train()(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return block.eval()


@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('dilation', [1, 2])
@pytest.mark.parametrize('branches, k', LISTS)
def test_deployed_equals_branches(shape, stride, dilation, branches, k):
    in_channels, out_channels, kernel_size, groups = shape
    block = MobileOneBlock(in_channels, out_channels, kernel_size, k, stride, dilation=dilation, groups=groups,
                           branches=branches)
    _trained(block.double(), in_channels)
    deployed = copy.deepcopy(block)
    deployed.switch_to_deploy()
    block32 = copy.deepcopy(block).float()
    deployed32 = copy.deepcopy(block32)
    deployed32.switch_to_deploy()
    for size in [(12, 12), (13, 7), (1, 1)]:
        x = torch.randn(2, in_channels, *size, dtype=torch.float64)
        assert relative_difference(deployed(x), block(x)) < 1e-10
        assert relative_difference(deployed32(x.float()), block32(x.float())) < 1e-5


@pytest.mark.parametrize('norm_cfg', [
    dict(type='BN', eps=1e-3, momentum=0.03),
    dict(type='BN', eps=0.1),
    dict(type='SyncBN', momentum=0.2),
    dict(type='BN', requires_grad=False),
], ids=str)
@pytest.mark.parametrize('se_cfg', [None, dict(ratio=16)])
@lists
def test_deployed_equals_branches_for_every_norm_and_se(norm_cfg, se_cfg, branches, moved):
    block = moved(MobileOneBlock(8, 8, 3, 2, groups=8, norm_cfg=norm_cfg, se_cfg=se_cfg, branches=branches))
    block.double().eval()
    deployed = copy.deepcopy(block)
    deployed.switch_to_deploy()
    x = torch.randn(2, 8, 7, 9, dtype=torch.float64)
    assert relative_difference(deployed(x), block(x)) < 1e-10


@pytest.mark.parametrize('use_scale', [True, False])
@pytest.mark.parametrize('use_skip', [True, False])
def test_branch_switches(use_scale, use_skip, moved):
    block = moved(MobileOneBlock(6, 6, 3, 3, use_scale=use_scale, use_skip=use_skip)).eval()
    assert len(list(block.branches())) == 3 + use_scale + use_skip
    x = torch.randn(1, 6, 5, 5)
    expected = block(x)
    block.switch_to_deploy()
    torch.testing.assert_close(block(x), expected)


@lists
def test_switching_twice_is_once_and_keeps_mode_and_gradients(branches):
    block = MobileOneBlock(4, 4, 3, 2, branches=branches).train()
    block.switch_to_deploy()
    weight = block.branch_reparam.weight
    block.switch_to_deploy()
    assert block.branch_reparam.weight is weight
    assert block.training and block.branch_reparam.training and weight.requires_grad
    assert block.state_dict().keys() == {'branch_reparam.weight', 'branch_reparam.bias'}

    frozen = MobileOneBlock(4, 4, 3, 2, branches=branches).eval().requires_grad_(False)
    frozen.switch_to_deploy()
    assert not any(p.requires_grad for p in frozen.parameters()) and not frozen.training


@lists
@pytest.mark.parametrize('groups', [1, 4])
def test_equivalent_kernel_is_differentiable(branches, groups, moved):
    block = moved(MobileOneBlock(4, 4, 3, 2, groups=groups, branches=branches)).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    kernel, bias = block.equivalent_kernel_bias()
    torch.relu(nn.functional.conv2d(x, kernel, bias, padding=1, groups=groups)).sum().backward()
    through_kernel = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    block(x).sum().backward()
    for ours, p in zip(through_kernel, block.parameters()):
        torch.testing.assert_close(ours, p.grad, rtol=1e-9, atol=1e-9)


def test_sliced_pointwise_conv_equals_the_strided_one():
    ours, theirs = PointwiseConv2d(3, 5, 1, stride=2, bias=False), nn.Conv2d(
        3, 5, 1, stride=2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    for size in [(8, 8), (7, 5)]:
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(ours(x), theirs(x))


def test_channels_last_training_of_the_stem_on_cpu():
    """PyTorch's own strided 1×1 convolution corrupts memory here."""
    block = MobileOneBlock(3, 64, 3, 1, stride=2)
    twin = copy.deepcopy(block).to(memory_format=torch.channels_last)
    x = torch.randn(8, 3, 64, 64)
    for model, inputs in ((block, x), (twin, x.to(memory_format=torch.channels_last))):
        for _ in range(3):
            model.zero_grad()
            model(inputs).square().mean().backward()
    for a, b in zip(block.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('momentum', [0.1, None])
@lists
def test_checkpointing_changes_nothing_but_memory(momentum, branches):
    norm_cfg = dict(type='BN', momentum=momentum)
    plain = MobileOneBlock(4, 4, 3, 2, norm_cfg=norm_cfg, se_cfg=dict(), branches=branches).double()
    checkpointed = copy.deepcopy(plain)
    checkpointed.with_cp = True
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    grads = []
    for block in (plain, checkpointed):
        for step in range(2):
            inputs = (x + step).requires_grad_()
            block.zero_grad()
            block(inputs).square().sum().backward()
        grads.append(inputs.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)
    for (name, a), b in zip(plain.state_dict().items(), checkpointed.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=name)
    for a, b in zip(plain.parameters(), checkpointed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize('norm_cfg', [
    dict(type='GN', num_groups=2), dict(type='LN'), dict(type='IN'),
    dict(type='BN', affine=False), dict(type='BN', track_running_stats=False),
], ids=str)
def test_norms_that_cannot_be_folded_are_refused(norm_cfg):
    with pytest.raises(InputError, match='BatchNorm'):
        MobileOneBlock(4, 4, 3, 2, norm_cfg=norm_cfg)


@pytest.mark.parametrize('kernel_size, dilation, padding, expected', [(3, 1, 0, 1), (3, 2, 1, 2), (1, 1, 1, 0)])
def test_a_padding_that_does_not_align_the_branches_is_refused(kernel_size, dilation, padding, expected):
    MobileOneBlock(4, 4, kernel_size, 1, padding=expected, dilation=dilation)
    with pytest.raises(InputError, match=f'padding={padding} .*expected {expected}'):
        MobileOneBlock(4, 4, kernel_size, 1, padding=padding, dilation=dilation)


@pytest.mark.parametrize('kernel_size', [2, 4, 0])
def test_even_kernels_are_refused(kernel_size):
    with pytest.raises(InputError, match=f'^kernel_size={kernel_size} has no centre tap.* expected an odd one$'):
        MobileOneBlock(4, 4, kernel_size, 1)


@pytest.mark.parametrize('conv_cfg', [
    dict(type='ConvWS'), dict(type='DCNv2', deform_groups=1), dict(type='Conv2d', padding_mode='reflect')], ids=str)
def test_convolutions_that_cannot_be_folded_are_refused(conv_cfg):
    for plain in (None, dict(type='Conv2d'), dict(type='Conv'), dict(type=nn.Conv2d)):
        assert type(MobileOneBlock(4, 4, 3, 1, conv_cfg=plain).branch_conv_list[0].conv) is nn.Conv2d
    with pytest.raises(InputError, match='conv_cfg'):
        MobileOneBlock(4, 4, 3, 1, conv_cfg=conv_cfg)


FORMS = [dict(), dict(use_scale=False), dict(use_skip=False), dict(groups=4), dict(kernel_size=1), dict(stride=2),
         dict(out_channels=8, groups=2), dict(num_convs=1, use_scale=False, use_skip=False)]


@pytest.mark.parametrize('form', [*FORMS, *(
    dict(branches=rival, **form) for rival in RIVALS for form in (FORMS[0], dict(groups=4), FORMS[-2]))], ids=str)
def test_the_branches_of_a_state_dict_are_those_of_the_block(form, moved):
    form = dict(dict(in_channels=4, out_channels=4, kernel_size=3, num_convs=3), **form)
    block, deployed = moved(MobileOneBlock(**form)).double(), MobileOneBlock(**form, deploy=True).double()
    weights = block.state_dict()
    assert deployed.branch_shapes() == {name: tuple(value.shape) for name, value in weights.items()}
    block.switch_to_deploy()
    folded = deployed.fold_state_dict(weights)
    assert folded.keys() == block.state_dict().keys()
    for name, value in block.state_dict().items():
        torch.testing.assert_close(folded[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('form', FORMS, ids=str)
def test_branches_given_back_compute_the_same(form, moved):
    form = dict(dict(in_channels=4, out_channels=4, kernel_size=3, num_convs=3, se_cfg=dict()), **form)
    norm_cfg = dict(type='BN', eps=0.1, momentum=0.2)
    block = moved(MobileOneBlock(**form, norm_cfg=norm_cfg)).double().eval()
    names, squeeze = block.state_dict().keys(), block.se.conv1.conv.weight
    block.switch_to_deploy()
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    expected = block(x)
    block.switch_to_branches(0.5, torch.Generator().manual_seed(0))
    assert block.state_dict().keys() == names and block.se.conv1.conv.weight is squeeze
    assert all(norm.momentum == 0.2 and norm.eps == 0.1 for _, norm in block.branches())
    assert {value.device.type for value in block.state_dict().values()} == {'cpu'}
    assert relative_difference(block(x), expected) < 1e-10
    assert not block.training and all(p.requires_grad and p.dtype == torch.float64 for p in block.parameters())


@pytest.mark.parametrize('options, words', [
    (dict(branches='repvgg'), "branches must be one of mobileone, acnet, dbb, expandnet, got 'repvgg'"),
    (dict(branches='dbb', branch_mode='fused'), "branch_mode='fused' is for the branches of MobileOne, .*'auto'")])
def test_what_the_lists_of_branches_have_not_is_refused(options, words):
    with pytest.raises(InputError, match=f'^{words}$'):
        MobileOneBlock(4, 4, 3, 1, **options)


@pytest.mark.parametrize('rival', RIVALS)
def test_the_branches_of_a_rival_are_not_given_back(rival):
    block = MobileOneBlock(4, 4, 3, 1, deploy=True, branches=rival)
    before = block.state_dict()
    with pytest.raises(InputError, match=f"^deployed weights cannot be given branches='{rival}', .*set branches="):
        block.switch_to_branches(0.5, torch.Generator())
    assert block.deploy and block.state_dict().keys() == before.keys()
