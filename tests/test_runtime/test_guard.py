"""Exported files that were made to do more than compute."""
import copy
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import mmone.engine.test
from mmone.apis import get_model
from mmone.errors import InputError
from mmone.export.formats import get_writer
from mmone.formats import format_of
from mmone.runtime import Runtime, guard, metadata
from mmone.runtime.guard import check_file
from tests.evil import Evil, Saves

from .test_model import META, Tiny

onnx = pytest.importorskip('onnx')


def write(path, meta=META, graph=None):
    graph = graph or Tiny().eval()
    graph.outputs = dict(boxes=(), labels=())
    example = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    get_writer(format_of(path)).write(graph, example, (), False, json.dumps(meta), path)
    metadata.seal(path)
    return path


def doors(path, config):
    """All that opens an exported file."""
    yield lambda: Runtime(path)
    yield lambda: get_model(path)
    yield lambda: mmone.engine.test.test(config, str(path))


def refused(path, config, words):
    for door in doors(path, config):
        with pytest.raises(InputError, match=words) as error:
            door()
        assert '\n' not in str(error.value) and str(path) in str(error.value)


@pytest.fixture
def ran(tmp_path, config, monkeypatch):
    """A file that is there if a command was run; and a config."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / 'ran', str(config('mmdet'))
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('location', ['../secret.bin', '/etc/passwd', 'beside.bin'])
def test_onnx_weights_in_other_files(ran, tmp_path, location):
    path = write(tmp_path / 'model.onnx')
    model = onnx.load(str(path))
    np.zeros(16, np.float32).tofile(tmp_path.parent / 'secret.bin')
    np.zeros(16, np.float32).tofile(tmp_path / 'beside.bin')
    weights = onnx.helper.make_tensor('w', onnx.TensorProto.FLOAT, [4], [0] * 4)
    weights.ClearField('float_data')
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key='location', value=location)
    node = onnx.helper.make_node('Constant', [], ['w'], value=weights)
    for member, value in (('initializer', weights), ('node', node)):
        changed = copy.deepcopy(model)
        getattr(changed.graph, member).append(value)
        path.write_bytes(changed.SerializeToString())
        refused(path, ran[1], 'weights in other files')


@pytest.mark.parametrize('text', [b'\x0a\x08location', b'\x0a\x88\x00location', b'\x8a\x00\x88\x80\x80\x00location'])
def test_however_lengths_are_written(tmp_path, text):
    (tmp_path / 'a.onnx').write_bytes(b'x' + text + b'\x12\x01a')
    with pytest.raises(InputError, match='weights in other files'):
        check_file(tmp_path / 'a.onnx')


BUILT = dict(type='os.system', command='touch ran')


@pytest.mark.parametrize('change', [
    dict(pipeline=[BUILT]),
    dict(pipeline=[dict(type='CenterCrop', crop_size=[8, 8], auto_pad=True, pad_cfg=BUILT)]),
    dict(pipeline=[dict(type='Resize', scale=[32, 32], more=BUILT)]),
    dict(pipeline=[dict(type='Resize', scale=[32, 32], more=[BUILT])]),
    dict(pipeline=[dict(type='mmone.Resize', scale=[32, 32])]),
    dict(pipeline=[dict(type=['Resize'], scale=[32, 32])]),
    dict(pipeline=[dict(type='Resize', scale=[1 << 40, 32])]),
    dict(pipeline=[dict(type='Resize', scale=[32, 32], interpolation='os.system')]),
    dict(pipeline=7), dict(pipeline=None), dict(pipeline=[7]), dict(pipeline=['Resize']),
    dict(reading=BUILT | dict(more=dict())), dict(reading='x'), dict(decision=[1]), dict(decision=dict(a={})),
    dict(task='x'), dict(task=['detection']), dict(task={}), dict(classes='red'), dict(classes=[1]),
    dict(classes=[['red']]), dict(classes=None), dict(outputs='boxes'), dict(palette=[1]), dict(palette='x'),
    dict(palette=[['x']]), dict(input=None), dict(input=[]), dict(input={}), dict(input='images'),
    *(dict(input=META['input'] | change) for change in (
        dict(height=-1), dict(height='x'), dict(width=1e9), dict(width=True), dict(dynamic='batch'),
        dict(dynamic=['x']), dict(mean=[0]), dict(mean=['x'] * 3), dict(std=[0, 0, 0]), dict(std=None),
        dict(mean=[float('nan')] * 3), dict(dtype='object'), dict(mean=[], std=[]))),
], ids=str)
def test_metadata_of_odd_types(ran, tmp_path, change):
    path = write(tmp_path / 'model.onnx', META | change)
    refused(path, ran[1], 'metadata that no export writes')


@pytest.mark.parametrize('text', ['[' * 200_000, '{"a":' * 200_000, '{}', '[]', '7', 'null', '"x"', '{"version": [1]}',
                                  '{"version": 1, "sha256": 7}', '{"version": {"a": 1}, "sha256": "0"}', '1' * 10_000])
def test_metadata_that_is_no_metadata(ran, tmp_path, text):
    path = write(tmp_path / 'model.onnx')
    model = onnx.load(str(path))
    model.metadata_props[0].value = text
    onnx.save(model, str(path))
    refused(path, ran[1], 'no mmone metadata|cannot be read|metadata of version')


class Writes(Saves):

    def forward(self, images: torch.Tensor):
        torch.save(images, self.path)
        return images.float(), images.float()


class Maps(torch.nn.Module):

    def __init__(self, path):
        super().__init__()
        self.path: str = path

    def forward(self, images: torch.Tensor):
        x = torch.from_file(self.path, shared=True, size=4)
        return x, x


@pytest.mark.parametrize('kind', [Writes, Maps])
def test_programs_of_torchscript_with_files(ran, tmp_path, kind):
    path = tmp_path / 'model.pt'
    torch.jit.save(torch.jit.script(kind(str(ran[0]))), str(path), _extra_files={'mmone': json.dumps(META)})
    metadata.seal(path)
    refused(path, ran[1], 'the operator (save|from_file)')


def _rewritten(path, change):
    """The archive with what ``change(name, content)`` makes of its members, and members that it adds for ''."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    root = members[0][0].partition('/')[0]
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in [*members, (f'{root}/', b'')]:
            changed = change(name, content)
            if changed is not None and changed[0][-1] != '/':  # which stands for a file that is added
                archive.writestr(*changed)


def _pickle(name, content, evil):
    if not name.endswith('sample_inputs/model.pt'):
        return name, content
    torch.save(evil, 'evil.pt')
    return name, Path('evil.pt').read_bytes()


def _text(old, new):
    return lambda name, content, evil: (name, content.replace(old, new) if name.endswith('model.json') else content)


RUNS = b"__import__('os').system('touch ran')"
CHANGES = dict(
    pickle=_pickle,
    library=lambda name, content, evil: (name + 'data/aotinductor/model/x.so', b'x') if name[-1] == '/' else (
        name, content),
    outside=lambda name, content, evil: ('../../x', b'x') if name[-1] == '/' else (name, content),
    weights=lambda name, content, evil: (name, content.replace(b'"use_pickle": false', b'"use_pickle": true')),
    function=_text(b'torch.ops.aten.avg_pool2d.default', b'torch.os.system'),
    method=_text(b'torch.ops.aten.avg_pool2d.default', b'_operator.methodcaller'),
    file=_text(b'torch.ops.aten.avg_pool2d.default', b'torch.ops.aten.from_file.default'),
    guard=lambda name, content, evil: (name, re.sub(  # a list that is empty needs no comma
        rb'"guards_code": \[(?=(\]?))', lambda found: found[0] + b'"' + RUNS + (b'"' if found[1] else b'",'), content)),
    formula=_text(b'{"as_int": 32}', b'{"as_expr": {"expr_str": "' + RUNS + b'", "hint": {"as_int": 32}}}'),
    names=_text(b'"images"', b'"images=' + RUNS + b'"'),
)


@pytest.mark.skipif(not hasattr(torch.export, 'Dim') or not hasattr(torch.export.Dim, 'AUTO'), reason='torch < 2.6')
@pytest.mark.parametrize('name', CHANGES)
def test_programs_of_torch_export(ran, tmp_path, name):
    path = write(tmp_path / 'model.pt2')
    assert Runtime(path).task == 'detection'
    before = path.read_bytes()
    _rewritten(path, lambda *member: CHANGES[name](*member, Evil('touch ran')))
    with zipfile.ZipFile(path) as archive:
        assert [archive.read(member) for member in archive.namelist() if member[-1] != '/'] and before
    refused(path, ran[1], 'is refused, since no export of mmone has')


@pytest.mark.parametrize('suffix', ['.pt', '.pt2'])
def test_archives(ran, tmp_path, suffix):
    path = tmp_path / f'model{suffix}'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('model/extra/mmone', json.dumps(META))
        archive.writestr('model/data/weights/weight_0', bytes(100_000_000))
    refused(path, ran[1], 'would unpack to')


def test_folders_that_lead_elsewhere(tmp_path):
    path = tmp_path / 'Model.mlpackage'
    path.mkdir()
    manifest = dict(itemInfoEntries={'1': dict(path='../../secret')})
    (path / 'Manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(InputError, match='paths that leave it'):
        check_file(path)
    (path / 'Manifest.json').unlink()
    os.symlink('/etc/passwd', path / 'weight.bin')
    with pytest.raises(InputError, match='links to other files'):
        check_file(path)


@pytest.mark.parametrize('text, right', [
    ("Symbol('s34', positive=True, integer=True)", True), ('Mul(Integer(3), s14, u0)', True),
    ("(1 + (((-1) + L['images'].size()[3]) // 2)) != 1", True), ('s0*s1 + 4', True),
    ("__import__('os')", False), ('s0.__class__', False), ("L['images'].__class__", False), ('s0[0]', False),
    ("Symbol('os.system')", False), ('exec(s0)', False), ('lambda: 0', False), ('"x"', False), ('os', False),
])
def test_formulas(text, right):
    assert guard._is_formula(text) == right
