"""The tools that look at a config: print_config, get_flops, browse_dataset; and every help."""
import time

import cv2
import pytest
from mmengine.config import Config

from mmone.complexity import config_complexity
from tests.kit import ROOT, TASKS, load_tool, run_tool

# The deployed classifiers' figures that mmpretrain publishes.
PUBLISHED = dict(s0=(2_078_504, 274_136_576), s1=(4_764_840, 823_839_744),
                 s2=(7_808_168, 1_296_478_848), s3=(10_078_312, 1_893_842_944),
                 s4=(14_838_352, 2_979_222_528))  # yapf: disable


@pytest.mark.parametrize('arch', PUBLISHED)
def test_published_complexity(arch):
    cfg = Config.fromfile(ROOT / f'configs/classification/mobileone-{arch}_8xb32_in1k.py')
    shape, forms = config_complexity(cfg)
    assert shape == (224, 224)
    deployed = forms['deployed']
    assert (deployed.parameters, deployed.multiply_adds) == PUBLISHED[arch]
    assert forms['training'].parameters > deployed.parameters


@pytest.mark.parametrize('task', TASKS)
def test_get_flops(config, task, capsys):
    main = load_tool('get_flops').main
    main([str(config(task))])
    side = 32 if task == 'mmpretrain' else 64
    title, training, deployed = capsys.readouterr().out.splitlines()
    assert title.split() == ['image', f'{side}x{side}', 'parameters', 'multiply-adds']
    _, parameters, multiply_adds = deployed.split()
    assert int(training.split()[1].replace(',', '')) > int(parameters.replace(',', ''))

    main([str(config(task)), '--shape', str(2 * side), str(side), '--deploy'])
    title, larger = capsys.readouterr().out.splitlines()
    # A stage's SE layer costs the same at any size.
    counts = [int(text.replace(',', '')) for text in (multiply_adds, larger.split()[2])]
    assert 1.98 < counts[1] / counts[0] <= 2
    assert larger.split()[1] == parameters


@pytest.mark.parametrize('phase', ['train', 'test'])
@pytest.mark.parametrize('task', TASKS)
def test_browse_dataset(config, task, phase, tmp_path, capsys):
    load_tool('browse_dataset').main(
        [str(config(task)), '--out-dir', 'pictures', '--number', '3', '--phase', phase])
    assert '3 pictures in pictures' in capsys.readouterr().out
    pictures = sorted((tmp_path / 'pictures').iterdir())
    assert len(pictures) == 3
    for path in pictures:
        image = cv2.imread(str(path))
        assert image.shape == ((256, 256, 3) if task == 'mmpretrain' else (64, 64, 3))
        assert image.std() > 5


def test_browse_draws_the_labels(config, tmp_path):
    """Without its augmentations a detector's picture is the image with boxes on top."""
    load_tool('browse_dataset').main(
        [str(config('mmdet')), '--out-dir', 'pictures', '--number', '1', '--phase', 'test'])
    path, = (tmp_path / 'pictures').iterdir()
    cfg = Config.fromfile(config('mmdet'))
    original = cv2.imread(f'{cfg.root}/JPEGImages/{path.stem.partition("_")[2]}.jpg')
    difference = abs(cv2.imread(str(path)).astype(int) - original).max(axis=2)
    assert 0.02 < (difference > 60).mean() < 0.9


def test_print_config(config, tmp_path, capsys):
    path = config('mmseg')
    saved = tmp_path / 'saved.py'
    load_tool('print_config').main([str(path), '--save-path', str(saved), '--cfg-options',
                                    'model.backbone.out_indices=(0, 3)', 'x.y=[a,2]'])
    printed = Config.fromstring(capsys.readouterr().out, '.py')
    assert printed.model.backbone.out_indices == (0, 3)
    assert printed.x.y == ['a', 2]
    assert Config.fromfile(saved).model == printed.model


@pytest.mark.parametrize('tool', ['browse_dataset', 'get_flops', 'print_config', 'test', 'train'])
def test_help_teaches_at_once(tool):
    """The best of three: a loaded machine may be slow, but not thrice."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = run_tool(tool, '--help')
        times.append(time.perf_counter() - start)
    assert result.returncode == 0
    assert f'tools/{tool}.py CONFIG' in result.stdout
    assert min(times) < 0.5  # importing torch alone takes longer
