"""What fusing or folding would overlook: branches are separate then, and nothing is lost."""
import copy
import io
import warnings

import pytest
import torch
import torch.autograd.forward_ad as fwad
from torch import nn
from torch.ao.nn.qat import Conv2d as QATConv2d
from torch.ao.quantization import fuse_modules_qat, get_default_qat_qconfig, prepare_qat
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as global_hooks
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mmone import InputError
from mmone.models.blocks import fused_branches
from mmone.models.blocks.mobileone_block import MobileOneBlock

from .test_fused_branches import distances, trained


def make(mode='fused', dtype=torch.float64, **options):
    """A depthwise block with every kind of branch; the same weights each time."""
    torch.manual_seed(0)
    block = MobileOneBlock(**dict(dict(
        in_channels=4, out_channels=4, kernel_size=3, num_convs=2, groups=4, branch_mode=mode), **options))
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0.5, 0.3)
    block.act = nn.Tanh()
    return block.to(dtype).train()


def images(dtype=torch.float64):
    return torch.randn(3, 4, 7, 6, dtype=dtype, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def fused(monkeypatch):
    """Which blocks were fused, by their number of kernels."""
    calls = []
    real = fused_branches.fused_convolution
    monkeypatch.setattr(fused_branches, 'fused_convolution',
                        lambda x, weights, *rest: calls.append(len(weights)) or real(x, weights, *rest))
    return calls


def conv_of(block):
    return block.branch_conv_list[1].conv


class Adapted(nn.Conv2d):
    """What an adapter (LoRA) makes of a convolution."""

    def forward(self, x):
        return super().forward(x) * 2 + 1


class OtherNorm(nn.BatchNorm2d):

    def forward(self, x):
        return super().forward(x) * 2


def subclass(block):
    conv = conv_of(block)
    block.branch_conv_list[1].conv = Adapted(4, 4, 3, padding=1, groups=4, bias=False).to(conv.weight.dtype)
    block.branch_conv_list[1].conv.weight = conv.weight


class Double(nn.Module):

    def forward(self, weight):
        return 2 * weight


def qat(block):
    conv = conv_of(block)
    conv.qconfig = get_default_qat_qconfig('x86')
    block.branch_conv_list[1].conv = QATConv2d.from_float(conv)


def qat_of_a_whole_branch(block):
    fuse_modules_qat(block, [['branch_conv_list.1.conv', 'branch_conv_list.1.norm']], inplace=True)
    block.qconfig = get_default_qat_qconfig('x86')
    prepare_qat(block, inplace=True)
    block.apply(torch.ao.quantization.disable_observer)


def other_norm(block, norm):
    norm.weight.data.fill_(0.7)
    block.branch_conv_list[0].norm = norm.to(conv_of(block).weight.dtype)


def replaced(name, module):
    def change(block):
        setattr(block, name, copy.deepcopy(module).to(conv_of(block).weight.dtype))
    return change


def set_on(path, **values):
    def change(block):
        for name, value in values.items():
            setattr(block.get_submodule(path), name, value)
    return change


def hook(path, register, function):
    return lambda block: getattr(block.get_submodule(path), register)(function)


def patched(block):
    conv = conv_of(block)
    forward = conv.forward
    conv.forward = lambda x: forward(x) * 3


def prunable(block):
    prune.l1_unstructured(conv_of(block), 'weight', 0.5)


CHANGES = {
    'convolution subclass': subclass,
    'parametrization': lambda block: parametrize.register_parametrization(conv_of(block), 'weight', Double()),
    'weight_norm': lambda block: parametrizations.weight_norm(conv_of(block)),
    'weight_norm by hooks': lambda block: nn.utils.weight_norm(conv_of(block)),
    'spectral_norm': lambda block: parametrizations.spectral_norm(conv_of(block)),
    'spectral_norm by hooks': lambda block: nn.utils.spectral_norm(conv_of(block)),
    'parametrized norm': lambda block: parametrize.register_parametrization(block.branch_norm, 'weight', Double()),
    'pruned': prunable,
    'quantization-aware': qat,
    'quantization-aware branch': qat_of_a_whole_branch,
    'hook on a convolution': hook('branch_scale.conv', 'register_forward_hook', lambda _, args, out: out * 2),
    'hook on a norm': hook('branch_conv_list.0.norm', 'register_forward_hook', lambda _, args, out: out * 2),
    'hook on a branch': hook('branch_conv_list.0', 'register_forward_hook', lambda _, args, out: out * 2),
    'hook on the skip branch': hook('branch_norm', 'register_forward_hook', lambda _, args, out: out * 2),
    'pre hook': hook('branch_conv_list.0.conv', 'register_forward_pre_hook', lambda _, args: (args[0] * 2, )),
    'backward hook': hook('branch_scale.norm', 'register_full_backward_hook', lambda _, grads, outs: (grads[0] * 2, )),
    'backward pre hook': hook('branch_norm', 'register_full_backward_pre_hook', lambda _, outs: (outs[0] * 2, )),
    'other forward': patched,
    'no running statistics': set_on('branch_scale.norm', track_running_stats=False),
    'norm without running statistics':
        lambda block: other_norm(block, nn.BatchNorm2d(4, track_running_stats=False)),
    'norm in eval mode': lambda block: block.branch_norm.eval(),
    'norm of another eps': set_on('branch_norm', eps=1e-2),
    'norm subclass': lambda block: other_norm(block, OtherNorm(4)),
    'group norm': lambda block: other_norm(block, nn.GroupNorm(2, 4)),
    'norm without affine parameters': replaced('branch_norm', nn.BatchNorm2d(4, affine=False)),
    'identity for a norm': replaced('branch_norm', nn.Identity()),
    'other branch': replaced('branch_scale', nn.AvgPool2d(3, 1, 1)),
    'branch of three layers': lambda block: block.branch_scale.add_module('more', nn.Tanh()),
    'padding_mode': replaced('branch_scale', nn.Conv2d(4, 4, 3, padding=1, padding_mode='reflect')),
    'padding': set_on('branch_conv_list.1.conv', padding=(2, 2), dilation=(2, 2)),
    'reflected padding': set_on('branch_conv_list.1.conv', padding_mode='reflect',
                                _reversed_padding_repeated_twice=[1] * 4),
    'bias': lambda block: setattr(conv_of(block), 'bias', nn.Parameter(torch.full((4, ), 2., dtype=torch.float64))),
}


@pytest.mark.parametrize('name', CHANGES)
def test_what_is_changed_in_a_branch_counts(name, fused):
    dtype = torch.float32 if 'quantization' in name else torch.float64  # which alone is quantized
    separate, block = make('separate', dtype), make('fused', dtype)
    for each in (separate, block):
        torch.manual_seed(1)
        CHANGES[name](each)
    expected = trained(separate, images(dtype))
    with pytest.warns(UserWarning, match=r"^branch_mode='fused', but branches are computed separately: branch_\S+ \S"):
        found = trained(block, images(dtype))
    assert not fused
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, msg=key)
    # It does change something.
    plain = trained(make(dtype=dtype), images(dtype))
    assert fused
    assert name == 'norm in eval mode' or any(
        key not in plain or not torch.equal(plain[key], value) for key, value in expected.items())


def test_auto_steps_aside_silently(fused, monkeypatch):
    monkeypatch.setattr(fused_branches, 'is_faster', lambda x, spec: True)
    block = make('auto')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        block(images())
        assert fused.pop()
        block.branch_scale.conv.register_forward_hook(lambda *args: None)
        block(images())
    assert not fused


def test_the_warning_is_given_once_for_all_blocks():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        for _ in range(3):
            block = make()
            block.branch_norm.eval()
            block(images())
    assert len(caught) == 1 and '\n' not in str(caught[0].message)


def share_a_convolution(block):
    block.branch_conv_list[1].conv = block.branch_conv_list[0].conv


def share_a_weight(block):
    block.branch_conv_list[1].conv.weight = block.branch_conv_list[0].conv.weight


def share_a_norm(block):
    block.branch_norm = block.branch_scale.norm


def freeze_some(block):
    for i, parameter in enumerate(block.parameters()):
        parameter.requires_grad_(i % 2 == 0)


def views_of_one_memory(block):
    flat = torch.cat([parameter.detach().flatten() for parameter in block.parameters()])
    for parameter in block.parameters():
        parameter.data, flat = flat[:parameter.numel()].view(parameter.shape), flat[parameter.numel():]


@pytest.mark.parametrize('change', [share_a_convolution, share_a_weight, share_a_norm, freeze_some,
                                    views_of_one_memory], ids=lambda change: change.__name__)
@pytest.mark.parametrize('shape', [dict(), dict(kernel_size=1, groups=1, num_convs=2)], ids=['depthwise', 'pointwise'])
def test_parameters_that_are_shared_frozen_or_views_are_fused(change, shape, fused):
    if shape and change is share_a_norm:
        pytest.skip('there is no scale branch')
    separate, block = make('separate', **shape), make(**shape)
    for each in (separate, block):
        change(each)
        each(images()).square().sum().backward()
    assert fused
    for (name, parameter), expected in zip(block.named_parameters(), separate.parameters()):
        assert (parameter.grad is None) == (expected.grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-9, atol=1e-9, msg=name)
    for buffer, expected in zip(block.buffers(), separate.buffers()):
        torch.testing.assert_close(buffer, expected)


def test_what_hooks_and_replaces_the_activation_counts(fused):
    seen = []

    class Twice(nn.ReLU):

        def forward(self, x):
            return 2 * super().forward(x)

    for shape in (dict(), dict(kernel_size=1, groups=1, num_convs=1)):
        block = make(dtype=torch.float32, **shape)
        block.act = nn.ReLU(inplace=True)
        x = images(torch.float32).contiguous(memory_format=torch.channels_last)
        expected = block(x)
        assert fused
        block.act.register_forward_hook(lambda *args: seen.append(1))
        torch.testing.assert_close(block(x), expected)
        assert seen
        block.act = Twice(inplace=True)
        torch.testing.assert_close(block(x), 2 * expected)


def test_copies_and_pickles_are_fused_as_well(fused):
    block = make()
    expected = trained(block, images())
    file = io.BytesIO()
    torch.save(make(), file)
    file.seek(0)
    fused.clear()
    for other in (copy.deepcopy(make()), torch.load(file, weights_only=False)):
        assert max(distances(trained(other, images()), expected).values()) < 1e-12
    assert len(fused) == 2
    assert copy.deepcopy(block).state_dict().keys() == block.state_dict().keys()  # after a step, too


# What sees or differentiates PyTorch's operators


class Doubled(TorchFunctionMode):
    """What a mode may do: replace an operator."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        return 2 * out if function is nn.functional.batch_norm else out


def under_a_mode(block, x):
    with Doubled():
        return block(x).detach()


def under_a_dispatch_mode(block, x):
    with FlopCounterMode(display=False) as counter:
        block(x)
    return torch.tensor(counter.get_total_flops())


def under_a_hook_on_all_modules(block, x):
    def double(module, args, out):
        return 2 * out if isinstance(module, nn.Conv2d) else None

    handle = global_hooks.register_module_forward_hook(double)
    try:
        return block(x).detach()
    finally:
        handle.remove()


def forward_mode(block, x):
    with fwad.dual_level():
        return fwad.unpack_dual(block(fwad.make_dual(x, torch.ones_like(x)))).tangent


def state(block):
    return dict(block.named_parameters()), {name: value.clone() for name, value in block.named_buffers()}


def func_grad(block, x):
    parameters, buffers = state(block)
    grads = torch.func.grad(lambda p, b: functional_call(block, (p, b), (x, )).square().sum())(parameters, buffers)
    return torch.cat([grad.flatten() for grad in grads.values()])


def func_jvp(block, x):
    return torch.func.jvp(lambda x: functional_call(block, state(block), (x, )), (x, ), (torch.ones_like(x), ))[1]


def func_vmap(block, x):
    """Several models at once, which have no statistics to update in common."""
    parameters, buffers = state(block)
    several = {name: torch.stack([value.detach(), 2 * value.detach()]) for name, value in parameters.items()}
    buffers = {name: torch.stack([value, value]) for name, value in buffers.items()}
    return torch.func.vmap(lambda p, b: functional_call(block, (p, b), (x, )))(several, buffers)


def func_hessian(block, x):
    return torch.func.hessian(lambda x: functional_call(block, state(block), (x, )).square().sum())(x[:2, :, :2, :2])


def a_subclass(block, x):
    class Tagged(torch.Tensor):
        pass

    out = block(x.as_subclass(Tagged))
    assert type(out) is Tagged
    return out.detach().as_subclass(torch.Tensor)


def traced(block, x):
    graph = torch.jit.trace(block, x, check_trace=False)
    return graph(x + 1).detach()


def traced_by_make_fx(block, x):
    return make_fx(lambda x: functional_call(block, state(block), (x, )))(x)(x + 1).detach()


def traced_by_fx(block, x):
    return torch.fx.symbolic_trace(block)(x + 1).detach()


def exported(block, x):
    if not hasattr(torch.export, 'export') or not hasattr(torch.compiler, 'is_exporting'):
        pytest.skip('PyTorch 2.7 and later export what trains')
    return torch.export.export(block, (x, ), strict=False).module()(x + 1).detach()


WATCHED = [under_a_mode, under_a_dispatch_mode, under_a_hook_on_all_modules, forward_mode, func_grad, func_jvp,
           func_vmap, func_hessian, a_subclass, traced, traced_by_make_fx, traced_by_fx, exported]


@pytest.mark.parametrize('with_cp', [False, True], ids=['', 'with_cp'])
@pytest.mark.parametrize('see', WATCHED, ids=lambda function: function.__name__)
def test_what_sees_the_operators_sees_the_branches(see, with_cp, fused):
    separate, block = make('separate'), make(with_cp=with_cp)
    expected = see(separate, images())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        found = see(block, images())
    assert not fused
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert see is exported or any("branch_mode='fused', but" in str(warning.message) for warning in caught)
    for buffer, other in zip(block.buffers(), separate.buffers()):
        torch.testing.assert_close(buffer, other)


def test_a_default_device_is_no_mode_that_sees_operators(fused):
    with torch.device('cpu'):
        make()(images())
    assert fused


def test_a_functional_call_alone_is_fused(fused):
    separate, block = make('separate'), make()
    x = images()
    outs = [functional_call(each, state(each), (x, )) for each in (separate, block)]
    assert fused
    torch.testing.assert_close(*outs)


SHAPES = {'depthwise': dict(num_convs=1), 'dense': dict(kernel_size=3, groups=1, out_channels=2, num_convs=1),
          'pointwise': dict(kernel_size=1, groups=1, num_convs=2),
          'one pass': dict(kernel_size=1, groups=1, num_convs=1)}


@pytest.mark.parametrize('with_cp', [False, True], ids=['', 'with_cp'])
@pytest.mark.parametrize('shape', SHAPES)
def test_gradients_of_gradients(shape, with_cp, fused):
    block = make(**SHAPES[shape], with_cp=with_cp)
    x = images()[:2, :, :3, :3].contiguous(memory_format=torch.channels_last).requires_grad_()
    parameters = [parameter.detach().requires_grad_() for parameter in block.parameters()]
    names = [name for name, _ in block.named_parameters()]

    def function(x, *values):
        return functional_call(block, dict(zip(names, values)), (x, ))

    assert gradcheck(function, (x, *parameters))
    assert gradgradcheck(function, (x, *parameters), atol=1e-4)
    assert fused


@pytest.mark.parametrize('shape', SHAPES)
def test_a_gradient_penalty_trains_as_with_separate_branches(shape):
    grads = []
    for mode in ('separate', 'fused'):
        block = make(mode, **SHAPES[shape])
        block.act = nn.ReLU()
        x = images().contiguous(memory_format=torch.channels_last).requires_grad_()
        out = block(x)
        grad, = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        (out.sum() + grad.square().sum()).backward()
        grads.append([x.grad, *(parameter.grad for parameter in block.parameters())])
    for found, expected in zip(*grads):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_a_second_backward_pass_through_a_checkpoint():
    grads = []
    for with_cp in (False, True):
        block = make(with_cp=with_cp)
        x = images().requires_grad_()
        out = block(x).square().sum()
        out.backward(retain_graph=True)
        out.backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


# Folding


@pytest.mark.parametrize('name, words', [
    ('convolution subclass', r'branch_conv_list\.1\.conv is a Adapted'),
    ('pruned', r'branch_conv_list\.1\.conv computes its weight in a hook.*prune\.remove'),
    ('weight_norm by hooks', 'remove_weight_norm'),
    ('quantization-aware', 'branch_conv_list.1.conv is a'),
    ('other branch', 'branch_scale is a AvgPool2d'),
    ('identity for a norm', 'branch_norm is a Identity without running statistics'),
    ('group norm', r'branch_conv_list\.0\.norm is a GroupNorm'),
    ('padding', r'branch_conv_list\.1\.conv has another'),
    ('bias', r'branch_conv_list\.1\.conv has another.* bias')])
def test_what_cannot_be_folded_is_named(name, words):
    block = make()
    CHANGES[name](block)
    before = block.state_dict()
    with pytest.raises(InputError, match=f'^the branches cannot be folded: .*{words}'):
        block.switch_to_deploy()
    assert not block.deploy and block.state_dict().keys() == before.keys()


@pytest.mark.parametrize('name', ['parametrization', 'weight_norm', 'norm of another eps'])
def test_what_can_be_folded_is(name):
    block = make()
    CHANGES[name](block)
    trained(block, images())
    expected = block.eval()(images())
    block.switch_to_deploy()
    torch.testing.assert_close(block(images()), expected, rtol=1e-9, atol=1e-9)
