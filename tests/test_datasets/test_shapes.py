import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmone.datasets.shapes import (
    CLASSES,
    DOMINANCE,
    MIN_VISIBLE,
    PALETTE,
    _arrange,
    _count,
    make_dataset,
    make_preview,
    make_sample,
)

ROOT = Path(__file__).parents[2]
IMAGES, SEED = 40, 3


def digests(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def run_tool(*args):
    return subprocess.run(**command(*args), capture_output=True, text=True, timeout=60)


def command(*args):
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    return dict(args=[sys.executable, str(ROOT / 'tools/make_shapes.py'), *map(str, args)],
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths))))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp('shapes') / 'data'
    assert make_dataset(out, IMAGES, SEED)
    return out


@pytest.fixture(scope='module')
def samples():
    return [make_sample(SEED, i) for i in range(IMAGES)]


def test_same_arguments_same_bytes(data, tmp_path):
    # In another process, so that no state of this one can take part.
    done = run_tool(tmp_path / 'again', '--images', IMAGES, '--seed', SEED)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / 'again') == digests(data)


def test_larger_set_begins_with_the_smaller(data, tmp_path):
    make_dataset(tmp_path / 'small', 15, SEED)
    small, large = digests(tmp_path / 'small'), digests(data)
    pictures = [name for name in small if name.endswith(('.jpg', '.png', '.xml'))]
    assert len(pictures) == 15 * 4
    assert all(small[name] == large[name] for name in pictures)


def test_other_seed_other_images():
    assert not np.array_equal(make_sample(0, 0).image, make_sample(1, 0).image)
    assert not np.array_equal(make_sample(0, 0).image, make_sample(0, 1).image)


def test_classes_are_balanced_in_both_splits(data):
    counts = {split: [len(list((data / 'classes' / split / name).iterdir())) for name in CLASSES]
              for split in ('train', 'val')}
    assert counts == dict(train=[6] * 5, val=[2] * 5)


def test_dominant_shape_leads_and_every_shape_shows(samples):
    for sample in samples:
        areas = np.bincount(sample.instances.ravel(), minlength=len(sample.labels) + 1)[1:]
        assert areas[0] >= DOMINANCE * max([0, *areas[1:]])
        assert areas.min() > 200
    assert {len(sample.labels) for sample in samples} == {1, 2, 3, 4}
    for seed in range(30):
        visible, whole = _count(_arrange(np.random.default_rng(seed), seed % 5, 128)[1])
        assert (visible >= MIN_VISIBLE * whole).all()


@pytest.mark.parametrize('size', [64, 200])
def test_size_scales_shapes(size):
    sample = make_sample(SEED, 1, size)
    assert sample.image.shape == (size, size, 3)
    assert sample.mask.shape == (size, size)
    assert 0.1 < (sample.instances == 1).mean() < 0.2


def test_boxes_are_those_of_the_visible_pixels(samples):
    for sample in samples:
        for j, box in enumerate(sample.boxes):
            y, x = np.nonzero(sample.instances == j + 1)
            assert box == (x.min(), y.min(), x.max() + 1, y.max() + 1)


def test_shapes_stand_out(samples):
    for sample in samples:
        for j in range(len(sample.labels)):
            shape = sample.image[sample.instances == j + 1].mean(0)
            ground = sample.image[sample.instances == 0].mean(0)
            assert np.linalg.norm(shape - ground) > 25


def test_colours_do_not_tell_the_class():
    samples = [make_sample(SEED, i, 64) for i in range(1000)]
    labels = np.array([sample.labels[0] for sample in samples])
    features = []
    for sample in samples:
        cells = (sample.image // 32).reshape(-1, 3) @ [64, 8, 1]
        features.append(np.sqrt(np.bincount(cells, minlength=512) / len(cells)))
    features = np.array(features)
    near = (features[700:] @ features[:700].T).argmax(1)
    assert (labels[:700][near] == labels[700:]).mean() < 0.3
    # How much area some colour covers, whichever colour that is.
    areas = -np.sort(-features, 1)[:, :16]
    centres = np.stack([areas[:700][labels[:700] == k].mean(0) for k in range(len(CLASSES))])
    nearest = np.linalg.norm(areas[700:, None] - centres, axis=2).argmin(1)
    assert (nearest == labels[700:]).mean() < 0.3


def test_mmpretrain_reads_class_folders(data, samples):
    datasets = pytest.importorskip('mmpretrain.datasets')
    mmcv = pytest.importorskip('mmcv.transforms')
    seen = 0
    for split in ('train', 'val'):
        dataset = datasets.CustomDataset(
            data_root=str(data), data_prefix=f'classes/{split}', metainfo=dict(classes=CLASSES),
            pipeline=[mmcv.LoadImageFromFile(), datasets.transforms.PackInputs()])
        for i in range(len(dataset)):
            item = dataset[i]
            index = int(Path(item['data_samples'].img_path).stem)
            assert item['inputs'].shape == (3, 128, 128)
            assert item['data_samples'].gt_label.item() == samples[index].labels[0]
            seen += 1
    assert seen == IMAGES


def test_mmdet_reads_the_same_boxes_from_coco_and_voc(data, samples):
    datasets = pytest.importorskip('mmdet.datasets')
    mmcv = pytest.importorskip('mmcv.transforms')
    transforms = datasets.transforms
    for split in ('train', 'val'):
        common = dict(data_root=str(data), metainfo=dict(classes=CLASSES))
        coco = datasets.CocoDataset(
            ann_file=f'coco/{split}.json', data_prefix=dict(img='JPEGImages/'), **common,
            pipeline=[mmcv.LoadImageFromFile(),
                      transforms.LoadAnnotations(with_bbox=True, with_mask=True),
                      transforms.PackDetInputs()])
        voc = datasets.XMLDataset(
            ann_file=f'ImageSets/Main/{split}.txt', data_prefix=dict(sub_data_root=''), **common,
            pipeline=[mmcv.LoadImageFromFile(),
                      transforms.LoadAnnotations(with_bbox=True),
                      transforms.PackDetInputs()])
        assert len(coco) == len(voc) == dict(train=30, val=10)[split]
        for one, other in zip(coco, voc, strict=True):
            one, other = one['data_samples'], other['data_samples']
            assert Path(one.img_path).samefile(other.img_path)
            sample = samples[int(Path(one.img_path).stem)]
            boxes = one.gt_instances.bboxes.numpy()
            np.testing.assert_array_equal(boxes, sample.boxes)
            np.testing.assert_array_equal(boxes, other.gt_instances.bboxes.numpy())
            assert tuple(one.gt_instances.labels) == sample.labels
            assert tuple(other.gt_instances.labels) == sample.labels
            for j, mask in enumerate(one.gt_instances.masks.masks):
                np.testing.assert_array_equal(mask, sample.instances == j + 1)


def test_mmseg_reads_masks(data, samples):
    datasets = pytest.importorskip('mmseg.datasets')
    mmcv = pytest.importorskip('mmcv.transforms')
    dataset = datasets.BaseSegDataset(
        data_root=str(data), ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        metainfo=dict(classes=('background', *CLASSES), palette=PALETTE),
        pipeline=[mmcv.LoadImageFromFile(), datasets.transforms.LoadAnnotations(),
                  datasets.transforms.PackSegInputs()])
    assert len(dataset) == 10
    for i in range(len(dataset)):
        item = dataset[i]['data_samples']
        sample = samples[int(Path(item.img_path).stem)]
        np.testing.assert_array_equal(item.gt_sem_seg.data[0].numpy(), sample.mask)


def test_masks_show_their_palette(data):
    mask = Image.open(data / 'SegmentationClass/000000.png')
    assert mask.mode == 'P'
    colours = {tuple(colour) for colour in np.array(mask.convert('RGB')).reshape(-1, 3)}
    assert colours <= set(PALETTE) and len(colours) > 1


def test_class_folders_cost_no_space(data):
    photo = next((data / 'classes/val').rglob('*.jpg'))
    assert photo.samefile(data / 'JPEGImages' / photo.name)


def test_copies_where_links_fail(data, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError('no links here')
    monkeypatch.setattr(os, 'link', refuse)
    make_dataset(tmp_path / 'copied', IMAGES, SEED)
    assert digests(tmp_path / 'copied') == digests(data)


def test_shapes_import_no_torch():
    code = ('import sys, mmone; before = set(sys.modules); import mmone.datasets.shapes; '
            'assert "torch" not in set(sys.modules) - before')
    subprocess.run([sys.executable, '-c', code], check=True, env=command()['env'])


def test_second_run_does_nothing(data):
    before = digests(data), data.stat().st_mtime_ns
    done = run_tool(data, '--images', IMAGES, '--seed', SEED)
    assert done.returncode == 0
    assert 'already there' in done.stdout
    assert (digests(data), data.stat().st_mtime_ns) == before


def test_force_replaces_only_what_it_made(tmp_path):
    out = tmp_path / 'data'
    make_dataset(out, 10, seed=0)
    with pytest.raises(ValueError, match='force'):
        make_dataset(out, 10, seed=1)
    assert make_dataset(out, 10, seed=1, force=True)
    assert json.loads((out / 'shapes.json').read_text())['seed'] == 1
    assert os.listdir(tmp_path) == ['data']

    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'shapes.json').write_text('{"thesis": 1}')
    with pytest.raises(ValueError, match='not empty'):
        make_dataset(mine, 10, force=True)
    assert (mine / 'shapes.json').read_text() == '{"thesis": 1}'


def test_failure_leaves_the_old_set(tmp_path, monkeypatch):
    out = tmp_path / 'data'
    make_dataset(out, 10, seed=0)
    before = digests(out)

    def full(*_, **__):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(OSError, match='No space'):
        make_dataset(out, 10, seed=1, force=True)
    assert digests(out) == before
    assert os.listdir(tmp_path) == ['data']


def test_killed_run_leaves_nothing_under_the_name(tmp_path):
    out, partial = tmp_path / 'data', tmp_path / '.data.partial' / 'data'
    process = subprocess.Popen(**command(out, '--images', 100_000))
    try:
        deadline = time.monotonic() + 30
        while not (partial / 'JPEGImages/000003.jpg').exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(ValueError, match='another process'):
            make_dataset(out, 10)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists() and partial.exists()
    assert make_dataset(out, 10)
    assert os.listdir(tmp_path) == ['data']
    assert len(list((out / 'JPEGImages').iterdir())) == 10


@pytest.mark.parametrize('arguments, message', [
    (dict(images=4), 'too few'),
    (dict(images=5), 'too few'),
    (dict(images=2_000_000), 'at most'),
    (dict(images=20, val_fraction=0), 'val_fraction'),
    (dict(images=20, size=63), 'size'),
    (dict(images=20, seed=-1), 'seed'),
])
def test_bad_arguments_make_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(tmp_path / 'data', **arguments)
    assert not os.listdir(tmp_path)


def test_tool_says_what_is_wrong_in_one_line(tmp_path):
    done = run_tool(tmp_path / 'data', '--images', '20', '--seed', '-1')
    assert done.returncode == 2
    assert done.stderr == 'make_shapes: error: seed must not be negative, got -1\n'
    (tmp_path / 'file').write_text('')
    done = run_tool(tmp_path / 'file/data', '--images', '10')
    assert done.returncode == 2
    assert done.stderr.startswith('make_shapes: error: ') and done.stderr.count('\n') == 1


def test_preview(tmp_path):
    assert make_preview(SEED, images=4, columns=3).shape == (2 * 262, 3 * 778, 3)
    done = run_tool(tmp_path / 'data', '--images', '10', '--preview', tmp_path / 'sheet.png')
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / 'sheet.png').size == (3 * 778, 4 * 262)
