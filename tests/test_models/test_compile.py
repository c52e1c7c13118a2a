"""torch.compile and torch.export of what trains."""
import copy

import pytest
import torch
from torch import nn

from mmone.models import MobileOne, MobileOneBlock
from mmone.models.blocks.fused_branches import TRACEABLE

from ..conftest import CUDA, TINY, not_the_lowest_torch
from .test_blocks.test_fused_branches import EXACT, distances, trained

# The stem and one stage: depthwise and pointwise blocks, with skip branches and without, with SE.
ARCH = dict(TINY, num_blocks=[2, 1, 1, 1], num_se_blocks=[1, 0, 0, 0])


@pytest.fixture(autouse=True)
def _forgotten():
    """Dynamo keeps what it has traced, and gives up on code that it has traced too often."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def is_eager(model, x, **options):
    expected = trained(copy.deepcopy(model), x)
    found = trained(torch.compile(model, **options), x)
    return distances({name.replace('_orig_mod.', ''): value for name, value in found.items()}, expected)


@pytest.mark.parametrize('branch_mode, with_cp', [
    ('fused', False), *(pytest.param(mode, True, marks=not_the_lowest_torch) for mode in ('fused', 'auto'))])
def test_a_compiled_step_is_the_eager_one(branch_mode, with_cp):
    model = MobileOne(ARCH, out_indices=(0, ), branch_mode=branch_mode, with_cp=with_cp).double().train()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    assert max(is_eager(model, x, backend='aot_eager', fullgraph=TRACEABLE).values()) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize('device', ['cpu', CUDA])
def test_a_step_compiled_by_inductor_is_the_eager_one(device):
    # Each kind of statistics and of recomputing once: Inductor takes ten seconds for a block.
    model = nn.Sequential(
        MobileOneBlock(8, 8, 3, 2, groups=8, branch_mode='fused'),
        MobileOneBlock(8, 8, 1, 2, branch_mode='auto', with_cp=True),
        MobileOneBlock(8, 8, 1, 2, branch_mode='fused', with_cp=True)).train()
    for block in model:
        block.act = nn.Tanh()
    from torch._inductor import config
    # In this process: Inductor's pool of processes has no place in one that runs tests.
    with config.patch(compile_threads=1):
        found = is_eager(model.to(device), torch.randn(4, 8, 8, 8, device=device), fullgraph=TRACEABLE)
    assert max(found.values()) < 1e-4


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_exporting'), reason='PyTorch before 2.7 exports what evaluates')
@pytest.mark.filterwarnings("ignore:branch_mode='fused'")
@pytest.mark.parametrize('branch_mode, with_cp, strict', [('auto', False, False), ('fused', True, False),
                                                          ('fused', False, True), ('auto', True, True)])
def test_an_exported_training_form_is_the_eager_one(branch_mode, with_cp, strict):
    model = MobileOne(ARCH, out_indices=(0, ), branch_mode=branch_mode, with_cp=with_cp).double().train()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    exported = torch.export.export(copy.deepcopy(model), (x, ), strict=strict).module()
    expected, found = trained(model, x), trained(exported, x)
    assert max(distances({name: found[name] for name in expected}, expected).values()) < EXACT
