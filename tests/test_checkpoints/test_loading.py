"""mmengine's loading with mmone's wrapper around it; what it does to other models is in test_side_effects."""
import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from safetensors.torch import save_file

from mmone.checkpoints import SOURCES, rename
from mmone.checkpoints.loading import reading_safely, rename_while_loading
from mmone.models import MobileOne
from tests.conftest import TINY


@pytest.fixture
def tiny():
    return {f'backbone.{key}': value for key, value in MobileOne(TINY).state_dict().items()}


def test_each_loader_is_wrapped_once(stock_loaders):
    rename_while_loading()
    once = dict(CheckpointLoader._schemes)
    assert all(loader.__wrapped__ is stock_loaders[prefix] for prefix, loader in once.items())
    rename_while_loading()
    MobileOne(TINY)
    with reading_safely(trust=False):
        assert CheckpointLoader._schemes == once


@pytest.mark.parametrize('content', [
    {0: torch.ones(1), 1: torch.ones(1)},
    [torch.ones(1)],
    torch.ones(1),
    dict(state_dict=None, model='resnet'),
    {'stem.conv_scale.conv.weight': 'no tensor', 'stages.0.0.conv_kxk.0.conv.weight': 'no tensor'},
    {'module.conv1.weight': torch.ones(1)},
])
def test_whatever_a_loader_returns_is_passed_on(stock_loaders, content):
    CheckpointLoader.register_scheme('site://', lambda filename, map_location=None: content)
    rename_while_loading()
    assert CheckpointLoader.load_checkpoint('site://anything') is content


def test_arguments_are_passed_on(stock_loaders):
    given = []
    CheckpointLoader.register_scheme('site://', lambda *args, **kwargs: given.append((args, kwargs)) or {})
    rename_while_loading()
    CheckpointLoader._schemes['site://']('site://a', 'cpu', progress=False)
    CheckpointLoader._schemes['site://']('site://a')
    assert given == [(('site://a', 'cpu'), dict(progress=False)), (('site://a', ), {})]


def outcome(load, path):
    """What a loader gives, or why it does not."""
    try:
        return load(path, 'cpu')
    except Exception as error:
        return type(error), str(error)


def test_safetensors_of_a_mobileone_only(tmp_path, stock_loaders, tiny):
    """Others are read as without mmone: PyTorch reads them from 2.14 on."""
    rename_while_loading()
    save_file(rename(tiny, SOURCES['mmpretrain'], SOURCES['timm']), tmp_path / 'mobileone.safetensors')
    save_file({'conv1.weight': torch.ones(1)}, tmp_path / 'resnet.safetensors')
    model = torch.nn.ModuleDict(dict(backbone=MobileOne(TINY)))
    load_checkpoint(model, str(tmp_path / 'mobileone.safetensors'))
    assert all(torch.equal(value, tiny[key]) for key, value in model.state_dict().items())
    for name in ('resnet.safetensors', 'absent.safetensors'):
        stock, ours = (outcome(load, str(tmp_path / name)) for load in (stock_loaders[''],
                                                                        CheckpointLoader._schemes['']))
        assert stock == ours


def test_averaged_and_wrapped_weights_of_a_known_source_are_found(tmp_path, tiny):
    theirs = rename(tiny, SOURCES['mmpretrain'], SOURCES['apple'])
    torch.save(dict(meta=dict(epoch=1), state_dict_ema={f'module.{key}': value for key, value in theirs.items()}),
               tmp_path / 'apple.pth')
    read = CheckpointLoader.load_checkpoint(str(tmp_path / 'apple.pth'))
    assert read['meta'] == dict(epoch=1) and read['state_dict'].keys() == tiny.keys()
