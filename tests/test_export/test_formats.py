"""The contract of every format that models are exported to."""
import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.utils import digit_version

from mmone.errors import InputError
from mmone.export import export_model, formats
from mmone.export.formats import litert
from mmone.files import sha256
from mmone.formats import FORMATS
from mmone.runtime import Runtime, coreml, is_exported, metadata
from mmone.runtime.ncnn import open_net, read_param, run
from tests.test_runtime.test_model import BLOCKED, HEAVY

from .conftest import NAMES, ROOT, assert_same, photographs, small

TASKS = ('classification', 'detection', 'segmentation')
SHAPE = (96, 128)
NEW_TORCH = digit_version(torch.__version__) >= digit_version('2.6')
OUTPUTS = dict(classification=['scores', 'logits'], detection=['boxes', 'labels'],
               segmentation=['labels', 'logits'])
by_task = pytest.mark.parametrize('task', TASKS)


@pytest.fixture(scope='class')
def export(request, model_of, folder, tmp_path_factory):
    """Export the model of a task in the class's format, with all of its outputs, once for each choice of options."""
    made, name = {}, request.cls.name

    def export(task, shape=SHAPE, logits=True, **options):
        key = (task, shape, logits, *sorted(options.items()))
        if key not in made:
            path = tmp_path_factory.mktemp(name) / f'Model{FORMATS[name].suffix}'
            model = model_of(task)
            made[key] = export_model(model, path, shape=shape, logits=logits and task != 'detection',
                                     images=folder, source=model.source, **options)
        return made[key]

    return export


class FormatContract:
    """What a format promises.

    Attributes:
        name: In ``FORMATS``.
        computes: Whether this machine computes it.
        dynamic: The sizes that it can leave free.
    """
    name: str
    computes = True
    dynamic = ('batch', 'hw')

    @by_task
    def test_one_file_is_written_that_says_what_it_is(self, export, model_of, task):
        report, model = export(task), model_of(task)
        names = {report.path.name} | ({'Model.bin'} if FORMATS[self.name].weights else set())
        assert {file.name for file in report.path.parent.iterdir()} == names
        assert is_exported(report.path)
        meta = Runtime(report.path).meta
        assert meta == report.meta and meta['task'] == task and meta['outputs'] == OUTPUTS[task]
        assert meta['input'] == dict(
            name='images', layout='NCHW', colour='RGB', dtype='uint8', height=96, width=128, dynamic=[],
            mean=pytest.approx([123.675, 116.28, 103.53]), std=pytest.approx([58.395, 57.12, 57.375]))
        assert meta['classes'] == list(model.dataset_meta['classes'])
        assert (meta['source'], meta['source_sha256']) == (model.source.name, sha256(model.source))
        assert len(meta['sha256']) == 64 and meta['sha256'] != metadata.NO_DIGEST
        assert report.size == sum(file.stat().st_size for file in report.path.parent.rglob('*') if file.is_file())

    @by_task
    def test_the_graph_is_plain(self, export, task):
        """No norm of backbone, neck or head is left."""
        assert export(task).operators
        assert not [kind for kind in export(task).operators if 'norm' in kind.lower()]

    @by_task
    def test_it_answers_as_pytorch(self, export, model_of, task):
        report, images = export(task), photographs(SHAPE, 3)
        exported = Runtime(report.path)
        if not self.computes:
            assert report.difference is None and 'not compared with PyTorch' in str(report)
            with pytest.raises(InputError, match='Core ML computes on macOS only'):
                exported(images)
            return
        assert report.difference.within and 'on 4 images of' in str(report)
        measures = assert_same(model_of(task), exported, images).measures
        assert measures.get('boxes', 1) > 0
        outputs = exported(images)
        assert list(outputs) == OUTPUTS[task]
        if task == 'segmentation':
            assert outputs['logits'].shape == (3, 21, *SHAPE) and len(np.unique(outputs['labels'])) > 3
            np.testing.assert_array_equal(outputs['logits'].argmax(1), outputs['labels'])

    @by_task
    def test_batch_and_size_may_be_free(self, export, model_of, task):
        if not self.dynamic:
            with pytest.raises(InputError, match='one size and batch 1') as error:
                export(task, dynamic=('batch', ))
            assert error.value.parameter == 'dynamic'
            return
        exported = Runtime(export(task, shape=(96, 96), dynamic=self.dynamic).path)
        for batch, shape in ((1, (112, 128)), (2, (96, 96)), (7, (112, 128))):
            measures = assert_same(model_of(task), exported, photographs(shape, batch)).measures
            assert measures.get('boxes', 1) > 0

    def test_images_without_any_box(self, model_of, folder, tmp_path):
        if not self.computes:
            pytest.skip('nothing to compute with')
        model, path = model_of('detection'), tmp_path / f'Model{FORMATS[self.name].suffix}'
        threshold = model.bbox_head.test_cfg.score_thr
        try:
            model.bbox_head.test_cfg.score_thr = 0.99999
            report = export_model(model, path, shape=SHAPE, dynamic=self.dynamic[:1], images=folder)
        finally:
            model.bbox_head.test_cfg.score_thr = threshold
        assert report.difference.measures['boxes'] == 0
        images = photographs(SHAPE, 2)
        outputs = Runtime(path)(images)
        assert outputs['boxes'].shape[0] == 2 and not outputs['boxes'].any() and (outputs['labels'] == -1).all()
        assert Runtime(path).predict(images[0].transpose(1, 2, 0)) == dict(boxes=[])

    @pytest.mark.skipif(not NEW_TORCH, reason='older ones have no float16 convolution on a CPU')
    @by_task
    def test_half_precision(self, export, task):
        half = export(task, half=True)
        assert half.meta['half'] and (half.difference is None) == (not self.computes)
        if task == 'classification':  # of the others, code is more than the weights
            assert half.size < 0.75 * export(task).size

    def test_float_images(self, export):
        """Normalizing is the caller's then."""
        raw = Runtime(export('detection', raw=True).path)
        images = photographs(SHAPE, 3)
        floats = np.stack([raw.normalized(image.transpose(1, 2, 0)) for image in images])
        assert floats.dtype == np.float32 and abs(floats.mean()) < 1
        assert raw.meta['input']['dtype'] == 'float32'
        if self.computes:
            from mmone.export.compare import compare
            whole = Runtime(export('detection').path)
            assert compare('detection', [whole(images)], [raw(floats)]).within

    def test_another_size_or_type_is_refused(self, export):
        model = Runtime(export('classification').path)
        for images in (np.zeros((1, 3, 96, 129), np.uint8), np.zeros((3, 96, 128), np.uint8),
                       np.zeros((1, 3, 96, 128), np.float32), np.zeros((0, 3, 96, 128), np.uint8)):
            with pytest.raises(InputError, match=r'takes uint8 images \(N, 3, 96, 128\), got'):
                model(images)

    def test_a_changed_file_is_refused(self, export, tmp_path):
        original = export('segmentation').path.parent
        refused = 'was changed since it was exported|cannot be read|is truncated'

        def changed(change):
            """Refused with any file changed that ``change`` finds something to change in."""
            shutil.copytree(original, tmp_path / 'copy')
            count = 0
            for file in [file for file in (tmp_path / 'copy').rglob('*') if file.is_file()]:
                content = file.read_bytes()
                if (other := change(content)) != content:
                    count += 1
                    file.write_bytes(other)
                    with pytest.raises(InputError, match=refused):
                        Runtime(tmp_path / 'copy' / f'Model{FORMATS[self.name].suffix}')
                    file.write_bytes(content)
            assert Runtime(tmp_path / 'copy' / f'Model{FORMATS[self.name].suffix}').task == 'segmentation'
            shutil.rmtree(tmp_path / 'copy')
            return count

        # A class's name in the metadata, as long as it was: else the file would be broken anyway.
        assert changed(lambda content: content.replace(b'aeroplane', b'aeroplank')) == 1
        assert changed(lambda content: content[:len(content) // 2])

    def test_weights_are_in_the_digest(self, export, tmp_path):
        path = shutil.copytree(export('segmentation').path.parent, tmp_path / 'copy')
        largest = max((file for file in path.rglob('*') if file.is_file()), key=lambda file: file.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
        with pytest.raises(InputError, match='was changed since it was exported|cannot be read|is truncated'):
            Runtime(path / f'Model{FORMATS[self.name].suffix}')

    def test_a_missing_package_is_named(self, export, model_of, tmp_path, monkeypatch):
        path = export('classification').path
        for package in FORMATS[self.name].runs_with:
            with monkeypatch.context() as context, pytest.raises(
                    InputError, match=f'needs {package}, which is not installed: pip install'):
                context.setitem(sys.modules, package, None)
                Runtime(path)
        package = FORMATS[self.name].written_with[-1]
        monkeypatch.setattr(formats, 'find_spec',
                            lambda name: None if name == package else importlib.util.find_spec(name))
        with pytest.raises(InputError, match=f'needs {package}, not installed here: pip install "mmone.export."'):
            export_model(model_of('classification'), tmp_path / f'Model{FORMATS[self.name].suffix}')

    def test_nothing_of_the_process_is_changed(self, export, model_of, tmp_path):
        """Levels of loggers, filters of warnings, threads, random numbers, scope, gradients."""
        model = model_of('classification')
        path = export('classification').path  # it has imported the packages
        images = photographs(SHAPE, 1)

        def settings():
            loggers = [logging.root] + [logger for logger in logging.root.manager.loggerDict.values()
                                        if isinstance(logger, logging.Logger)]
            return dict(
                levels={logger.name: logger.level for logger in loggers}, filters=list(warnings.filters),
                threads=torch.get_num_threads(), gradients=torch.is_grad_enabled(),
                generator=torch.get_rng_state().tolist(), numpy=np.random.get_state()[1].tolist(),
                scope=DefaultScope.get_current_instance(), form=[model.training, model.backbone.deploy],
                weights={key: value.sum().item() for key, value in model.state_dict().items()})

        before = settings()
        export_model(model, tmp_path / path.name, shape=SHAPE)
        if self.computes:
            Runtime(path, threads=1)(images)
        assert settings() == before


class TestOnnx(FormatContract):
    name = 'onnx'


class TestOpenvino(FormatContract):
    name = 'openvino'

    def test_signals_are_handled_after_two_models(self, export):
        """The stack for signals that OpenVINO takes back with the last one is not one that it took with the first."""
        done = subprocess.run([sys.executable, '-c', '''
import os, signal, sys
from mmone.runtime import Runtime
signal.signal(signal.SIGUSR1, lambda *_: print('handled'))
first, second = Runtime(sys.argv[1]), Runtime(sys.argv[1])
del first
del second
os.kill(os.getpid(), signal.SIGUSR1)
''', str(export('classification').path)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, 'handled\n'), done.stderr


class TestTorchscript(FormatContract):
    name = 'torchscript'


@pytest.mark.skipif(not NEW_TORCH, reason='torch.export.save was another one before torch 2.6')
class TestPt2(FormatContract):
    name = 'pt2'


@pytest.mark.slow
@pytest.mark.skipif(not NEW_TORCH, reason='its programs are written by torch 2.6 or newer')
@pytest.mark.skipif(not litert.environment().is_dir(), reason="LiteRT's converter is not made here")
class TestLitert(FormatContract):
    name = 'litert'
    dynamic = ()

    @by_task
    def test_the_metadata_are_one_of_the_files_own(self, export, task):
        from ai_edge_litert import schema_py_generated as schema
        report = export(task)
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(report.path.read_bytes(), 0))
        assert [entry.name for entry in model.metadata].count(b'mmone') == 1
        assert sum(report.operators.values()) == len(model.subgraphs[0].operators)


@pytest.mark.skipif(not NEW_TORCH, reason='its programs are written by torch 2.6 or newer')
def test_litert_names_the_command_that_makes_its_converter(model_of, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    with pytest.raises(InputError, match='not made here: .*python.* -m mmone.export.formats.litert$'):
        export_model(model_of('classification'), tmp_path / 'Model.tflite', shape=SHAPE)
    assert not (tmp_path / 'cache').exists() and not list(tmp_path.glob('*.tflite'))


class TestNcnn(FormatContract):
    name = 'ncnn'
    dynamic = ()

    @by_task
    def test_the_graph_ends_where_ncnn_does(self, export, task):
        """Its input and outputs have names, and ncnn knows all operators."""
        import ncnn
        layers, text = read_param(export(task).path.read_text())
        assert json.loads(text) == export(task).meta
        assert [layer.outputs for layer in layers if layer.kind == 'Input'] == [['images']]
        used = {name for layer in layers for name in layer.inputs}
        ends = {name for layer in layers for name in layer.outputs if name not in used}
        assert ends == {'classification': {'scores', 'logits'}, 'detection': {'logits', 'deltas'},
                        'segmentation': {'logits'}}[task]
        assert all(ncnn.layer_to_index(layer.kind) >= 0 for layer in layers)

    def test_the_metadata_are_nothing_to_ncnn(self, export, tmp_path, capfd):
        """It reads the same network without them, and says nothing."""
        path = export('detection').path
        layers, _ = read_param(path.read_text())
        shutil.copy(path.with_suffix('.bin'), tmp_path)
        plain = tmp_path / path.name
        plain.write_text('\n'.join(path.read_text().splitlines()[:-1]) + '\n')
        image, names = photographs(SHAPE, 1)[0], ['logits', 'deltas']
        for ours, theirs in zip(*(run(open_net(file, layers, threads=1), image, names) for file in (path, plain))):
            np.testing.assert_array_equal(ours, theirs)
        assert capfd.readouterr() == ('', '')
        with pytest.raises(InputError, match='was not exported by mmone: it has no mmone metadata'):
            Runtime(plain)

    def test_nothing_is_printed_and_threads_are_respected(self, model_of, export, tmp_path, capfd, monkeypatch):
        import ncnn
        path, seen = export('classification').path, []
        load = ncnn.Net.load_param

        def watched(net, *args):
            seen.append(net.opt.num_threads)
            return load(net, *args)

        monkeypatch.setattr(ncnn.Net, 'load_param', watched)
        capfd.readouterr()
        monkeypatch.chdir(tmp_path)
        export_model(model_of('classification'), tmp_path / path.name, shape=SHAPE)
        Runtime(path, threads=1)
        assert seen == [ncnn.Option().num_threads, 1]
        assert 'pnnx' not in ''.join(capfd.readouterr())
        assert {file.name for file in tmp_path.iterdir()} == {'Model.param', 'Model.bin'}

    def test_images_of_other_channels_and_odd_sizes(self, build, tmp_path):
        cfg = small(NAMES['classification'])
        cfg.model.backbone.in_channels = 4
        cfg.data_preprocessor.update(mean=[100.0], std=[50.0], to_rgb=False)
        report = export_model(build(cfg), tmp_path / 'model.ncnn.param', shape=(33, 47))
        assert report.difference.within
        assert {file.name for file in tmp_path.iterdir()} == {'model.ncnn.param', 'model.ncnn.bin'}

    def test_two_files_of_different_models(self, export, tmp_path):
        path = shutil.copy(export('detection').path, tmp_path)
        with pytest.raises(InputError, match='Model.param cannot be read .*Model.bin'):
            Runtime(path)
        shutil.copy(export('classification').path.with_suffix('.bin'), tmp_path)
        with pytest.raises(InputError, match='Model.param was changed since it was exported'):
            Runtime(path)

    def test_neither_pytorch_nor_openmmlab_is_imported(self, export, folder):
        path = export('detection').path
        done = subprocess.run([sys.executable, '-c', BLOCKED.format(blocked=(*HEAVY, 'pnnx')), path, folder / '0.png'],
                              cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert json.loads(done.stdout)['boxes'] == Runtime(path).predict(folder / '0.png')['boxes'] != []

    def test_an_operator_that_ncnn_has_not(self, build, tmp_path):
        model = build(small(NAMES['classification']))
        model.head.fc = Sorted(model.head.fc)
        with pytest.raises(InputError, match=r'cannot be computed as ncnn \(ncnn has no operator .*: its operators'):
            export_model(model, tmp_path / 'model.param', shape=(32, 32))
        assert not list(tmp_path.iterdir())

    def test_the_weights_of_another_model_are_kept(self, model_of, export, tmp_path):
        """A .bin is OpenVINO's, too."""
        (tmp_path / 'Model.xml').write_text('')
        (tmp_path / 'Model.bin').write_bytes(b'precious')
        with pytest.raises(InputError, match='Model.bin belongs to .*Model.xml: give another name'):
            export_model(model_of('classification'), tmp_path / 'Model.param', shape=(32, 32), overwrite=True)
        assert (tmp_path / 'Model.bin').read_bytes() == b'precious'


class Sorted(torch.nn.Module):

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x).sort(1).values


@pytest.mark.skipif(digit_version(np.__version__) >= digit_version('2.4') and version('coremltools') == '9.0',
                    reason='coremltools 9.0 does not convert with NumPy 2.4 and later')
class TestCoreml(FormatContract):
    """Elsewhere than on macOS its structure can be looked at only."""
    name = 'coreml'
    computes = coreml.COMPUTES_HERE
    dynamic = ()

    @pytest.mark.parametrize('task, operators', [
        ('classification', {'softmax': 1}), ('detection', {'non_maximum_suppression': 1}),
        ('segmentation', {'reduce_argmax': 1})])
    def test_its_structure(self, export, model_of, task, operators):
        import coremltools
        report = export(task)
        head = {'segmentation': 'decode_head', 'detection': 'bbox_head', 'classification': 'head'}[task]
        parts = [getattr(model_of(task), name, None) for name in ('backbone', 'neck', head)]
        convs = sum(isinstance(module, torch.nn.Conv2d) for part in parts if part is not None
                    for module in part.modules())
        assert dict(operators, conv=convs).items() <= dict(report.operators).items()
        model = coremltools.models.MLModel(str(report.path), skip_model_load=True)
        given, = model.get_spec().description.input
        assert given.name == 'images' and given.type.WhichOneof('Type') == 'imageType'
        assert (given.type.imageType.width, given.type.imageType.height) == (128, 96)
        assert [output.name for output in model.get_spec().description.output] == report.meta['outputs']
        assert json.loads(model.user_defined_metadata['mmone'])['sha256'] == report.meta['sha256']

    def test_weights_in_int8(self, model_of, tmp_path):
        """The file is smaller, and says that it is no faster."""
        plain, small = (export_model(model_of('segmentation'), tmp_path / f'{name}.mlpackage', shape=(64, 64),
                                     weights=weights) for name, weights in (('Plain', None), ('Small', 'int8')))
        assert small.meta['weights'] == 'int8' and 'not a faster one' in str(small)
        assert small.operators['constexpr_affine_dequantize'] > 2
        assert small.size < 0.6 * plain.size  # weights of under 2048 elements stay as they are

    @pytest.mark.skipif(importlib.util.find_spec('sklearn') is not None, reason='scikit-learn is installed')
    def test_a_palette_needs_scikit_learn(self, model_of, tmp_path):
        with pytest.raises(InputError, match='pip install scikit-learn'):
            export_model(model_of('classification'), tmp_path / 'Model.mlpackage', shape=(32, 64), weights='palette')

    def test_other_formats_have_no_such_weights(self, model_of, tmp_path):
        with pytest.raises(InputError, match='expected int8 or palette, in Core ML'):
            export_model(model_of('classification'), tmp_path / 'model.onnx', shape=(32, 64), weights='int8')

    @pytest.mark.parametrize('channels, kind', [(1, 'GRAYSCALE'), (3, 'RGB'), (4, None)])
    def test_images_of_other_channels(self, build, tmp_path, channels, kind):
        """Grey is an image too; of other channels it takes floats."""
        import coremltools
        cfg = small(NAMES['classification'])
        cfg.model.backbone.in_channels = channels
        cfg.data_preprocessor.update(mean=[100.0], std=[50.0], to_rgb=False)
        path = tmp_path / 'Model.mlpackage'
        export_model(build(cfg), path, shape=(32, 64))
        given, = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description.input
        if kind is None:
            assert list(given.type.multiArrayType.shape) == [1, 4, 32, 64]
        else:
            assert given.type.imageType.colorSpace == given.type.imageType.ColorSpace.Value(kind)
        image = coreml._given(np.zeros((1, channels, 32, 64), np.uint8))
        assert (image.shape, image.dtype) == ((1, 4, 32, 64), np.float32) if kind is None else image.size == (64, 32)

    @by_task
    def test_half_precision_is_for_the_network(self, export, task):
        """Not for what counts pixels and boxes."""
        import coremltools
        program = coremltools.models.MLModel(
            str(export(task, half=True).path), skip_model_load=True).get_spec().mlProgram
        block, = program.functions['main'].block_specializations.values()
        half, single = (coremltools.proto.MIL_pb2.DataType.Value(f'FLOAT{bits}') for bits in (16, 32))
        types = {}
        for operation in block.operations:
            types.setdefault(operation.type, set()).add(operation.outputs[0].type.tensorType.dataType)
        assert types['conv'] == types['relu'] == {half}
        for kind in ('non_maximum_suppression', 'softmax', 'topk'):
            assert types.get(kind, {single}) == {single}

    def test_a_folder_is_replaced(self, model_of, tmp_path):
        path = tmp_path / 'Model.mlpackage'
        export_model(model_of('classification'), path, shape=(64, 96))
        with pytest.raises(InputError, match='Model.mlpackage exists') as error:
            export_model(model_of('classification'), path, shape=(64, 64))
        assert error.value.parameter == 'overwrite'
        export_model(model_of('classification'), path, shape=(64, 64), overwrite=True)
        assert Runtime(path).meta['input']['width'] == 64
        assert [file.name for file in tmp_path.iterdir()] == ['Model.mlpackage']
