"""Somebody's own data: what is found in a folder, and that the libraries then read what is there."""
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from mmone.config import default_scope
from mmone.datasets.layouts import Options, Sample, find
from mmone.datasets.layouts.folder import split_of
from mmone.datasets.new_config import Wishes, class_weights, code, stratified, suitable_anchors, write_config
from mmone.datasets.shapes import CLASSES
from mmone.errors import InputError
from tests import layouts
from tests.layouts import BACKGROUND, sample_of

CLASS_LAYOUTS = dict(folders='folders', folders_without_splits='folders', folders_and_test='folders', csv='csv',
                     csv_without_header='csv', csv_with_splits='csv', csv_for_each_split='csv')
BOX_LAYOUTS = dict(coco='coco', coco_beside_images='coco', coco_without_splits='coco', voc='voc',
                   voc_without_splits='voc', voc_beside_images='voc', yolo='yolo', yolo_beside_images='yolo')
MASK_LAYOUTS = ('masks', 'masks_by_kind', 'masks_voc', 'masks_without_splits', 'masks_mmseg', 'masks_cityscapes',
                'masks_beside_images', 'masks_in_colours', 'masks_in_nameless_colours', 'masks_black_and_white',
                'masks_black_and_white_in_jpeg', 'masks_grey_in_rgb', 'masks_of_mixed_images')
WITHOUT_SPLITS = ('folders_without_splits', 'csv', 'csv_without_header', 'coco_without_splits', 'voc_without_splits',
                  'yolo_beside_images', 'masks_without_splits', 'masks_beside_images')
IN_PLACE = ('folders', 'coco', 'voc', 'masks', 'masks_by_kind', 'masks_voc', 'masks_mmseg', 'masks_cityscapes')


@pytest.fixture
def made(data, tmp_path):
    """Make a layout; its folder."""

    def make(name):
        folder = tmp_path / 'mine'
        getattr(layouts, name)(data, folder)
        return folder

    return make


def written(found, folder, **wishes):
    """The config that is written for what was found, its splits' data sets, and the plan."""
    plan = write_config(found, folder / 'config.py', Wishes(arch='micro68', **wishes))
    cfg = Config.fromfile(folder / 'config.py')
    with default_scope(cfg):
        datasets = {split: DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'val', 'test')}
    return cfg, datasets, plan


def check_splits(name, found, plan, datasets):
    sizes = {split: len(samples) for split, samples in found.splits.items()}
    if name in WITHOUT_SPLITS:
        assert sizes == dict(all=16)
        assert {split: len(samples) for split, samples in plan.splits.items()} == dict(train=13, val=3)
    elif name == 'folders_and_test':
        assert sizes == dict(train=11, test=5) and {*plan.splits} == {'train', 'val', 'test'}
    else:
        assert sizes == dict(train=11, val=5)
        assert plan.splits == found.splits
    assert bool(plan.made) == (name in (*WITHOUT_SPLITS, 'folders_and_test'))
    images = [{sample.image for sample in samples} for samples in plan.splits.values()]
    assert sum(map(len, images)) == len(set().union(*images)) == 16
    assert {split: len(datasets[split]) for split in plan.splits} == {
        split: len(samples) for split, samples in plan.splits.items()}


def image_names(dataset):
    paths = [dataset.get_data_info(k)['img_path'] for k in range(len(dataset))]
    assert len(set(paths)) == len(paths)
    return [path.rpartition('/')[2] for path in paths]


@pytest.mark.parametrize('name', CLASS_LAYOUTS)
def test_classes(name, made, tmp_path):
    found = find(made(name))
    assert (found.task, found.layout, found.classes) == ('classification', CLASS_LAYOUTS[name], list(CLASSES))
    assert found.counts == [sum(sample_of(f'{k:06}').labels[0] == label for k in range(16)) for label in range(5)]
    cfg, datasets, plan = written(found, tmp_path)
    check_splits(name, found, plan, datasets)
    for dataset in datasets.values():
        assert tuple(dataset.metainfo['classes']) == CLASSES
        for k, image in enumerate(image_names(dataset)):
            assert dataset[k]['data_samples'].gt_label.item() == sample_of(image).labels[0]
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == 5
    assert cfg.model.head.topk == cfg.val_evaluator.topk == 1
    assert (tmp_path / 'config_data').exists() != (name == 'folders')


@pytest.mark.parametrize('name', BOX_LAYOUTS)
def test_boxes(name, made, tmp_path):
    found = find(made(name))
    assert (found.task, found.layout, found.classes) == ('detection', BOX_LAYOUTS[name], list(CLASSES))
    counts = Counter(label for k in range(16) for label in sample_of(f'{k:06}').labels)
    assert found.counts == [counts[label] for label in range(5)]
    _, datasets, plan = written(found, tmp_path)
    check_splits(name, found, plan, datasets)
    for dataset in datasets.values():
        assert dataset.metainfo['classes'] == CLASSES
        for k, image in enumerate(image_names(dataset)):
            sample = sample_of(image)
            instances = dataset.get_data_info(k)['instances']
            boxes = {tuple(one['bbox']): one['bbox_label'] for one in instances}
            expected = dict(zip(sample.boxes, sample.labels))
            assert sorted(boxes.values()) == sorted(expected.values())
            assert sorted(boxes) == pytest.approx(np.array(sorted(expected)), abs=1.1)  # VOC counts from 1
    assert (tmp_path / 'config_data').exists() != (name in IN_PLACE)
    if name == 'coco_beside_images':
        assert any('things' in note for note in found.notes)
    if name == 'voc_beside_images':
        assert any('2 boxes without an area' in note for note in found.notes)


@pytest.mark.parametrize('name', MASK_LAYOUTS)
def test_masks(name, made, tmp_path):
    found = find(made(name))
    assert (found.task, found.layout) == ('segmentation', 'masks')
    order = list(range(6))
    if 'black_and_white' in name:
        assert found.classes == ['background', 'foreground']
        order = [0, *[1] * 5]
    elif name in ('masks_by_kind', 'masks_in_colours'):
        assert found.classes == list(BACKGROUND)
    elif name == 'masks_in_nameless_colours':  # the most frequent first
        assert found.classes[0] == 'background'
        order = [found.classes.index('rgb_{}_{}_{}'.format(*colour)) if k else 0
                 for k, colour in enumerate(layouts.PALETTE)]
    elif name == 'masks_grey_in_rgb':
        assert found.classes == [f'class_{40 * k}' for k in range(6)]
    else:
        assert found.classes == [f'class_{k}' for k in range(6)]
    pixels = sum(np.bincount(np.array(order)[sample_of(f'{k:06}').mask].ravel(), minlength=len(found.classes))
                 for k in range(16))
    assert found.counts == pixels.tolist() or name.endswith('jpeg')
    if name not in ('masks_without_splits', 'masks_grey_in_rgb') and 'black' not in name:
        assert found.palette[order[2]] == layouts.PALETTE[2]
    cfg, datasets, plan = written(found, tmp_path)
    check_splits(name, found, plan, datasets)
    for dataset in datasets.values():
        for k, image in enumerate(image_names(dataset)):
            info = dataset.get_data_info(k)
            mask = np.asarray(Image.open(info['seg_map_path']))
            wrong = (mask != np.array(order)[sample_of(image).mask]).mean()
            assert wrong <= (0.02 if name.endswith('jpeg') else 0)
            assert Image.open(info['img_path']).size == (64, 64)
    assert (tmp_path / 'config_data').exists() != (name in IN_PLACE)
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == len(found.classes)


# What people have beside that


def test_several_layouts_have_to_be_chosen_from(data):
    with pytest.raises(InputError, match='--format coco, detection.*--format voc, detection.*--format masks, segment'):
        find(data)
    with pytest.raises(InputError, match='--format coco, detection'):
        find(data, task='detection')
    assert find(data, task='segmentation').layout == 'masks'
    assert find(data, layout='voc').layout == 'voc'
    with pytest.raises(InputError, match='format voc is for detection, not for segmentation'):
        find(data, 'segmentation', 'voc')


def test_the_only_folder_in_a_folder_is_meant(made, tmp_path):
    made('masks').rename(tmp_path / 'inner')
    (tmp_path / 'archive/data').mkdir(parents=True)
    (tmp_path / 'inner').rename(tmp_path / 'archive/data/inner')
    (tmp_path / 'archive/README.txt').write_text('An archive.')
    found = find(tmp_path / 'archive')
    assert found.root == tmp_path / 'archive/data/inner'


def test_names_are_the_users(made):
    names = ('a', 'b', 'c', 'd', 'e')
    assert find(made('yolo'), options=Options(classes=names)).classes == list(names)


@pytest.mark.parametrize('name, options, message', [
    ('csv', dict(label_column='colour'), "labels.csv has no column 'colour': it has image_id, source, label"),
    ('csv', dict(label_column='image_id'), 'have 16 values for 16 images: these are no classes'),
    ('folders', dict(classes=('a', 'b')), 'the class folders are circle'),
    ('voc', dict(classes=('circle', 'cross')), 'the data has the class square'),
    ('yolo', dict(classes=('a', 'b')), 'the class number 4, but there are names for 2 classes'),
    ('masks', dict(classes=('a', 'b')), '2 classes are named, but the data has 6'),
    ('masks', dict(ignore_index=9), 'no mask has the value 9: they have 0, 1, 2'),
])
def test_what_the_user_says_does_not_fit(name, options, message, made):
    with pytest.raises(InputError, match=message):
        find(made(name), options=Options(**options))


def test_columns_have_to_be_chosen_from(data, tmp_path):
    layouts.table(data, tmp_path / 'mine', 'file,shape,colour\n', '{name},{label},red\n')
    with pytest.raises(InputError, match='has the columns file, shape, colour') as error:
        find(tmp_path / 'mine')
    assert error.value.parameter == 'label_column'
    assert find(tmp_path / 'mine', options=Options(label_column='Shape')).classes == list(CLASSES)


def test_a_number_of_masks_is_left_out(made, tmp_path):
    folder = made('masks')
    found = find(folder, options=Options(ignore_index=2))
    assert found.classes == ['class_0', 'class_1', 'class_3', 'class_4', 'class_5']
    cfg, datasets, _ = written(found, tmp_path)
    new = np.array([0, 1, 255, 2, 3, 4])
    for k, image in enumerate(image_names(datasets['train'])):
        mask = np.asarray(Image.open(datasets['train'].get_data_info(k)['seg_map_path']))
        assert (mask == new[sample_of(image).mask]).all()
    # What a table calls void is no class either.
    (folder / 'classes.txt').write_text('\n'.join((*BACKGROUND[:5], 'void')))
    assert find(folder).classes == list(BACKGROUND[:5])


def break_data(name, folder):
    """Something that people's data have."""
    mask = min((folder / 'train/masks').glob('*'), default=folder)
    if name == 'yolo':
        min((folder / 'labels/train').iterdir()).write_text('0 12 13 20 30\n')
    elif name == 'voc':
        (folder / 'Annotations/000001.xml').write_text('<annotation><object></annotation>')
    elif name == 'coco':
        path = folder / 'annotations/instances_val2017.json'
        content = json.loads(path.read_text())
        content['categories'] = [dict(one, name=f'a {one["name"]}') for one in content['categories']]
        path.write_text(json.dumps(content))
    elif name == 'masks':
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(mask)
    elif name == 'masks_in_colours':
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(mask)
    elif name == 'masks_in_nameless_colours':
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(mask)
    elif name == 'masks_mmseg':
        min((folder / 'ann_dir/train').iterdir()).write_bytes(b'no image')


@pytest.mark.parametrize('name, message', [
    ('yolo', '.txt is not in YOLO'),
    ('voc', '000001.xml is no XML that can be read'),
    ('coco', 'calls category 1 a circle'),
    ('masks', 'masks are as large as their images'),
    ('masks_in_colours', 'masks are of several kinds'),
    ('masks_in_nameless_colours', 'colours: no mask of classes'),
    ('masks_mmseg', 'mask .*.png cannot be decoded'),
])
def test_broken_data_is_named(name, message, made):
    folder = made(name)
    break_data(name, folder)
    with pytest.raises(InputError, match=message):
        find(folder)


def test_images_without_labels_are_counted(made):
    folder = made('voc')
    for name in ('000000', '000003'):
        (folder / f'Annotations/{name}.xml').unlink()
    found = find(folder)
    assert len(found.samples()) == 14
    assert any('2 images without labels left out' in note for note in found.notes)
    assert any('that are not there or not labelled' in note for note in found.notes)


def test_no_labels(made, tmp_path):
    for name, message in (('nowhere', 'does not exist'), ('empty', 'has no images')):
        (tmp_path / 'empty').mkdir(exist_ok=True)
        with pytest.raises(InputError, match=message):
            find(tmp_path / name)
    folder = made('coco')
    shutil.rmtree(folder / 'annotations')
    with pytest.raises(InputError, match='16 images and no labels: expected class folders'):
        find(folder)
    (folder / 'labels.csv').write_text('filename,xmin,ymin,xmax,ymax,class\n' + '000000.jpg,1,2,30,40,star\n' * 9)
    with pytest.raises(InputError, match='labels.csv in .* has boxes in CSV'):
        find(folder)
    with pytest.raises(InputError, match='no labels for --task segmentation|boxes in CSV'):
        find(folder, task='segmentation')


@pytest.mark.parametrize('word, split', [
    ('train', 'train'), ('Training', 'train'), ('train2017', 'train'), ('valid', 'val'), ('VAL', 'val'), ('dev', 'val'),
    ('test', 'test'), ('testing', 'test'), ('trains', None), ('value', None)])
def test_names_of_splits(word, split):
    assert split_of(word) == split


# What suits the data


def test_splits_have_all_classes():
    labels = [0] * 100 + [1] * 10 + [2] * 2 + [3]
    samples = [Sample(f'{k}.jpg', (label, 0)) for k, label in enumerate(labels)]
    train, val = stratified(samples, 0.2, 0)
    assert len(val) == 22 and not {*train} & {*val} and sorted(train + val) == sorted(samples)
    assert Counter(sample.labels[0] for sample in val)[1] == 2
    assert {sample.labels[0] for sample in train} == {0, 1, 2, 3}
    assert stratified(samples, 0.2, 0) == (train, val) != stratified(samples, 0.2, 1)


@pytest.mark.parametrize('shape, strides', [
    ((320, 320), [16, 32, 64, 107, 160, 320]),  # of the base config
    ((160, 160), [16, 32, 53, 80, 160]), ((64, 64), [16, 32, 64]), ((32, 32), [16, 32, 32]),
    ((256, 512), [16, 32, 64, 128, (256, 256), (512, 256)][:4] + [256, (512, 256)])])
def test_anchors_are_on_the_levels(shape, strides):
    boxes = np.array([[20, 24]] * 50 + [[60, 66]] * 50 + [[100, 200]] * 2)
    anchors = suitable_anchors(boxes, shape)
    assert anchors.strides == strides
    assert len(anchors.min_sizes) == len(anchors.max_sizes) == len(strides)
    assert anchors.min_sizes == sorted(set(anchors.min_sizes)) and anchors.max_sizes[:-1] == anchors.min_sizes[1:]
    assert anchors.min_sizes[0] == 22 and anchors.ratios == [2]
    if shape == (320, 320):
        assert anchors.min_sizes[1:3] == [63, 141]
    assert suitable_anchors(boxes * [1, 5], shape).ratios == [2, 6]
    assert suitable_anchors(boxes // 10, shape).tiny > 0.4


def test_weights_of_classes():
    assert class_weights([100, 400, 25, 0]) == [1.0, 0.5, 2.0, 1.0]


def test_code_is_python():
    value = dict(a=(1, ), b=[dict(c='x' * 30, d=tuple(range(60)))] * 2, e={}, f=())
    text = code(value)
    assert eval(text) == value
    assert max(map(len, text.splitlines())) <= 100
