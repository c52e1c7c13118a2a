"""Each check, on a broken copy of generated data or a config that does not fit it."""
import json
import shutil
from collections import namedtuple
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmone.config import load_config
from mmone.datasets.inspection import files, inspect
from mmone.datasets.inspection.boxes import best_overlaps
from mmone.datasets.inspection.files import Job, look
from tests.kit import TASKS

CLASSES = ('circle', 'cross', 'square', 'star', 'triangle')


@pytest.fixture
def broken(data, tmp_path):
    """A copy of the generated data that can be changed: its files are links to one another."""
    return shutil.copytree(data, tmp_path / 'broken')


@pytest.fixture
def found(config, data):
    """What an inspection of a tiny config finds at a level, as texts."""

    def run(task, *options, data=data, extra='', whole=True, level='error'):
        inspection = inspect(load_config(str(config(task, extra, data)), options), whole)
        return [finding.text for finding in inspection.findings if finding.level == level]

    return run


def only(texts):
    assert len(texts) == 1, texts
    return texts[0]


def rewrite(path, content):
    """Replace a file and not those that are linked to it."""
    path.unlink()
    path.write_bytes(content) if isinstance(content, bytes) else content.save(path)


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.unlink()
    path.write_text(json.dumps(content))


def training_image(data, folder='JPEGImages', end='.jpg'):
    """An image that is trained on, and its path."""
    name = (data / 'ImageSets/Main/train.txt').read_text().split()[0]
    path = data / folder / f'{name}{end}'
    return Image.open(path).copy() if end != '.xml' else None, path


def voc(loader='train', **more):
    """A config's end that reads Pascal VOC in place of COCO."""
    return f'''
train_dataloader['dataset'] = dict(
    type='XMLDataset', data_root=root, ann_file='ImageSets/Main/train.txt', metainfo=metainfo,
    data_prefix=dict(sub_data_root=''), pipeline=train_pipeline, **{more!r})
'''


# Nothing

@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize('task', TASKS)
def test_nothing_is_wrong(found, task, whole):
    for level in ('error', 'warning'):
        assert found(task, whole=whole, level=level) == []


@pytest.mark.parametrize('task', ['mmpretrain', 'mmdet'])
def test_classes_that_indices_leave_out_are_none_that_are_missing(found, task):
    assert found(task, 'train_dataloader.dataset.indices=1', 'train_dataloader.batch_size=1', level='warning') == []


def test_voc_has_nothing_wrong(found):
    filters = "train_pipeline.insert(-1, dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)))\n"
    for level in ('error', 'warning'):
        assert found('mmdet', extra=filters + voc(), level=level) == []


def test_unknown_data_sets_are_left_alone(found, tmp_path, monkeypatch):
    """Quickly not at all, as a whole by what they say of themselves."""
    module = tmp_path / 'own_data.py'
    module.write_text('''
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

@DATASETS.register_module(force=True)
class Own(CocoDataset):
    def load_data_list(self):
        return [dict(img_path='nowhere.jpg', height=10, width=20, instances=[])]
''')
    monkeypatch.syspath_prepend(tmp_path)
    extra = '''
custom_imports = dict(imports=['own_data'])
train_dataloader['dataset'] = dict(type='Own', data_root=root, ann_file='x.json', metainfo=metainfo,
                                   data_prefix=dict(img=''), pipeline=train_pipeline)
'''
    assert found('mmdet', extra=extra, whole=False) == []
    assert 'nowhere.jpg does not exist' in only(found('mmdet', extra=extra))


def test_a_check_that_fails_is_no_mistake(found, monkeypatch):
    from mmone.datasets.inspection import settings
    monkeypatch.setattr(settings.shutil, 'disk_usage', lambda path: 1 / 0)
    assert found('mmpretrain', whole=False, level='note') == found('mmpretrain', whole=False) == []
    assert 'not checked, for ZeroDivisionError' in only(found('mmpretrain', level='note'))


# Classes

def test_order_of_classes(found, config):
    """mmdet numbers by the file, mmpretrain by the folders; both call the numbers by the config."""
    other = "'circle', 'square', 'triangle', 'star', 'cross'"
    text = found('mmdet', f'train_dataloader.dataset.metainfo.classes=({other})')[0]
    assert 'train.json' in text and "'cross' is called 'square'" in text and f'classes={CLASSES}' in text
    cfg = load_config(str(config('mmdet')), [f'train_dataloader.dataset.metainfo.classes=({other})'])
    from mmengine.registry import DATASETS

    from mmone.config import default_scope
    with default_scope(cfg):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    names = {one['id']: one['name'] for one in json.loads(Path(dataset.ann_file).read_text())['categories']}
    assert [names[number] for number in dataset.cat_ids] == list(CLASSES)  # and metainfo says otherwise
    assert dataset.metainfo['classes'][1] == 'square'

    text = found('mmpretrain', f'train_dataloader.dataset.classes=({other})')[0]
    assert "the folder cross is called 'square'" in text
    names = "'a', 'b', 'c', 'd', 'e'"  # other names than the folders', in whatever order
    assert found('mmpretrain', *(f'{loader}_dataloader.dataset.classes=({names})' for loader in
                                 ('train', 'val', 'test'))) == []


def test_classes_that_one_side_lacks(found, broken):
    text = found('mmdet', "train_dataloader.dataset.metainfo.classes=('circle','Cross','square','star','triangle')")[0]
    assert "'Cross', which is no category" in text and "(the data has 'cross')" in text
    text = found('mmdet', "train_dataloader.dataset.metainfo.classes=('cat','dog','cow','hen','pig')")[0]
    assert 'has none of the classes' in text and "'circle'" in text
    fewer = [f"{loader}_dataloader.dataset.metainfo.classes=('circle','cross')" for loader in ('train', 'val', 'test')]
    assert "3 categories that the config does not ('square', 'star', 'triangle')" in found(
        'mmdet', 'model.bbox_head.num_classes=2', *fewer, level='warning')[0]
    text = found('mmdet', extra="metainfo = dict(classes=('circle', 'Cross', 'square', 'star', 'triangle'))\n" + voc(),
                 level='warning')[0]
    assert "no 'cross' (it has 'Cross')" in text and 'are left out' in text
    assert "no example of 'Cross'" in ' '.join(found(
        'mmdet', extra="metainfo = dict(classes=('circle', 'Cross', 'square', 'star', 'triangle'))\n" + voc(),
        level='warning'))

    shutil.rmtree(broken / 'classes/train/star')
    text = found('mmpretrain', data=broken)[0]
    assert '5 classes' in text and '4 folders' in text and '(star)' in text
    text = found('mmpretrain', data=broken, extra="del train_dataloader['dataset']['classes']\n")
    assert any('has other classes than' in one or 'have other folders (star' in one for one in text)


def test_categories_twice_and_gaps(found, broken):
    def twice(content):
        content['categories'].append(dict(id=99, name='circle'))
    change_json(broken / 'coco/train.json', twice)
    assert 'has 1 category twice (circle)' in found('mmdet', data=broken)[0]

    def gaps(content):
        content['categories'].pop()
        for entry in content['categories'] + content['annotations']:
            key = 'category_id' if 'category_id' in entry else 'id'
            entry[key] *= 10
    change_json(broken / 'coco/train.json', gaps)
    assert 'not contiguous' in only(found('mmdet', data=broken, level='note'))
    assert found('mmdet', data=broken) == []


@pytest.mark.parametrize('task, key', [('mmdet', 'metainfo.classes'), ('mmpretrain', 'classes')])
def test_one_class_without_a_comma(found, task, key):
    text = found(task, extra=f"\ntrain_dataloader['dataset']{''.join(f'[{part!r}]' for part in key.split('.'))} = "
                             "'Cat'\n" if task == 'mmpretrain' else
                 "train_dataloader['dataset']['metainfo'] = dict(classes='Cat')\n", whole=False)[0]
    assert f"train_dataloader.dataset.{key} is the text 'Cat'" in text and "('Cat', )" in text


def test_classes_of_a_list(found, tmp_path, data):
    image = next((data / 'classes/train/circle').iterdir())
    (tmp_path / 'list.txt').write_text(f'{image} 1\n{image} 5\n{image} 6\n{image}\n')
    texts = found('mmpretrain', f'train_dataloader.dataset.ann_file={tmp_path}/list.txt',
                  'train_dataloader.dataset.data_prefix=')
    assert any('list.txt:2 has the class 5' in text and '5 classes' in text for text in texts)
    assert any('list.txt:4 is' in text for text in texts)


def test_classes_of_other_splits(found):
    text = found('mmseg', "val_dataloader.dataset.metainfo.classes=('background','cross','circle','square','star',"
                          "'triangle')", whole=False)[0]
    assert "class 1 is 'cross' there and 'circle' here" in text and 'val_dataloader' in text


def test_classes_of_a_checkpoint(found, tmp_path):
    path = tmp_path / 'epoch_1.pth'
    theirs = ('cross', 'circle', *CLASSES[2:])
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=dict(classes=theirs))), path)
    text = only(found('mmpretrain', f'load_from={path}', level='warning'))
    assert str(path) in text and 'in another order' in text
    assert 'exchange the names' in only(found('mmpretrain', f'load_from={path}', 'resume=True'))
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=dict(classes=CLASSES))), path)
    assert found('mmpretrain', f'load_from={path}', 'resume=True', level='warning') == []


def test_classes_of_heads_and_metrics(found):
    text = found('mmseg', 'model.decode_head.num_classes=7')[0]
    assert 'model.decode_head.num_classes is 7 but the data set of train_dataloader has 6 classes' in text
    assert found('mmseg', 'model.decode_head.num_classes=7', whole=False) == []  # ClassCountHook tells it
    assert 'val_evaluator.topk' in found('mmpretrain', 'val_evaluator.topk=(1,9)')[0]


# Images

def test_places_and_files_that_are_missing(found, broken, tmp_path):
    for task in TASKS:
        text = found(task, data=tmp_path / 'nowhere', whole=False)[0]
        assert 'does not exist: set train_dataloader.dataset.data_root' in text
    assert 'set train_dataloader.dataset.data_prefix' in found(
        'mmdet', 'train_dataloader.dataset.data_prefix.img=none', whole=False)[0]

    image, path = training_image(broken)
    image.save(path.with_suffix('.png'))
    path.unlink()
    assert f'image {path} does not exist but {path.stem}.png does' in found('mmdet', data=broken, whole=False)[0]
    assert "set train_dataloader.dataset.img_suffix='.png'" in found('mmseg', data=broken, whole=False)[0]
    assert 'reads .jpg only' in found('mmdet', data=broken, extra=voc(), whole=False)[0]
    path.with_suffix('.png').unlink()
    assert f'image {path} does not exist: add it' in found('mmdet', data=broken)[0]


def test_suffixes_that_are_not_read(found, broken):
    """Of folders whose files are taken by their suffix."""
    path = next((broken / 'classes/train/circle').iterdir())
    Image.open(path).save(path.with_suffix('.webp'))
    text = only(found('mmpretrain', data=broken, level='warning'))
    assert '1 files that are not read (.webp)' in text and 'extensions' in text
    _, path = training_image(broken)
    path.rename(path.with_suffix('.JPG'))
    extra = "train_dataloader['dataset']['ann_file'] = ''\n"
    text = found('mmseg', data=broken, extra=extra, level='warning', whole=False)[0]
    assert 'other names than *.jpg (.JPG)' in text and 'img_suffix' in text


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize('content, words', [(b'', 'cannot be decoded'), (b'no image', 'cannot be decoded'),
                                            (b'P6 40000 40000 255\n' + bytes(99), 'states 40000x40000 pixels')])
def test_undecodable(found, broken, content, words, whole):
    _, path = training_image(broken)
    rewrite(path, content)
    assert f'image {path} {words}' in only(found('mmdet', data=broken, whole=whole))


def test_truncated(found, broken, monkeypatch):
    _, path = training_image(broken)
    rewrite(path, path.read_bytes()[:-200])
    if cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) is None:  # OpenCV 5 refuses what version 4 reads
        assert f'image {path} cannot be decoded' in only(found('mmdet', data=broken))
        monkeypatch.setattr(files, '_opencv', lambda content: np.zeros((64, 64, 3), np.uint8))
    assert f'image {path} is truncated' in only(found('mmdet', data=broken, level='warning'))


def test_sizes_of_images(found, broken):
    image, path = training_image(broken)
    rewrite(path, image.resize((80, 90)))
    assert f'image {path} is of 80x90 but its annotation' in only(found('mmdet', data=broken, level='warning'))
    rewrite(path, image.resize((8, 9)))
    assert 'its boxes lie outside of it' in only(found('mmdet', data=broken))


def test_images_turned_by_exif(found, broken):
    image, path = training_image(broken)
    exif = Image.Exif()
    exif[0x112] = 6
    path.unlink()
    image.resize((64, 48)).save(path, exif=exif)

    def lower(content):
        next(one for one in content['images'] if one['file_name'] == path.name)['height'] = 48
    change_json(broken / 'coco/train.json', lower)
    texts = found('mmdet', data=broken) + found('mmdet', data=broken, level='warning')
    assert 'turned by its EXIF data to 48x64' in texts[0]
    assert 'its EXIF data turn the image, but not the mask' in found('mmseg', data=broken)[0]


def test_channels(found):
    option = 'train_dataloader.dataset.pipeline.0.color_type'
    assert 'reads images of 1 channel' in found('mmpretrain', f'{option}=grayscale')[0]
    text = found('mmpretrain', f'{option}=unchanged', 'model.backbone.in_channels=4')
    assert any('has 3 channels but model.backbone.in_channels is 4' in one for one in text)
    assert any('data_preprocessor.mean has 3 values' in one for one in text)


def test_images_in_two_splits(found, broken):
    same = [f'{phase}_{key}.ann_file=' for phase in ('val', 'test') for key in ('dataloader.dataset', 'evaluator')]
    text = only(found('mmdet', *(f'{option}{broken}/coco/train.json' for option in same), data=broken, whole=False,
                      level='warning'))
    assert 'of val_dataloader is trained on, as 10 more of 11' in text
    trained, tested = (next((broken / f'classes/{split}/circle').iterdir()) for split in ('train', 'val'))
    rewrite(tested, trained.read_bytes())
    assert f'is the same as {trained}' in only(found('mmpretrain', data=broken, level='warning'))
    assert found('mmpretrain', data=broken, whole=False, level='warning') == []  # by its path it is another
    shutil.copy(trained, trained.with_name('again.jpg'))
    assert any('1 image twice' in text for text in found('mmpretrain', data=broken, level='warning'))


# Boxes

def test_entries_that_are_missing(found, broken):
    def without(content):
        del content['annotations'][0]['area'], content['images'][1]['height']
        content['annotations'][2]['bbox'] = [1, 2, 3]
    change_json(broken / 'coco/train.json', without)
    texts = found('mmdet', data=broken, whole=False)
    assert any("train.json has no 'area' in annotations[0]" in text for text in texts)
    assert any("no 'height' in images[1]" in text for text in texts)
    assert any('annotations[2].bbox=[1, 2, 3]' in text for text in texts)
    rewrite(broken / 'coco/train.json', b'{"images": [')
    assert 'train.json is no JSON' in found('mmdet', data=broken, whole=False)[0]


def test_ids_twice(found, broken):
    def twice(content):
        content['images'][1]['id'] = content['images'][0]['id']
        content['annotations'][1]['id'] = content['annotations'][0]['id']
        content['annotations'][2]['image_id'] = 9999
        content['annotations'][3]['category_id'] = 9999
    change_json(broken / 'coco/train.json', twice)
    texts = found('mmdet', data=broken, whole=False)
    assert any('twice among its images' in text for text in texts)
    assert any('twice among its annotations' in text for text in texts)
    texts = found('mmdet', data=broken, whole=False, level='warning')
    assert any('of images that it does not have' in text for text in texts)
    assert any('of categories that it does not have' in text for text in texts)


def each_box(change):
    def run(content):
        for one in content['annotations']:
            one['bbox'] = list(change(*one['bbox']))
    return run


@pytest.mark.parametrize('change, words', [
    (lambda x, y, w, h: (x / 64, y / 64, w / 64, h / 64), 'are fractions of the image'),
    (lambda x, y, w, h: (x + 20, y + 20, x + 20 + w, y + 20 + h) if x + w < 40 and y + h < 40 else
     (x, y, x + w, y + h), 'look like x1, y1, x2, y2'),
])
def test_boxes_in_other_numbers(found, broken, change, words):
    for split in ('train', 'val'):
        change_json(broken / f'coco/{split}.json', each_box(change))
    assert words in found('mmdet', data=broken, whole=False)[0]


def test_boxes_out_of_place(found, broken):
    def move(content):
        content['annotations'][0]['bbox'] = [200, 200, 9, 9]
        content['annotations'][1]['bbox'] = [50, 50, 30, 9]
        content['annotations'][2]['bbox'] = [5, 5, 0, 9]
        content['annotations'][3]['iscrowd'] = 1
    change_json(broken / 'coco/train.json', move)
    texts = found('mmdet', data=broken, level='warning')
    assert any('1 box outside of its image' in text for text in texts)
    assert any('1 box partly outside of its image' in text for text in texts)
    assert any('less than a pixel wide or high: CocoDataset leaves it out' in text for text in texts)
    assert any('1 box marked as crowd' in text for text in found('mmdet', data=broken, level='note'))

    change_json(broken / 'coco/train.json', each_box(lambda *box: (200, 200, 9, 9)))
    assert 'trains on none of its' in found('mmdet', data=broken)[0]
    change_json(broken / 'coco/train.json', lambda content: content.update(annotations=[]))
    assert 'without a box' in found('mmdet', data=broken)[0]


def test_boxes_without_an_area_in_voc(found, broken):
    """They make the loss of SSD infinite, and XMLDataset keeps them."""
    _, path = training_image(broken, 'Annotations', '.xml')
    text = path.read_text()
    x = text.partition('<xmin>')[2].partition('<')[0]
    before, _, after = text.partition('<xmax>')
    path.unlink()
    path.write_text(f'{before}<xmax>{x}{after[after.index("<"):]}')
    text = only(found('mmdet', data=broken, extra=voc(), whole=False))
    assert str(path) in text and 'loss of SSD becomes infinite' in text and 'FilterAnnotations' in text
    filters = "train_pipeline.insert(-1, dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)))\n"
    assert found('mmdet', data=broken, extra=filters + voc()) == []
    path.write_text('<annotation>')
    assert f'{path} is no annotation' in found('mmdet', data=broken, extra=voc())[0]
    path.unlink()
    assert f'{path} cannot be read' in found('mmdet', data=broken, extra=voc())[0]


def test_filters(found):
    text = found('mmdet', 'train_dataloader.dataset.filter_cfg.min_size=100', whole=False)[0]
    assert 'the data set of train_dataloader has no samples' in text and '11 images are left out by them' in text


def test_anchors(found):
    sizes = ['model.bbox_head.anchor_generator.min_sizes=[400,600]',
             'model.bbox_head.anchor_generator.max_sizes=[600,900]']
    text = only(found('mmdet', *sizes, level='warning'))
    assert '100% of the boxes' in text and 'the anchors 4' in text
    text = only(found('mmdet', 'model.bbox_head.anchor_generator.strides=[16,16]', level='warning'))
    assert 'level 1 reach to 32 of the 64 pixels' in text and 'strides[1]=32' in text
    overlaps = best_overlaps(np.array([[10., 10], [20, 5]]), np.array([[10., 10], [20, 20]]))
    assert overlaps.tolist() == [1, 100 / 400 if 100 / 400 > 50 / 150 else 50 / 150]


def test_evaluators(found, broken):
    text = found('mmdet', f'val_evaluator.ann_file={broken}/coco/train.json', data=broken, whole=False)[0]
    assert 'val_evaluator.ann_file' in text and 'lacks 5 images of val_dataloader' in text
    shutil.copy(broken / 'coco/val.json', broken / 'copy.json')
    options = [f'{phase}_evaluator.ann_file={broken}/copy.json' for phase in ('val', 'test')]
    assert found('mmdet', *options, data=broken) == []
    change_json(broken / 'copy.json', lambda content: content['images'].append(dict(content['images'][0], id=999)))
    assert '1 image more than' in found('mmdet', *options, data=broken, level='warning')[0]

    def without(content):
        del content['annotations'][0]['iscrowd']
    change_json(broken / 'copy.json', without)
    assert "no 'iscrowd' in annotations[0]" in found('mmdet', *options, data=broken)[0]


# Masks

def test_masks_that_are_pictures(found, broken):
    image, path = training_image(broken, 'SegmentationClass', '.png')
    colours = image.convert('RGB')
    assert image.mode == 'P'
    option = 'train_dataloader.dataset.pipeline.1.imdecode_backend=cv2'
    text = only(found('mmseg', option, data=broken, whole=False))
    assert 'a PNG with a palette' in text and "imdecode_backend='pillow'" in text
    rewrite(path, colours)
    assert f'mask {path} has 3 channels' in only(found('mmseg', data=broken, whole=False))


@pytest.mark.parametrize('change, words', [
    (lambda mask: (mask > 0) * np.uint8(255), 'the values 0, 255 only'),
    (lambda mask: np.where(mask > 0, 7, mask).astype(np.uint8), 'has the value 7, but train_dataloader.dataset'),
    (lambda mask: np.full_like(mask, 255), 'has no pixel of a class'),
    (lambda mask: mask[:32], 'is of 64x32 but its image'),
])
def test_values_of_masks(found, broken, change, words):
    for path in (broken / 'SegmentationClass').iterdir():
        rewrite(path, Image.fromarray(change(np.array(Image.open(path)))))
    assert any(words in text for text in found('mmseg', data=broken, whole=False))


def test_left_out_pixels(found, broken):
    image, path = training_image(broken, 'SegmentationClass', '.png')
    rewrite(path, Image.fromarray(np.full_like(np.array(image), 255)))
    assert f'mask {path} has no pixel of a class' in only(found('mmseg', data=broken, level='warning'))
    rewrite(path, Image.fromarray(np.full_like(np.array(image), 77)))
    heads = [f'model.{head}_head.ignore_index=77' for head in ('decode', 'auxiliary')]
    texts = found('mmseg', *heads, data=broken, level='warning')
    assert any('seg_pad_val is 255' in text for text in texts)
    assert any('val_evaluator.ignore_index is 255' in text for text in texts)
    assert found('mmseg', *heads, data=broken) == []
    path.unlink()
    assert f'mask {path} does not exist' in only(found('mmseg', data=broken))


def test_zero_label(found):
    """The generated masks have 0 for the background, which is a class here."""
    text = found('mmseg', 'train_dataloader.dataset.reduce_zero_label=True', whole=False, level='warning')[0]
    assert 'reduce_zero_label leaves out the pixels of 0' in text and 'reduce_zero_label=False' in text
    names = [f'{loader}_dataloader.dataset.metainfo.classes' for loader in ('train', 'val', 'test')]
    palette = [f'{loader}_dataloader.dataset.metainfo.palette=[[1,2,3],[2,3,4],[3,4,5],[4,5,6],[5,6,7]]'
               for loader in ('train', 'val', 'test')]
    text = found('mmseg', *(f'{name}={CLASSES}'.replace(' ', '') for name in names), *palette, whole=False)[0]
    assert 'has the value 5, but' in text and 'reduce_zero_label=True' in text


# Settings

ASPP = '''
model['decode_head'] = dict(type='ASPPHead', in_channels=64, in_index=1, channels=16, num_classes=6,
                            dilations=(1, 2), norm_cfg=dict(type='BN'), align_corners=False)
'''


def test_batches(found):
    text = only(found('mmseg', 'train_dataloader.batch_size=1', extra=ASPP, whole=False))
    assert 'batch_size is 1, and model.decode_head.image_pool' in text
    text = only(found('mmseg', 'train_dataloader.batch_size=10', extra=ASPP, whole=False))
    assert 'the last batch of an epoch has one image (11 images in batches of 10)' in text and 'drop_last' in text
    assert found('mmseg', 'train_dataloader.batch_size=10', 'train_dataloader.drop_last=True', extra=ASPP) == []
    assert found('mmseg', 'train_dataloader.batch_size=1', whole=False) == []  # FCNHead can
    text = only(found('mmpretrain', 'train_dataloader.batch_size=13', 'train_dataloader.drop_last=True', whole=False))
    assert '11 images, no full batch of 13' in text and 'at most 11' in text


def test_wrapped_data_sets(found):
    """Their lengths count, where wrappers say them."""
    wrap = ("train_dataloader['dataset'] = dict(type='RepeatDataset', times=2, dataset=train_dataloader['dataset'])\n"
            "train_dataloader['drop_last'] = True\n")
    assert found('mmpretrain', 'train_dataloader.batch_size=22', extra=wrap) == []
    assert '22 images, no full batch of 25' in only(found('mmpretrain', 'train_dataloader.batch_size=25', extra=wrap))
    double = "train_dataloader['dataset'] = dict(type='ConcatDataset', datasets=[train_dataloader['dataset']] * 2)\n"
    text = found('mmdet', "train_dataloader.dataset.datasets.1.metainfo.classes=('circle','square')", extra=double)[0]
    assert 'train_dataloader.dataset.datasets[1]' in text


def test_average(found):
    hook = "custom_hooks.append(dict(type='EMAHook', momentum={}))\n"
    text = only(found('mmpretrain', extra=hook.format(0.0005), whole=False, level='warning'))
    assert 'too slow for 9 iterations: at the end 100%' in text  # 11 images in batches of 4, 3 times
    assert found('mmpretrain', extra=hook.format(0.4), whole=False, level='warning') == []


def test_deployed_form_from_scratch(found):
    text = only(found('mmpretrain', 'model.backbone.deploy=True', whole=False, level='warning'))
    assert 'model.backbone.deploy=True is trained from scratch' in text
    weights = "model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='x.pth')\n"
    assert found('mmpretrain', 'model.backbone.deploy=True', extra=weights, whole=False, level='warning') == []


def test_space_on_the_disk(found, monkeypatch):
    usage = namedtuple('usage', 'free')
    sizes = []
    from mmone.datasets.inspection import settings
    monkeypatch.setattr(settings.shutil, 'disk_usage', lambda path: usage(sizes[-1]))
    sizes.append(50_000)
    assert 'a checkpoint takes about' in only(found('mmpretrain', 'work_dir=w', whole=False))
    sizes.append(1_000_000)
    options = ['train_cfg.max_epochs=300', 'work_dir=w']
    assert 'but 300 are kept' in only(found('mmpretrain', *options, whole=False, level='warning'))
    assert found('mmpretrain', *options, 'default_hooks.checkpoint.max_keep_ckpts=1', level='warning') == []


def test_size_of_a_checkpoint(config, tmp_path):
    """Close to that of a file, of one whose optimizer keeps a number for each parameter."""
    from mmone.config import build_model
    from mmone.datasets.inspection.reading import Reader
    from mmone.datasets.inspection.settings import checkpoint_size
    from mmone.datasets.inspection.subject import Subject
    cfg = Config.fromfile(config('mmpretrain'))
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.save(dict(state_dict=model.state_dict(), optimizer=optimizer.state_dict()), tmp_path / 'x.pth')
    written = (tmp_path / 'x.pth').stat().st_size
    assert 0.5 < checkpoint_size(Subject(cfg, False, False, Reader(cfg, False))) / written < 1.1


# Files

def test_look(tmp_path):
    """Formats that Pillow and OpenCV do not share, and those that are neither's."""
    path = str(tmp_path / 'x.png')
    Image.fromarray(np.full((3, 5), 300, np.uint16)).save(path)
    fact = look(Job(path, mask='pillow'))
    assert (fact.size, fact.values, fact.fault) == ((5, 3), ((300, 15), ), '')
    assert look(Job(str(tmp_path / 'none.png'))).fault == 'missing'
    (tmp_path / 'x.png').write_bytes(b'x')
    assert look(Job(path, mask='cv2')).fault == 'undecodable'
