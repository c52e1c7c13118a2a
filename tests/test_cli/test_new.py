"""A config for somebody's own data: it trains, evaluates, is looked at, and mistakes are one line."""
import math
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmone.config import build_model
from mmone.models import MobileOne
from tests import layouts
from tests.kit import command, losses

from .test_bad_input import fails  # noqa: F401  # a fixture

ONCE = ('--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', 'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.save_best=None')


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No config is formatted for a log, no compiler asked its version; a deployed model is compared on few pixels."""
    monkeypatch.setattr(Config, 'pretty_text', '')
    monkeypatch.setattr(Runner, '_log_env', lambda runner, env_cfg: None)
    monkeypatch.setattr('mmone.convert.reparameterize.PROBE_SIZE', (33, 33))


@pytest.fixture
def mine(data, tmp_path):
    """Make a layout in the folder ``mine``, and its config of the smallest variant."""

    def make(layout, *args, shape=('64', ), **kwargs):
        getattr(layouts, layout)(data, tmp_path / 'mine', **kwargs)
        return command('new', 'mine', '--arch', 'micro68', '--shape', *shape, *args)

    return make


@pytest.mark.parametrize('layout, shape, metric, said', [
    ('folders_without_splits', '32', 'accuracy/top1',
     ['class folders, for classification', '16 images of 64x64; no splits', '5 classes (images): circle ', 'val 3;']),
    ('yolo', '64', 'coco/bbox_mAP',
     ['YOLO text labels, for detection', 'train 11, val 5', '5 classes (boxes): circle ']),
    ('masks_in_colours', '32', 'mIoU', ['images and masks, for segmentation', '6 classes (% of pixels): background '])])
def test_trains_and_evaluates(mine, layout, shape, metric, said, capsys):
    assert mine(layout, shape=(shape, )) == 0
    out = capsys.readouterr().out
    for text in (*said, f'MobileOne-micro68, {shape}x{shape} pixels, from scratch', 'mmone train my_config.py'):
        assert text in out
    command('browse', 'my_config.py', '--out-dir', 'pictures', '--number', 2)
    assert len(list(Path('pictures').iterdir())) == 2
    command('train', 'my_config.py', *ONCE)
    assert f'{metric}: ' in capsys.readouterr().out
    found = losses('work_dirs/my_config')
    assert len(found) in (2, 3) and all(math.isfinite(loss) for loss in found.values())
    assert Path('work_dirs/my_config/epoch_1_deploy.pth').is_file()


def test_config_and_data_can_be_moved_together(mine, tmp_path):
    mine('voc_without_splits')
    (tmp_path / 'elsewhere').mkdir()
    for name in ('mine', 'my_config.py', 'my_config_data'):
        (tmp_path / name).rename(tmp_path / 'elsewhere' / name)
    cfg = Config.fromfile('elsewhere/my_config.py')
    assert cfg.train_dataloader.dataset.data_root == f'{tmp_path}/elsewhere/mine/'
    assert Path(cfg.val_dataloader.dataset.ann_file).is_file()


@pytest.mark.parametrize('deploy', [True, False])
def test_starts_from_weights(mine, tmp_path, deploy, capsys):
    backbone = MobileOne('micro68', deploy=deploy)
    torch.save({f'backbone.{key}': value for key, value in backbone.state_dict().items()}, 'weights.pth')
    mine('masks', '--weights', 'weights.pth')
    assert f'MobileOne-micro68, 64x64 pixels, from {tmp_path}/weights.pth' in capsys.readouterr().out
    cfg = Config.fromfile('my_config.py')
    assert bool(cfg.model.backbone.get('deploy')) == deploy
    model = build_model(cfg)
    model.init_weights()
    for key, value in backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value), key
    assert cfg.train_cfg.max_epochs <= 40


@pytest.mark.parametrize('arch', ['s0', 's4'])
@pytest.mark.parametrize('layout, shape', [('folders', '96'), ('coco', '320'), ('coco', '96'), ('masks', '96')])
def test_every_variant_has_its_widths(data, tmp_path, arch, layout, shape):
    getattr(layouts, layout)(data, tmp_path / 'mine')
    command('new', 'mine', '--arch', arch, '--shape', shape)
    cfg = Config.fromfile('my_config.py')
    with torch.device('meta'):
        model = build_model(cfg)
        assert cfg.model.backbone.arch == arch
        features = model.backbone(torch.zeros(2, 3, int(shape), int(shape)))
        if layout == 'coco':
            maps = model.neck(features)
            model.bbox_head(maps)
            assert len(maps) == len(cfg.model.bbox_head.anchor_generator.strides)
            sides = [level.shape[-1] for level in maps]
            assert sides[0] == math.ceil(int(shape) / 16) and sides[-1] == 1
        elif layout == 'masks':
            model.decode_head(features), model.auxiliary_head(features)
        else:
            model.head(model.neck(features))


def test_made_anew_with_force(mine, fails):  # noqa: F811
    mine('yolo')
    before = {path: path.read_bytes() for path in (Path('my_config.py'), *Path('my_config_data').iterdir())}
    assert 'my_config.py exists: give another file, or allow it to be replaced (--force)' in fails('new', 'mine')
    Path('my_config.py').unlink()
    assert 'my_config_data exists: give the config another name, or allow' in fails('new', 'mine')
    command('new', 'mine', '--arch', 'micro68', '--shape', '64', '--force')
    assert {path: path.read_bytes() for path in before} == before
    assert not list(Path().glob('.*'))
    Path('my_config_data/made_by_mmone_new.json').unlink()
    assert 'my_config_data exists and was not made here' in fails('new', 'mine', '--force')


def test_what_it_made_is_no_data(mine, tmp_path):
    """A config in the folder of the data, twice."""
    mine('masks_in_colours', '--out', 'mine/config.py')
    before = Path('mine/config.py').read_text()
    command('new', 'mine', '--arch', 'micro68', '--shape', '64', '--out', 'mine/config.py', '--force')
    assert Path('mine/config.py').read_text() == before


@pytest.mark.parametrize('args, message', [
    (('--arch', 's9'), "unknown arch 's9': expected one of s0, s1"),
    (('--out', 'config.txt'), 'config.txt is no .py file'),
    (('--shape', '16'), 'shape is 16: expected height and width, or one number for both, of at least 32 (--shape)'),
    (('--shape', '64', '96'), 'square images: give one number (--shape)'),
    (('--val-fraction', '2'), 'val_fraction must be above 0 and below 1, got 2.0'),
    (('--weights', 'no.pth'), 'no.pth does not exist'),
    (('--format', 'voc'), 'no labels for --format voc: expected '),
    (('--task', 'segmentation'), 'no labels for --task segmentation: expected images and masks'),
    (('--classes', 'a,b'), 'and not those named (--classes)'),
    (('--classes', 'a,,b'), 'is no list of different names'),
])
def test_mistakes_are_one_line(data, tmp_path, fails, args, message):  # noqa: F811
    layouts.folders_without_splits(data, tmp_path / 'mine')
    assert message in fails('new', 'mine', *args)
    assert not Path('my_config.py').exists() and not Path('my_config_data').exists()


def test_folders_that_cannot_be_used(data, tmp_path, fails):  # noqa: F811
    assert 'data nowhere does not exist' in fails('new', 'nowhere')
    Path('empty').mkdir()
    assert 'empty has no images' in fails('new', 'empty')
    assert 'choose one of them by --format, or by --task' in fails('new', data)
    shutil.copytree(data / 'JPEGImages', 'bare')
    assert 'bare has 16 images and no labels: expected class folders, a CSV' in fails('new', 'bare')
    layouts.voc(data, tmp_path / 'few')
    for path in sorted(Path('few/Annotations').iterdir())[1:]:
        path.unlink()
    shutil.rmtree('few/ImageSets')
    assert '1 labelled images are too few to train and to validate on' in fails('new', 'few')
