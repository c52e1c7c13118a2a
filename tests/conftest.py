"""What every test file needs."""
import gc
import logging
from collections import OrderedDict

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import ManagerMixin, digit_version

from mmone import libraries
from mmone.config import build_model
from tests.kit import make_data, write_config

# A MobileOne of 64 channels that has every kind of part.
TINY = dict(num_blocks=[1, 2, 1, 1], width_factor=[0.25, 0.25, 0.125, 0.125], num_conv_branches=[2, 3, 1, 2],
            num_se_blocks=[0, 1, 0, 1])

not_the_fork = pytest.mark.skipif(libraries._has_fork(), reason='the maintained fork has it otherwise')

not_the_lowest_torch = pytest.mark.skipif(digit_version(torch.__version__) < digit_version('2.2'),
                                          reason='PyTorch 2.1 itself cannot')

CUDA = pytest.param('cuda', marks=[
    pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')])


def pytest_collection_finish():
    """What is imported by now stays: mmengine collects garbage at each data set, and need not look through that."""
    gc.collect()
    gc.freeze()


def _with_subclasses(cls):
    yield cls
    for subclass in cls.__subclasses__():
        yield from _with_subclasses(subclass)


@pytest.fixture(autouse=True)
def _seeded_and_quiet():
    """The same random numbers for every test, no page of initialization logs on a failure, and
    nothing global left behind by another test's runner: its visualizer, which hooks would take for
    their own, or its logger, which a run of the same name in the same second would write to."""
    torch.manual_seed(0)
    for kind in _with_subclasses(ManagerMixin):
        kind._instance_dict.clear()
    MMLogger.get_current_instance().setLevel(logging.WARNING)


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """The images that the tiny configs read."""
    return make_data(tmp_path_factory.mktemp('shapes'))


@pytest.fixture
def config(tmp_path, data):
    """Write the tiny config of a task into the test's folder."""

    def write(task, extra='', data=data):
        return write_config(tmp_path, task, data, extra)

    return write


@pytest.fixture
def trained(config, tmp_path, moved):
    """Write config and checkpoint of a task's model in training form; return their paths."""

    def write(task, extra=''):
        path = config(task, extra + ("model['bbox_head']['init_cfg'] = None\n" if task == 'mmdet' else ''))
        cfg = Config.fromfile(path)
        for head in ('decode_head', 'auxiliary_head', 'backbone'):
            if task == 'mmseg':
                cfg.model[head].norm_cfg = dict(type='BN')
        torch.save(dict(state_dict=moved(build_model(cfg)).state_dict()), tmp_path / 'w.pth')
        return str(path), str(tmp_path / 'w.pth')

    return write


@pytest.fixture
def stock_loaders(monkeypatch):
    """mmengine's checkpoint loaders as they are without mmone; what is registered ends with the test."""
    loaders = OrderedDict((prefix, unwrapped(loader)) for prefix, loader in CheckpointLoader._schemes.items())
    monkeypatch.setattr(CheckpointLoader, '_schemes', OrderedDict(loaders))
    return loaders


@pytest.fixture
def moved():
    """Give a model's BatchNorms the non-trivial state that training would have left."""

    def move(model):
        generator = torch.Generator().manual_seed(1)

        def uniform(like, low, high):
            with torch.no_grad():
                like.copy_(torch.rand(like.shape, generator=generator) * (high - low) + low)

        for module in model.modules():
            if getattr(module, 'running_mean', None) is not None:
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.5, 2.0)
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.5, 0.5)
        return model

    return move


def relative_difference(a, b):
    """Largest difference relative to the largest magnitude of ``b``; NaN stays NaN."""
    return ((a - b).abs().max() / b.abs().max()).item()


def unwrapped(loader):
    """A loader of mmengine's checkpoints as it was registered, if mmone has wrapped it."""
    return getattr(loader, '__wrapped__', loader)
