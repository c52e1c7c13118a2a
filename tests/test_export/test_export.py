"""What is exported, whatever the format: answers of all kinds of models, and nothing where they differ."""
import copy
import os
from pathlib import Path

import pytest
import torch
from mmcv.ops import modulated_deform_conv2d
from mmdet.models.task_modules import YOLOBBoxCoder
from mmengine.registry import MODELS
from mmengine.utils import digit_version

from mmone.apis import get_config
from mmone.errors import InputError
from mmone.export import compare as comparing
from mmone.export import export, export_model
from mmone.export.compare import answers, compare
from mmone.formats import FORMATS
from mmone.runtime import Runtime, metadata

from .conftest import ARCH, NAMES, assert_same, photographs, small, softened

pytest.importorskip('onnx')


@pytest.mark.parametrize('arch, se_blocks', [('s0', 0), ('s4', 12)])
def test_the_backbone_is_plain(build, tmp_path, arch, se_blocks):
    """One Conv a block, its Relu, and the SE blocks: no branch, no norm, nothing that does nothing."""
    model = build(get_config(f'mobileone-{arch}_8xb32_in1k'))
    report = export_model(model, tmp_path / 'model.onnx', shape=(32, 32))
    blocks = 1 + 2 * (2 + 8 + 10 + 1)
    assert dict(report.operators) == {
        'Cast': 1, 'Sub': 1, 'Conv': blocks + 2 * se_blocks, 'Relu': blocks + se_blocks,
        **({'Sigmoid': se_blocks, 'Mul': se_blocks} if se_blocks else {}),
        'GlobalAveragePool': 1 + se_blocks, 'Reshape': 1, 'Gemm': 1, 'Softmax': 1}


@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
def test_stride_8(build, tmp_path, suffix):
    name = 'mobileone-s0-d8_deeplabv3_4xb16-50e_voc12aug-512x512'
    model = build(small(name))
    assert export_model(model, tmp_path / f'model{suffix}', shape=(64, 96)).difference.within
    assert_same(model, Runtime(tmp_path / f'model{suffix}'), photographs((64, 96), 2))


def test_a_model_with_branches_is_exported_deployed(build, tmp_path):
    """And is left as it is."""
    model = build(small(NAMES['classification']), deploy=False).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report = export_model(model, tmp_path / 'model.onnx', shape=(64, 64), logits=True)
    blocks, se_blocks = 1 + 2 * 4, 2
    assert report.operators['Conv'] == blocks + 2 * se_blocks and report.meta['source'] is None
    assert 'against PyTorch on 8 generated images: scores' in str(report)
    assert model.training and not model.backbone.deploy and before.keys() == model.state_dict().keys()
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert_same(model.eval(), Runtime(tmp_path / 'model.onnx'), photographs((64, 64), 2))


def test_a_network_that_takes_bgr_and_has_another_backbone(build, tmp_path):
    """Images are RGB whatever the network was trained with; other backbones get a Sub and a Mul."""
    cfg = small(NAMES['classification'])
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 7
    cfg.data_preprocessor.to_rgb = False
    cfg.data_preprocessor.mean, cfg.data_preprocessor.std = [10.0, 100.0, 200.0], [20.0, 50.0, 90.0]
    plain = dict(cfg.model.backbone, arch=dict(ARCH, num_se_blocks=(0, 0, 0, 0)))  # the SE blocks have a Mul
    for backbone, channels in ((plain, 64), (dict(type='mmpretrain.MobileNetV2'), 1280)):
        cfg.model.backbone, cfg.model.head.in_channels = backbone, channels
        model = build(cfg)
        path = tmp_path / f'{channels}.onnx'
        report = export_model(model, path, shape=(64, 64), logits=True)
        assert report.meta['input']['mean'] == [200.0, 100.0, 10.0]
        assert ('Mul' in report.meta['normalization']) == (backbone is not plain) == ('Mul' in report.operators)
        assert report.meta['classes'] == list('0123456')  # those of the data set are a thousand
        assert_same(model, Runtime(path), photographs((64, 64), 2))


def test_norms_with_an_activation_keep_it(build, tmp_path):
    """timm's, which are a class that is derived from BatchNorm."""
    cfg = small(NAMES['classification'])
    cfg.model.backbone = dict(type='TIMMBackbone', model_name='efficientnet_lite0')
    cfg.model.head.in_channels = 1280
    report = export_model(build(cfg), tmp_path / 'model.onnx', shape=(32, 32))
    assert report.operators['Clip'] == 33 and report.difference.within


@pytest.mark.parametrize('suffix', ['.onnx', '.pt'])
def test_another_head_with_anchors(build, tmp_path, suffix):
    """mmdet's RetinaHead: sigmoid scores, five levels, and boxes of one class with those of all."""
    cfg = small(NAMES['detection'])
    cfg.model.neck = dict(type='FPN', in_channels=[32, 64], out_channels=32, num_outs=5)
    cfg.model.bbox_head = dict(
        type='RetinaHead', num_classes=6, in_channels=32, feat_channels=32, stacked_convs=1,
        init_cfg=dict(type='Normal', layer='Conv2d', std=0.3),
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=2, scales_per_octave=2,
                              ratios=[0.5, 1.0], strides=[16, 32, 64, 128, 256]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.1, 0, 0, 0.2]))
    cfg.model.test_cfg.update(nms=dict(type='nms', iou_threshold=0.4, class_agnostic=True), min_bbox_size=4,
                              nms_pre=60, score_thr=0.3, max_per_img=50)

    def change(state_dict):  # scores of exactly 1 would have no order
        for name in ('retina_cls', 'retina_reg'):
            state_dict[f'bbox_head.{name}.weight'] *= 0.1

    model = build(cfg, change=change)
    export_model(model, tmp_path / f'model{suffix}', shape=(128, 192))
    found = assert_same(model, Runtime(tmp_path / f'model{suffix}'), photographs((128, 192), 3))
    assert found.measures['boxes'] > 50


@pytest.mark.parametrize('name', ['model.onnx', 'model.xml'])
def test_nothing_is_written_where_the_answers_differ(model_of, tmp_path, monkeypatch, name):
    monkeypatch.setitem(comparing.LIMITS, 'score', (-1.0, -1.0))
    for path in (tmp_path / name, tmp_path / 'model.bin'):
        path.write_text('precious')
    with pytest.raises(InputError, match='answers otherwise than PyTorch.*nothing was written'):
        export_model(model_of('classification'), tmp_path / name, shape=(32, 32), overwrite=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ['precious', 'precious']


def test_what_is_there_is_replaced_only_if_that_is_said(model_of, tmp_path):
    for existing in ('model.xml', 'model.bin'):
        (tmp_path / existing).write_text('precious')
        with pytest.raises(InputError, match=f'{existing} exists') as error:
            export_model(model_of('classification'), tmp_path / 'model.xml', shape=(32, 32))
        assert error.value.parameter == 'overwrite'
        (tmp_path / existing).rename(tmp_path / 'other')
    (tmp_path / 'model.xml').write_text('old')
    export_model(model_of('classification'), tmp_path / 'model.xml', shape=(32, 32), overwrite=True)
    assert Runtime(tmp_path / 'model.xml').task == 'classification'
    assert {file.name for file in tmp_path.iterdir()} == {'model.xml', 'model.bin', 'other'}


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_wrong_answers_are_noticed(build, model_of, tmp_path, task):
    """The comparison that an export ends with: another model's answers are not within its limits."""
    def change(state_dict):
        for key, value in state_dict.items():
            if key.startswith(('bbox_head', 'decode_head')) and value.is_floating_point():
                value.add_(0.1 * torch.randn(value.shape))

    other = build(small(NAMES[task]), change=change)
    export_model(model_of(task), tmp_path / 'model.onnx', shape=(96, 96))
    exported, images = Runtime(tmp_path / 'model.onnx'), photographs((96, 96), 2)
    assert not compare(task, [answers(other, images)], [exported(images)]).within


def test_images_to_compare_on(model_of, tmp_path):
    """A folder's; with fewer of them than the batches that are tried."""
    import cv2
    for count in (1, 2):
        cv2.imwrite(str(tmp_path / f'{count}.png'), photographs((40, 60), 1)[0].transpose(1, 2, 0))
        report = export_model(model_of('classification'), tmp_path / f'{count}.onnx', shape=(32, 32),
                              dynamic=('batch', ), images=tmp_path)
        assert f'against PyTorch on {count} images of {tmp_path}: scores' in str(report)


def soft_nms(model):
    model.bbox_head.test_cfg.nms.type = 'soft_nms'


def yolo_boxes(model):
    model.bbox_head.bbox_coder = YOLOBBoxCoder()


def padding(model):
    model.data_preprocessor.pad_size_divisor = 32


def another_library(model):
    model.cfg.default_scope = 'mmpose'


@pytest.mark.parametrize('change, given, words, parameter', [
    (None, dict(out='model.txt'), 'expected a name in .onnx', 'out'),
    (None, dict(format='coreml'), 'expected a name in .mlpackage', 'out'),
    (None, dict(format='tflite'), "unknown format 'tflite': expected one of onnx", 'format'),
    (None, dict(dynamic=('depth', )), "'depth' cannot be left free: expected batch or hw", 'dynamic'),
    (None, dict(out='nowhere/model.onnx'), 'there is no directory', None),
    (None, dict(images='nowhere'), 'there are no images in nowhere', 'images'),
    (None, dict(logits=True), 'a detector has no logits', 'logits'),
    (soft_nms, {}, "nms of type 'soft_nms' cannot be exported", None),
    (yolo_boxes, {}, 'YOLOBBoxCoder cannot be exported', None),
    (padding, dict(shape=(100, 320)), 'multiples of 32.*128x320', 'shape'),
    (another_library, {}, 'a model of mmpose cannot be exported: expected one of mmpretrain', None),
])
def test_what_cannot_be_exported(model_of, tmp_path, monkeypatch, change, given, words, parameter):
    monkeypatch.chdir(tmp_path)
    model = model_of('detection')
    if change:
        model = copy.deepcopy(model)
        change(model)
    with pytest.raises(InputError, match=words) as error:
        export_model(model, **dict(dict(out='model.onnx', shape=(96, 96)), **given))
    assert error.value.parameter == parameter and '--' not in str(error.value)
    assert not list(tmp_path.iterdir())


class Bessel(torch.nn.Module):

    def forward(self, x):
        return torch.special.i0e(x)


@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.mlpackage'])
def test_an_operator_that_a_format_has_not(build, tmp_path, suffix, monkeypatch, capfd):
    monkeypatch.setitem(MODELS.module_dict, 'Bessel', Bessel)
    cfg = small(NAMES['classification'])
    cfg.model.backbone.act_cfg = dict(type='Bessel')
    with pytest.raises(InputError, match='(?s)cannot be written as.*i0e'):
        export_model(build(cfg), tmp_path / f'model{suffix}', shape=(32, 32))
    assert not list(tmp_path.iterdir())
    assert 'graph(' not in capfd.readouterr().out  # PyTorch's own dump


class Branching(torch.nn.Module):

    def forward(self, x):
        return x * 2 if x.mean() > 0 else x


class Deformable(torch.nn.Module):

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1, 1, 1, 1))

    def forward(self, x):
        weight = self.weight.expand(64, 1, 1, 1).contiguous()
        return modulated_deform_conv2d(x, x[:, :2] * 0, x[:, :1] * 0 + 1, weight, weight.flatten(),
                                       (1, 1), (0, 0), (1, 1), 64, 1)


@pytest.mark.parametrize('kind, suffix, words', [
    (Branching, '.pt2', r'as pt2 .*: Could not guard on data-dependent expression [^\n]*; at .*test_export.py:\d+\)'),
    (Deformable, '.onnx', 'as onnx: mmcv::MMCVModulatedDeformConv2d are none of its operators'),
    (Deformable, '.xml', 'as onnx: mmcv::MMCVModulatedDeformConv2d'),
    (Deformable, '.pt', "as torchscript .*Could not export Python function call 'ModulatedDeformConv2dFunction'"),
    (Deformable, '.pt2', r'as pt2 .*not allocated yet.*; at .*modulated_deform_conv.py:\d+\)'),
])
def test_what_a_converter_stumbles_over_is_told(build, tmp_path, monkeypatch, kind, suffix, words):
    """The operator, or the first line and the place in the model, of dumps that end with neither."""
    if suffix == '.pt2' and digit_version(torch.__version__) < digit_version('2.6'):
        pytest.skip('torch.export.save was another one before torch 2.6')
    cfg = small(NAMES['classification'])
    cfg.model.neck = dict(type='Both')
    monkeypatch.setitem(MODELS.module_dict, 'Both', lambda: torch.nn.Sequential(Last(), kind(), Pooled()))
    with pytest.raises(InputError, match=f'cannot be written {words}') as error:
        export_model(build(cfg), tmp_path / f'model{suffix}', shape=(32, 32))
    assert '\n' not in str(error.value) and not list(tmp_path.iterdir())


class Last(torch.nn.Module):

    def forward(self, features):
        return features[-1]


class Pooled(torch.nn.Module):

    def forward(self, x):
        return (x.mean((2, 3)), )


@pytest.mark.parametrize('task, suffix, value', [
    ('classification', '.onnx', 0), ('classification', '.xml', 2.5), ('detection', '.onnx', 0), ('detection', '.pt', 0),
    ('segmentation', '.xml', 0)])
def test_images_of_free_sizes_are_padded_as_the_preprocessor_does(build, tmp_path, task, suffix, value):
    """To multiples of its divisor; boxes and labels are of the image without what was padded."""
    cfg = small(NAMES[task])
    preprocessor = cfg.data_preprocessor if task == 'classification' else cfg.model.data_preprocessor
    if task == 'segmentation':
        preprocessor.test_cfg = dict(size_divisor=32)
    else:
        preprocessor.update(pad_size_divisor=32, pad_value=value)
    model = build(cfg, change=softened)
    path = tmp_path / f'model{suffix}'
    export_model(model, path, shape=(64, 128), dynamic=('batch', 'hw'))
    for shape, count in (((90, 83), 2), ((64, 95), 1)):
        found = assert_same(model, Runtime(path), photographs(shape, count))
        assert found.measures.get('boxes', 1) > 0
    if task == 'segmentation':
        preprocessor.test_cfg = dict(size=(96, 96))
        model = build(cfg)
        for shape, dynamic in (((64, 128), ()), ((128, 128), ('hw', ))):
            with pytest.raises(InputError, match='pads test images to 96x96, which the graph does not') as error:
                export_model(model, path, shape=shape, dynamic=dynamic, overwrite=True)
            assert error.value.parameter == 'shape'


@pytest.mark.parametrize('suffix', [kind.suffix for kind in FORMATS.values() if kind.weights])
def test_two_files_are_of_one_model_at_any_moment(model_of, tmp_path, monkeypatch, suffix):
    """Wherever a process is killed, there is no .xml or .param whose .bin is of another model."""
    path, replace, seen = tmp_path / f'model{suffix}', os.replace, []

    def watched(source, target):
        replace(source, target)
        if tmp_path not in (Path(source).parent, Path(target).parent):  # while it is made
            return
        seen.append(path.exists())
        if path.exists():
            assert metadata.belong_together(path, path.with_suffix('.bin'))

    for shape in ((32, 32), (64, 64)):
        monkeypatch.setattr(os, 'replace', watched)
        export_model(model_of('classification'), path, shape=shape, overwrite=True)
        monkeypatch.undo()
    assert seen == [False, True, False, False, True]


def test_two_files_are_as_before_where_one_cannot_be_replaced(model_of, tmp_path, monkeypatch):
    path = tmp_path / 'model.xml'
    export_model(model_of('classification'), path, shape=(32, 32))
    monkeypatch.setattr(export, 'publish', lambda made, path: (_ for _ in ()).throw(OSError('no space left')))
    with pytest.raises(OSError, match='no space'):
        export_model(model_of('classification'), path, shape=(32, 64), overwrite=True)
    assert Runtime(path).meta['input']['width'] == 32
    assert {file.name for file in tmp_path.iterdir()} == {'model.xml', 'model.bin'}


def test_what_a_killed_export_left_of_two_files_is_mended(model_of, tmp_path):
    """A .bin alone, and its .xml in the scratch folder, which is new or the old one; somebody's own .bin is kept."""
    path, scratch = tmp_path / 'model.xml', tmp_path / '.model.xml.partial'

    def killed(name):
        scratch.mkdir()
        path.rename(scratch / name)

    def export(width, **options):
        export_model(model_of('classification'), path, shape=(32, width), **options)
        assert Runtime(path).meta['input']['width'] == width
        assert {file.name for file in tmp_path.iterdir()} == {'model.xml', 'model.bin'}

    export(32)
    killed('model.xml')  # before it got its name
    export(64)
    killed('before.xml')  # before the new .bin got its name
    with pytest.raises(InputError, match='model.bin exists'):
        export(96)
    assert Runtime(path).meta['input']['width'] == 64 and not scratch.exists()
    killed('before.xml')
    export(96, overwrite=True)
    killed('model.xml')
    path.with_suffix('.bin').write_bytes(b'precious')
    with pytest.raises(InputError, match='model.bin exists'):
        export(128)
    assert path.with_suffix('.bin').read_bytes() == b'precious'
