import copy

import pytest
import torch
from torch import nn

from mmone.models.blocks.running_statistics import BufferSnapshot, update_running_statistics


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_update_equals_that_of_forward_passes(dtype):
    norms = [nn.BatchNorm2d(3, momentum=momentum, dtype=dtype) for momentum in (0.1, 0.0, None)]
    twins = copy.deepcopy(norms)
    for _ in range(3):
        batches = torch.randn(3, 4, 3, 5, 5, dtype=torch.float64) + 1
        for norm, batch in zip(norms, batches):
            norm(batch.to(dtype))
        update_running_statistics(twins, batches.mean((1, 3, 4)), batches.var((1, 3, 4)))
    for norm, twin in zip(norms, twins):
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(twin.state_dict()[name], value, msg=name)


@pytest.mark.parametrize('momentum', [0.1, None])
def test_in_a_snapshot_statistics_neither_change_nor_stay_frozen(momentum):
    norm = nn.BatchNorm2d(3, momentum=momentum)
    x = torch.randn(4, 3, 5, 5)
    before = copy.deepcopy(norm.state_dict())
    snapshot = BufferSnapshot(nn.Sequential(norm))
    for _ in range(2):
        with pytest.raises(KeyError), snapshot:
            out = norm(x)
            raise KeyError
    assert torch.equal(norm.running_mean, before['running_mean'])
    assert torch.equal(norm.num_batches_tracked, before['num_batches_tracked'])
    torch.testing.assert_close(norm(x), out)
    assert norm.num_batches_tracked == 1 and norm.momentum == momentum


def test_what_is_recomputed_starts_from_the_buffers_of_the_snapshot():
    layer = nn.utils.spectral_norm(nn.Conv2d(3, 3, 3))  # each forward pass takes a step towards the norm
    x = torch.randn(4, 3, 5, 5)
    snapshot = BufferSnapshot(layer)
    first, second = layer(x), layer(x)
    for _ in range(2):
        with snapshot:
            assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def test_norms_that_share_statistics_are_updated_as_by_their_forward_passes():
    norm = nn.BatchNorm2d(3)
    twin = copy.deepcopy(norm)
    batches = torch.randn(2, 4, 3, 5, 5)
    norm(batches[1])
    norm(batches[0])  # branches are computed from the last to the first
    update_running_statistics([twin, twin], batches.mean((1, 3, 4)), batches.var((1, 3, 4)))
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value, msg=name)
