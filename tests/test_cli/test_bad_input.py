"""Each mistake is one line on stderr that names it, and exit status 2."""
import gc
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmone.models import MobileOne
from tests.kit import ROOT, TASKS, command, end_workers, run_command, run_tool

BOMB = b'P6 40000 40000 255\n' + bytes(99)  # the header of an image that takes 4.8 GB


@pytest.fixture
def fails(capsys):
    """Run a command in this process; return the one line that it fails with."""

    def run(name, *args):
        code = None
        try:
            command(name, *args)
        except SystemExit as error:  # pytest.raises would keep the runner and its workers alive
            code = error.code
        end_workers()
        gc.collect()
        captured = capsys.readouterr()
        assert code == 2, captured
        assert captured.err.startswith(f'mmone {name}: error: ')
        assert captured.err.count('\n') == 1 and captured.err.endswith('\n'), captured.err
        return captured.err

    return run


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict={}), path)
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


# What commands need beside a config.
NEEDED = dict(train=(), test=('x.pth', ), config=(), flops=(), browse=('--out-dir', 'x'),
              export=('x.pth', '--out', 'x.onnx'), reparameterize=('x.pth', 'y.pth'))


@pytest.mark.parametrize('name', NEEDED)
def test_missing_config(fails, name):
    assert 'config nowhere.py does not exist' in fails(name, 'nowhere.py', *NEEDED[name])
    line = fails(name, 'mobileone-s3_8xb64_in1k', *NEEDED[name])
    assert "no model 'mobileone-s3_8xb64_in1k'" in line and 'mobileone-s3_8xb32_in1k' in line


@pytest.mark.parametrize('text, named', [
    ('x = 1\ny = = 2\n', 'broken.py:2'),
    ('x = 1\ny = undefined\n', "broken.py:2: NameError: name 'undefined'"),
    ("_base_ = ['nothing.py']\n", 'nothing.py'),
    ("_base_ = ['base.py']\nmodel = _base_.model\n", 'model'),
    ("default_scope = 'mmnothing'\n", 'mmnothing is not installed'),
])
def test_broken_config(fails, tmp_path, text, named):
    (tmp_path / 'base.py').write_text('x = 1\n')
    (tmp_path / 'broken.py').write_text(text)
    assert named in fails('config', tmp_path / 'broken.py')


@pytest.mark.parametrize('option', ['batch_size', '=3', 'loader.batch_size.x=1', 'root=[(1,2]'])
def test_broken_option(fails, config, option):
    assert option in fails('config', config('mmdet'), '--cfg-options', option)


@pytest.mark.parametrize('task', TASKS)
def test_unknown_arch(fails, config, task):
    line = fails('train', config(task), '--cfg-options', 'model.backbone.arch=s9')
    assert "unknown arch 's9'" in line


def test_checkpoint(fails, config, checkpoint, tmp_path):
    path = config('mmpretrain')
    absent = tmp_path / 'absent.pth'
    for args in (('train', path, '--resume', absent), ('test', path, absent),
                 ('train', path, '--cfg-options', f'load_from={absent}')):
        assert f'{absent} does not exist' in fails(*args)
    assert 'no weights for the MobileOne backbone' in fails('test', path, checkpoint)

    truncate(checkpoint)
    for args in (('train', path, '--resume', checkpoint), ('test', path, checkpoint),
                 ('train', path, '--cfg-options', f'load_from={checkpoint}')):
        line = fails(*args)
        assert str(checkpoint) in line and 'truncated' in line


def test_truncated_pretrained(fails, config, checkpoint):
    """Weights that the model itself loads, when it is initialized."""
    truncate(checkpoint)
    path = config('mmseg', f"model['backbone']['init_cfg'] = dict(type='Pretrained', "
                           f"checkpoint={str(checkpoint)!r})\n")
    line = fails('train', path)
    assert str(checkpoint) in line and 'truncated' in line


class Code:

    def __reduce__(self):
        return print, ('running code', )


def test_untrusted_checkpoint(fails, config, tmp_path, capsys):
    path = tmp_path / 'code.pth'
    torch.save(dict(state_dict={}, meta=Code()), path)
    line = fails('test', config('mmpretrain'), path)
    assert '--trust' in line
    assert 'running code' not in capsys.readouterr().out
    # With --trust it is read, and found to hold no weights.
    line = fails('test', config('mmpretrain'), path, '--trust')
    assert 'no weights for the MobileOne backbone' in line
    path.write_bytes(pickle.dumps([1]))
    assert str(path) in fails('test', config('mmpretrain'), path)


@pytest.mark.parametrize('task', TASKS)
def test_missing_data_folder(fails, config, task, tmp_path):
    missing = tmp_path / 'nothing'
    for name in ('train', 'browse'):
        line = fails(name, config(task, data=missing), *NEEDED[name])
        assert f'{missing}' in line and 'does not exist' in line
        assert 'train_dataloader.dataset.' in line


@pytest.mark.parametrize('task, key', [
    ('mmdet', 'train_dataloader.dataset.ann_file'),
    ('mmseg', 'train_dataloader.dataset.ann_file'),
    ('mmdet', 'val_evaluator.ann_file'),
])
@pytest.mark.parametrize('inspected', [True, False])
def test_missing_annotation_file(fails, config, task, key, inspected):
    line = fails('train', config(task), '--cfg-options', f'{key}=nothing.txt', f'inspect={inspected}')
    assert 'nothing.txt does not exist' in line and f'set {key}' in line


@pytest.mark.parametrize('task', ['mmdet', 'mmseg'])
def test_no_samples(fails, config, task, tmp_path, data):
    (tmp_path / 'empty.txt').touch()
    (tmp_path / 'empty.json').write_text('{"images": [], "annotations": [], "categories": []}')
    ann_file = tmp_path / dict(mmdet='empty.json', mmseg='empty.txt')[task]
    line = fails('train', config(task), '--cfg-options',
                 f'train_dataloader.dataset.ann_file={ann_file}')
    assert 'the data set of train_dataloader has no samples' in line and str(data) in line


@pytest.mark.parametrize('task, key', [
    ('mmpretrain', 'head'),
    ('mmdet', 'bbox_head'),
    ('mmseg', 'decode_head'),
    ('mmseg', 'auxiliary_head'),
])
def test_class_count(fails, config, task, key):
    line = fails('train', config(task), '--cfg-options', f'model.{key}.num_classes=7')
    assert f'model.{key}.num_classes is 7' in line
    assert 'train_dataloader has ' + ('6' if task == 'mmseg' else '5') + ' classes' in line


def test_class_count_of_test(fails, config, checkpoint):
    line = fails('test', config('mmpretrain'), checkpoint, '--cfg-options',
                 'model.head.num_classes=7')
    assert 'test_dataloader has 5 classes (circle, cross, square, …)' in line


@pytest.mark.parametrize('workers, content, words', [
    (0, b'', 'cannot be decoded'), (2, b'no image', 'cannot be decoded'),
    (2, BOMB, 'states 40000x40000 pixels')])
@pytest.mark.parametrize('task, file', [
    ('mmpretrain', 'classes/train/circle'),
    ('mmdet', 'JPEGImages'),
    ('mmseg', 'JPEGImages'),
    ('mmseg', 'SegmentationClass'),
])
def test_undecodable(fails, config, tmp_path, data, task, file, workers, content, words):
    broken = shutil.copytree(data, tmp_path / 'data')
    training = (data / 'ImageSets/Segmentation/train.txt').read_text().split()
    path = next(p for p in sorted((broken / file).iterdir()) if p.stem in training)
    path.unlink()  # the folders share files by hard links
    path.write_bytes(content)
    line = fails('train', config(task, data=broken), '--cfg-options',
                 f'train_dataloader.num_workers={workers}', 'inspect=False')
    assert f'{path} {words}' in line


def test_images_too_large_to_decode(fails, trained, tmp_path, data, capsys):
    """At every door but training's, where test_undecodable has them."""
    path, weights = trained('mmpretrain')
    folder = tmp_path / 'photos'
    folder.mkdir()
    bomb = folder / 'bomb.ppm'
    bomb.write_bytes(BOMB)
    words = f'image {bomb} states 40000x40000 pixels'
    assert words in fails('export', path, weights, '--out', 'x.onnx', '--images', folder)
    assert not Path('x.onnx').exists()
    assert command('predict', bomb, '--model', path, '--weights', weights, '--device', 'cpu') == 1
    assert 'states 40000x40000 pixels' in Path('predictions/predictions.json').read_text()
    capsys.readouterr()

    broken = shutil.copytree(data, tmp_path / 'data')
    for image in broken.glob('classes/train/*/*.jpg'):
        image.unlink()
        image.write_bytes(BOMB)
    path, _ = trained('mmpretrain', f'train_dataloader["dataset"]["data_root"] = {str(broken / "classes")!r}\n')
    weights = {f'backbone.{key}': value for key, value in MobileOne('s0', deploy=True).state_dict().items()}
    torch.save(weights, 'fused.pth')
    assert 'states 40000x40000 pixels' in fails('convert', 'fused.pth', 'out.pth', '--expand', path)
    assert not Path('out.pth').exists()


def test_options_that_do_not_fit(fails, config, checkpoint):
    assert 'predictions.json' in fails('test', config('mmdet'), checkpoint, '--out',
                                       'predictions.json')
    bare = config('mmseg', 'del tta_model, tta_pipeline, default_hooks["visualization"]\n')
    assert 'tta_model and tta_pipeline' in fails('test', bare, checkpoint, '--tta')
    assert 'default_hooks.visualization' in fails('test', bare, checkpoint, '--show-dir', 'x')
    assert 'auto_scale_lr.base_batch_size' in fails('train', bare, '--auto-scale-lr')
    line = fails('train', bare, '--launcher', 'pytorch')
    assert 'RANK' in line and 'launcher pytorch' in line and '(--launcher)' in line
    other = config('mmpretrain', "model['backbone'] = dict(type='ResNet', depth=18)\n")
    assert 'no MobileOne backbone' in fails('test', other, checkpoint, '--deploy')
    assert '--epochs' in fails('train', bare, '--epochs', '3')
    line = fails('test', config('mmpretrain'), checkpoint, '--tta', '--show-dir', 'x')
    assert 'test-time augmentation' in line and '(--show-dir)' in line


@pytest.mark.skipif(torch.cuda.is_available(), reason='mixed precision works on a GPU')
def test_amp_without_gpu(fails, config):
    assert '--amp' in fails('train', config('mmpretrain'), '--amp')


def test_bug_keeps_its_traceback(config):
    path = config('mmpretrain', "train_dataloader['dataset']['no_such_argument'] = 1\n")
    with pytest.raises(TypeError, match='no_such_argument'):
        command('train', path)


def test_as_a_user_sees_it(config, tmp_path):
    """In a process of its own, with the warnings that libraries give while they build."""
    result = run_tool('train', 'nowhere.py')
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr == ('train.py: error: argument CONFIG: config nowhere.py does not exist '
                             '(see train.py --help)\n')
    result = run_tool('train', config('mmseg'), '--cfg-options', 'model.decode_head.num_classes=7')
    assert result.returncode == 2
    assert result.stderr.startswith('train.py: error: model.decode_head.num_classes is 7')
    assert result.stderr.count('\n') == 1


def test_only_rank_0_tells(config):
    result = run_command('train', config('mmpretrain'), '--cfg-options', 'model.head.num_classes=7', processes=2)
    assert result.returncode == 2
    assert result.stderr.count('mmone train: error: model.head.num_classes is 7') == 1
    assert 'in train' not in result.stderr  # no frame of a traceback


def test_weights_of_another_class_count(fails, config, tmp_path):
    path = config('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(Config.fromfile(path).model)
    state_dict = dict(model.state_dict())
    head = 'head.fc.weight', 'head.fc.bias'
    state_dict.update({key: torch.cat([state_dict[key]] * 2) for key in head})
    torch.save(dict(state_dict=state_dict), tmp_path / 'ten.pth')
    for name, args in (('test', ('ten.pth', )), ('train', ('--cfg-options', 'load_from=ten.pth'))):
        line = fails(name, path, *args)
        assert 'ten.pth has a classifier of 10 classes but the model has 5' in line
        assert 'mmone convert CHECKPOINT OUT --drop-head' in line
    for key in head:
        del state_dict[key]
    torch.save(dict(state_dict=state_dict), tmp_path / 'headless.pth')
    line = fails('test', path, 'headless.pth')
    assert 'headless.pth has no weights for head.fc.weight and 1 more' in line
    command('train', path, '--cfg-options', 'load_from=headless.pth', 'train_cfg.max_epochs=1', 'train_cfg.val_begin=9')


def test_weights_of_another_variant(fails, tmp_path):
    config = ROOT / 'configs/classification/mobileone-s2_8xb32_in1k.py'
    torch.save({f'backbone.{key}': value for key, value in MobileOne('s1').state_dict().items()},
               tmp_path / 's1.pth')
    line = fails('reparameterize', config, 's1.pth', 'out.pth')
    assert "arch='s1'" in line


@pytest.mark.parametrize('args, words', [
    (('nowhere.pth', 'out.pth'), 'nowhere.pth does not exist'),
    (('.', 'out.pth'), 'is a directory'),
    (('in.pth', '.'), 'is a directory'),
    (('in.pth', 'in.pth'), '--force'),
    (('in.pth', 'out.pth'), 'no MobileOne classifier'),
])
def test_convert(fails, tmp_path, args, words):
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'in.pth')
    before = (tmp_path / 'in.pth').read_bytes()
    assert words in fails('convert', *args)
    assert (tmp_path / 'in.pth').read_bytes() == before
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('args, words', [
    (('nowhere.jpg', '--model', 'mobileone-s0_8xb32_in1k'), 'input nowhere.jpg does not exist'),
    (('.', '--model', 'mobileone-s0_8xb32_in1k'), 'no images or videos'),
    (('a.jpg', '--model', 'mobileone-s9'), 'no model'),
    (('a.jpg', '--model', 'mobileone-s1_1xb64-60e_cifar10-small'), 'no weights are published'),
    (('a.jpg', '--model', 'mobileone-s0_8xb32_in1k', '--weights', 'no.pth'), 'no.pth does not exist'),
    (('a.jpg', '--model', 'mobileone-s0_8xb32_in1k', '--out-dir', '.'), 'would replace it'),
    (('a.mp4', '--model', 'mobileone-s0_8xb32_in1k'), 'video a.mp4 cannot be decoded'),
])
def test_predict(fails, tmp_path, args, words):
    for name in ('a.jpg', 'a.mp4'):
        if name in args:
            (tmp_path / name).write_text('no image')
    assert words in fails('predict', *args)
