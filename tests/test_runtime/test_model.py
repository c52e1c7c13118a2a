"""What goes on the target machine: no PyTorch, no OpenMMLab, and only files as they were exported."""
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmone.errors import InputError
from mmone.export.formats import get_writer
from mmone.formats import format_of
from mmone.runtime import Runtime, is_exported, metadata
from mmone.runtime.images import read_image

onnx = pytest.importorskip('onnx')
ROOT = Path(__file__).resolve().parents[2]
HEAVY = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'onnx')


class Tiny(torch.nn.Module):
    """Stands for a detector: a box a quadrant, whose score is how red the quadrant is."""

    def forward(self, images):
        red = torch.nn.functional.avg_pool2d(images[:, :1].float(), 16).flatten(1) / 255
        boxes = torch.tensor([[0., 0, 16, 16], [16, 0, 32, 16], [0, 16, 16, 32], [16, 16, 32, 32]])
        boxes = torch.cat([boxes.expand(red.shape[0], 4, 4), red.unsqueeze(-1)], -1)
        return boxes, torch.where(red > 0.5, torch.zeros_like(red), torch.zeros_like(red) - 1).int()


META = dict(
    version=1, sha256='0' * 64, mmone='0.1.0', task='detection', classes=['red'], palette=None,
    pipeline=[dict(type='Resize', scale=[32, 32], keep_ratio=False)], outputs=['boxes', 'labels'], half=False,
    input=dict(name='images', layout='NCHW', colour='RGB', dtype='uint8', height=32, width=32, dynamic=[],
               mean=[0, 0, 0], std=[1, 1, 1]))


@pytest.fixture(scope='module', params=['.onnx', '.xml', '.pt'])
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp('exported') / f'model{request.param}'
    graph = Tiny().eval()
    graph.outputs = dict(boxes=(), labels=())
    example = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    get_writer(format_of(path)).write(graph, example, (), False, json.dumps(META), path)
    metadata.seal(path)
    return path


@pytest.fixture
def photograph(tmp_path):
    """Its right upper quarter is red: x 32 to 64, y 0 to 48."""
    image = np.zeros((96, 64, 3), np.uint8)
    image[:48, 32:] = 250, 10, 20
    cv2.imwrite(str(tmp_path / 'photo.png'), image[:, :, ::-1])
    return tmp_path / 'photo.png'


def test_boxes_are_in_pixels_of_the_image(exported, photograph):
    model = Runtime(exported, threads=1)
    expected = dict(boxes=[dict(label=0, score=pytest.approx(250 / 255), box=[32, 0, 64, 48], **{'class': 'red'})])
    assert model.predict(photograph) == expected
    array = read_image(photograph)
    assert model.predict(array) == expected
    assert model.predict([photograph, array, array], batch_size=2) == [expected] * 3
    assert model.task == 'detection'


BLOCKED = '''
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'{{name}} is blocked', name=name)
sys.meta_path.insert(0, Blocked())
from mmone.runtime import Runtime
print(json.dumps(Runtime(sys.argv[1]).predict(sys.argv[2])))
assert not set(sys.modules) & set({blocked!r})
'''


@pytest.mark.parametrize('blocked', [HEAVY, (*HEAVY, 'PIL'), (*HEAVY, 'cv2')], ids=['heavy', 'Pillow', 'OpenCV'])
def test_neither_pytorch_nor_openmmlab_is_imported(exported, photograph, blocked):
    if exported.suffix == '.pt':
        pytest.skip('TorchScript is run by PyTorch')
    done = subprocess.run([sys.executable, '-c', BLOCKED.format(blocked=blocked), exported, photograph], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, = json.loads(done.stdout)['boxes']
    assert found['box'] == [32, 0, 64, 48]


def test_threads_are_the_models_own(exported, photograph, monkeypatch):
    """PyTorch has one number of threads for the process: it is put back after each prediction."""
    before, seen = torch.get_num_threads(), []
    set_num_threads = torch.set_num_threads
    monkeypatch.setattr(torch, 'set_num_threads', lambda count: (seen.append(count), set_num_threads(count)))
    model = Runtime(exported, threads=before + 1)
    assert model.predict(photograph)['boxes']
    assert seen == ([before + 1, before] if exported.suffix == '.pt' else [])
    assert torch.get_num_threads() == before


def test_what_is_not_ours_is_refused(tmp_path, exported):
    torch.onnx.utils.export(torch.nn.ReLU(), (torch.zeros(1), ), str(tmp_path / 'relu.onnx'))
    with pytest.raises(InputError, match='was not exported by mmone: it has no mmone metadata'):
        Runtime(tmp_path / 'relu.onnx')
    model = onnx.load(str(tmp_path / 'relu.onnx'))
    entry = model.metadata_props.add()
    entry.key, entry.value = 'mmone', json.dumps(dict(META, version=99))
    onnx.save(model, str(tmp_path / 'later.onnx'))
    with pytest.raises(InputError, match='metadata of version 99, this mmone reads version 1'):
        Runtime(tmp_path / 'later.onnx')
    with pytest.raises(InputError, match='is no exported model: expected a file in .onnx'):
        Runtime(tmp_path / 'model.h5')
    with pytest.raises(InputError, match='model.onnx does not exist'):
        Runtime(tmp_path / 'model.onnx')


def test_a_checkpoint_is_no_exported_model(tmp_path, exported):
    torch.save(dict(a=torch.zeros(1)), tmp_path / 'weights.pt')
    assert not is_exported(tmp_path / 'weights.pt')
    assert not is_exported(tmp_path / 'missing.pt') and not is_exported('weights.pth')
    assert is_exported(exported)
