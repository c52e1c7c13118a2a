import copy

import pytest
import torch
from torch import nn

from mmone.models.blocks.running_statistics import frozen_running_statistics, update_running_statistics


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


def test_frozen_statistics_neither_change_nor_stay_frozen():
    norms = [nn.BatchNorm2d(3), nn.BatchNorm2d(3, momentum=None)]
    x = torch.randn(4, 3, 5, 5)
    before = copy.deepcopy([norm.state_dict() for norm in norms])
    with pytest.raises(KeyError), frozen_running_statistics(norms):
        outs = [norm(x) for norm in norms]
        raise KeyError
    for norm, state, out in zip(norms, before, outs):
        assert torch.equal(norm.running_mean, state['running_mean'])
        assert torch.equal(norm.num_batches_tracked, state['num_batches_tracked'])
        torch.testing.assert_close(norm(x), out)
        assert norm.num_batches_tracked == 1
    assert [norm.momentum for norm in norms] == [0.1, None]
