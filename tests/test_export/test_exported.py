"""An exported file in place of a model."""
import subprocess
import sys

import pytest

from mmone.export import export_model
from mmone.registry import MODELS

from .conftest import ROOT

FIND = '''
import sys
from mmengine.registry import MODELS
print(MODELS.get('mmone.ExportedModel'))
found = [name for name in sys.modules if name.startswith('mmone.export')]
assert sorted(found) == ['mmone.export', 'mmone.export.exported'], found
'''


def test_it_is_found_by_its_name_without_the_exporters():
    done = subprocess.run([sys.executable, '-c', FIND], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'mmone.export.exported.ExportedModel' in done.stdout


def test_it_says_what_it_is_and_is_not_trained(model_of, tmp_path):
    exported = tmp_path / 'model.onnx'
    export_model(model_of('classification'), exported, shape=(32, 32))
    model = MODELS.build(dict(type='mmone.ExportedModel', path=exported))
    assert model.num_classes == 1000 and model.cfg.default_scope == 'mmpretrain'
    assert model.dataset_meta['classes'] == list(model_of('classification').dataset_meta['classes'])
    with pytest.raises(ValueError, match='model.onnx predicts, it cannot be trained'):
        model(None, None, mode='loss')
