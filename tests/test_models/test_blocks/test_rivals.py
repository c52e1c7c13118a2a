"""The branches of MobileOne's rivals: which they are, by hand, and what their layers do."""
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmone import InputError
from mmone.models.blocks.mobileone_block import MobileOneBlock
from mmone.models.blocks.rivals import RIVALS, AveragePooling, NormThenPad


def block_of(rival, weights):
    """A 3×3 block of one channel in eval mode with weights that are given; norms are identities."""
    block = MobileOneBlock(1, 1, 3, 1, norm_cfg=dict(type='BN', eps=0.5), branches=rival).eval()
    for module in block.modules():
        if hasattr(module, 'running_var'):
            module.running_var.fill_(0.5)
    for name, values in weights.items():
        parameter = block.branch_chains.get_parameter(name)
        parameter.data = torch.tensor(values, dtype=torch.float32).reshape(parameter.shape)
    return block


def test_acnet_by_hand():
    block = block_of('acnet', {'kxk.0.weight': [1] * 9, '1xk.0.weight': [1, 2, 3], 'kx1.0.weight': [10, 20, 30],
                               'kx1.1.bias': [5]})
    kernel, bias = block.equivalent_kernel_bias()
    assert kernel.flatten().tolist() == [1, 11, 1, 2, 23, 4, 1, 31, 1] and bias.tolist() == [5]


def test_dbb_by_hand():
    """Of one channel: depthwise, with two channels in the sequence."""
    delta = [0, 0, 0, 0, 1, 0, 0, 0, 0]
    block = block_of('dbb', {'kxk.0.weight': [1] * 9, '1x1_kxk.0.weight': [2, 3], '1x1_kxk.1.norm.bias': [1, -1],
                             '1x1_kxk.2.weight': [[1] * 9, delta], 'average.1.weight': [9]})
    kernel, bias = block.equivalent_kernel_bias()
    # 1 of K×K, 2 and at the centre 3 of the sequence, 9 / 9 of the average; of the biases nine times 1 and once -1.
    assert kernel.flatten().tolist() == [4, 4, 4, 4, 7, 4, 4, 4, 4] and bias.tolist() == [8]
    # Of an image of one pixel all but the centre is border, which the sequence sees as 1 in its first channel.
    assert block(torch.ones(1, 1, 1, 1)).item() == 1 + (3 + 8 + 2) + 1


def test_expandnet_by_hand():
    taps = torch.zeros(4, 4, 9)
    taps[range(4), range(4), range(4)] = 1
    block = block_of('expandnet', {'expanded.0.weight': [1, 2, 3, 4], 'expanded.1.weight': taps.tolist(),
                                   'expanded.2.weight': [1, 10, 100, 1000]})
    kernel, bias = block.equivalent_kernel_bias()
    assert kernel.flatten().tolist() == [1, 20, 300, 4000, 0, 0, 0, 0, 0] and bias.tolist() == [0]


@pytest.mark.parametrize('shape, expected', [
    (dict(in_channels=4, out_channels=6), dict(
        acnet=['kxk', '1xk', 'kx1'], dbb=['kxk', '1x1_kxk', '1x1', '1x1_average'], expandnet=['expanded'])),
    (dict(in_channels=4, out_channels=4, groups=4), dict(
        acnet=['kxk', '1xk', 'kx1'], dbb=['kxk', '1x1_kxk', 'average'], expandnet=['expanded'])),
    (dict(in_channels=4, out_channels=6, kernel_size=1), {rival: ['kxk'] for rival in RIVALS}),
], ids=['dense', 'depthwise', 'pointwise'])
def test_which_branches_there_are(shape, expected):
    for rival, names in expected.items():
        block = MobileOneBlock(**{'kernel_size': 3, **shape}, num_convs=4, branches=rival)
        assert [name for name, _ in block.named_branches()] == [f'branch_chains.{name}' for name in names]


@pytest.mark.parametrize('dilation', [1, 2])
@pytest.mark.parametrize('stride', [1, 2])
def test_average_pooling_is_pytorchs(stride, dilation):
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    pooled = AveragePooling(3, 3, stride, dilation, dilation)(x)
    taps = [F.pad(x, [dilation] * 4)[..., i:, j:][..., :8:stride, :7:stride]
            for i in (0, dilation, 2 * dilation) for j in (0, dilation, 2 * dilation)]
    torch.testing.assert_close(pooled, sum(taps) / 9)
    if dilation == 1:
        torch.testing.assert_close(pooled, F.avg_pool2d(x, 3, stride, 1))


def test_the_border_is_what_the_norm_maps_zero_to(moved):
    layer = moved(NormThenPad(nn.BatchNorm2d(3), 2)).double().eval()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.norm(F.pad(x, [2] * 4)))


def test_statistics_may_move_on_before_the_backward_pass():
    layer = NormThenPad(nn.BatchNorm2d(3), 1).double().train()
    nn.init.normal_(layer.norm.weight)
    (layer(torch.randn(2, 3, 4, 5).double()).sum() + layer(torch.randn(2, 3, 4, 5).double()).sum()).backward()
    assert layer.norm.bias.grad.tolist() == [2 * 2 * 6 * 7] * 3


@pytest.mark.parametrize('rival', RIVALS)
def test_init_gamma_is_for_the_last_norm_of_every_branch(rival):
    block = MobileOneBlock(4, 4, 3, 1, branches=rival, init_gamma=0.1)
    block.init_weights()
    for _, branch in block.named_branches():
        *others, last = branch
        assert last.weight.unique().item() == pytest.approx(0.1)
        assert all(layer.norm.weight.unique().item() == 1 for layer in others if isinstance(layer, NormThenPad))


def replaced(path, module):
    def change(block):
        parent, _, name = path.rpartition('.')
        setattr(block.branch_chains.get_submodule(parent), name, copy.deepcopy(module))
    return change


@pytest.mark.parametrize('change, words', [
    (replaced('kxk.0', nn.Conv2d(4, 4, 3, padding=1)), r'branch_chains\.kxk\.0 has another .* bias'),
    (replaced('1x1_kxk.2', nn.Conv2d(4, 4, 3, padding=1, bias=False)), r'branch_chains\.1x1_kxk\.2 has another'),
    (replaced('1x1_kxk.1', nn.BatchNorm2d(4)), r'branch_chains\.1x1_kxk\.1 is a BatchNorm2d, no NormThenPad'),
    (replaced('1x1_kxk.1.norm', nn.GroupNorm(2, 4)), r'branch_chains\.1x1_kxk\.1\.norm is a GroupNorm'),
    (replaced('1x1_average.2', nn.AvgPool2d(3, 1)), r'branch_chains\.1x1_average\.2 is a AvgPool2d'),
    (lambda block: block.branch_chains['1x1'].add_module('2', nn.Tanh()), r'branch_chains\.1x1 is a Sequential'),
], ids=['bias', 'padding', 'norm that does not pad', 'group norm', 'pooling', 'more'])
def test_what_cannot_be_folded_is_named(change, words):
    block = MobileOneBlock(4, 4, 3, 1, branches='dbb')
    change(block)
    with pytest.raises(InputError, match=f'^the branches cannot be folded: {words}'):
        block.switch_to_deploy()
    assert not block.deploy


@pytest.mark.parametrize('rival', RIVALS)
@pytest.mark.parametrize('stride', [1, 2])
def test_channels_last_training_equals_contiguous(rival, stride):
    block = MobileOneBlock(3, 8, 3, 1, stride=stride, branches=rival).double()
    twin = copy.deepcopy(block).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 9, 8, dtype=torch.float64)
    for model, inputs in ((block, x), (twin, x.to(memory_format=torch.channels_last))):
        model(inputs).square().mean().backward()
    for a, b in zip(block.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize('rival', RIVALS)
def test_mixed_precision(rival):
    block = MobileOneBlock(4, 4, 3, 1, groups=4, branches=rival)
    x = torch.randn(4, 4, 6, 6)
    expected = copy.deepcopy(block)(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = block(x)
    out.float().sum().backward()
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)
    assert all(parameter.grad is not None for parameter in block.parameters())
