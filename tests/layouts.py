"""The generated shapes in the layouts that people have, one function a layout.

Each makes a folder of its own out of one that ``make_dataset`` made; images keep their numbers for names.
"""
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from mmone.datasets.shapes import CLASSES, PALETTE, make_sample

SIZE = 64
BACKGROUND = ('background', *CLASSES)
TABLE = ''.join(f'{name}:{r},{g},{b}::\n' for name, (r, g, b) in zip(BACKGROUND, PALETTE))


def sample_of(name):
    """What the image of a name shows."""
    return make_sample(0, int(Path(name).stem[:6]), SIZE)


def split_names(data):
    return {split: (data / f'ImageSets/Main/{split}.txt').read_text().split() for split in ('train', 'val')}


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def images(data, out, place='{split}/images/{name}.jpg'):
    for split, names in split_names(data).items():
        for name in names:
            copy(data / f'JPEGImages/{name}.jpg', out / place.format(split=split, name=name))


# Classes


def folders(data, out):
    shutil.copytree(data / 'classes', out)


def folders_without_splits(data, out):
    for path in (data / 'classes').rglob('*.jpg'):
        copy(path, out / path.parent.name / path.name)


def folders_and_test(data, out):
    shutil.copytree(data / 'classes/train', out / 'Training')
    shutil.copytree(data / 'classes/val', out / 'test')


def table(data, out, header='image_id,source,label\n', row='{name},here,{label}\n', path='labels.csv', splits=None):
    lines = [header]
    for split, names in split_names(data).items():
        for name in names if splits is None or split in splits else ():
            copy(data / f'JPEGImages/{name}.jpg', out / f'images/{name}.jpg')
            lines.append(row.format(name=name, label=CLASSES[sample_of(name).labels[0]], split=split))
    (out / path).write_text(''.join(lines))


def csv(data, out):
    table(data, out)


def csv_without_header(data, out):
    table(data, out, '', '/home/me/images/{name}.jpg;{label}\n')


def csv_with_splits(data, out):
    table(data, out, 'Filename,class,split\n', '{name}.jpg,{label},{split}\n')


def csv_for_each_split(data, out):
    for split in ('train', 'val'):
        table(data, out, 'path,label\n', 'images/{name}.jpg,{label}\n', f'{split}.csv', (split, ))


# Boxes


def coco(data, out):
    shutil.copytree(data / 'JPEGImages', out / 'images')
    for split in ('train', 'val'):
        copy(data / f'coco/{split}.json', out / f'annotations/instances_{split}2017.json')


def coco_beside_images(data, out):
    """As Roboflow exports it, with a category that nothing is of and without areas."""
    images(data, out, '{split}/{name}.jpg')
    for split in ('train', 'val'):
        content = json.loads((data / f'coco/{split}.json').read_text())
        content['categories'].insert(0, dict(id=0, name='things'))
        for one in content['annotations']:
            del one['area']
        (out / f'{split}/_annotations.coco.json').write_text(json.dumps(content))


def coco_without_splits(data, out):
    shutil.copytree(data / 'JPEGImages', out / 'images')
    whole = dict(images=[], annotations=[], categories=[])
    for split in ('train', 'val'):
        content = json.loads((data / f'coco/{split}.json').read_text())
        whole = {key: whole[key] + content[key] for key in whole}
    whole['categories'] = content['categories']
    for number, one in enumerate(whole['annotations']):
        one['id'] = number
    (out / 'labels.json').write_text(json.dumps(whole))


def voc(data, out):
    for name in ('JPEGImages', 'Annotations'):
        shutil.copytree(data / name, out / name)
    shutil.copytree(data / 'ImageSets/Main', out / 'ImageSets/Main')


def voc_without_splits(data, out):
    voc(data, out)
    shutil.rmtree(out / 'ImageSets')


def voc_beside_images(data, out):
    """Whose images are PNG, and one of which has a box without an area."""
    for split, names in split_names(data).items():
        (out / split).mkdir(parents=True)
        for name in names:
            Image.open(data / f'JPEGImages/{name}.jpg').save(out / split / f'{name}.png')
            tree = ElementTree.parse(data / f'Annotations/{name}.xml')
            if name == names[0]:
                tree.getroot().append(ElementTree.fromstring(
                    '<object><name>star</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>20</ymax>'
                    '</bndbox></object>'))
            tree.write(out / split / f'{name}.xml')


def yolo(data, out, names=CLASSES):
    images(data, out, 'images/{split}/{name}.jpg')
    for split, listed in split_names(data).items():
        (out / f'labels/{split}').mkdir(parents=True)
        for name in listed:
            sample = sample_of(name)
            lines = [f'{label} {(x1 + x2) / 2 / SIZE} {(y1 + y2) / 2 / SIZE} {(x2 - x1) / SIZE} {(y2 - y1) / SIZE}'
                     for label, (x1, y1, x2, y2) in zip(sample.labels, sample.boxes)]
            (out / f'labels/{split}/{name}.txt').write_text('\n'.join(lines) + '\n')
    content = dict(path='../datasets/mine', train='images/train', val='../images/val', names=dict(enumerate(names)))
    (out / 'data.yaml').write_text(yaml.safe_dump(content))


def yolo_beside_images(data, out):
    """As LabelImg writes it, with polygons for boxes."""
    yolo(data, out.with_name('other'))
    out.mkdir()
    for path in out.with_name('other').rglob('*.jpg'):
        copy(path, out / path.name)
    for path in out.with_name('other').rglob('labels/**/*.txt'):
        lines = []
        for line in path.read_text().splitlines():
            label, x, y, w, h = map(float, line.split())
            left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            lines.append(f'{int(label)} {left} {top} {right} {top} {right} {bottom} {left} {bottom}')
        (out / path.name).write_text('\n'.join(lines))
    (out / 'classes.txt').write_text('\n'.join(CLASSES))


# Masks


def masks(data, out, image='{split}/images/{name}.jpg', mask='{split}/masks/{name}.png', write=None):
    """``write`` makes of a mask (H, W) what is saved."""
    images(data, out, image)
    for split, names in split_names(data).items():
        for name in names:
            path = out / mask.format(split=split, name=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if write is None:
                shutil.copy(data / f'SegmentationClass/{name}.png', path)
            else:
                Image.fromarray(write(sample_of(name).mask)).save(path)


def masks_by_kind(data, out):
    masks(data, out, 'images/{split}/{name}.jpg', 'labels/{split}/{name}.png')
    (out / 'classes.txt').write_text('\n'.join(BACKGROUND))


def masks_voc(data, out):
    masks(data, out, 'JPEGImages/{name}.jpg', 'SegmentationClass/{name}.png')
    shutil.copytree(data / 'ImageSets/Segmentation', out / 'ImageSets/Segmentation')


def masks_without_splits(data, out):
    masks(data, out, 'img/{name}.jpg', 'ann/{name}.png', np.copy)


def masks_mmseg(data, out):
    masks(data, out, 'img_dir/{split}/{name}.jpg', 'ann_dir/{split}/{name}.png')


def masks_cityscapes(data, out):
    image, mask = 'leftImg8bit/{split}/town/{name}_leftImg8bit.jpg', 'gtFine/{split}/town/{name}_gtFine_'
    masks(data, out, image, f'{mask}labelIds.png')
    masks(data, out, image, f'{mask}color.png', in_colours)


def masks_beside_images(data, out):
    masks(data, out, 'all/{name}.jpg', 'all/{name}_mask.png')


def in_colours(mask):
    return np.array(PALETTE, np.uint8)[mask]


def masks_in_colours(data, out):
    masks(data, out, write=in_colours)
    (out / 'labelmap.txt').write_text('# label:color_rgb:parts:actions\n' + TABLE)


def masks_in_nameless_colours(data, out):
    masks(data, out, write=in_colours)


def masks_black_and_white(data, out):
    masks(data, out, write=lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))


def masks_black_and_white_in_jpeg(data, out):
    masks(data, out, mask='{split}/masks/{name}.jpg', write=lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))


def masks_grey_in_rgb(data, out):
    masks(data, out, write=lambda mask: np.stack([mask * np.uint8(40)] * 3, 2))


def masks_of_mixed_images(data, out):
    masks(data, out)
    for path in sorted((out / 'train/images').iterdir())[:3]:
        Image.open(path).save(path.with_suffix('.png'))
        path.unlink()
