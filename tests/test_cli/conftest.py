import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import CheckpointLoader

from tests.kit import make_data, write_config


@pytest.fixture(scope='session')
def data(tmp_path_factory):
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
        init_default_scope(task)
        for head in ('decode_head', 'auxiliary_head', 'backbone'):
            if task == 'mmseg':
                cfg.model[head].norm_cfg = dict(type='BN')
        torch.save(dict(state_dict=moved(MODELS.build(cfg.model)).state_dict()), tmp_path / 'w.pth')
        return str(path), str(tmp_path / 'w.pth')

    return write


@pytest.fixture(autouse=True)
def _undo(monkeypatch, tmp_path):
    """What a tool changes in its process, it changes for the next test too."""
    monkeypatch.chdir(tmp_path)
    scopes = dict(DefaultScope._instance_dict)
    schemes = dict(CheckpointLoader._schemes)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)
    CheckpointLoader._schemes = schemes
