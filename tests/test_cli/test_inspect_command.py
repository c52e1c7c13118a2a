"""mmone inspect, and the part of it at the start of a training."""
import shutil

import pytest
from PIL import Image

from tests.kit import TASKS, command, run_command


@pytest.mark.parametrize('task', TASKS)
def test_nothing_is_wrong(config, task, capsys, tmp_path):
    assert command('inspect', config(task)) == 0
    out = capsys.readouterr().out
    assert 'train  11      64x64     64x64   64x64' in out
    annotated = dict(mmpretrain='11 images of 5 classes', mmdet=' boxes', mmseg='6 classes of pixels: background')
    assert annotated[task] in out
    assert out.endswith(f'0 errors, 0 warnings; a picture is in work_dirs/tiny_{task}/inspect.png\n')
    picture = Image.open(tmp_path / f'work_dirs/tiny_{task}/inspect.png').convert('L')
    assert picture.width > 1000 and len(picture.histogram()) > 200 and picture.getextrema() == (0, 255)


def test_errors(config, data, tmp_path, capsys):
    broken = shutil.copytree(data, tmp_path / 'broken')
    name = (data / 'ImageSets/Main/train.txt').read_text().split()[0]
    (broken / f'JPEGImages/{name}.jpg').unlink()
    path = config('mmdet', data=broken)
    assert command('inspect', path, '--out', 'here/x.png') == 1
    out = capsys.readouterr().out
    assert f'error: image {broken}/JPEGImages/{name}.jpg does not exist' in out
    assert '1 error, 0 warnings; a picture is in here/x.png' in out and (tmp_path / 'here/x.png').is_file()

    with pytest.raises(SystemExit) as stop:
        command('train', path, '--cfg-options', 'val_dataloader.dataset.ann_file=nowhere.json')
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('mmone train: error: ') and error.count('\n') == 1
    assert f'(and 1 more: mmone inspect {path} lists all)' in error


def test_nothing_to_draw(config, tmp_path, capsys):
    assert command('inspect', config('mmseg', data=tmp_path / 'nowhere')) == 1
    assert 'does not exist' in capsys.readouterr().out
    assert not (tmp_path / 'work_dirs').exists()


def test_warnings_are_logged(config, tmp_path):
    hook = "custom_hooks.append(dict(type='EMAHook', momentum=0.0001))\n"
    result = run_command('train', config('mmpretrain', hook), '--cfg-options', 'train_cfg.max_epochs=1',
                         'train_cfg.val_begin=9')
    assert result.returncode == 0, result.stderr
    assert 'EMAHook.momentum=0.0001 is too slow for 3 iterations' in result.stdout + result.stderr


def test_several_processes_stop_at_once(config):
    result = run_command('train', config('mmpretrain'), '--cfg-options', "train_dataloader.dataset.classes=('a','b')",
                         processes=2)
    assert result.returncode == 2
    assert result.stderr.count('mmone train: error: ') == 1 and '5 folders' in result.stderr
