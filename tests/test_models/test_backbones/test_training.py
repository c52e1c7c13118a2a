"""However a backbone is trained, it is the plain training: every pair of what may be chosen."""
import copy

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmone.models import MobileOne
from mmone.models.blocks.rivals import RIVALS
from tests.conftest import TINY
from tests.covering import covering

NORMS = {'BN': dict(type='BN'), 'average': dict(type='BN', momentum=None), 'SyncBN': dict(type='SyncBN'),
         'reverted SyncBN': dict(type='SyncBN'), 'frozen affine': dict(type='BN', requires_grad=False)}


def _deployed(model):
    model.switch_to_deploy()


def _deployed_in_part(model):
    for i, block in enumerate(model.blocks().values()):
        if i % 3 == 1:
            block.switch_to_deploy()


def _given_back(model):
    model.switch_to_deploy()
    model.switch_to_branches()


FORMS = {'branches': lambda model: None, 'deployed': _deployed, 'deployed in part': _deployed_in_part,
         'given back': _given_back}


def build(norm, form, **options):
    torch.manual_seed(0)
    model = MobileOne(TINY, norm_cfg=NORMS[norm], **options)
    model.init_weights()
    if norm == 'reverted SyncBN':
        model = revert_sync_batchnorm(model)
    model.double().train()
    FORMS[form](model)
    return model.train()


def steps(model):
    """Two real ones; the losses, and all that there is afterwards."""
    generator = torch.Generator().manual_seed(1)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    losses = []
    for _ in range(2):
        x = torch.randn(3, 3, 33, 32, dtype=torch.float64, generator=generator)
        loss = (model(x)[-1] - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, copy.deepcopy(model.state_dict())


CASES = [*covering(list(NORMS), list(FORMS), ['auto', 'separate', 'fused'], [-1, 0, 2], *[[False, True]] * 3),
         *((norm, 'branches', 'separate', -1, False, True, False) for norm in NORMS)]
# Their branches are not fused, and not given back.
OF_RIVALS = covering(list(RIVALS), list(NORMS), list(FORMS)[:2], [-1, 2], *[[False, True]] * 3)


@pytest.mark.filterwarnings("ignore:branch_mode='fused'")
@pytest.mark.parametrize('branches, norm, form, branch_mode, frozen_stages, norm_eval, with_cp, channels_last', [
    *(('mobileone', *case) for case in CASES), *((*case[:3], 'auto', *case[3:]) for case in OF_RIVALS)], ids=str)
def test_a_training_is_the_plain_one(branches, norm, form, branch_mode, frozen_stages, norm_eval, with_cp,
                                     channels_last):
    common = dict(frozen_stages=frozen_stages, norm_eval=norm_eval, branches=branches)
    plain = 'BN' if 'SyncBN' in norm else norm
    losses, state = steps(build(plain, form, branch_mode='separate', **common))
    model = build(norm, form, branch_mode=branch_mode, with_cp=with_cp, channels_last=channels_last, **common)
    found, found_state = steps(model)
    torch.testing.assert_close(found, losses, rtol=1e-9, atol=0)
    for name, value in state.items():
        torch.testing.assert_close(found_state[name], value, rtol=1e-7, atol=1e-9, msg=name)
    # Frozen is frozen, and only that.
    for stage in ('stage0', *model.stages)[:frozen_stages + 1]:
        assert not any(module.training for module in getattr(model, stage).modules())
    norms = [module for stage in ('stage0', *model.stages)[frozen_stages + 1:]
             for module in getattr(model, stage).modules() if hasattr(module, 'running_mean')]
    assert all(module.training != norm_eval for module in norms)


def test_blocks_switched_one_by_one_are_the_form_of_the_backbone():
    model = MobileOne(TINY, norm_eval=True)
    blocks = list(model.blocks().values())
    for block in blocks:
        assert not model.deploy
        block.switch_to_deploy()
        model.train()
        assert block.deploy
    assert model.deploy
    blocks[0].switch_to_branches(0.5, torch.Generator())
    assert not model.deploy and not blocks[0].deploy
    model.train()
    assert not any(norm.training for _, norm in blocks[0].branches())
    model.switch_to_deploy()
    assert model.deploy
    with pytest.raises(AttributeError):
        model.deploy = False  # it is what the blocks are, and nothing else


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('branches', ['mobileone', *RIVALS])
def test_a_whole_backbone_is_traced_by_fx(with_cp, branches):
    model = MobileOne(TINY, with_cp=with_cp, branches=branches).double().train()
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 33, 32, dtype=torch.float64)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x)[-1], twin(x)[-1])
    for buffer, expected in zip(model.buffers(), twin.buffers()):
        torch.testing.assert_close(buffer, expected)
