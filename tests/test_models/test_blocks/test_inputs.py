"""What a block is given, in every mode: the branches' result, or PyTorch's own error and nothing half done."""
import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmone.models.blocks import fused_branches
from mmone.models.blocks.mobileone_block import MobileOneBlock

from ...memory import LAYOUTS

pytestmark = pytest.mark.filterwarnings("ignore:branch_mode='fused'")
# One for each way to compute fused branches.
KINDS = {'depthwise': (3, 3, 8), 'depthwise 5×5': (5, 2, 8), 'pointwise': (1, 3, 1), 'one pass': (1, 1, 1),
         'dense': (3, 2, 1)}
MODES = ('separate', 'fused', 'auto')


def block_of(kind, moved, mode='fused', **options):
    kernel_size, num_convs, groups = KINDS[kind]
    return moved(MobileOneBlock(8, 8, kernel_size, num_convs, groups=groups, branch_mode=mode, **options)).train()


@pytest.fixture
def every(moved):
    """Blocks of one kind, the same in all modes."""

    def make(kind, **options):
        first = block_of(kind, moved, **options)
        blocks = {mode: copy.deepcopy(first) for mode in MODES}
        for mode, block in blocks.items():
            block.branch_mode = mode
        return blocks

    return make


def outcome(block, x):
    """What a block makes of an input: its error, or its output."""
    try:
        return block(x)
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
        return error


def buffers(block):
    return {name: buffer.clone() for name, buffer in block.named_buffers()}


def assert_same_buffers(block, expected):
    for name, buffer in block.named_buffers():
        torch.testing.assert_close(buffer, expected[name], rtol=1e-5, atol=1e-6, msg=name)


REFUSED = {
    'more channels': torch.randn(2, 64, 28, 28), 'fewer channels': torch.randn(2, 4, 8, 8),
    'no channels': torch.randn(2, 0, 8, 8), 'two dimensions': torch.randn(8, 8), 'five': torch.randn(1, 2, 8, 8, 8),
    'float64': torch.randn(2, 8, 8, 8).double(), 'bfloat16': torch.randn(2, 8, 8, 8).bfloat16(),
    'float16': torch.randn(2, 8, 8, 8).half(), 'integers': torch.zeros(2, 8, 8, 8, dtype=torch.int64),
    'bytes': torch.zeros(2, 8, 8, 8, dtype=torch.uint8), 'bools': torch.zeros(2, 8, 8, 8, dtype=torch.bool),
    'complex': torch.randn(2, 8, 8, 8, dtype=torch.complex64),
    'no rows': torch.randn(2, 8, 0, 8), 'sparse': torch.randn(2, 8, 8, 8).to_sparse(),
    'quantized': torch.quantize_per_tensor(torch.randn(2, 8, 8, 8), 0.1, 0, torch.quint8),
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('x', REFUSED.values(), ids=REFUSED)
def test_what_a_convolution_refuses_is_refused_by_its_error(x, kind, moved):
    block = block_of(kind, moved)
    before = buffers(block)
    with pytest.raises((RuntimeError, NotImplementedError)) as expected:
        block.branch_conv_list[0].conv(x)
    with pytest.raises(type(expected.value)) as found:
        block(x)
    assert str(found.value) == str(expected.value)
    assert_same_buffers(block, before)


@pytest.mark.parametrize('kind', KINDS)
def test_an_input_on_another_device_is_for_pytorch_to_refuse(kind, every):
    found = [outcome(block, torch.empty(2, 8, 8, 8, device='meta')) for block in every(kind).values()]
    assert len({(type(one), str(one)) for one in found}) == 1 and isinstance(found[0], RuntimeError)


@pytest.mark.parametrize('kind', KINDS)
def test_a_single_image_is_refused_by_the_norms_error(kind, every):
    for block in every(kind).values():
        with pytest.raises(ValueError, match=r'expected 4D input \(got 3D input\)'):
            block(torch.randn(8, 8, 8))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('stride, dilation', [(0, 1), (-1, 1), (1, 0), (1, -1)])
def test_geometries_that_a_convolution_refuses(stride, dilation, kind, moved):
    if KINDS[kind][0] == 1 and dilation != 1:
        pytest.skip('1×1 convolutions have no dilation')
    block = block_of(kind, moved, stride=stride, dilation=dilation)
    x = torch.randn(2, 8, 8, 8)
    with pytest.raises((RuntimeError, ValueError)) as expected:
        block.branch_conv_list[0].conv(x)
    with pytest.raises(type(expected.value)) as found:
        block(x)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(0, 8, 16, 16), (0, 8, 1, 1)], ids=str)
def test_an_empty_batch_leaves_statistics_alone(size, kind, every):
    blocks = every(kind)
    before = buffers(blocks['separate'])
    found = {mode: outcome(block, torch.zeros(size).requires_grad_()) for mode, block in blocks.items()}
    for mode, out in found.items():
        assert out.shape == size, mode
        out.sum().backward()
        for name, buffer in blocks[mode].named_buffers():
            # A batch of none is counted, and averaged into nothing.
            assert torch.equal(buffer, before[name] + name.endswith('num_batches_tracked')), (mode, name)


# All that PyTorch takes: in the same memory, the same values.
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_in_memory(layout, kind, every):
    values = torch.randn(3, 8, 6, 7, generator=torch.Generator().manual_seed(2))
    factors = torch.randn(3, 8, 6, 7, generator=torch.Generator().manual_seed(3))
    found = {}
    for mode, block in every(kind).items():
        x = LAYOUTS[layout](values).requires_grad_()
        out = block(x)
        out.backward(LAYOUTS[layout](factors))
        found[mode] = [out, x.grad, *(parameter.grad for parameter in block.parameters()), *block.buffers()]
    for mode in MODES:
        torch.testing.assert_close(found[mode], found['separate'], rtol=1e-3, atol=1e-3)


class Subclass(torch.Tensor):
    pass


class Counted(TorchDispatchMode):
    """Sees every operator that PyTorch computes."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen = getattr(self, 'seen', 0) + 1
        return function(*args, **(kwargs or {}))


# What PyTorch computes, and fused branches must not.
ASIDE = {
    'subclass': lambda x: x.as_subclass(Subclass), 'negated lazily': lambda x: torch._neg_view(-x),
    'zeros of no memory': lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype),
    'expanded to nothing': lambda x: x[:0].expand(0, -1, -1, -1),
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('change', ASIDE.values(), ids=ASIDE)
def test_what_is_out_of_the_ordinary_goes_the_separate_way(change, kind, every, monkeypatch):
    def fail(*args):
        raise AssertionError('fused')

    monkeypatch.setattr(fused_branches, 'fused_convolution', fail)
    blocks = every(kind)
    found = {mode: block(change(torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(2))))
             for mode, block in blocks.items()}
    for mode, block in blocks.items():
        torch.testing.assert_close(found[mode], found['separate'], rtol=0, atol=0)
        assert_same_buffers(block, buffers(blocks['separate']))


@pytest.mark.parametrize('kind', KINDS)
def test_a_dispatch_mode_sees_every_operator(kind, every):
    x, seen = torch.randn(2, 8, 6, 6), {}
    for mode, block in every(kind).items():
        with Counted() as counted:
            block(x)
        seen[mode] = counted.seen
    assert len(set(seen.values())) == 1


def test_parameters_of_other_dtypes(every):
    # float32 norms beside bfloat16 are PyTorch's own mixture; others are its errors.
    x = torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = {}
    for mode, block in every('depthwise').items():
        for part in block.modules():
            if isinstance(part, nn.Conv2d):
                part.to(torch.bfloat16)
        found[mode] = block(x)
    torch.testing.assert_close(found['fused'], found['separate'], rtol=0.05, atol=0.1)
    assert found['fused'].dtype == torch.bfloat16
    errors = {}
    for mode, block in every('depthwise').items():
        block.branch_norm.double()
        errors[mode] = outcome(block, torch.randn(4, 8, 6, 6))
    assert len({str(error) for error in errors.values()}) == 1 and isinstance(errors['fused'], RuntimeError)


def test_norms_of_other_shapes_are_refused_by_pytorch(every):
    # Pruned by hand, badly: one value would broadcast.
    errors = {}
    for mode, block in every('depthwise').items():
        norm = block.branch_conv_list[1].norm
        norm.weight, norm.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
        errors[mode] = outcome(block, torch.randn(4, 8, 6, 6))
    assert len({str(error) for error in errors.values()}) == 1 and isinstance(errors['fused'], RuntimeError)


def test_autocast_takes_what_it_casts(every):
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for mode, block in every('depthwise').items():
            with torch.autocast('cpu', dtype=torch.bfloat16):
                found[mode] = outcome(block, torch.ones(2, 8, 6, 6, dtype=dtype).cumsum(3))
        if dtype == torch.float64:
            assert isinstance(found['separate'], RuntimeError) and isinstance(found['fused'], RuntimeError)
        else:
            torch.testing.assert_close(found['fused'].float(), found['separate'].float(), rtol=0.05, atol=0.1)


def test_not_a_number_is_not_hidden(every):
    x = torch.randn(2, 8, 6, 6)
    x[0, 0, 0, 0], x[0, 1, 2, 2] = float('nan'), float('inf')
    for kind in KINDS:
        for mode, block in every(kind).items():
            block(x)
            for norm in (block.branch_norm, block.branch_conv_list[0].norm):
                assert not norm.running_var[:2].isfinite().any(), (kind, mode)
                assert not norm.running_mean[:2].isfinite().any(), (kind, mode)


def test_gradients_that_are_no_ordinary_tensors(every):
    # Batches of them, negations and zeros that are not written down.
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    ways = {
        'batched': dict(is_grads_batched=True, grad_outputs=torch.randn(3, 2, 8, 6, 6, dtype=torch.float64)),
        'negated': dict(grad_outputs=torch._neg_view(torch.randn(2, 8, 6, 6, dtype=torch.float64))),
        'zeros': dict(grad_outputs=torch._efficientzerotensor(x.shape, dtype=torch.float64)),
        'expanded': dict(grad_outputs=torch.ones((), dtype=torch.float64).expand_as(x)),
    }
    for kind in KINDS:
        for way in ways.values():
            found = {}
            for mode, block in every(kind, act_cfg=dict(type='ReLU')).items():
                block.double()
                given = x.contiguous(memory_format=torch.channels_last).requires_grad_()
                found[mode] = torch.autograd.grad(block(given), [given, *block.parameters()], **way)
            torch.testing.assert_close(found['fused'], found['separate'], rtol=1e-8, atol=1e-8)
