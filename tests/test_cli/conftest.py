import warnings

import pytest
from mmengine.registry import DefaultScope


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
