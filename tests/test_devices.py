"""Devices that are not here, or lack something, are one line."""
import os

import pytest
import torch
from mmengine.config import Config

from mmone import devices
from mmone.apis import get_model, predict
from mmone.devices import computing_on, devices_here, find_device, why_no_mixed_precision
from mmone.engine.explain import Situation, translated
from mmone.engine.launch import running
from mmone.engine.train import train
from mmone.errors import InputError
from tests.kit import command


@pytest.mark.parametrize('name', ['cuda:77', 'mps', 'mps:1', 'npu', 'npu:0', 'xpu', 'xla', 'hpu', 'meta', 'vulkan',
                                  'mtia', 'nonsense', 'gpu', 'CUDA', '0', '', 'cuda:x', 'cuda:-1', 'cuda:1:2'])
def test_devices_that_are_not_here(name):
    if name.partition(':')[0] in devices_here():
        pytest.skip('it is here')
    with pytest.raises(InputError, match='expected .*cpu') as error:
        find_device(name)
    assert name in error.value.message and error.value.parameter == 'device'
    assert '\n' not in error.value.message and len(error.value.message) < 250


def test_devices_that_are_here():
    for name in devices_here():
        assert str(find_device(name)) == name
    assert find_device().type in devices_here()[-1]


def test_predict_names_its_flag_before_it_reads_anything(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.jpg').touch()
    for name in ('cuda:77', 'nonsense', 'meta'):
        with pytest.raises(SystemExit):
            command('predict', 'a.jpg', '--model', 'mobileone-s0_8xb32_in1k', '--weights', 'no.pth', '--device', name)
        line = capsys.readouterr().err
        assert line.startswith('mmone predict: error: ') and line.count('\n') == 1
        assert name in line and '(--device)' in line
    assert os.listdir() == ['a.jpg']


MESSAGES = {
    'nms': RuntimeError('nms_impl: implementation for device mps:0 not found.\n'),
    'aten::_adaptive_avg_pool2d': NotImplementedError(
        "The operator 'aten::_adaptive_avg_pool2d' is not currently implemented for the MPS device. If you want this "
        'op to be added … set the environment variable `PYTORCH_ENABLE_MPS_FALLBACK=1`'),
    'torchvision::nms': NotImplementedError(
        "Could not run 'torchvision::nms' with arguments from the 'CUDA' backend. This could be because …"),
    'float64': TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"),
}


@pytest.mark.parametrize('missing', MESSAGES)
def test_what_a_device_cannot_compute(missing):
    with pytest.raises(InputError, match=f'^mps cannot compute {missing}, which the model needs') as error:
        with computing_on('mps'):
            raise MESSAGES[missing]
    assert error.value.parameter == 'device'
    with pytest.raises(InputError, match=f'cannot compute {missing}'), translated(Situation(Config(), ())):
        raise MESSAGES[missing]


def test_mmcv_without_cuda():
    with pytest.raises(InputError, match='^cuda:0 cannot compute nms: mmcv was compiled without CUDA.*uninstall'):
        with computing_on('cuda:0'):
            raise RuntimeError('nms_impl: implementation for device cuda:0 not found.')


@pytest.mark.parametrize('other', [
    RuntimeError('shapes differ'), ValueError('nms_impl: implementation for device x not found')])
def test_what_is_no_fault_of_the_device(other):
    with pytest.raises(type(other)) as error, computing_on('mps'):
        raise other
    assert error.value is other


def test_prediction_of_a_detector(trained, data, monkeypatch):
    model = get_model(*trained('mmdet'), 'cpu')

    def fail(*args, **kwargs):
        raise MESSAGES['nms']

    monkeypatch.setattr(model.bbox_head, 'predict', fail)
    with pytest.raises(InputError, match='cpu cannot compute nms'):
        next(predict(model, sorted(data.glob('JPEGImages/*.jpg'))))


@pytest.mark.parametrize('device', ['cpu', 'mps', 'dipu'])
def test_mixed_precision_where_mmengine_has_none(config, monkeypatch, device, tmp_path):
    monkeypatch.setattr(devices, 'get_device', lambda: device)
    assert device in why_no_mixed_precision()
    path = str(config('mmpretrain'))
    with pytest.raises(InputError, match=f'and computes on {device} here') as error:
        train(path, str(tmp_path / 'work'), amp=True)
    assert error.value.parameter == 'amp'
    for option in ('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.head.type=mmengine.AmpOptimWrapper'):
        with pytest.raises(InputError, match='set optim_wrapper.type'):
            train(path, str(tmp_path / 'work'), cfg_options=[option])
    assert not (tmp_path / 'work').exists()


def test_mixed_precision_without_an_optimizer(config, monkeypatch):
    monkeypatch.setattr(devices, 'get_device', lambda: 'cuda')
    assert why_no_mixed_precision() is None
    with pytest.raises(InputError, match='takes the place of OptimWrapper, but the config has None'):
        train(str(config('mmpretrain', 'del optim_wrapper\n')), amp=True)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr('mmone.engine.launch.get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for name, value in dict(RANK='3', LOCAL_RANK='3', WORLD_SIZE='4', MASTER_ADDR='127.0.0.1', MASTER_PORT='1').items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match='process 4 of this machine has no GPU of its own: there are 2') as error:
        with running(Config(dict(launcher='pytorch')), (), False):
            pass
    assert error.value.parameter == 'launcher'
