"""What another library raises is explained by the sample that failed, or shown as it is, at once."""
import pickle
import shutil
from pathlib import Path

import mmcv
import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader

from mmone.config import default_scope
from mmone.engine.explain import SampleError, Situation, name_broken_files, translated
from mmone.errors import InputError
from tests.kit import TASKS

BOMB = b'P6 40000 40000 255\n' + bytes(99)  # its header alone


@pytest.fixture
def dataset(config, data, tmp_path):
    """Build a task's training data, in a copy that may be broken."""

    def build(task):
        cfg = Config.fromfile(config(task, data=shutil.copytree(data, tmp_path / 'copy', dirs_exist_ok=True)))
        with default_scope(cfg):
            return DATASETS.build(cfg.train_dataloader.dataset), cfg

    return build


@pytest.fixture
def decoded(monkeypatch):
    """How many images mmcv has decoded: a list as long."""
    calls = []
    original = mmcv.imfrombytes
    monkeypatch.setattr(mmcv, 'imfrombytes', lambda *args, **kwargs: (calls.append(1), original(*args, **kwargs))[1])
    return calls


def broken(dataset, index, content=b'no image', key='img_path'):
    path = Path(dataset.get_data_info(index)[key])
    path.unlink()  # the folders share files by hard links
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize('task, key, content, words', [
    *((task, 'img_path', b'no image', 'cannot be decoded: replace it') for task in TASKS),
    ('mmpretrain', 'img_path', b'', 'cannot be decoded'),
    ('mmdet', 'img_path', BOMB, 'states 40000x40000 pixels'),
    ('mmseg', 'seg_map_path', b'', 'cannot be decoded'),
    ('mmseg', 'seg_map_path', BOMB, 'states 40000x40000 pixels'),
])
def test_the_file_of_the_sample_that_failed(dataset, decoded, monkeypatch, task, key, content, words):
    data, _ = dataset(task)
    name_broken_files(data)
    broken(data, 1, b'')  # another one
    path = broken(data, 4, content, key)
    asked = []
    original = data.get_data_info
    monkeypatch.setattr(data, 'get_data_info', lambda index: (asked.append(index), original(index))[1])
    with pytest.raises(SampleError, match=words) as error:
        data[4]
    assert f'image {path} ' in str(error.value) and error.value.__cause__ is not None
    assert asked == [4] and len(decoded) <= 6  # two files, once to load and by both libraries to tell


@pytest.mark.parametrize('fault', [
    AttributeError("'NoneType' object has no attribute 'shape'"), OSError('image file is truncated'), KeyError('img')])
def test_what_the_files_do_not_explain_is_shown_as_it_is(dataset, decoded, fault):
    data, cfg = dataset('mmpretrain')
    broken(data, 1)

    def transform(results):
        raise fault

    data.pipeline.transforms.insert(1, transform)
    situation = Situation(cfg, ('train_dataloader', ))
    situation.add('train_dataloader', data)
    with pytest.raises(type(fault)) as error, translated(situation):
        data[4]
    assert error.value is fault and fault.__cause__ is None
    assert len(decoded) == 1  # by its own loader


def test_what_is_raised_elsewhere_touches_no_data():
    class Untouched:
        def __getattr__(self, name):
            raise AssertionError(name)

        __len__ = None

    situation = Situation(Config(), (), datasets=dict(train_dataloader=Untouched()))
    fault = AttributeError("'NoneType' object has no attribute 'astype'")
    with pytest.raises(AttributeError) as error, translated(situation):
        raise fault
    assert error.value is fault


def test_wrapped_and_copied_data_sets(dataset):
    data, cfg = dataset('mmpretrain')
    path = broken(data, 4)
    both = ConcatDataset([data, data])
    name_broken_files(both)
    name_broken_files(both)  # twice is once
    for copy in (both, pickle.loads(pickle.dumps(both))):
        with pytest.raises(SampleError, match='cannot be decoded'):
            copy[len(data) + 4]
    with pytest.raises(SampleError) as error, translated(Situation(cfg, ())):
        list(DataLoader(both, num_workers=1, batch_size=5, collate_fn=list))
    assert error.value.message == f'image {path} cannot be decoded: replace it, or remove it from the data set'


class Refuses:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InputError('one: two\nand three', parameter='trust')


def test_an_input_error_of_a_worker_is_as_it_was():
    with pytest.raises(InputError) as error, translated(Situation(Config(), ())):
        list(DataLoader(Refuses(), num_workers=1))
    assert type(error.value) is InputError
    assert (error.value.message, error.value.parameter) == ('one: two\nand three', 'trust')


def test_images_of_several_sizes_in_a_batch_of_a_segmentor(config):
    cfg = Config.fromfile(config('mmseg'))
    with pytest.raises(InputError, match='images of several sizes .* set batch_size=1 in val_dataloader'):
        with translated(Situation(cfg, ('train_dataloader', 'val_dataloader'))):
            raise AssertionError('The image size in a batch should be the same.')
