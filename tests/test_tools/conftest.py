import pytest
from kit import make_data, write_config
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('shapes'))


@pytest.fixture
def config(tmp_path, data):
    """Write the tiny config of a task into the test's folder."""

    def write(task, extra='', data=data):
        return write_config(tmp_path, task, data, extra)

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
