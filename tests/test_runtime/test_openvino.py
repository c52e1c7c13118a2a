"""OpenVINO's maker is not told that somebody uses it."""
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from mmone.export.formats import get_writer
from mmone.runtime import metadata
from mmone.runtime.openvino import untold
from tests.kit import environment

from .test_model import META, Tiny

pytest.importorskip('openvino')
PACKAGE = '''
from pathlib import Path
Path({told!r}).touch()
class Telemetry:
    def __init__(self, *args, **kwargs):
        pass
    def send_event(self, *args, **kwargs):
        pass
'''


def write(path):
    graph = Tiny().eval()
    graph.outputs = dict(boxes=(), labels=())
    get_writer('openvino').write(graph, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), (), False, json.dumps(META), path)
    metadata.seal(path)


def test_not_by_importing_it(tmp_path):
    """In a process that runs an exported model and nothing else."""
    write(tmp_path / 'model.xml')
    package = tmp_path / 'packages' / 'openvino_telemetry'
    (package / 'backend').mkdir(parents=True)
    (package / '__init__.py').write_text(PACKAGE.format(told=str(tmp_path / 'told')))
    (package / 'backend' / '__init__.py').write_text('')
    (package / 'backend' / 'backend_ga4.py').write_text('')
    env = environment()
    env['PYTHONPATH'] = f'{tmp_path / "packages"}:{env["PYTHONPATH"]}'

    def run(code):
        return subprocess.run([sys.executable, '-c', code, tmp_path / 'model.xml'], env=env, check=True)

    run('import sys; from mmone.runtime import Runtime; Runtime(sys.argv[1])')
    assert not (tmp_path / 'told').exists()
    run('import openvino')  # it is this package that would be told
    assert (tmp_path / 'told').exists()


def test_not_by_converting_where_it_was_imported_before(tmp_path, monkeypatch):
    import openvino.tools.ovc.convert_impl  # noqa: F401

    class Telling(types.ModuleType):
        def __getattr__(self, name):
            raise AssertionError(f'{name} was told')

    telling = Telling('openvino_telemetry')
    modules = [module for name, module in sys.modules.items()
               if name.startswith('openvino.tools.ovc') and hasattr(module, 'tm')]
    assert len(modules) > 1
    for module in modules:
        monkeypatch.setattr(module, 'tm', telling)
    monkeypatch.setitem(sys.modules, 'openvino_telemetry', telling)
    write(Path(tmp_path, 'model.xml'))
    assert all(module.tm is telling for module in modules) and sys.modules['openvino_telemetry'] is telling
    with pytest.raises(ZeroDivisionError), untold():
        assert sys.modules['openvino_telemetry'] is None
        raise ZeroDivisionError
    assert all(module.tm is telling for module in modules)
