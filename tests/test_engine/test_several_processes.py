"""Several processes and machines: they share the data out, measure what one measures, and end when one is lost."""
import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmone.config import build_model, load_config
from mmone.engine.explain import Situation, translated
from mmone.errors import InputError
from tests.kit import ROOT, environment, run_command

NODES = ('10.77.0.1', '10.77.0.2')


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(trained):
    """Each sees its half of the images; what they find is put together before it is measured."""
    path, weights = trained('mmdet')
    measured = []
    for processes in (1, 2):
        run = Path(f'run{processes}')
        result = run_command('test', path, weights, '--work-dir', run, processes=processes)
        assert result.returncode == 0, result.stderr
        kept, = run.glob('*/*.json')
        measured.append({name: value for name, value in json.loads(kept.read_text()).items() if 'time' not in name})
    assert measured[0] == pytest.approx(measured[1]) and measured[0]


def steps(model, batches, **options):
    """The weights after one step on batches of (images, labels); an update takes all of them."""
    model = copy.deepcopy(model)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **options)
    if options:
        wrapper.initialize_count_status(model, 0, len(batches))
    for images, samples in batches:
        with wrapper.optim_context(model):
            losses, _ = model.parse_losses(model.loss(images, samples))
        wrapper.update_params(losses)
    return model.state_dict()


@pytest.mark.parametrize('norm_eval', [True, False])
def test_accumulated_gradients_are_those_of_the_large_batch_but_for_the_norms(config, norm_eval):
    """With the norms' statistics fixed they are equal; otherwise each part of the batch is normalized by itself."""
    from mmpretrain.structures import DataSample
    path = config('mmpretrain', f"model['backbone']['norm_eval'] = {norm_eval}\n")
    model = build_model(load_config(str(path))).double().train()
    images, samples = torch.randn(8, 3, 32, 32).double(), [DataSample().set_gt_label(i % 5) for i in range(8)]
    whole = steps(model, [(images, samples)])
    parts = steps(model, [(images[:4], samples[:4]), (images[4:], samples[4:])], accumulative_counts=2)
    assert not torch.equal(whole['head.fc.weight'], model.state_dict()['head.fc.weight'])
    furthest = max((whole[key] - parts[key]).abs().max().item() for key in whole if whole[key].is_floating_point())
    assert (furthest < 1e-12) is norm_eval


@pytest.mark.parametrize('message', [
    '[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error [10.77.0.2]:21670: Connection reset by peer',
    'Connection closed by peer [127.0.0.1]:3456',
    'Timed out waiting 1800000ms for recv operation to complete',
    'NCCL error: remote process exited or there was a network error, NCCL version 2.28.9',
])
def test_a_lost_process_is_told_in_one_line_by_each_that_is_left(message):
    with pytest.raises(InputError, match='another process of this run ended') as raised:
        with translated(Situation(None, ())):
            raise RuntimeError(message)
    assert not raised.value.on_all_ranks and '--resume' in raised.value.message


def _can_make_networks():
    if os.geteuid() or not shutil.which('ip'):
        return False
    made = subprocess.run(['ip', 'netns', 'add', 'mmone-try'], capture_output=True).returncode == 0
    subprocess.run(['ip', 'netns', 'del', 'mmone-try'], capture_output=True)
    return made


@pytest.fixture
def nodes():
    """Two machines as far as the network knows: names of network namespaces that are joined by a cable."""
    if not _can_make_networks():
        pytest.skip('making network namespaces needs root and iproute2')
    names = [f'mmone-{os.getpid()}-{i}' for i in range(2)]
    try:
        for name in names:
            subprocess.run(['ip', 'netns', 'add', name], check=True)
        subprocess.run(['ip', 'link', 'add', 'cable', 'netns', names[0], 'type', 'veth', 'peer', 'name', 'cable',
                        'netns', names[1]], check=True)
        for name, address in zip(names, NODES):
            for words in (f'addr add {address}/24 dev cable', 'link set cable up', 'link set lo up'):
                subprocess.run(['ip', '-n', name, *words.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(f'ip netns pids {name} | xargs -r kill -9; ip netns del {name}', shell=True)


@pytest.mark.slow
def test_one_of_two_machines_is_lost(nodes, config):
    """The other ends with one line; started again, both go on after the last whole checkpoint."""
    path = config('mmpretrain', "train_cfg.update(max_epochs=40, val_interval=40)\nparam_scheduler = []\n")

    def start(rank, *options):
        env = dict(environment(), NNODES='2', NODE_RANK=str(rank), MASTER_ADDR=NODES[0], GLOO_SOCKET_IFNAME='cable',
                   PYTHON=sys.executable)
        with open(f'{rank}.log', 'w') as log:
            return subprocess.Popen(['ip', 'netns', 'exec', nodes[rank], ROOT / 'tools/dist_train.sh', path, '1',
                                     '--work-dir', 'run', *options], env=env, stdout=log, stderr=subprocess.STDOUT)

    first, second = start(0), start(1)
    deadline = time.monotonic() + 120
    while not Path('run/epoch_2.pth').exists():
        assert time.monotonic() < deadline and first.poll() is None and second.poll() is None, Path('0.log').read_text()
        time.sleep(0.2)
    subprocess.run(f'ip netns pids {nodes[1]} | xargs kill -9', shell=True)
    assert first.wait(120) != 0 and second.wait(10) == -signal.SIGKILL
    said = [line for line in Path('0.log').read_text().splitlines() if 'train.py: error:' in line]
    assert len(said) == 1 and 'another process of this run ended' in said[0]

    reached = max(int(path.stem.rpartition('_')[2]) for path in Path('run').glob('epoch_*[0-9].pth'))
    again = [start(rank, '--resume', '--cfg-options', f'train_cfg.max_epochs={reached + 1}') for rank in range(2)]
    assert [process.wait(120) for process in again] == [0, 0], Path('0.log').read_text()
    assert Path(f'run/epoch_{reached + 1}.pth').exists()
    assert f'resumed epoch: {reached}' in Path('0.log').read_text()
