"""What goes on the target machine: no PyTorch, no OpenMMLab, and only files as they were exported."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmone.convert import runtime
from mmone.datasets.shapes import make_sample
from mmone.errors import InputError
from mmone.runtime import Runtime, is_exported, read_image

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
    from mmone.export.export import seal
    from mmone.export.formats import FORMATS, get_format
    name = {suffix: name for name, suffix in FORMATS.items()}[request.param]
    path = tmp_path_factory.mktemp('exported') / f'model{request.param}'
    graph = Tiny().eval()
    graph.outputs = dict(boxes=(), labels=())
    get_format(name).write(graph, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), (), False, json.dumps(META), path)
    seal(path)
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


def test_a_missing_runtime_is_named(exported, monkeypatch):
    package = dict(zip(('.onnx', '.xml', '.pt'), ('onnxruntime', 'openvino', 'torchvision')))[exported.suffix]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f'needs {package}, which is not installed: pip install'):
        Runtime(exported)


def test_another_size_or_type_is_refused(exported):
    model = Runtime(exported)
    for images in (np.zeros((1, 3, 32, 33), np.uint8), np.zeros((3, 32, 32), np.uint8),
                   np.zeros((1, 3, 32, 32), np.float32), np.zeros((0, 3, 32, 32), np.uint8)):
        with pytest.raises(InputError, match=r'takes uint8 images \(N, 3, 32, 32\), got'):
            model(images)


def test_what_was_changed_is_refused(exported, tmp_path):
    for file in exported.parent.iterdir():
        shutil.copy(file, tmp_path)
    path = tmp_path / exported.name
    assert Runtime(path).task == 'detection'
    content = path.read_bytes()
    # A class's name in the metadata; only as long as it was, or the file would be broken.
    changed = content.replace(b'"red"', b'"rad"').replace(b'&quot;red&quot;', b'&quot;rad&quot;')
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(InputError, match='was changed since it was exported|cannot be read'):
        Runtime(path)
    if path.suffix == '.xml':  # its weights
        path.write_bytes(content)
        weights = path.with_suffix('.bin')
        weights.write_bytes(weights.read_bytes()[:-1] + b'\7')
        with pytest.raises(InputError, match='was changed since it was exported|cannot be read'):
            Runtime(path)
    path.write_bytes(content[:len(content) // 2])
    with pytest.raises(InputError, match='cannot be read'):
        Runtime(path)


def test_what_is_not_ours_is_refused(tmp_path, exported):
    torch.onnx.utils.export(torch.nn.ReLU(), (torch.zeros(1), ), str(tmp_path / 'relu.onnx'))
    with pytest.raises(InputError, match='was not written by tools/export.py: it has no mmone metadata'):
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


def test_images_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    (tmp_path / 'no.png').write_text('no image')
    for missing in (None, 'cv2'):
        if missing:
            monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(InputError, match='no.png cannot be decoded'):
            read_image(tmp_path / 'no.png')
        with pytest.raises(InputError, match='none.png does not exist'):
            read_image(tmp_path / 'none.png')


@pytest.mark.parametrize('transform', [
    dict(type='Resize', scale=(50, 30)), dict(type='Resize', scale=(50, 30), interpolation='bicubic'),
    dict(type='Resize', scale=(100, 60), keep_ratio=True), dict(type='Resize', scale=(40, 40), backend='pillow'),
    dict(type='ResizeEdge', scale=48), dict(type='ResizeEdge', scale=48, edge='long'),
    dict(type='ResizeEdge', scale=48, edge='width', backend='pillow', interpolation='bicubic'),
    dict(type='ResizeEdge', scale=48, edge='height', interpolation='area'),
    dict(type='CenterCrop', crop_size=(32, 40)), dict(type='CenterCrop', crop_size=(200, 41))])
@pytest.mark.parametrize('shape', [(64, 97), (97, 64), (80, 80)])
def test_transforms_are_those_of_openmmlab(transform, shape):
    from mmcv.transforms import TRANSFORMS
    from mmpretrain.registry import TRANSFORMS as OTHERS
    image = np.ascontiguousarray(make_sample(3, 5, 100).image[:shape[0], :shape[1]])
    registry = OTHERS if transform['type'] == 'ResizeEdge' else TRANSFORMS
    expected = registry.build(transform)(dict(img=image, img_shape=image.shape[:2]))['img']
    given = runtime.TRANSFORMS[transform['type']](image, transform)
    np.testing.assert_array_equal(given, expected)
