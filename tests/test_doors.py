"""No door lets code in: whatever a checkpoint has in it, none of it runs, and one line says what is wrong."""
import functools
import http.server
import os
import shutil
import threading

import pytest
import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import load_checkpoint

import mmone.engine.test
import mmone.engine.train
from mmone import InputError
from mmone.apis import get_model
from mmone.checkpoints import read_checkpoint
from mmone.checkpoints.io import WEIGHTS_ONLY_BY_DEFAULT
from mmone.checkpoints.loading import reading_safely
from mmone.cli import main
from mmone.convert import deployed_checkpoint, reparameterize_checkpoint
from mmone.convert.rename import convert
from mmone.models import MobileOne
from tests.evil import Evil, checkpoints, text_of
from tests.kit import write_config

FAST = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', 'test_dataloader.num_workers=0',
        'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']


@pytest.fixture(scope='module')
def place(tmp_path_factory, data):
    """A folder with a tiny classifier's config and checkpoint, and files of each evil kind."""
    folder = tmp_path_factory.mktemp('doors')
    config = write_config(folder, 'mmpretrain', data)
    from mmone.config import build_model
    state_dict = build_model(Config.fromfile(config)).state_dict()
    torch.save(dict(state_dict=state_dict), folder / 'good.pth')
    return folder, str(config), checkpoints(folder, folder / 'ran', state_dict)


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    yield place
    assert not (place[0] / 'ran').exists(), 'what a file says was done'


class Quiet(http.server.SimpleHTTPRequestHandler):

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def address(place):
    """Where the folder's files are on the web."""
    handler = functools.partial(Quiet, directory=place[0])
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_address[1]}'
        server.shutdown()


def _pretrained(path, config):
    MobileOne('s0', init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()


def _safely(path, config):
    with reading_safely(trust=False):
        load_checkpoint(MobileOne('s0'), path)


DOORS = dict(
    load_checkpoint=_safely,
    pretrained=_pretrained,
    load_from=lambda path, config: mmone.engine.train.train(config, cfg_options=[*FAST, f'load_from={path}']),
    resume=lambda path, config: mmone.engine.train.train(config, resume=path, cfg_options=FAST),
    convert=lambda path, config: convert(path, 'out.pth'),
    reparameterize=lambda path, config: reparameterize_checkpoint(Config.fromfile(config), path, 'out.pth'),
    get_model=lambda path, config: get_model(config, path, 'cpu'),
    test=lambda path, config: mmone.engine.test.test(config, path, cfg_options=FAST),
)


@pytest.mark.parametrize('door', DOORS)
def test_no_file_runs_code(here, door):
    folder, config, files = here
    for name, (path, words) in files.items():
        with pytest.raises(InputError) as error:
            DOORS[door](str(path), config)
        message = str(error.value)
        assert words in message and path.name in message and '\n' not in message, (name, message)
        assert (error.value.parameter == 'trust') == (words == 'posix.system'), name
    assert os.listdir() == [] or door in ('load_from', 'resume', 'test')


@pytest.mark.parametrize('command', [
    ('predict', 'x.jpg', '--model', '{config}', '--weights', '{path}'),
    ('export', '{config}', '{path}', '--out', 'x.onnx'),
])
def test_commands_say_it_in_one_line(here, capsys, command, data):
    _, config, files = here
    shutil.copy(next((data / 'JPEGImages').iterdir()), 'x.jpg')
    for path, words in (files['archive'], files['pickle4'], files['program']):
        with pytest.raises(SystemExit) as stop:
            main([part.format(config=config, path=path) for part in command])
        line = capsys.readouterr().err
        assert stop.value.code == 2 and words in line and line.count('\n') == 1
        assert ('(--trust)' in line) == (words == 'posix.system')


@pytest.mark.parametrize('door', ['load_checkpoint', 'pretrained', 'load_from', 'get_model', 'test'])
@pytest.mark.parametrize('name', ['archive', 'pickle4'])
def test_no_address_runs_code(here, address, door, name):
    _, config, files = here
    path, words = files[name]
    with pytest.raises(InputError, match=words):
        DOORS[door](f'{address}/{path.name}', config)


def test_the_stock_door_runs_no_code_of_an_address(here, address):
    """mmengine's own loading, without any of mmone around it but a backbone; it has no weights_only there."""
    backbone = MobileOne('s0')
    for name in ('archive', 'pickle0', 'pickle4', 'old', 'program'):
        with pytest.raises(Exception, match='could run code|TorchScript|weights_only|No state_dict'):
            load_checkpoint(backbone, f'{address}/{name}.pth')


@pytest.mark.skipif(WEIGHTS_ONLY_BY_DEFAULT, reason='PyTorch refuses them by itself')
def test_the_stock_door_runs_no_code_of_a_file(here):
    folder, _, _ = here
    with pytest.raises(InputError, match='could run code'):
        load_checkpoint(MobileOne('s0'), str(folder / 'archive.pth'))


def test_trust_is_for_addresses_too_and_ends_with_the_call(here, address, tmp_path):
    folder, config, _ = here
    torch.save(dict(torch.load(folder / 'good.pth'), code=Evil(f'touch {tmp_path}/trusted')), folder / 'code.pth')
    for _ in range(2):  # downloaded, and from the cache
        get_model(config, f'{address}/code.pth', 'cpu', trust=True)
        assert (tmp_path / 'trusted').exists()
        (tmp_path / 'trusted').unlink()
        with pytest.raises(InputError, match='could run code'):
            get_model(config, f'{address}/code.pth', 'cpu')
        assert not (tmp_path / 'trusted').exists()


def test_config_text_is_data(here):
    folder, config, _ = here
    from mmone.config import build_model
    cfg = Config.fromfile(config)
    model = build_model(cfg)
    meta = dict(cfg=text_of(folder / 'ran'), config=text_of(folder / 'ran'), dataset_meta=dict(classes=('a', )))
    checkpoint = dict(state_dict=model.state_dict(), meta=meta)
    deployed, _ = deployed_checkpoint(model, checkpoint, 'a.pth')
    assert 'cfg' not in deployed['meta'] and deployed['meta']['dataset_meta'] == dict(classes=('a', ))
    # Plain values are read.
    checkpoint['meta']['cfg'] = cfg.pretty_text
    deployed, _ = deployed_checkpoint(build_model(cfg), checkpoint, 'a.pth')
    assert 'deploy=True' in deployed['meta']['cfg']


@pytest.mark.parametrize('meta', [
    'text', 7, [1], dict(dataset_meta='x'), dict(dataset_meta=dict(classes=7, palette='x')),
    dict(dataset_meta={1: 2}), dict(cfg=7), dict(cfg='(' * 10_000)])
def test_meta_of_odd_types_does_no_harm(here, meta):
    folder, config, _ = here
    torch.save(dict(torch.load(folder / 'good.pth'), meta=meta), 'odd.pth')
    model = get_model(config, 'odd.pth', 'cpu')
    assert model.dataset_meta['classes'] == ('circle', 'cross', 'square', 'star', 'triangle')
    convert('odd.pth', 'converted.pth')
    reparameterize_checkpoint(Config.fromfile(config), 'odd.pth', 'deployed.pth')


def test_what_a_checkpoint_orders_is_not_done_when_it_is_resumed(here, tmp_path):
    """mmengine's runner executes a config's text, and removes checkpoints and folders that the log names."""
    folder, config, _ = here
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / 'thesis.txt').touch()
    (tmp_path / 'precious.pth').touch()
    options = [*FAST, 'default_hooks.checkpoint.save_best=accuracy/top1', 'default_hooks.checkpoint.max_keep_ckpts=1']
    mmone.engine.train.train(config, 'run', cfg_options=options)
    checkpoint = torch.load('run/epoch_1.pth', weights_only=False)
    checkpoint['meta']['config'] = text_of(folder / 'ran')
    torch.save(Evil(f'touch {folder}/ran'), 'run/best.pth')
    info = checkpoint['message_hub']['runtime_info']
    info.update(best_ckpt=str(tmp_path / 'precious'), best_score=-1.0, keep_ckpt_ids=['../../precious', 'x', 'y'],
                best_ckpt_other=str(tmp_path / 'run' / 'best.pth'))
    checkpoint['message_hub']['resumed_keys'].update(dict.fromkeys(info, True))
    torch.save(checkpoint, 'given.pth')
    mmone.engine.train.train(config, 'run2', resume='given.pth', cfg_options=[*options, 'train_cfg.max_epochs=2'])
    assert (tmp_path / 'precious' / 'thesis.txt').exists() and (tmp_path / 'precious.pth').exists()
    assert read_checkpoint('run2/epoch_2.pth')['meta']['epoch'] == 2
    assert not (tmp_path / 'run' / 'best_deploy.pth').exists()
