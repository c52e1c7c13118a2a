"""Exported models answer as PyTorch does, in every format that computes here; nothing else is written."""
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.utils import digit_version

from mmone.apis import get_config, get_model
from mmone.convert import compare as comparing
from mmone.datasets.shapes import make_sample
from mmone.errors import InputError
from mmone.export.compare import answers, compare
from mmone.export.export import export_model, prepare
from mmone.runtime import Runtime, resize

onnx = pytest.importorskip('onnx')
ROOT = Path(__file__).resolve().parents[2]
CLASSIFIER = 'mobileone-{}_8xb32_in1k'
DETECTOR = 'ssdlite_mobileone-{}_8xb16-200e_coco-320x320'
SEGMENTOR = 'mobileone-{}-d{}_deeplabv3_4xb16-50e_voc12aug-512x512'
NEW_TORCH = digit_version(torch.__version__) >= digit_version('2.6')
COMPUTED = ['.onnx', '.xml', '.pt', pytest.param('.pt2', marks=pytest.mark.skipif(
    not NEW_TORCH, reason='torch.export.save was another one before torch 2.6'))]  # yapf: disable


def benchmark():
    spec = importlib.util.spec_from_file_location('export_parity', ROOT / 'benchmarks' / 'export_parity.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """The checkpoint of a model of the zoo, with random weights that a trained one could have."""
    folder = tmp_path_factory.mktemp('weights')
    random_checkpoint = benchmark().random_checkpoint

    def make(name):
        path = folder / f'{name}.pth'
        if not path.exists():
            torch.manual_seed(0)
            random_checkpoint(name, path)
        return str(path)

    return make


def photographs(shape, count, seed=1):
    return np.stack([resize(make_sample(seed, i, max(shape)).image, shape).transpose(2, 0, 1)
                     for i in range(count)])  # yapf: disable


def assert_same(net, model, images):
    difference = compare(model.task, [answers(net, images)], [model(images)])
    assert difference.within, difference.text
    return difference


@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
@pytest.mark.parametrize('arch', ['s0', 's1', 's2', 's3', 's4'])
@pytest.mark.parametrize('template, shape', [
    (CLASSIFIER, (96, 64)), (DETECTOR, (160, 128)),
    (SEGMENTOR.replace('d{}', 'd16'), (96, 128)), (SEGMENTOR.replace('d{}', 'd8'), (64, 96))])
def test_variants_answer_alike(weights, tmp_path, template, arch, shape, suffix):
    name = template.format(arch)
    report = export_model(name, weights(name), tmp_path / f'model{suffix}', shape=shape,
                          logits=template == CLASSIFIER)
    assert report.difference.within
    net = get_model(name, weights(name), 'cpu')
    assert_same(net, Runtime(tmp_path / f'model{suffix}'), photographs(shape, 2))


@pytest.mark.parametrize('suffix', COMPUTED)
@pytest.mark.parametrize('name', [CLASSIFIER.format('s0'), DETECTOR.format('s0'), SEGMENTOR.format('s0', 16)])
def test_free_batches_and_sizes(weights, tmp_path, name, suffix):
    path = tmp_path / f'model{suffix}'
    export_model(name, weights(name), path, shape=(96, 96), dynamic=('batch', 'hw'))
    net, model = get_model(name, weights(name), 'cpu'), Runtime(path)
    for batch in (1, 2, 7):
        for shape in ((96, 96), (112, 128)):
            found = assert_same(net, model, photographs(shape, batch)).measures
            assert found.get('boxes', 1) > 0


@pytest.mark.parametrize('name', [CLASSIFIER.format('s0'), DETECTOR.format('s0'), SEGMENTOR.format('s0', 16)])
def test_float_images_and_half_precision(weights, tmp_path, name):
    export_model(name, weights(name), tmp_path / 'whole.onnx', shape=(96, 96))
    export_model(name, weights(name), tmp_path / 'raw.onnx', shape=(96, 96), raw=True)
    model, raw = Runtime(tmp_path / 'whole.onnx'), Runtime(tmp_path / 'raw.onnx')
    images = photographs((96, 96), 3)
    floats = np.stack([raw.normalized(image.transpose(1, 2, 0)) for image in images])
    assert floats.dtype == np.float32 and abs(floats.mean()) < 1
    assert compare(model.task, [model(images)], [raw(floats)]).within
    if NEW_TORCH:  # older ones have no float16 convolution on a CPU
        half = export_model(name, weights(name), tmp_path / 'half.onnx', shape=(96, 96), half=True)
        assert half.size < 0.6 * (tmp_path / 'whole.onnx').stat().st_size


@pytest.mark.parametrize('arch, se_blocks', [('s0', 0), ('s1', 0), ('s2', 0), ('s3', 0), ('s4', 12)])
def test_the_backbone_is_plain(weights, tmp_path, arch, se_blocks):
    """One Conv a block, its Relu, and the SE blocks: no branch, no norm, nothing that does nothing."""
    name = CLASSIFIER.format(arch)
    report = export_model(name, weights(name), tmp_path / 'model.onnx', shape=(32, 32))
    blocks = 1 + 2 * (2 + 8 + 10 + 1)
    assert dict(report.operators) == {
        'Cast': 1, 'Sub': 1, 'Conv': blocks + 2 * se_blocks, 'Relu': blocks + se_blocks,
        **({'Sigmoid': se_blocks, 'Mul': se_blocks} if se_blocks else {}),
        'GlobalAveragePool': 1 + se_blocks, 'Reshape': 1, 'Gemm': 1, 'Softmax': 1}  # yapf: disable


def test_norms_of_neck_and_head_are_folded_too(weights, tmp_path):
    name = DETECTOR.format('s0')
    for suffix in ('.onnx', '.pt'):
        report = export_model(name, weights(name), tmp_path / f'model{suffix}', shape=(96, 96))
        assert not [kind for kind in report.operators if 'norm' in kind.lower()]


def test_metadata(weights, tmp_path):
    name = SEGMENTOR.format('s0', 16)
    report = export_model(name, weights(name), tmp_path / 'model.onnx', shape=(64, 96), logits=True)
    meta = Runtime(tmp_path / 'model.onnx').meta
    assert meta == report.meta
    assert meta['task'] == 'segmentation' and len(meta['classes']) == 21 and meta['classes'][7] == 'car'
    assert meta['input'] == dict(
        name='images', layout='NCHW', colour='RGB', dtype='uint8', height=64, width=96, dynamic=[],
        mean=pytest.approx([123.675, 116.28, 103.53]), std=pytest.approx([58.395, 57.12, 57.375]))
    assert meta['outputs'] == ['labels', 'logits'] and meta['source'] == f'{name}.pth'
    assert len(meta['source_sha256']) == len(meta['sha256']) == 64
    outputs = Runtime(tmp_path / 'model.onnx')(photographs((64, 96), 1))
    assert outputs['logits'].shape == (1, 21, 64, 96)
    np.testing.assert_array_equal(outputs['logits'].argmax(1), outputs['labels'])


@pytest.mark.parametrize('name, operators', [
    (CLASSIFIER.format('s4'), {'conv': 43 + 24}), (DETECTOR.format('s0'), {'non_maximum_suppression': 1}),
    (SEGMENTOR.format('s0', 16), {'reduce_argmax': 1})])
def test_core_ml_by_its_structure(weights, tmp_path, name, operators):
    """Elsewhere than on macOS it can be looked at only."""
    coremltools = pytest.importorskip('coremltools')
    if sys.platform == 'darwin':
        pytest.skip('there it computes, and is compared with PyTorch')
    path = tmp_path / 'Model.mlpackage'
    report = export_model(name, weights(name), path, shape=(96, 128))
    assert operators.items() <= dict(report.operators).items()
    assert not [kind for kind in report.operators if 'norm' in kind]
    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    given, = model.get_spec().description.input
    assert given.name == 'images' and given.type.WhichOneof('Type') == 'imageType'
    assert (given.type.imageType.width, given.type.imageType.height) == (128, 96)
    found = {output.name: output.type.multiArrayType for output in model.get_spec().description.output}
    assert list(found) == report.meta['outputs']
    assert json.loads(model.user_defined_metadata['mmone'])['sha256'] == report.meta['sha256']
    assert Runtime(path).task == report.meta['task']
    with pytest.raises(InputError, match='Core ML computes on macOS only'):
        Runtime(path)(photographs((96, 128), 1))

    # In half precision the network, not what counts pixels and boxes.
    export_model(name, weights(name), path, shape=(64, 64), half=True, overwrite=True)
    assert Runtime(path).meta['input']['width'] == 64
    program = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().mlProgram
    block, = program.functions['main'].block_specializations.values()
    half, single = (coremltools.proto.MIL_pb2.DataType.Value(f'FLOAT{bits}') for bits in (16, 32))
    types = {}
    for operation in block.operations:
        types.setdefault(operation.type, set()).add(operation.outputs[0].type.tensorType.dataType)
    assert types['conv'] == types['relu'] == {half}
    for kind in ('non_maximum_suppression', 'softmax', 'topk'):
        assert types.get(kind, {single}) == {single}
    assert [file.name for file in tmp_path.iterdir()] == ['Model.mlpackage']


def test_a_network_that_takes_bgr_and_has_another_backbone(tmp_path, moved):
    """Images are RGB whatever the network was trained with; other backbones get a Sub and a Mul."""
    from mmengine.registry import MODELS, init_default_scope
    cfg = get_config(CLASSIFIER.format('s0'))
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 7
    cfg.data_preprocessor.to_rgb = False
    cfg.data_preprocessor.mean, cfg.data_preprocessor.std = [10.0, 100.0, 200.0], [20.0, 50.0, 90.0]
    for i, backbone in enumerate((cfg.model.backbone, dict(type='mmpretrain.MobileNetV2'))):
        cfg.model.backbone = backbone
        cfg.model.head.in_channels = 1024 if i == 0 else 1280
        init_default_scope('mmpretrain')
        torch.save(moved(MODELS.build(cfg.model)).state_dict(), tmp_path / 'w.pth')
        report = export_model(cfg, str(tmp_path / 'w.pth'), tmp_path / f'{i}.onnx', shape=(64, 64), logits=True)
        assert report.meta['input']['mean'] == [200.0, 100.0, 10.0]
        assert ('Mul' in report.meta['normalization']) == (i == 1) == ('Mul' in report.operators)
        net = get_model(cfg, str(tmp_path / 'w.pth'), 'cpu')
        assert_same(net, Runtime(tmp_path / f'{i}.onnx'), photographs((64, 64), 2))


def test_nothing_is_written_where_the_answers_differ(weights, tmp_path, monkeypatch):
    name = CLASSIFIER.format('s0')
    monkeypatch.setitem(comparing.LIMITS, 'score', (-1.0, -1.0))
    (tmp_path / 'model.onnx').write_text('precious')
    with pytest.raises(InputError, match='answers otherwise than PyTorch.*nothing was written'):
        export_model(name, weights(name), tmp_path / 'model.onnx', shape=(32, 32), overwrite=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ['precious']


def test_wrong_answers_are_noticed(weights, tmp_path):
    """The comparison that an export ends with: another model's answers are not within its limits."""
    for name, other in ((DETECTOR.format('s0'), DETECTOR.format('s1')),
                        (SEGMENTOR.format('s0', 16), SEGMENTOR.format('s1', 16))):
        export_model(name, weights(name), tmp_path / 'model.onnx', shape=(96, 96), overwrite=True)
        net = get_model(other, weights(other), 'cpu')
        model, images = Runtime(tmp_path / 'model.onnx'), photographs((96, 96), 2)
        assert not compare(model.task, [answers(net, images)], [model(images)]).within


@pytest.mark.parametrize('change, given, words', [
    ({}, dict(out='model.txt'), 'expected a name in .onnx'),
    ({}, dict(format='coreml'), 'expected a name in .mlpackage'),
    ({}, dict(dynamic=('depth', )), '--dynamic depth: expected batch or hw'),
    ({}, dict(out='nowhere/model.onnx'), 'there is no directory'),
    ({}, dict(images='nowhere'), '--images nowhere: there are no images'),
    ({}, dict(logits=True), '--logits is for classification'),
    ({}, dict(out='model.mlpackage', dynamic=('batch', )), 'one size and batch 1'),
    ({'model.test_cfg.nms.type': 'soft_nms'}, {}, "nms of type 'soft_nms' cannot be exported"),
    ({'model.bbox_head.bbox_coder': dict(type='YOLOBBoxCoder')}, {}, 'YOLOBBoxCoder cannot be exported'),
    ({'model.data_preprocessor.pad_size_divisor': 32}, dict(shape=(100, 320)), 'multiples of 32.*--shape 128 320'),
    ({'model.backbone.arch': 's1'}, {}, "arch='s0'"),
])
def test_what_cannot_be_exported(weights, tmp_path, monkeypatch, change, given, words):
    monkeypatch.chdir(tmp_path)
    name = DETECTOR.format('s0')
    cfg = get_config(name)
    cfg.merge_from_dict(change)
    with pytest.raises(InputError, match=words):
        export_model(cfg, weights(name), **dict(dict(out='model.onnx', shape=(96, 96)), **given))
    assert not list(tmp_path.iterdir())


class Bessel(torch.nn.Module):

    def forward(self, x):
        return torch.special.i0e(x)


@pytest.mark.parametrize('suffix', ['.onnx', '.xml', '.mlpackage'])
def test_an_operator_that_a_format_has_not(weights, tmp_path, suffix, monkeypatch):
    from mmengine.registry import MODELS
    monkeypatch.setitem(MODELS.module_dict, 'Bessel', Bessel)
    name = CLASSIFIER.format('s0')
    cfg = get_config(name)
    cfg.model.backbone.act_cfg = dict(type='Bessel')
    with pytest.raises(InputError, match='(?s)cannot be written as.*i0e'):
        export_model(cfg, weights(name), tmp_path / f'model{suffix}', shape=(32, 32))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', COMPUTED)
def test_images_without_any_box(weights, tmp_path, suffix):
    name = DETECTOR.format('s0')
    cfg = get_config(name)
    cfg.model.test_cfg.score_thr = 0.99999
    path = tmp_path / f'model{suffix}'
    report = export_model(cfg, weights(name), path, shape=(96, 96), dynamic=('batch', ))
    assert report.difference.measures['boxes'] == 0
    outputs = Runtime(path)(photographs((96, 96), 2))
    assert outputs['boxes'].shape[0] == 2 and not outputs['boxes'].any() and (outputs['labels'] == -1).all()
    assert Runtime(path).predict(make_sample(0, 0, 96).image) == dict(boxes=[])


@pytest.mark.parametrize('suffix', ['.onnx', '.pt'])
def test_another_head_with_anchors(tmp_path, suffix):
    """mmdet's RetinaHead: sigmoid scores, five levels, and boxes of one class with those of all."""
    cfg = get_config(DETECTOR.format('s0'), deploy=False)
    cfg.model.neck = dict(type='FPN', in_channels=[256, 1024], out_channels=32, num_outs=5)
    cfg.model.bbox_head = dict(
        type='RetinaHead', num_classes=6, in_channels=32, feat_channels=32, stacked_convs=1,
        init_cfg=dict(type='Normal', layer='Conv2d', std=0.3),
        anchor_generator=dict(type='AnchorGenerator', octave_base_scale=2, scales_per_octave=2,
                              ratios=[0.5, 1.0], strides=[16, 32, 64, 128, 256]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.1, 0, 0, 0.2]))
    cfg.model.test_cfg.update(nms=dict(type='nms', iou_threshold=0.4, class_agnostic=True), min_bbox_size=4,
                              nms_pre=60, score_thr=0.3, max_per_img=50)
    benchmark().random_checkpoint(cfg, tmp_path / 'w.pth')
    checkpoint = torch.load(tmp_path / 'w.pth', weights_only=True)
    for name in ('retina_cls', 'retina_reg'):  # scores of exactly 1 would have no order
        checkpoint['state_dict'][f'bbox_head.{name}.weight'] *= 0.1
    torch.save(checkpoint, tmp_path / 'w.pth')
    export_model(cfg, str(tmp_path / 'w.pth'), tmp_path / f'model{suffix}', shape=(128, 192))
    net = get_model(cfg, str(tmp_path / 'w.pth'), 'cpu')
    found = assert_same(net, Runtime(tmp_path / f'model{suffix}'), photographs((128, 192), 3))
    assert found.measures['boxes'] > 50


def test_a_missing_package_is_named(weights, tmp_path, monkeypatch):
    from mmone.convert import formats
    monkeypatch.setattr(formats, 'find_spec', lambda name: None if name == 'openvino' else True)
    name = CLASSIFIER.format('s0')
    with pytest.raises(InputError, match=r'needs openvino, not installed here: pip install "mmone\[export\]"'):
        export_model(name, weights(name), tmp_path / 'model.xml')


@pytest.mark.parametrize('pipeline, shape, free, size, transforms', [
    ([dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)], None, False, (224, 224),
     [dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=[224, 224])]),
    ([dict(type='ResizeEdge', scale=256), dict(type='CenterCrop', crop_size=224)], (112, 128), False,
     (112, 128), [dict(type='ResizeEdge', scale=146), dict(type='CenterCrop', crop_size=[128, 112])]),
    ([dict(type='Resize', scale=(320, 240))], None, False, (240, 320), [dict(type='Resize', scale=[320, 240])]),
    ([dict(type='Resize', scale=(2048, 512), keep_ratio=True)], None, False, (512, 512),
     [dict(type='Resize', scale=[512, 512], keep_ratio=False)]),
    ([dict(type='Resize', scale=(2048, 512), keep_ratio=True)], None, True, (512, 512),
     [dict(type='Resize', scale=[2048, 512], keep_ratio=True)]),
    ([], None, False, (512, 512), [dict(type='Resize', scale=[512, 512], keep_ratio=False)]),
    ([], (64, 96), True, (64, 96), []),
])
def test_sizes_and_what_brings_images_to_them(pipeline, shape, free, size, transforms):
    cfg = get_config(SEGMENTOR.format('s0', 16))
    cfg.test_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'), *pipeline, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    assert prepare(cfg, shape, free) == (size, transforms)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='Rotate'))
    with pytest.raises(InputError, match='Rotate, which runs in OpenMMLab only'):
        prepare(cfg, shape, free)
