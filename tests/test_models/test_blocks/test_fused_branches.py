"""Fused branches are the branches: outputs, gradients and running statistics, in training."""
import copy
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.registry import MODELS
from torch import nn

from mmone import InputError
from mmone.models import MobileOne
from mmone.models.blocks import branch_statistics, compiled, fused_branches
from mmone.models.blocks.mobileone_block import MobileOneBlock

from ...conftest import CUDA
from ...covering import covering

FORMATS = [torch.contiguous_format, torch.channels_last]
WAYS = ['compiled', 'PyTorch alone']
# Of the largest value of a kind: outputs, gradients of the input, gradients of all parameters.
EXACT = 1e-9


def twins(block, moved, dtype=torch.float64):
    """The block with every parameter moved, separate and fused, with an activation that has no kink."""
    block = moved(block).to(dtype).train()
    block.act = nn.Tanh()
    block.branch_mode = 'separate'
    twin = copy.deepcopy(block)
    twin.branch_mode = 'fused'
    return block, twin


def trained(module, x, seed=1):
    """What one forward and backward pass leaves: name -> tensor."""
    x = x.detach().requires_grad_()
    out = module(x)
    outs = out if isinstance(out, tuple) else (out, )
    generator = torch.Generator().manual_seed(seed)
    sum((out * torch.randn(out.shape, generator=generator).to(out)).sum() for out in outs).backward()
    left = {f'output {i}': out.detach() for i, out in enumerate(outs)}
    left['input'] = x.grad
    left |= {f'gradient of {name}': parameter.grad for name, parameter in module.named_parameters()}
    left |= {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}
    return {name: value.clone() for name, value in left.items()}


def distances(found, expected):
    """Name -> relative difference of everything that :func:`trained` gives."""
    assert found.keys() == expected.keys()
    scale = max(value.abs().max() for name, value in expected.items() if name.startswith('gradient'))
    return {name: ((found[name].double() - value.double()).abs().max()
                   / (scale if name.startswith('gradient') else value.abs().max()).double().clamp(min=1e-30)).item()
            for name, value in expected.items()}


@pytest.fixture(params=WAYS)
def ways(request, monkeypatch):
    """With the compiled module, and without it."""
    if request.param == 'compiled':
        assert compiled._ext is not None, 'the compiled module was not built'
    else:
        monkeypatch.setattr(compiled, '_ext', None)


def normal(*shape, memory_format=torch.contiguous_format, mean=0.5):
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=memory_format) + mean


def assert_exact(block, x, moved):
    separate, fused = twins(block, moved)
    assert max(distances(trained(fused, x), trained(separate, x)).values()) < EXACT


# Channels: less than a vector of them, one, and more.
@pytest.mark.parametrize('channels, k, stride, dilation, size, memory_format, ways', covering(
    [5, 16, 37], [1, 4], [1, 2], [1, 2, 4], [(9, 12), (7, 7), (1, 5), (2, 2)], FORMATS, WAYS),
    ids=str, indirect=['ways'])
def test_depthwise_equals_branches(channels, k, stride, dilation, size, memory_format, moved, ways):
    block = MobileOneBlock(channels, channels, 3, k, stride, dilation=dilation, groups=channels)
    assert_exact(block, normal(3, channels, *size, memory_format=memory_format), moved)


@pytest.mark.parametrize('shape, k, stride, dilation, size, memory_format', [
    *covering([(3, 8, 3), (8, 8, 3), (8, 8, 1), (8, 12, 1)], [1, 4], [1, 2], [1, 2], [(9, 12), (7, 7), (1, 5)],
              FORMATS),
    ((8, 8, 1), 1, 2, 1, (9, 12), torch.channels_last)], ids=str)  # its stride alone keeps it from one pass
def test_dense_equals_branches(shape, k, stride, dilation, size, memory_format, moved):
    block = MobileOneBlock(*shape, k, stride, dilation=dilation)
    assert_exact(block, normal(3, shape[0], *size, memory_format=memory_format), moved)


@pytest.mark.parametrize('kernel_size, groups, scale_and_skip, ways', covering(
    [3, 5], [1, 6], [(True, True), (True, False), (False, True), (False, False)], WAYS), ids=str, indirect=['ways'])
def test_every_set_of_branches(kernel_size, groups, scale_and_skip, moved, ways):
    use_scale, use_skip = scale_and_skip
    block = MobileOneBlock(6, 6, kernel_size, 2, groups=groups, use_scale=use_scale, use_skip=use_skip)
    assert_exact(block, normal(2, 6, 8, 7, mean=0), moved)


def test_large_matrices_equal_branches(moved):
    # Their products are taken as convolutions, and their positions in several parts.
    x = torch.rand(9, 160, 40, 40, dtype=torch.float64)
    assert x.numel() > branch_statistics.CHUNK and 160**2 > branch_statistics.LARGE
    assert_exact(MobileOneBlock(160, 144, 1, 4), x, moved)


@pytest.mark.parametrize('shape, act, size', covering(
    [(8, 8), (8, 12), (1, 1), (1, 3), (37, 37), (400, 24)], ['ReLU', 'Tanh', 'SE'], [(9, 12), (1, 1), (17, 16)]),
    ids=str)
def test_one_pass_equals_branches(shape, act, size, moved, monkeypatch):
    calls = []
    real = fused_branches.NormalizedConvolution.apply
    monkeypatch.setattr(fused_branches.NormalizedConvolution, 'apply', lambda *args: calls.append(1) or real(*args))
    separate, fused = twins(MobileOneBlock(*shape, 1, 1, se_cfg=dict() if act == 'SE' else None), moved)
    if act != 'Tanh':
        separate.act, fused.act = nn.ReLU(), nn.ReLU(inplace=True)
    x = normal(3, shape[0], *size, memory_format=torch.channels_last)
    assert max(distances(trained(fused, x), trained(separate, x)).values()) < EXACT
    assert calls
    # An input that needs no gradient, such as an image; and the expanded gradient that a mean passes on.
    for block in (separate, fused):
        block.zero_grad()
        block(x).mean().backward()
    for found, expected in zip(fused.parameters(), separate.parameters()):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-12)


def test_one_pass_is_for_what_its_c_code_is_for(monkeypatch):
    x = torch.empty(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    spec = branch_statistics.BranchSpec(1, 1, 1, 1, 1, True, 1e-5)

    def taken(x=x, **changed):
        return fused_branches.is_one_pass(x, spec._replace(**changed))

    assert taken() and taken(x.double()) and taken(skip=False)
    assert not any(taken(**{name: 2}) for name in ('kernel_size', 'stride', 'groups', 'num_convs'))
    assert not taken(x.contiguous()) and not taken(x.bfloat16()) and not taken(x.to('meta'))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert not taken()
    monkeypatch.setattr(compiled, '_ext', None)
    assert not taken()


def test_the_same_numbers_each_time():
    # Whichever thread finishes first.
    model = MobileOne('s1', channels_last=True, branch_mode='fused').train()
    x = torch.randn(4, 3, 96, 96)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first, second = (trained(copy.deepcopy(model), x) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def assert_networks_exact(arch, x, **options):
    model = MobileOne(arch, branch_mode='separate', **options)
    model.init_weights()
    model.double().train()
    twin = MobileOne(arch, branch_mode='fused', **options).double().train()
    assert model.state_dict().keys() == twin.state_dict().keys()
    twin.load_state_dict(model.state_dict())
    assert max(distances(trained(twin, x), trained(model, x)).values()) < EXACT


# S1 to S3 differ from S0, with up to four convolution branches, and from S4, with SE, in widths only.
@pytest.mark.parametrize('arch, memory_format, ways', covering(['s0', 's4'], FORMATS, WAYS), ids=str, indirect=['ways'])
def test_networks_equal_branches(arch, memory_format, ways):
    assert_networks_exact(arch, normal(2, 3, 65, 64, memory_format=memory_format, mean=0))


@pytest.mark.parametrize('strides, dilations', [((2, 2, 2, 1), (1, 1, 1, 2)),
                                                ((2, 2, 1, 1), (1, 1, 2, 4))], ids=['d16', 'd8'])
def test_dilated_networks_equal_branches(strides, dilations):
    assert_networks_exact('s0', normal(2, 3, 64, 65, mean=0), strides=strides, dilations=dilations,
                          out_indices=(0, 2, 3))


def rounding(block, x, moved, run=lambda function, *args: function(*args)):
    """How far separate and fused float32 are from float64 branches: name -> (separate, fused)."""
    separate, fused = twins(block, moved, torch.float32)
    exact = trained(copy.deepcopy(separate).double(), x.double())
    errors = [distances(run(trained, module, x), exact) for module in (separate, fused)]
    return {name: tuple(error[name] for error in errors) for name in exact}


BLOCKS = {
    'stem': dict(in_channels=3, out_channels=24, kernel_size=3, num_convs=1, stride=2),
    'depthwise': dict(in_channels=24, out_channels=24, kernel_size=3, num_convs=4, groups=24),
    'depthwise, stride 2': dict(in_channels=24, out_channels=24, kernel_size=3, num_convs=1, stride=2, groups=24),
    'pointwise': dict(in_channels=24, out_channels=24, kernel_size=1, num_convs=4),
    'pointwise, no skip': dict(in_channels=24, out_channels=40, kernel_size=1, num_convs=4),
    'single pointwise': dict(in_channels=24, out_channels=24, kernel_size=1, num_convs=1),
    'single pointwise, no skip': dict(in_channels=24, out_channels=40, kernel_size=1, num_convs=1),
}


@pytest.mark.parametrize('block, mean, ways', covering(list(BLOCKS), [0.5, 1000], WAYS), ids=str, indirect=['ways'])
def test_rounding_is_at_most_twice_that_of_the_branches(block, mean, moved, ways):
    block = MobileOneBlock(**BLOCKS[block])
    x = (torch.randn(8, block.in_channels, 32, 32) + mean).contiguous(memory_format=torch.channels_last)
    both = rounding(block, x, moved)
    # The worst of each kind: single values are lucky in one mode or the other.
    for kind in ('output', 'input', 'gradient', 'running_mean', 'running_var'):
        worst = [max(pair[i] for name, pair in both.items() if kind in name) for i in range(2)]
        assert worst[1] <= 2 * worst[0] + 1e-6, kind


@pytest.mark.parametrize('block, mean, ways', covering(list(BLOCKS), [0, 'one channel is 3', 30, 1000], WAYS), ids=str,
                         indirect=['ways'])
def test_rounding_of_bfloat16_is_at_most_twice_that_of_the_branches(block, mean, moved, ways):
    if isinstance(mean, str) and torch.backends.cpu.get_cpu_capability() in ('DEFAULT', 'AVX2'):
        pytest.skip('this processor does not compute in bfloat16: PyTorch adds up otherwise, and more is left of what '
                    'cancels')
    block = MobileOneBlock(**BLOCKS[block])
    x = torch.randn(8, block.in_channels, 32, 32)
    if isinstance(mean, str):
        x[:, 0] = 3  # constant, of which the branches' norms leave nothing: kernel and bias are large, and cancel
    else:
        x += mean
    x = x.bfloat16().float()  # as autocast rounds it

    def run(function, *args):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            return function(*args)

    both = rounding(block, x, moved, run)
    for kind in ('output', 'input', 'gradient', 'running_mean', 'running_var'):
        worst = [max(pair[i] for name, pair in both.items() if kind in name) for i in range(2)]
        assert worst[1] <= 2 * worst[0] + (2**-8 if isinstance(mean, str) else 0), kind
    # Statistics are float32's, whatever autocast computes in.
    assert max(pair[1] for name, pair in both.items() if 'running' in name) < 1e-5


def test_half_precision_parameters(moved, ways):
    separate, fused = twins(MobileOneBlock(8, 8, 3, 2, groups=8), moved, torch.bfloat16)
    x = torch.randn(4, 8, 16, 16).bfloat16()
    out = fused(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, separate(x), rtol=0.05, atol=0.1)
    assert fused.branch_norm.running_var.dtype == torch.bfloat16


def test_dead_and_constant_channels(moved, ways):
    separate, fused = twins(MobileOneBlock(4, 4, 3, 2, groups=4), moved)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    x[:, 0], x[:, 1] = 0, 3
    for name, distance in distances(trained(fused, x), trained(separate, x)).items():
        assert distance < 1e-7, name


# What a training does with a model


def _train(model, steps=3):
    """Real steps; the losses."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = (model(torch.randn(4, 3, 64, 64, dtype=torch.float64))[-1] - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


OPTIONS = {
    'plain': {}, 'with_cp': dict(with_cp=True), 'frozen_stages': dict(frozen_stages=1),
    'with_cp, channels_last': dict(with_cp=True, channels_last=True),
    'norm_eval': dict(norm_eval=True), 'channels_last': dict(channels_last=True),
    'cumulative average': dict(norm_cfg=dict(type='BN', momentum=None)),
    'frozen affine': dict(norm_cfg=dict(type='BN', requires_grad=False)),
    'SyncBN alone': dict(norm_cfg=dict(type='SyncBN')),
}
TINY = dict(num_blocks=(1, 2, 1, 1), width_factor=(0.25, 0.25, 0.25, 0.125), num_conv_branches=(3, 2, 1, 2),
            num_se_blocks=(0, 1, 0, 0))


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_trainings_are_the_same(options):
    torch.manual_seed(0)
    model = MobileOne(TINY, branch_mode='separate', **options)
    model.init_weights()
    twin = MobileOne(TINY, branch_mode='fused', **options)
    twin.load_state_dict(model.state_dict())
    averaged = copy.deepcopy(twin)  # what an EMA is made of
    model.double().train()
    twin.double().train()
    torch.testing.assert_close(_train(twin), _train(model), rtol=1e-9, atol=0)
    for (name, value), expected in zip(twin.state_dict().items(), model.state_dict().values()):
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9, msg=name)
    assert averaged.state_dict().keys() == twin.state_dict().keys()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(twin.eval()(x)[-1], model.eval()(x)[-1])


def test_mode_may_change_at_a_resume():
    torch.manual_seed(0)
    model = MobileOne(TINY, branch_mode='separate').double().train()
    through = copy.deepcopy(model)
    expected = _train(model, 2) + _train(model, 2)
    first = _train(through, 2)
    resumed = MobileOne(TINY, branch_mode='fused').double().train()
    resumed.load_state_dict(through.state_dict())
    torch.testing.assert_close(first + _train(resumed, 2), expected, rtol=1e-8, atol=0)


def test_gradients_do_not_share_memory():
    block = MobileOneBlock(4, 4, 3, 3, groups=4, branch_mode='fused').train()
    block(torch.randn(2, 4, 5, 5)).sum().backward()
    memory = {}
    for name, parameter in block.named_parameters():
        start = parameter.grad.data_ptr()
        for other, (first, last) in memory.items():
            assert start >= last or start + parameter.grad.numel() * 4 <= first, (name, other)
        memory[name] = start, start + parameter.grad.numel() * 4


@pytest.mark.parametrize('shape', [(8, 8, 1, 1), (8, 8, 3, 8)], ids=str)
def test_one_value_a_channel_is_batch_norms_own_error(shape):
    messages = []
    for mode in ('separate', 'fused'):
        block = MobileOneBlock(*shape[:3], 2, groups=shape[3], branch_mode=mode).train()
        before = copy.deepcopy(block.state_dict())
        with pytest.raises(ValueError) as error:
            block(torch.randn(1, 8, 1, 1))
        messages.append(str(error.value))
        if mode == 'fused':  # nothing half done
            assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert messages[0] == messages[1]


def test_evaluation_and_other_norms_are_separate(monkeypatch):
    def fail(*args):
        raise AssertionError('fused')

    monkeypatch.setattr('mmone.models.blocks.fused_branches.fused_convolution', fail)
    x = torch.randn(2, 8, 8, 8)
    block = MobileOneBlock(8, 8, 3, 2, groups=8, branch_mode='fused')
    block.eval()(x)
    block.train().branch_norm.eval()
    block(x)
    block.train().branch_norm.eps = 1e-3
    block(x)
    block.branch_norm.eps = 1e-5

    class Norm(nn.BatchNorm2d):

        def forward(self, x):
            return super().forward(x) * 2

    MODELS.register_module('FusedTestNorm', module=Norm)
    try:
        MobileOneBlock(8, 8, 3, 2, groups=8, norm_cfg=dict(type='FusedTestNorm'), branch_mode='fused').train()(x)
    finally:
        MODELS._module_dict.pop('FusedTestNorm')
    with pytest.raises(AssertionError, match='fused'):
        block.train()(x)


def test_auto_takes_what_was_measured_to_be_faster(monkeypatch):
    calls = []
    real = fused_branches.fused_convolution
    monkeypatch.setattr('mmone.models.blocks.fused_branches.fused_convolution',
                        lambda x, weights, *rest: calls.append(len(weights)) or real(x, weights, *rest))

    def fuses(block, *size, permuted=False):
        calls.clear()
        x = torch.randn(*size)
        block.train()(x.permute(0, 3, 1, 2) if permuted else x)
        return bool(calls)

    assert fuses(MobileOneBlock(16, 16, 3, 4, groups=16), 4, 16, 28, 28)
    assert fuses(MobileOneBlock(16, 16, 3, 1, groups=16), 4, 16, 28, 28)
    assert fuses(MobileOneBlock(16, 16, 1, 4), 4, 16, 28, 28)
    assert not fuses(MobileOneBlock(16, 16, 3, 1, stride=2, groups=16), 4, 16, 64, 64)  # to be converted first
    assert not fuses(MobileOneBlock(16, 16, 1, 1), 4, 16, 28, 28)
    assert fuses(MobileOneBlock(16, 16, 1, 1), 4, 64, 64, 16, permuted=True)
    assert not fuses(MobileOneBlock(16, 16, 1, 1), 4, 28, 28, 16, permuted=True)
    assert not fuses(MobileOneBlock(64, 64, 1, 4), 2, 64, 2, 2)  # Σ costs more than what it saves
    assert not fuses(MobileOneBlock(3, 8, 3, 1, stride=2), 2, 3, 32, 32)
    assert fuses(MobileOneBlock(3, 8, 3, 1, stride=2), 5, 3, 256, 256)
    monkeypatch.setattr(compiled, '_ext', None)
    assert not fuses(MobileOneBlock(16, 16, 3, 4, groups=16), 4, 16, 28, 28)
    assert fuses(MobileOneBlock(16, 16, 3, 4, groups=16), 16, 16, 28, 28)
    spec = branch_statistics.BranchSpec(3, 1, 1, 16, 4, True, 1e-5)
    assert not fused_branches.is_faster(torch.empty(64, 16, 56, 56, device='meta'), spec)  # not measured there


def test_unknown_modes_and_groups_that_do_not_fuse_are_named():
    with pytest.raises(InputError, match="branch_mode must be one of auto, separate, fused, got 'fast'"):
        MobileOne('s0', branch_mode='fast')
    with pytest.raises(InputError, match='2 groups of 8 channels.*branch_mode=.auto'):
        MobileOneBlock(8, 8, 3, 2, groups=2, branch_mode='fused')
    MobileOneBlock(8, 8, 3, 2, groups=2).train()(torch.randn(2, 8, 4, 4))


# Several processes


def _block(mode, norm='BN', **options):
    torch.manual_seed(0)
    options.update(norm_cfg=dict(type=norm), branch_mode=mode)
    block = nn.Sequential(
        MobileOneBlock(3, 8, 3, 1, stride=2, **options),
        MobileOneBlock(8, 8, 3, 3, groups=8, **options),
        MobileOneBlock(8, 8, 1, 3, **options),
        MobileOneBlock(8, 8, 1, 1, **options)).double().train()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    for module in block[:-1]:
        module.act = nn.Tanh()
    return block.to(memory_format=torch.channels_last)


IMAGES = [2, 3]  # of each process
# Images of each process and how they are trained on. On a CPU 'auto' fuses what is synchronized, whatever its size.
SYNCHRONIZED = [(IMAGES, 'fused', {}), (IMAGES, 'auto', dict(with_cp=True)), ([5, 0], 'fused', {}),
                ([0, 5], 'auto', dict(with_cp=True))]


def _process(rank, folder, device):
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)
    backend, device = ('gloo', 'cpu') if device == 'cpu' else ('nccl', f'cuda:{rank}')
    dist.init_process_group(backend, init_method=f'file://{folder}/store', rank=rank, world_size=len(IMAGES))
    _in_process(rank, folder, device)
    _no_values_and_one_value(rank, device)
    # Nothing holds the group by now: if DistributedDataParallel were the last to let go of it, it would wait for gloo's
    # threads while it holds the GIL, which they may need to free a tensor.
    dist.destroy_process_group()


def _in_process(rank, folder, device):
    x, factors = (torch.load(f'{folder}/{name}.pth').to(device) for name in ('x', 'factors'))
    found = []
    for images, mode, options in SYNCHRONIZED:
        block, own = _block(mode, 'SyncBN', **options).to(device), x.split(images)[rank].clone().requires_grad_()
        out = block(own)
        (out * factors.split(images)[rank]).sum().backward()
        # PyTorch's synchronized norm has None for the parameters of a process with an empty batch.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in block.parameters()]
        found.append(dict(out=out.detach(), input=own.grad, parameters=grads, buffers=list(block.buffers())))
    parallel = nn.parallel.DistributedDataParallel(_block('fused').to(device))
    (parallel(x.split(IMAGES)[rank]) * factors.split(IMAGES)[rank]).sum().backward()
    torch.save(dict(synchronized=found, parallel=[p.grad for p in parallel.parameters()]), f'{folder}/{rank}.pth')


def _no_values_and_one_value(rank, device):
    """What all processes have is no statistics, or none that normalize: nothing is counted."""
    block = MobileOneBlock(8, 8, 1, 2, norm_cfg=dict(type='SyncBN'), branch_mode='fused').to(device).train()
    before = copy.deepcopy(block.state_dict())
    assert block(torch.zeros(0, 8, 1, 1, device=device)).shape == (0, 8, 1, 1)
    with pytest.raises(ValueError, match='Expected more than 1 value per channel when training'):
        block(torch.zeros(rank, 8, 1, 1, device=device))
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('device', ['cpu', CUDA])
def test_several_processes(tmp_path, device):
    if device == 'cuda' and torch.cuda.device_count() < len(IMAGES):
        pytest.skip(f'there are no {len(IMAGES)} GPUs')
    # Synchronized: BatchNorm over all of the batch. nn.SyncBatchNorm is defined by it, and runs on GPUs only.
    torch.manual_seed(1)
    x = torch.randn(sum(IMAGES), 3, 12, 12, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    factors = torch.randn(sum(IMAGES), 8, 6, 6, dtype=torch.float64)
    torch.save(x, tmp_path / 'x.pth')
    torch.save(factors, tmp_path / 'factors.pth')
    mp.spawn(_process, (str(tmp_path), device), nprocs=len(IMAGES))
    found = [torch.load(tmp_path / f'{rank}.pth', map_location='cpu') for rank in range(len(IMAGES))]

    block = _block('separate')
    x.requires_grad_()
    out = block(x)
    (out * factors).sum().backward()
    for parts in zip(*(part['synchronized'] for part in found)):
        torch.testing.assert_close(torch.cat([part['out'] for part in parts]), out.detach(), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(torch.cat([part['input'] for part in parts]), x.grad, rtol=1e-9, atol=1e-10)
        for *grads, parameter in zip(*(part['parameters'] for part in parts), block.parameters()):
            torch.testing.assert_close(sum(grads), parameter.grad, rtol=1e-9, atol=1e-9)
        for part in parts:
            for buffer, expected in zip(part['buffers'], block.buffers()):
                torch.testing.assert_close(buffer, expected, rtol=1e-9, atol=1e-10)

    # Data parallel, each process with its own statistics: the mean of what each would have.
    parts = [_block('separate') for _ in IMAGES]
    for part, own, own_factors in zip(parts, x.detach().split(IMAGES), factors.split(IMAGES)):
        (part(own) * own_factors).sum().backward()
    for grad, *parameters in zip(found[0]['parallel'], *(part.parameters() for part in parts)):
        torch.testing.assert_close(grad, sum(p.grad for p in parameters) / len(parts), rtol=1e-9, atol=1e-9)
