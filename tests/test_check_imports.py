"""The import contract finds what breaks it."""
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location('check_imports', ROOT / 'tools' / 'check_imports.py')
check_imports = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_imports)


def test_the_package_keeps_the_contract():
    assert list(check_imports.problems(ROOT / 'mmone')) == []


@pytest.mark.parametrize('file, line, problem', [
    ('config.py', 'from mmone.apis import predict', 'config (floor 2) imports mmone.apis.predict (floor 6)'),
    ('config.py', 'from .apis import predict', 'config (floor 2) imports mmone.apis.predict (floor 6)'),
    ('models/blocks/x.py', 'from ...engine import train', 'models (floor 4) imports mmone.engine.train (floor 6)'),
    ('models/x.py', 'def f():\n    import mmone.engine', 'models (floor 4) imports mmone.engine (floor 6)'),
    ('runtime/x.py', 'import torch', 'runtime does without torch'),
    ('models/x.py', 'from mmdet.models import X', 'models does without mmdet'),
    ('cli/x.py', 'import numpy', 'cli does without numpy'),
    ('export/x.py', 'def f():\n    import scipy', 'scipy is imported inside a function'),
    ('attic/x.py', '', 'the room attic is on no floor'),
])
def test_breaches_are_named(tmp_path, file, line, problem):
    path = tmp_path / 'mmone' / file
    path.parent.mkdir(parents=True)
    path.write_text(line + '\n')
    assert any(problem in found for found in check_imports.problems(tmp_path / 'mmone'))
