"""The example configs: MobileOne under other heads, on the generated shapes, a step of each."""
import copy
import gc
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor

from mmone.apis import get_model
from mmone.config import build_model, default_scope, walk
from mmone.convert.reparameterize import deployed_copy
from mmone.datasets.inspection import inspect
from mmone.errors import InputError
from mmone.export.heads import check_supported
from mmone.models.backbones.archs import ARCHS
from tests.conftest import not_the_fork
from tests.kit import command

ROOT = Path(__file__).resolve().parents[1]
# The maintained fork's mmengine finds no configs by mmseg::.
EXAMPLES = [pytest.param(path.name, marks=[not_the_fork] if 'mmseg::' in path.read_text() else [])
            for path in sorted((ROOT / 'configs/examples').glob('*.py'))]
# Of these no graph can be exported: docs/heads.md.
NOT_EXPORTED = ('faster-rcnn_', 'fcos_', 'mask-rcnn_', 'rtmdet_', 'yolox_')


@cache
def config(name):
    """The config, to be read only."""
    return Config.fromfile(ROOT / 'configs/examples' / name)


@pytest.fixture(autouse=True)
def _tidy(monkeypatch):
    """No default scope stays, and no model of an earlier test."""
    monkeypatch.setattr('mmone.convert.reparameterize.PROBE_SIZE', (33, 33))
    instances = dict(DefaultScope._instance_dict)
    gc.collect()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(instances)


def on_data(name, data):
    """The config with the data of the tests, without weights to start from, its backbone as wide but less deep."""
    cfg = copy.deepcopy(config(name))
    for node in walk([cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]):
        if node.get('data_root') == 'data/shapes':
            node.data_root = str(data)
    backbone = cfg.model.backbone
    backbone.arch = dict(ARCHS[backbone.arch], num_blocks=(1, 1, 1, 1), num_conv_branches=(1, 1, 1, 2))
    backbone.init_cfg = None
    return cfg


def batch(cfg, images=2):
    """The first images of the training data, through its pipeline."""
    with default_scope(cfg):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        return pseudo_collate([dataset[i] for i in range(images)])


def tensors(tree):
    """All tensors of an output, in its order."""
    if isinstance(tree, Tensor):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [tensor for child in children for tensor in tensors(child)]


def outputs(model, inputs, samples):
    """What the model computes before boxes are chosen: the second of two stages of given ones, as mmcv's NMS takes
    float32 alone."""
    if hasattr(model, 'rpn_head'):
        features = model.extract_feat(inputs)
        rois = inputs.new_tensor([[0, 8, 16, 90, 70], [1, 40, 4, 120, 130]])
        masks = [model.roi_head._mask_forward(features, rois)] if model.roi_head.with_mask else []
        return tensors([features, model.rpn_head(features), model.roi_head._bbox_forward(features, rois), masks])
    return tensors(model(inputs, samples, mode='tensor'))


@pytest.mark.parametrize('name', EXAMPLES)
def test_learns_and_deploys(name, data):
    torch.manual_seed(0)
    cfg = on_data(name, data)
    model = build_model(cfg)
    model.init_weights()
    with default_scope(cfg):
        given = model.data_preprocessor(batch(cfg), training=True)
        loss, _ = model.parse_losses(model.train()(**given, mode='loss'))
        build_optim_wrapper(model, cfg.optim_wrapper)  # which refuses a parameter that it is given twice
    loss.backward()
    assert torch.isfinite(loss)
    for part in (model.backbone.stage0, getattr(model.backbone, model.backbone.stages[-1])):
        gradients = [parameter.grad for parameter in part.parameters()]
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)

    model.double().eval()
    deployed, report = deployed_copy(model)
    assert report.modules == 1 and deployed.backbone.deploy
    inputs = given['inputs'].double()
    with torch.no_grad(), default_scope(cfg):
        ours, theirs = (outputs(one, inputs, given['data_samples']) for one in (deployed, model))
        assert model.backbone.channels_last
        model.backbone.channels_last = False  # which some operators need: mmone.models.memory_format
        contiguous = outputs(model, inputs, given['data_samples'])
    assert len(ours) == len(theirs) == len(contiguous) > 0
    for one, *others in zip(ours, theirs, contiguous, strict=True):
        for other in others:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_operator_that_misreads_maps_is_told_before_it_is_used(data, tmp_path, capsys):
    cfg = on_data(next(name.values[0] for name in EXAMPLES if name.values[0].startswith('faster-rcnn')), data)
    cfg.model.backbone.arch = 'micro68'  # which a file can hold
    cfg.model.roi_head.bbox_roi_extractor.roi_layer.use_torchvision = False
    cfg.train_dataloader.batch_size = 2
    line = (r"model\.roi_head\.bbox_roi_extractor\.roi_layers\.0, mmcv's RoIAlign, reads channels_last maps .*: "
            r"set use_torchvision=True in its roi_layer's config, or channels_last=False of the backbone")
    assert [one for one in inspect(cfg, whole=True).errors if re.match(line, one.text)]
    cfg.dump(tmp_path / 'config.py')
    torch.save(dict(state_dict=build_model(cfg).state_dict()), tmp_path / 'weights.pth')
    with pytest.raises(InputError, match=line):
        get_model(str(tmp_path / 'config.py'), str(tmp_path / 'weights.pth'), 'cpu')
    with pytest.raises(SystemExit, match='2'):
        command('train', tmp_path / 'config.py', '--work-dir', tmp_path / 'run')
    assert re.search(rf'^mmone train: error: {line}$', capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize('name', EXAMPLES)
def test_inspected_without_findings(name, data):
    cfg = on_data(name, data)
    cfg.train_dataloader.batch_size = 2  # of so few images
    found = inspect(cfg)
    assert not found.errors
    assert not [one.text for one in found.warnings if 'EMAHook' not in one.text]  # that has 1600 images to follow


@pytest.mark.parametrize('name', EXAMPLES)
def test_what_can_be_exported_is_what_the_page_says(name):
    model = build_model(config(name))
    model.cfg = config(name)
    if name.startswith(NOT_EXPORTED):
        with pytest.raises(InputError, match='cannot be exported'):
            check_supported(model)
    else:
        check_supported(model)


@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example_names_itself_and_is_on_the_page(name):
    assert (ROOT / 'configs/examples' / name).read_text().startswith('# ')
    assert re.fullmatch(r'[a-z0-9-]+(_[a-z0-9-]+)+_1xb\d+-\d+e_shapes-(\d+)x\2\.py', name)
    assert f'(../configs/examples/{name})' in (ROOT / 'docs/heads.md').read_text()
    cfg, epochs = config(name), int(re.search(r'-(\d+)e_', name)[1])
    assert cfg.train_cfg.max_epochs == epochs == cfg.param_scheduler[1].end
    assert cfg.train_dataloader.batch_size == int(re.search(r'_1xb(\d+)', name)[1])
    assert {'EMAHook', 'mmone.EpochSeedHook', 'mmone.DeployHook'} == {hook.type for hook in cfg.custom_hooks}
