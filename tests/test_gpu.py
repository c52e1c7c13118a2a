"""What a GPU changes: `pytest -m gpu` on a machine that has one. A part runs on any machine, to be known to run."""
import shutil
from contextlib import nullcontext

import pytest
import torch
from mmengine.device import get_device

from mmone.models import MobileOne

from .conftest import CUDA, TINY
from .covering import covering
from .kit import TASKS, run_command

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# How much farther than twice as far as separate branches a step may be from float64's: its loss, relatively, and the
# direction of all gradients (1 - cosine). A deep network that was not trained makes much of each rounding.
SLACK = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


def step(model, x, dtype):
    """Loss and gradients of a training step under autocast, in float64."""
    with torch.autocast(x.device.type, dtype) if dtype in (torch.float16, torch.bfloat16) else nullcontext():
        loss = sum((out.float() if x.dtype is torch.float32 else out).square().mean() for out in model(x))
    loss.backward()
    return loss.item(), torch.cat([p.grad.double().flatten() for p in model.parameters()])


def distances(found, expected):
    """From a step to that of float64: of the losses, relatively, and of the gradients, 1 - cosine."""
    return abs(found[0] / expected[0] - 1), 1 - torch.cosine_similarity(found[1], expected[1], 0).item()


def assert_steps_are_the_same(device, arch, dtype, branch_mode, **options):
    torch.manual_seed(0)
    exact = MobileOne(arch, branch_mode='separate', init_gamma=0.5)
    exact.init_weights()
    plain, model = MobileOne(arch, branch_mode='separate'), MobileOne(arch, branch_mode=branch_mode, **options)
    for other in (plain, model):
        other.load_state_dict(exact.state_dict())
    x = torch.randn(4, 3, 64, 64).to(device)
    expected = step(exact.double().to(device).train(), x.double(), torch.float64)
    allowed = distances(step(plain.to(device).train(), x, dtype), expected)
    for found, bound in zip(distances(step(model.to(device).train(), x, dtype), expected), allowed):
        assert found <= 2 * bound + SLACK[dtype]
    for buffer in model.buffers():
        assert buffer.isfinite().all()


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('branch_mode', ['separate', 'fused'])
def test_a_step_in_every_dtype(dtype, branch_mode):
    if dtype is torch.float16 and not hasattr(torch, 'get_autocast_dtype'):
        pytest.skip('PyTorch before 2.4 has no float16 on CPUs')
    assert_steps_are_the_same('cpu', TINY, dtype, branch_mode)


ARCHS = {**{name: name for name in ('s0', 's1', 's2', 's3', 's4')},
         'SE': dict(num_blocks=[2, 8, 10, 1], width_factor=[0.75, 1.0, 1.0, 2.0], num_conv_branches=[4, 4, 4, 4],
                    num_se_blocks=[1, 1, 5, 1])}


@pytest.mark.parametrize('device', [CUDA])
@pytest.mark.parametrize('arch, dtype, branch_mode, channels_last, with_cp', covering(
    list(ARCHS), DTYPES, ['auto', 'separate', 'fused'], [False, True], [False, True]), ids=str)
def test_a_step_of_every_variant(device, arch, dtype, branch_mode, channels_last, with_cp):
    assert_steps_are_the_same(device, ARCHS[arch], dtype, branch_mode, channels_last=channels_last, with_cp=with_cp)


RUN = '''
custom_hooks += [dict(type='EMAHook', momentum=0.1, update_buffers=True)]
model['backbone'].update(branch_mode='fused', channels_last=True)
train_cfg['max_epochs'] = {}
'''


@pytest.mark.parametrize('task, amp, device', [
    pytest.param('mmpretrain', (), 'cpu', marks=pytest.mark.slow),
    *(pytest.param(task, amp, *CUDA.values, marks=CUDA.marks)
      for task, amp in zip(TASKS, [(), ('--amp', ), ('--amp', '--cfg-options', 'optim_wrapper.dtype=bfloat16')]))])
def test_trained_resumed_deployed_tested_exported(config, tmp_path, monkeypatch, task, amp, device):
    """With an average of the weights, which is what ships."""
    monkeypatch.chdir(tmp_path)
    if device == 'cpu' and get_device() != 'cpu':
        pytest.skip('mmengine trains on the GPU that is here')

    def run(name, *args):
        done = run_command(name, *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    path = config(task, RUN.format(1))
    first = run('train', path, '--work-dir', 'run', *amp)
    assert ('memory:' in first) == (device == 'cuda')  # which mmengine logs of a GPU
    path = config(task, RUN.format(2))
    assert 'resumed epoch: 1' in run('train', path, '--work-dir', 'run', '--resume', *amp)
    shutil.move('run/epoch_2_deploy.pth', 'deployed.pth')
    run('test', path, 'deployed.pth', '--deploy')
    run('test', path, 'run/epoch_2.pth')
    run('export', path, 'deployed.pth', '--out', 'model.onnx')  # compares with PyTorch
