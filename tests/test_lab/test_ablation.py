"""The networks of the ablations: activations by values computed by hand, and what the blocks change."""
import math

import pytest
import torch
from torch import nn

from mmone.errors import InputError
from mmone.lab.ablation import ACTIVATIONS, BLOCKS, NETWORKS, AblationNet, DynamicReLU, DynamicShiftMax, Layer, Pair
from mmone.models.blocks.se_layer import SELayer


def image(*channels, size=2):
    """(1, C, size, size), each channel of one value, but for the first position, which is the double, and the last,
    which is 0: the mean is the value."""
    x = torch.tensor(channels).view(1, -1, 1, 1).expand(1, -1, size, size).clone()
    x[..., 0, 0] *= 2
    x[..., -1, -1] = 0
    return x


def set_hyper_function(module, hidden, bias):
    """Let the hidden units be ``hidden`` times the mean of the first channel, each output be their sum plus a bias."""
    first, _, second, _ = module.coefficients.layers
    with torch.no_grad():
        first.weight.zero_()
        first.weight[:, 0] = torch.tensor(hidden)
        first.bias.zero_()
        second.weight.fill_(1)
        second.bias.copy_(torch.tensor(bias))


def logit(p):
    return math.log(p / (1 - p))


def test_dynamic_relu_a_is_the_larger_of_two_lines_that_all_channels_share():
    module = DynamicReLU(8, shared=True)
    # The hidden unit is ReLU(ln 3 · 1) = ln 3; σ(ln 3 + bias) is 0.75 where the bias is 0.
    set_hyper_function(module, [math.log(3)], [0.0, logit(0.5) - math.log(3), logit(0.25) - math.log(3),
                                               logit(1 - 1e-9) - math.log(3)])
    # 2σ − 1: 0.5, 0, −0.5, 1. So a¹ = 1 + 0.5, a² = 0 + 0, b¹ = 0 − 0.5/2, b² = 0 + 1/2.
    x = image(1.0, -3.0, *[0.1] * 6)
    out = module(x)
    assert out[0, 0].flatten().tolist() == pytest.approx([2.75, 1.25, 1.25, 0.5])  # max(1.5 x − 0.25, 0.5)
    assert out[0, 1].flatten().tolist() == pytest.approx([0.5] * 4)
    assert out[0, 2].flatten().tolist() == pytest.approx([0.5] * 4)


def test_dynamic_relu_b_has_lines_of_each_channel_that_follow_the_input():
    module = DynamicReLU(8, shared=False)
    bias = torch.zeros(4, 8)
    bias[0, 1] = logit(0.25)  # a¹ of channel 1: residual −0.5, without the hidden unit
    bias[3, 1] = logit(0.75)  # b² of channel 1
    set_hyper_function(module, [1.0], bias.flatten().tolist())
    out = module(image(-1.0, 2.0, 4.0, *[1.0] * 5))  # the first mean is negative: the hidden unit is 0
    assert out[0, 1].flatten().tolist() == pytest.approx([2.0, 1.0, 1.0, 0.25])  # max(0.5 x, 0.25)
    assert out[0, 2].flatten().tolist() == pytest.approx([8.0, 4.0, 4.0, 0.0])  # ReLU
    assert out[0, 0].flatten().tolist() == pytest.approx([0.0] * 4)
    out = module(image(math.log(3), *[1.0] * 7))  # now it is ln 3: all other residuals are 0.5
    assert out[0, 2].flatten().tolist() == pytest.approx([3.25, 1.75, 1.75, 0.25])  # max(1.5 x + 0.25, 0.5 x + 0.25)


def test_dynamic_shift_max_fuses_each_channel_with_the_one_a_group_further():
    module = DynamicShiftMax(8)
    coefficients = torch.zeros(4, 8)
    coefficients[1, 0] = 1.5  # hard sigmoid: 1.5 / 6 + 0.5 = 0.75, so a¹₁ = 0 + 4 · 0.25
    coefficients[3, 6] = -0.75  # a²₁ = 4 · (0.375 − 0.5)
    set_hyper_function(module, [0.0, 0.0], coefficients.flatten().tolist())
    x = torch.arange(1.0, 9).view(1, 8, 1, 1)
    out = module(x).flatten().tolist()
    # C / G = 2. Channel 0: max(x₀ + x₂, 0); channel 6: max(x₆, −0.5 x₀); the others: max(x, 0).
    assert out == pytest.approx([4.0, 2, 3, 4, 5, 6, 7, 8])
    assert module(-x).flatten().tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 0.5, 0])


def test_se_relu_excites_by_the_pooled_channels_and_then_rectifies():
    module = ACTIVATIONS['se-relu'](8)
    with torch.no_grad():
        for conv in (module[0].conv1.conv, module[0].conv2.conv):
            conv.weight.zero_()
            conv.bias.zero_()
        module[0].conv1.conv.weight[0, 1] = 1  # squeezed: the mean of channel 1
        module[0].conv2.conv.weight[0, 0] = 1
    out = module(image(1.0, math.log(3), *[-1.0] * 6))
    assert out[0, 0].flatten().tolist() == pytest.approx([1.5, 0.75, 0.75, 0])  # σ(ln 3) = 0.75
    assert out[0, 1, 0, 1].item() == pytest.approx(math.log(3) / 2)
    assert not out[0, 2:].any()


def values(name, *x):
    return ACTIVATIONS[name](1)(torch.tensor(x)).tolist()


def test_the_activations_without_parameters():
    assert values('relu', -1.0, 2.0) == [0, 2]
    assert values('gelu', 1.0) == pytest.approx([(1 + math.erf(1 / math.sqrt(2))) / 2])  # x Φ(x)
    assert values('silu', math.log(3)) == pytest.approx([0.75 * math.log(3)])  # x σ(x)
    assert values('hard-swish', -4.0, 1.0, 3.0) == pytest.approx([0, 4 / 6, 3])  # x ReLU6(x + 3) / 6


def test_thirty_layers_each_with_its_activation():
    net = AblationNet('silu')
    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == sum(isinstance(module, nn.SiLU) for module in net.modules()) == 30
    assert {conv.groups == 1 for conv in convs[1:-1:2]} == {False}  # depthwise and pointwise in turn
    assert net.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


@pytest.mark.parametrize('name', NETWORKS)
def test_each_network_computes(name):
    net = AblationNet(**NETWORKS[name]).eval()
    assert net(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_what_the_blocks_change():
    def parameters(block):
        return sum(p.numel() for p in AblationNet(block=block).features.parameters())

    plain = parameters('plain')
    assert parameters('skip') == plain < parameters('se') < 1.1 * plain
    assert parameters('branches-2') == 2 * plain and parameters('branches-4') == 4 * plain
    nets = {block: AblationNet(block=block) for block in BLOCKS}
    skips = {block: sum(pair.skip for pair in net.modules() if isinstance(pair, Pair)) for block, net in nets.items()}
    assert skips == dict.fromkeys(BLOCKS, 0) | dict(skip=10)  # 14 pairs, of which 4 change the shape
    excited = [layer for layer in nets['se'].modules() if isinstance(layer, Layer) and isinstance(layer.se, SELayer)]
    assert len(excited) == 14


def test_branches_are_summed_and_skips_added_before_the_activation():
    net = AblationNet(block='branches-2')
    x = torch.randn(1, 3, 8, 8)
    stem = net.features[0]
    one, two = stem.convs
    assert torch.allclose(stem(x), (one(x) + two(x)).relu())
    pair = next(pair for pair in AblationNet(block='skip').modules() if isinstance(pair, Pair) and pair.skip)
    x = torch.randn(1, 64, 8, 8)
    assert torch.allclose(pair(x), (pair.pointwise.convs[0](pair.depthwise(x)) + x).relu(), atol=1e-6)


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(InputError, match="no 'mish' among relu, gelu"):
        AblationNet('mish')
    with pytest.raises(InputError, match="no 'dense' among plain, se"):
        AblationNet(block='dense')
