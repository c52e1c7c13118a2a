"""What changes the form of a network draws no global random numbers: a training beside it goes on as without it."""
import copy
import random

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmone.convert import deployed_copy, expand
from mmone.convert.calibrate import expand_for
from mmone.models import MobileOne
from tests.conftest import TINY

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def state():
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), keys.tolist(), rest, torch.get_rng_state().tolist()


ACTIONS = dict(
    switch_to_deploy=lambda trained, deployed: trained.switch_to_deploy(),
    deployed_copy=lambda trained, deployed: deployed_copy(trained),
    fold_while_loading=lambda trained, deployed: deployed.load_state_dict(trained.state_dict()),
    switch_to_branches=lambda trained, deployed: deployed.switch_to_branches(),
    expand=lambda trained, deployed: expand(deployed, [IMAGES]),
    expand_for=lambda trained, deployed: expand_for(
        Config(dict(model=dict(backbone=dict(type='mmone.MobileOne', strides=(2, 2, 2, 1))))), deployed, [IMAGES]))


@pytest.mark.parametrize('action', ACTIONS.values(), ids=ACTIONS)
def test_nothing_is_drawn_from_the_global_generators(action):
    trained, deployed = MobileOne(TINY), MobileOne(TINY, deploy=True)
    before = state()
    action(trained, deployed)
    assert state() == before


def test_branches_depend_on_their_own_seed_alone():
    deployed = MobileOne(TINY, deploy=True)

    def branches(seed, global_seed):
        torch.manual_seed(global_seed)
        model = copy.deepcopy(deployed)
        expand(model, [IMAGES], seed=seed)
        return model.stage2[0].branch_conv_list[0].conv.weight

    assert torch.equal(branches(0, 1), branches(0, 2))
    assert not torch.equal(branches(0, 1), branches(1, 1))
