"""From a deployed network back to one with branches."""
import copy

import pytest
import torch
from torch import nn

from mmone import InputError
from mmone.convert.expand import calibrate, expand
from mmone.models import MobileOne
from mmone.models.blocks.reparam import pad_kernel, split_kernel
from tests.conftest import TINY, relative_difference


def fused(arch, moved, **kwargs):
    model = moved(MobileOne(arch, **kwargs)).eval()
    model.switch_to_deploy()
    return model


@pytest.mark.parametrize('scale', [False, True])
@pytest.mark.parametrize('skip', [False, True])
@pytest.mark.parametrize('groups', [1, 4])
def test_shares_sum_to_the_kernel(scale, skip, groups):
    kernel = torch.randn(4, 4 // groups, 3, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    parts = split_kernel(kernel, 3, scale, skip, groups, 0.1, generator)
    assert len(parts) == 3 + scale + skip
    total = sum(pad_kernel(part, 3) for part in parts[:3 + scale])
    if skip:
        for c in range(4):
            total[c, c % (4 // groups), 1, 1] += parts[-1][c]
    torch.testing.assert_close(total, kernel, rtol=0, atol=1e-14)
    assert not torch.allclose(parts[0], parts[1], atol=1e-3)


@pytest.mark.parametrize('arch', ['s0', 's4', TINY], ids=['s0', 's4', 'dict'])
def test_same_function_in_eval_mode(arch, moved):
    deployed = fused(arch, moved, out_indices=(0, 3))
    model = copy.deepcopy(deployed)
    assert expand(model, [torch.randn(4, 3, 32, 32) for _ in range(2)]) == 8
    assert not model.deploy and not any(block.deploy for block in model.blocks().values())
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        for a, b in zip(model(x), deployed(x)):
            assert relative_difference(a, b) < 1e-5
    again = MobileOne(arch, out_indices=(0, 3))
    again.load_state_dict(model.state_dict(), strict=True)
    again.switch_to_deploy()
    with torch.no_grad():
        for a, b in zip(again.eval()(x), deployed(x)):
            assert relative_difference(a, b) < 1e-5


def test_same_function_in_training_mode_on_the_data_of_the_statistics(moved):
    """One batch that is all the data: its statistics are the running ones, so nothing jumps."""
    deployed = fused(TINY, moved).double()
    model = copy.deepcopy(deployed)
    images = torch.randn(8, 3, 64, 64, dtype=torch.float64)
    expand(model, [images])
    with torch.no_grad():
        expected = deployed(images)[0]
        assert relative_difference(model.train()(images)[0], expected) < 1e-6
    uncalibrated = copy.deepcopy(deployed)
    uncalibrated.switch_to_branches()
    with torch.no_grad():
        assert relative_difference(uncalibrated.train()(images)[0], expected) > 0.1


def test_statistics_are_those_of_all_batches(moved):
    deployed = fused(TINY, moved)
    whole, parts = copy.deepcopy(deployed), copy.deepcopy(deployed)
    images = torch.randn(6, 3, 64, 64)
    expand(whole, [images])
    assert expand(parts, iter(images.split(4))) == 6
    for (name, a), b in zip(whole.named_buffers(), parts.buffers()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_calibrating_keeps_the_function_of_a_trained_network(moved):
    model = moved(MobileOne(TINY)).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        before = model(x)[0]
        means = model.stage3[0].branch_scale.norm.running_mean.clone()
        calibrate(model, [torch.randn(4, 3, 64, 64, dtype=torch.float64)])
        assert relative_difference(model(x)[0], before) < 1e-10
    assert not torch.equal(model.stage3[0].branch_scale.norm.running_mean, means)


def test_branches_get_different_gradients(moved):
    model = copy.deepcopy(fused(TINY, moved))
    expand(model, [torch.randn(4, 3, 64, 64)])
    model.train()(torch.randn(4, 3, 64, 64))[0].square().mean().backward()
    for block in model.blocks().values():
        kernels = [branch.conv.weight.grad for branch in block.branch_conv_list]
        for a, b in zip(kernels, kernels[1:]):
            assert relative_difference(a, b) > 1e-3


def test_a_frozen_block_stays_frozen(moved):
    model = fused(TINY, moved)
    model.stage1.requires_grad_(False)
    expand(model, [torch.randn(2, 3, 64, 64)])
    assert not any(p.requires_grad for p in model.stage1.parameters())
    assert all(p.requires_grad for p in model.stage2.parameters())
    assert isinstance(model.stage1[0].branch_norm, (nn.BatchNorm2d, type(None)))


def test_no_images(moved):
    with pytest.raises(InputError, match='no images'):
        expand(fused(TINY, moved), [])
