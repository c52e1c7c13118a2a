"""The commands that look at a config: config, flops, browse."""
import cv2
import pytest
from mmengine.config import Config

from tests.kit import TASKS, command


@pytest.mark.parametrize('task', TASKS)
def test_flops(config, task, capsys):
    path = config(task)
    command('flops', path)
    side = 32 if task == 'mmpretrain' else 64
    title, training, deployed = capsys.readouterr().out.splitlines()
    assert title.split() == ['image', f'{side}x{side}', 'parameters', 'multiply-adds']
    _, parameters, multiply_adds = deployed.split()
    assert int(training.split()[1].replace(',', '')) > int(parameters.replace(',', ''))

    command('flops', path, '--shape', 2 * side, side, '--deploy')
    title, larger = capsys.readouterr().out.splitlines()
    # A stage's SE layer costs the same at any size.
    counts = [int(text.replace(',', '')) for text in (multiply_adds, larger.split()[2])]
    assert 1.98 < counts[1] / counts[0] <= 2
    assert larger.split()[1] == parameters


@pytest.mark.parametrize('phase', ['train', 'test'])
@pytest.mark.parametrize('task', TASKS)
def test_browse(config, task, phase, tmp_path, capsys):
    command('browse', config(task), '--out-dir', 'pictures', '--number', 3, '--phase', phase)
    assert '3 pictures in pictures' in capsys.readouterr().out
    pictures = sorted((tmp_path / 'pictures').iterdir())
    assert len(pictures) == 3
    for path in pictures:
        image = cv2.imread(str(path))
        assert image.shape == ((256, 256, 3) if task == 'mmpretrain' else (64, 64, 3))
        assert image.std() > 5


def test_browse_draws_the_labels(config, tmp_path):
    """Without its augmentations a detector's picture is the image with boxes on top."""
    command('browse', config('mmdet'), '--out-dir', 'pictures', '--number', 1, '--phase', 'test')
    path, = (tmp_path / 'pictures').iterdir()
    cfg = Config.fromfile(config('mmdet'))
    original = cv2.imread(f'{cfg.root}/JPEGImages/{path.stem.partition("_")[2]}.jpg')
    difference = abs(cv2.imread(str(path)).astype(int) - original).max(axis=2)
    assert 0.02 < (difference > 60).mean() < 0.9


def test_config(config, tmp_path, capsys):
    path = config('mmseg')
    saved = tmp_path / 'saved.py'
    command('config', path, '--save-path', saved, '--cfg-options', 'model.backbone.out_indices=(0, 3)', 'x.y=[a,2]')
    printed = Config.fromstring(capsys.readouterr().out, '.py')
    assert printed.model.backbone.out_indices == (0, 3)
    assert printed.x.y == ['a', 2]
    assert Config.fromfile(saved).model == printed.model
