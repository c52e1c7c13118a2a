"""Nothing happens to others: to a process that imports mmone, to its other models, to its random numbers."""
import gc
import os
import random
import warnings
import weakref
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint

import mmone.engine.test
import mmone.engine.train
from mmone.apis import draw, get_model, predict
from mmone.checkpoints import SOURCES, read_checkpoint, rename
from mmone.checkpoints.loading import reading_safely
from mmone.complexity import config_complexity
from mmone.convert import deployed_copy, expand, reparameterize_checkpoint, switch_to_deploy
from mmone.convert.calibrate import expand_for, training_images, training_loader
from mmone.convert.rename import convert
from mmone.datasets.shapes import make_dataset
from mmone.engine.launch import build_runner, prepare, running
from mmone.models import MobileOne
from tests.conftest import TINY, not_the_fork
from tests.kit import ROOT, TASKS, free_port

get_safe_globals = getattr(torch.serialization, 'get_safe_globals', list)
torch26 = pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'), reason='PyTorch before 2.6 refuses nothing')


def _settings():
    umask = os.umask(0)
    os.umask(umask)
    scope = DefaultScope.get_current_instance()
    return dict(
        safe_globals=set(get_safe_globals()), scope=scope and scope.scope_name,
        scopes=list(DefaultScope._instance_dict), threads=torch.get_num_threads(),
        showwarning=warnings.showwarning, umask=umask, folder=os.getcwd(), dtype=torch.get_default_dtype(),
        gradients=torch.is_grad_enabled(), deterministic=torch.are_deterministic_algorithms_enabled())


def _random_state():
    return dict(python=random.getstate(), numpy=str(np.random.get_state()), torch=torch.get_rng_state().tolist())


@contextmanager
def unchanged(random_numbers=True):
    """The process's settings, and what its random number generators will give next."""
    settings, state = _settings(), _random_state()
    yield
    assert _settings() == settings
    if random_numbers:
        after = _random_state()
        assert [name for name in state if after[name] != state[name]] == []


@pytest.fixture
def files(trained, tmp_path, monkeypatch):
    """By task: a config, and a checkpoint of its model in training form."""
    monkeypatch.chdir(tmp_path)
    return trained


@pytest.mark.parametrize('task', TASKS)
def test_models_are_built_and_used(files, task, data):
    path, weights = files(task)
    images = sorted(data.glob('JPEGImages/*.jpg'))[:2]
    with unchanged():
        for deploy in (True, False):
            model = get_model(path, weights, 'cpu', deploy)
            for prediction in predict(model, images):
                draw(model, prediction, score_thr=0)
                prediction.record(model)
        config_complexity(Config.fromfile(path))
        reparameterize_checkpoint(Config.fromfile(path), weights, 'deployed.pth')


def test_a_config_is_left_as_it_is(files):
    path, weights = files('mmpretrain')
    cfg = Config.fromfile(path)
    get_model(cfg, weights, 'cpu')
    config_complexity(cfg)
    reparameterize_checkpoint(cfg, weights, 'deployed.pth')
    list(training_images(cfg, training_loader(cfg), 1))
    assert cfg.pretty_text == Config.fromfile(path).pretty_text


def test_weights_change_form(files):
    path, weights = files('mmpretrain')
    cfg = Config.fromfile(path)
    backbone = MobileOne(TINY)
    images = torch.randn(2, 3, 64, 64)

    def with_branches(deployed):
        return expand_for(cfg, deployed, training_images(cfg, training_loader(cfg), 2))[0]

    with unchanged():
        deployed, _ = deployed_copy(backbone)
        expand(deployed, [images])
        switch_to_deploy(deployed)
        convert(weights, 'apple.pth', to='apple', deploy=True)
        convert('apple.pth', 'expanded.pth', expand=with_branches)
        make_dataset('shapes', 10)


@pytest.mark.parametrize('task', TASKS)
def test_runs_end_with_all_that_they_need(files, task):
    """But for the random numbers: a run seeds them, as mmengine's runner does."""
    path, weights = files(task)
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.num_workers=0',
               'test_dataloader.num_workers=0', 'val_dataloader.num_workers=0']
    options += ['norm_cfg.type=BN', 'model.backbone.norm_cfg.type=BN'] if task == 'mmseg' else []
    with unchanged(random_numbers=False):
        mmone.engine.train.train(path, 'run', cfg_options=options, trust=True)
        mmone.engine.test.test(path, weights, 'run', cfg_options=options, trust=True)
    with unchanged(random_numbers=False), pytest.raises(mmone.InputError):
        mmone.engine.test.test(path, weights, 'run', cfg_options=[*options, 'model.backbone.arch=s0'])


def test_a_run_leaves_the_callers_process_group(files):
    path, _ = files('mmpretrain')
    cfg = prepare(path, 'run', [], launcher='none')
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(KeyboardInterrupt), running(cfg, ('train_dataloader', ), trust=False):
            raise KeyboardInterrupt
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()
    with running(cfg, ('train_dataloader', ), trust=False):
        torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize('deployed', [False, True])
def test_nothing_holds_a_process_group_that_a_run_ends(files, monkeypatch, deployed):
    place = dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    path, _ = files('mmpretrain')
    cfg = prepare(path, 'run', ['train_cfg.max_epochs=1'], launcher='pytorch')
    gc.disable()
    try:
        with running(cfg, ('train_dataloader', 'val_dataloader'), trust=False) as situation:
            runner = situation.runner = build_runner(cfg)
            wrapper = weakref.ref(runner.model)
            assert is_model_wrapper(wrapper())
            runner.train()
            if deployed:
                runner.test()
    finally:
        gc.enable()
    assert wrapper() is None and not is_model_wrapper(runner.model)


class Code:

    def __reduce__(self):
        return print, ('running code', )


@torch26
@not_the_fork  # whose loader runs what a pickle says where PyTorch refuses to
def test_trust_ends_with_the_call(files, capfd):
    path, weights = files('mmpretrain')
    torch.save(dict(torch.load(weights), code=Code()), 'code.pth')

    def refused_as_code(read):
        with pytest.raises(Exception, match='(?i)code|weights.only'):
            read()
        assert 'running code' not in capfd.readouterr().out

    def stock():
        return load_checkpoint(MobileOne(TINY), 'code.pth')

    refused_as_code(stock)
    for run in (lambda: get_model(path, 'code.pth', 'cpu', trust=True),
                lambda: mmone.engine.test.test(path, 'code.pth', 'run', trust=True),
                lambda: reparameterize_checkpoint(Config.fromfile(path), 'code.pth', 'out.pth', trust=True)):
        run()
        assert 'running code' in capfd.readouterr().out
        refused_as_code(stock)
        refused_as_code(lambda: get_model(path, 'code.pth', 'cpu'))
    with reading_safely(trust=True), reading_safely(trust=False):
        refused_as_code(lambda: CheckpointLoader.load_checkpoint('code.pth'))


RESNET = dict(type='mmdet.ResNet', depth=18, num_stages=1, strides=(1, ), dilations=(1, ), out_indices=(0, ))


@pytest.fixture
def resnets(tmp_path):
    """Part of a ResNet's checkpoint as torchvision has it, and as mmdet's runner writes it."""
    model = MODELS.build(RESNET)
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter)
    torch.save(model.state_dict(), tmp_path / 'torchvision.pth')
    whole = OrderedDict((f'backbone.{key}', value) for key, value in model.state_dict().items())
    torch.save(dict(meta=dict(epoch=3), state_dict=whole, optimizer=dict(state={})), tmp_path / 'mmdet.pth')
    return model.state_dict()


@pytest.mark.parametrize('site', ['before', 'after'])
@pytest.mark.parametrize('prefix', ['', 'site://'])
def test_other_models_load_as_before(resnets, tmp_path, monkeypatch, stock_loaders, site, prefix):
    """With mmone's backbone built, and a loader of the site's own registered before that or after."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def load_from_site(filename, map_location=None):
        calls.append(filename)
        return torch.load(filename.removeprefix('site://'), map_location=map_location)

    def register():
        CheckpointLoader.register_scheme(prefix, load_from_site, force=True)

    if site == 'before':
        register()
    MobileOne(TINY)
    if site == 'after':
        register()
    for built_again in (False, True):
        if built_again:
            MobileOne(TINY)
        for name, init in (('torchvision.pth', {}), ('mmdet.pth', dict(prefix='backbone.'))):
            calls.clear()
            model = MODELS.build(dict(RESNET, init_cfg=dict(type='Pretrained', checkpoint=prefix + name, **init)))
            model.init_weights()
            assert calls == [prefix + name]
            assert all(torch.equal(value, resnets[key]) for key, value in model.state_dict().items())
    # What a loader returns is passed on, and a MobileOne's is renamed by then.
    loader = CheckpointLoader._schemes[prefix]
    assert loader.__wrapped__ is load_from_site and not hasattr(load_from_site, '__wrapped__')
    theirs = rename({f'backbone.{key}': value for key, value in MobileOne(TINY).state_dict().items()},
                    SOURCES['mmpretrain'], SOURCES['timm'])
    torch.save(theirs, tmp_path / 'timm.pth')
    assert 'backbone.stage0.branch_scale.conv.weight' in loader(f'{prefix}timm.pth')['state_dict']


@torch26
@not_the_fork  # the same
def test_a_log_that_pytorch_refuses_is_read_of_a_mobileone_only(tmp_path, stock_loaders):
    """As mmengine's runner writes it beside the weights, to resume from."""
    log = dict(message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0], [1]))))
    torch.save(dict(log, state_dict={'backbone.conv1.weight': torch.ones(1)}), tmp_path / 'resnet.pth')
    torch.save(dict(log, state_dict={f'student.backbone.{key}': value for key, value in
                                     MobileOne(TINY).state_dict().items()}), tmp_path / 'mobileone.pth')

    def message(name):
        with pytest.raises(Exception) as error:
            CheckpointLoader.load_checkpoint(str(tmp_path / name))
        return type(error.value), str(error.value)

    CheckpointLoader._schemes = OrderedDict(stock_loaders)
    refused = message('resnet.pth'), message('mobileone.pth'), message('absent.pth')
    with unchanged(random_numbers=False):
        MobileOne(TINY)
        assert (message('resnet.pth'), message('absent.pth')) == (refused[0], refused[2])
        read = CheckpointLoader.load_checkpoint(str(tmp_path / 'mobileone.pth'))
        assert read['message_hub']['log_scalars']['loss'].current() == 1


@torch26
def test_what_others_allow_stays_allowed(files):
    """PyTorch's list of safe globals is the process's; the internet says what to add to it."""
    others = [HistoryBuffer, np.dtype, type(np.dtype('f8')), (np.ndarray, 'numpy.ndarray')]
    before = set(get_safe_globals())
    _, weights = files('mmpretrain')
    try:
        torch.serialization.add_safe_globals(others)
        with unchanged():
            read_checkpoint(weights)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


def test_no_call_that_changes_the_process():
    """What has no way back, whatever calls it."""
    for path in [*ROOT.glob('mmone/**/*.py'), *ROOT.glob('tools/*.py')]:
        text = path.read_text()
        for name in ('init_default_scope', 'add_safe_globals', 'set_random_seed'):
            assert name not in text, f'{path} has {name}'
