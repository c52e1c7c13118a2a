"""A resumed run draws the random numbers of the uninterrupted one."""
import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmone import InputError
from mmone.checkpoints.io import mmengine_checkpoints_allowed
from mmone.engine.hooks import EpochSeedHook
from tests.kit import end_workers

LENGTH, BATCH, EPOCHS = 12, 2, 4
STEPS = LENGTH // BATCH


class Noise(Dataset):
    """Samples that depend on their index and on every generator."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        noise = (random.random(), np.random.rand(), torch.rand(()).item())
        return dict(x=torch.tensor([index / LENGTH, *noise]))


class Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 1))

    def forward(self, x, mode='loss'):
        return dict(loss=self.net(torch.stack(x)).square().mean())


class Record(Hook):
    """Keep batches and losses; stop as a killed run does, after ``stop`` iterations."""

    def __init__(self, stop=None):
        self.stop = stop
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((torch.stack(data_batch['x']), outputs['loss'].item()))
        if self.stop == runner.iter + 1:
            raise KeyboardInterrupt


def run(tmp_path, name, by_epoch=True, workers=0, seed=None, stop=None, resume=None, hook=True,
        **loader):
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    length = dict(max_epochs=EPOCHS) if by_epoch else dict(max_iters=EPOCHS * STEPS)
    record = Record(stop)
    cfg = Config(dict(custom_hooks=[dict(type='mmone.EpochSeedHook')] if hook else []))
    torch.manual_seed(0)
    runner = Runner(
        Model(), str(tmp_path / name),
        train_dataloader=dict(dataset=Noise(), sampler=sampler, batch_size=BATCH,
                              num_workers=workers, persistent_workers=False, **loader),
        train_cfg=dict(by_epoch=by_epoch, **length),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch,
                                           interval=1 if by_epoch else STEPS)),
        custom_hooks=[*cfg.custom_hooks, record], randomness=dict(seed=seed),
        load_from=resume and str(resume), resume=bool(resume), experiment_name=f'{tmp_path}{name}',
        log_level='ERROR')
    try:
        with mmengine_checkpoints_allowed():
            runner.train()
    except KeyboardInterrupt:
        pass
    finally:
        end_workers()
    return record.seen


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) and x == y for (a, x), (b, y) in zip(one, other))


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('by_epoch', [True, False])
def test_resumed_run_repeats(tmp_path, by_epoch, workers):
    """Without a seed in the config: the checkpoint's is taken over."""
    whole = run(tmp_path, 'whole', by_epoch, workers)
    checkpoint = tmp_path / 'whole' / ('epoch_2.pth' if by_epoch else f'iter_{2 * STEPS}.pth')
    resumed = run(tmp_path, 'resumed', by_epoch, workers, resume=checkpoint)
    assert len(whole) == EPOCHS * STEPS
    assert same(resumed, whole[2 * STEPS:])


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_run_repeats(tmp_path, workers):
    whole = run(tmp_path, 'whole', workers=workers, seed=3)
    killed = run(tmp_path, 'killed', workers=workers, seed=3, stop=STEPS + 2)
    assert same(killed, whole[:STEPS + 2])
    checkpoint = tmp_path / 'killed' / 'epoch_1.pth'
    resumed = run(tmp_path, 'resumed', workers=workers, seed=3, resume=checkpoint)
    assert same(resumed, whole[STEPS:])


def test_without_the_hook_it_does_not_repeat(tmp_path):
    """What the hook is for; when this fails, mmengine restores its generators."""
    whole = run(tmp_path, 'whole', seed=3, hook=False)
    resumed = run(tmp_path, 'resumed', seed=3, hook=False,
                  resume=tmp_path / 'whole' / 'epoch_2.pth')
    assert not same(resumed, whole[2 * STEPS:])


@pytest.mark.parametrize('workers', [0, 2])
def test_epochs_and_seeds_differ(tmp_path, workers):
    """mmengine alone repeats the workers' augmentations in every epoch."""
    seen = run(tmp_path, 'one', workers=workers, seed=3)
    noise = torch.cat([batch[:, 1:] for batch, _ in seen]).flatten()
    assert noise.unique().numel() == noise.numel()
    assert not same(run(tmp_path, 'other', workers=workers, seed=4), seen)


def test_ranks_differ_but_shuffle_alike(monkeypatch):
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr('mmone.engine.hooks.epoch_seed_hook.get_rank', lambda rank=rank: rank)
        hook = EpochSeedHook()
        hook._seed = 5
        loader = DataLoader(Noise(), sampler=DefaultSampler(Noise(), seed=5))
        hook.seed_step(loader, 0)
        drawn.append((list(loader.sampler), torch.rand(3), np.random.rand(3), random.random()))
    (indices, *first), (other_indices, *second) = drawn
    assert indices == other_indices
    for a, b in zip(first, second):
        assert np.all(np.asarray(a) != np.asarray(b))


def test_keeps_the_loaders_own_worker_init(tmp_path):
    calls = torch.zeros(2).share_memory_()

    def init(worker_id):
        calls[worker_id] += 1

    run(tmp_path, 'own', workers=2, worker_init_fn=dict(type=init))
    assert calls.tolist() == [EPOCHS, EPOCHS]


def test_persistent_workers(tmp_path):
    class Loop:
        dataloader = DataLoader(Noise(), num_workers=1, persistent_workers=True,
                                sampler=InfiniteSampler(Noise()))

    class FakeRunner:
        train_dataloader = Loop.dataloader

    with pytest.raises(InputError, match='train_dataloader.persistent_workers=False'):
        EpochSeedHook().before_train(FakeRunner())
