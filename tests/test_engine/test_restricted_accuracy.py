"""The test sets that have some of ImageNet's classes, or name them otherwise."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, DefaultScope

from mmone.errors import InputError

pytest.importorskip('mmpretrain')
timm = pytest.importorskip('timm')

SETS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'datasets'
LISTS = Path(timm.__file__).parent / 'data' / '_info'
ALL = (LISTS / 'imagenet_synsets.txt').read_text().split()
# Their folders, not in order, and the class of the folder.
FOLDERS = {name: {wnid: ALL.index(wnid) for wnid in (LISTS / f'{name}_synsets.txt').read_text().split()[::-1]}
           for name in ('imagenet_a', 'imagenet_r')}
FOLDERS['imagenet_v2'] = {str(number): number for number in range(1000)}
FOLDERS['imagenet_sketch'] = {wnid: number for number, wnid in enumerate(ALL)}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def built(name, folder):
    cfg = Config.fromfile(SETS / f'{name}.py')
    cfg.test_dataloader.dataset.data_root = str(folder)
    return cfg, DATASETS.build(cfg.test_dataloader.dataset)


def fill(folder, names):
    _, image = cv2.imencode('.jpg', np.zeros((32, 32, 3), np.uint8))
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / f'{name}.JPEG').write_bytes(image)


def evaluated(cfg, dataset, scores):
    from mmpretrain.structures import DataSample
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    samples = [DataSample().set_pred_score(score).set_gt_label(label)
               for score, label in zip(scores, dataset.get_gt_labels().tolist())]
    for start in range(0, len(samples), 300):
        evaluator.process(samples[start:start + 300], {})
    return evaluator.evaluate(len(samples))


@pytest.mark.parametrize('name', FOLDERS)
def test_the_folders_are_the_classes_that_they_are(name, tmp_path):
    """A model that is right has 100 %; of a subset also where it thinks more of a class that is not in there."""
    fill(tmp_path, FOLDERS[name])
    cfg, dataset = built(name, tmp_path)
    right = [FOLDERS[name][Path(dataset.get_data_info(i)['img_path']).parent.name] for i in range(len(dataset))]
    scores = torch.zeros(len(dataset), 1000)
    scores[range(len(dataset)), right] = 0.4
    others = sorted({*range(1000)} - {*right})
    scores[:, others] = 0.5
    assert len(dataset) == (200 if others else 1000)
    assert evaluated(cfg, dataset, scores)['accuracy/top1'] == 100
    scores[:50, right[0]] = 0.45  # the first is still right
    assert evaluated(cfg, dataset, scores)['accuracy/top1'] == pytest.approx(100 * (1 - 49 / len(dataset)))
    assert dataset[0]['inputs'].shape == (3, 224, 224)


def test_images_of_imagenet_c_are_crops_already(tmp_path):
    fill(tmp_path / 'fog' / '3', ALL)
    cfg = Config.fromfile(SETS / 'imagenet_c.py')
    given = cfg.test_dataloader.dataset
    assert [step.type for step in given.pipeline] == ['LoadImageFromFile', 'CenterCrop', 'PackInputs']
    given.update(data_root=str(tmp_path), data_prefix='fog/3')
    dataset = DATASETS.build(given)
    assert [dataset.get_data_info(i)['gt_label'] for i in (0, 1, 999)] == [0, 1, 999]


def test_an_archive_that_is_not_whole(tmp_path):
    """All labels behind the folder that is missing would be others."""
    fill(tmp_path, [*FOLDERS['imagenet_a']][1:])
    with pytest.raises(InputError, match='the data set has 199 classes, its metainfo.model_classes 200'):
        evaluated(*built('imagenet_a', tmp_path), torch.zeros(199, 1000))


def test_a_model_of_other_classes(tmp_path):
    fill(tmp_path, FOLDERS['imagenet_a'])
    with pytest.raises(InputError, match='the model has 10 classes, the data set some of 989 or more'):
        evaluated(*built('imagenet_a', tmp_path), torch.zeros(200, 10))


def test_mmone_test_takes_it(trained, monkeypatch, tmp_path):
    """The number of the data set's classes need not be the model's then."""
    from mmone.engine.test import test
    monkeypatch.chdir(tmp_path)
    config, weights = trained('mmpretrain', "model['head']['num_classes'] = 8\n")
    restricted = ("test_evaluator = dict(_delete_=True, type='mmone.RestrictedAccuracy', topk=(1, 5))\n"
                  "test_dataloader = dict(dataset=dict(metainfo=dict(model_classes=(0, 2, 4, 6, 7))))\n")
    for name, lines in (('restricted', restricted), ('other', '')):
        (tmp_path / f'{name}.py').write_text(f'_base_ = {config!r}\n{lines}')
    assert test('restricted.py', weights, deploy=True)['accuracy/top5'] == 100
    with pytest.raises(InputError, match='num_classes is 8 but the data set of test_dataloader has 5 classes'):
        test('other.py', weights, deploy=True)
