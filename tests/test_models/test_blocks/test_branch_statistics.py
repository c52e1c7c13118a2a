import torch

from mmone.models.blocks import compiled
from mmone.models.blocks.branch_statistics import (
    BranchSpec,
    Covariance,
    DepthwiseCovariance,
    Direct,
    statistics_method,
)


def test_method_is_by_groups_kernel_and_what_is_compiled(monkeypatch):
    x = torch.empty(1, 8, 4, 4)
    spec = BranchSpec(3, 1, 1, 8, 2, True, 1e-5)
    assert statistics_method(x, spec) is DepthwiseCovariance
    assert statistics_method(x, spec._replace(groups=1)) is Covariance
    assert statistics_method(x, spec._replace(kernel_size=5)) is Direct
    monkeypatch.setattr(compiled, '_ext', None)
    assert statistics_method(x, spec) is Direct
