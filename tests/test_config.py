"""What a config says, and what is built from it."""
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmone import InputError
from mmone.config import build_model, dataset_of, default_scope, native_shape, set_deploy, type_name, walk
from mmone.models import MobileOne
from tests.conftest import TINY


def test_names_without_a_scope_are_the_librarys_until_the_block_ends():
    before = DefaultScope.get_current_instance()
    with pytest.raises(KeyError), default_scope(Config(dict(default_scope='mmpretrain'))):
        assert DefaultScope.get_current_instance().scope_name == 'mmpretrain'
        with default_scope(Config(dict())):
            assert DefaultScope.get_current_instance().scope_name == 'mmengine'
        raise KeyError
    assert DefaultScope.get_current_instance() is before


def test_every_backbone_of_a_model_is_deployed():
    student = dict(type='Distiller', teacher=dict(type='mmone.MobileOne'),
                   students=[dict(type=MobileOne), dict(type='ResNet')])
    assert [type_name(node) for node in walk(student)] == ['Distiller', 'MobileOne', 'MobileOne', 'ResNet']
    assert set_deploy(student) == 2
    assert student['teacher']['deploy'] and student['students'][0]['deploy']
    assert 'deploy' not in student and 'deploy' not in student['students'][1]


@pytest.mark.parametrize('config, shape', [
    (dict(model=dict(data_preprocessor=dict(size=(512, 1024)))), (512, 1024)),
    (dict(model={}, data_preprocessor=dict(size=(64, 32))), (64, 32)),
    (dict(model={}, test_dataloader=dict(dataset=dict(pipeline=[
        dict(type='ResizeEdge', scale=256, edge='short', keep_ratio=True), dict(type='CenterCrop', crop_size=224)]))),
     (224, 224)),
    (dict(model={}, test_dataloader=dict(dataset=dict(pipeline=[dict(type='Resize', scale=(320, 240))]))), (240, 320)),
    (dict(model={}, test_dataloader=dict(dataset=dict(pipeline=[
        dict(type='Resize', scale=(2048, 512), keep_ratio=True)])),
          train_dataloader=dict(dataset=dict(dataset=dict(pipeline=[
              dict(type='RandomResize', scale=(2048, 512), keep_ratio=True),
              dict(type='RandomCrop', crop_size=(512, 256), cat_max_ratio=0.75)])))), (512, 256)),
])
def test_the_size_of_images(config, shape):
    assert native_shape(Config(config)) == shape


def test_no_one_size_of_images():
    with pytest.raises(InputError, match='no one size') as error:
        native_shape(Config(dict(model={})))
    assert error.value.parameter == 'shape'


def test_the_data_set_within_its_wrappers():
    inner = dict(type='CustomDataset', data_root='data')
    assert dataset_of(dict(dataset=dict(type='RepeatDataset', dataset=dict(type='Subset', dataset=inner)))) == inner
    assert dataset_of(None) == dataset_of(dict(batch_size=1)) == {}


def test_a_model_is_built_as_the_runner_builds_it():
    cfg = Config(dict(
        default_scope='mmpretrain', data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True),
        model=dict(type='ImageClassifier',
                   backbone=dict(type='mmone.MobileOne', arch=TINY, norm_cfg=dict(type='SyncBN')))))
    text = cfg.pretty_text
    model = build_model(cfg)
    assert model.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]
    assert not any('SyncBatchNorm' in type(module).__name__ for module in model.modules())
    assert isinstance(model, MODELS.get('mmpretrain.ImageClassifier'))
    assert cfg.pretty_text == text
