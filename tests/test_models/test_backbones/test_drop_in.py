"""A config of mmpretrain's MobileOne means the same here: both classes side by side."""
import inspect
from importlib.resources import files

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models.backbones.mobileone import MobileOne as TheirMobileOne
from mmpretrain.models.backbones.mobileone import MobileOneBlock as TheirBlock
from mmpretrain.models.utils import SELayer as TheirSELayer
from mmpretrain.registry import MODELS

from mmone.models import MobileOne, MobileOneBlock
from mmone.models.blocks import SELayer
from tests.conftest import TINY


def both(*args, **kwargs):
    """Their backbone and ours of one set of arguments, with the same weights, in float64 and eval mode."""
    theirs, ours = TheirMobileOne(*args, **kwargs), MobileOne(*args, **kwargs)
    # Stages after the last of out_indices are not built here.
    names = ours.state_dict().keys()
    weights = {key: value for key, value in theirs.state_dict().items() if key in names}
    ours.load_state_dict(weights, strict=True)
    for model in (theirs, ours):
        model.double().eval()  # theirs returns None
    return theirs, ours


@pytest.mark.parametrize('ours, theirs', [
    (MobileOne, TheirMobileOne), (MobileOneBlock, TheirBlock), (SELayer, TheirSELayer)])
def test_their_arguments_come_first_and_in_their_order(ours, theirs):
    names = list(inspect.signature(theirs).parameters)
    assert list(inspect.signature(ours).parameters)[:len(names)] == names


@pytest.mark.parametrize('variant', ['s0', 's4'])
def test_a_config_changes_its_type_and_nothing_else(variant):
    config = files('mmpretrain') / f'.mim/configs/mobileone/mobileone-{variant}_8xb32_in1k.py'
    cfg = Config.fromfile(str(config)).model
    theirs = MODELS.build(cfg).double().eval()
    cfg.backbone.type = 'mmone.MobileOne'
    ours = MODELS.build(cfg).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('arch', ['s0', 's4', TINY], ids=['s0', 's4', 'dict'])
class TestSameNetwork:

    @pytest.mark.parametrize('deploy', [False, True])
    def test_same_names_and_shapes(self, arch, deploy):
        with torch.device('meta'):
            theirs, ours = (kind(arch, deploy=deploy).state_dict() for kind in (TheirMobileOne, MobileOne))
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}

    @pytest.mark.parametrize('mode', ['train', 'eval', 'deployed'])
    def test_same_outputs_gradients_and_statistics(self, arch, mode, moved):
        theirs = moved(TheirMobileOne(arch, out_indices=(0, 1, 2, 3))).double()
        ours = MobileOne(arch, out_indices=(0, 1, 2, 3)).double()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        for model in (theirs, ours):
            model.train(mode == 'train')
            if mode == 'deployed':
                model.switch_to_deploy()
        inputs = [torch.randn(2, 3, 35, 39, dtype=torch.float64, requires_grad=True)]
        inputs.append(inputs[0].detach().clone().requires_grad_())
        outs = [model(x) for model, x in zip((theirs, ours), inputs)]
        for a, b in zip(*outs, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)
        for out in outs:
            sum(o.square().mean() for o in out).backward()
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-6, atol=1e-12)
        if mode != 'deployed':  # mmpretrain detaches its deployed parameters
            expected = dict(theirs.named_parameters())
            for name, parameter in ours.named_parameters():
                torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-6, atol=1e-9, msg=name)
        if mode == 'train':
            found = ours.state_dict()
            for name, value in theirs.state_dict().items():
                torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize('out_indices', [None, 0, 3, -1, (0, ), (1, 3), [3, 0], (-1, -4), range(4), (2, 2)], ids=str)
def test_same_out_indices(out_indices):
    theirs, ours = both(TINY, **({} if out_indices is None else dict(out_indices=out_indices)))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected, outs = theirs(x), ours(x)
    assert len(outs) == len(expected) > 0
    for out, other in zip(outs, expected):
        torch.testing.assert_close(out, other, rtol=1e-9, atol=1e-9)


def states(model):
    """What training leaves alone: parameters without gradients and modules in eval mode, by name."""
    model.train()
    return ({name for name, parameter in model.named_parameters() if not parameter.requires_grad},
            {name for name, module in model.named_modules()
             if any(True for _ in module.parameters(recurse=False)) and not module.training})


@pytest.mark.parametrize('kwargs', [
    *(dict(frozen_stages=i) for i in range(-1, 5)), dict(norm_eval=True), dict(frozen_stages=1, norm_eval=True),
    dict(norm_cfg=dict(type='BN', requires_grad=False))], ids=str)
def test_same_frozen_stages_and_norms_in_eval_mode(kwargs):
    theirs, ours = both(TINY, **kwargs)
    assert states(ours) == states(theirs)


@pytest.mark.parametrize('kwargs', [
    dict(in_channels=4), dict(act_cfg=dict(type='LeakyReLU', negative_slope=0.2)), dict(conv_cfg=None),
    dict(conv_cfg=dict(type='Conv2d')), dict(norm_cfg=dict(type='BN', eps=0.1)),
    *(dict(se_cfg=cfg) for cfg in [
        dict(ratio=4), dict(ratio=4, divisor=1), dict(squeeze_channels=5), dict(divisor=16),
        dict(act_cfg=(dict(type='GELU'), dict(type='HSigmoid'))), dict(act_cfg=dict(type='Sigmoid')),
        dict(bias=False)])], ids=str)
def test_same_arguments(kwargs):
    theirs, ours = both(TINY, **kwargs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(1, kwargs.get('in_channels', 3), 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-9, atol=1e-9)


def test_same_arguments_by_position():
    args = (TINY, 4, (1, 3), 1, None, dict(type='BN', eps=0.1), dict(type='GELU'), dict(ratio=4), False, True,
            dict(type='Kaiming', layer='Conv2d'))
    theirs, ours = both(*args)
    x = torch.randn(1, 4, 64, 64, dtype=torch.float64)
    for out, other in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(out, other, rtol=1e-9, atol=1e-9)
    assert states(ours) == states(theirs)
    assert ours.init_cfg == theirs.init_cfg


@pytest.mark.parametrize('arch', ['s0', 's1', 's2', 's3', 's4'])
def test_same_arch(arch):
    theirs = TheirMobileOne.arch_zoo[arch]
    assert MobileOne(arch, out_indices='stem').arch == {key: tuple(values) for key, values in theirs.items()}


def test_stages_are_named_as_theirs():
    theirs, ours = both(TINY)
    assert ours.stages == theirs.stages


@pytest.mark.parametrize('args, kwargs', [
    ((6, 8, 3, 2), {}),
    ((6, 6, 3, 1, 2, 1, 1, 6), {}),
    ((6, 6, 3, 2), dict(padding=2, dilation=2, groups=6)),
    ((6, 6, 1, 3), dict(padding=0, se_cfg=dict(ratio=2, divisor=1))),
    ((6, 6, 3, 2), dict(deploy=True, act_cfg=dict(type='GELU'))),
    ((6, 6, 3, 2, 1, 1, 1, 1, None, None, dict(type='BN', eps=0.1), dict(type='Tanh'), False, None), {}),
], ids=str)
def test_same_blocks(args, kwargs):
    theirs, ours = TheirBlock(*args, **kwargs).double().eval(), MobileOneBlock(*args, **kwargs).double().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    for name in ('branch_conv_list', 'branch_scale', 'branch_norm', 'branch_reparam'):
        assert hasattr(ours, name) == hasattr(theirs, name), name
        assert (getattr(ours, name, None) is None) == (getattr(theirs, name, None) is None), name
    for name in ('in_channels', 'out_channels', 'kernel_size', 'stride', 'dilation', 'groups', 'se_cfg', 'deploy'):
        assert getattr(ours, name) == getattr(theirs, name), name
    for block in (theirs, ours):
        block.switch_to_deploy()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize('kwargs', [
    {}, dict(ratio=2, divisor=1), dict(squeeze_channels=3), dict(return_weight=True), dict(ratio=1, divisor=32),
    dict(ratio=3, divisor=8)], ids=str)
def test_same_se_layers(kwargs):
    theirs, ours = TheirSELayer(40, **kwargs), SELayer(40, **kwargs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 40, 5, 4)
    assert torch.equal(ours(x), theirs(x))
