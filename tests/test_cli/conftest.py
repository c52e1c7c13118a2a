import warnings

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

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
        for head in ('decode_head', 'auxiliary_head', 'backbone'):
            if task == 'mmseg':
                cfg.model[head].norm_cfg = dict(type='BN')
        with DefaultScope.overwrite_default_scope(task):
            model = moved(MODELS.build(cfg.model))
        torch.save(dict(state_dict=model.state_dict()), tmp_path / 'w.pth')
        return str(path), str(tmp_path / 'w.pth')

    return write


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    """What a command changes in its process ends with it."""
    scope, show = DefaultScope.get_current_instance(), warnings.showwarning
    yield
    assert DefaultScope.get_current_instance() is scope
    assert warnings.showwarning is show
