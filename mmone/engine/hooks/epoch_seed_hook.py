"""Random numbers that a resumed run draws again."""
import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.hooks import Hook
from mmengine.runner.loops import IterBasedTrainLoop

from mmone.compat import endless_iterator, restart_sampler
from mmone.errors import InputError
from mmone.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed every epoch, so that a resumed run repeats the uninterrupted one.

    mmengine's checkpoints hold no state of random number generators: a resumed run augments and
    drops out otherwise than the run it continues, and one without ``randomness.seed`` in its
    config even shuffles otherwise. Also, mmengine gives data loader workers the same seeds in
    every epoch, so that epochs repeat their augmentations unless the workers are persistent.

    At the start of each epoch this hook seeds Python, NumPy and PyTorch from (seed, epoch, rank),
    and lets each worker seed itself from (seed, epoch, rank, worker). The seed is the runner's:
    ``randomness.seed``, or one that mmengine draws and keeps in the checkpoint's meta. Shuffling
    is left to the sampler, which gets the same seed on all ranks.

    In an IterBasedTrainLoop, which has no epochs, the seeds change with each iteration, and the
    data iterator is made anew before the first, since mmengine started it before it resumed.
    mmengine's own skipping of the batches that were trained on then also replays the random
    numbers of the workers.

    Raises:
        InputError: If the workers of the training data loader are persistent: their random
            number generators outlive the epoch and cannot be seeded.
    """

    # Nothing may draw random numbers in between.
    priority = 'VERY_HIGH'

    def __init__(self):
        self._seed: int | None = None
        self._inner_worker_init_fn: Callable | None = None

    def before_train(self, runner) -> None:
        loader = runner.train_dataloader
        if loader.persistent_workers:
            raise InputError('EpochSeedHook cannot seed persistent workers: set '
                             'train_dataloader.persistent_workers=False')
        # By now the runner has taken over the resumed checkpoint's seed. With diff_rank_seed the
        # ranks' seeds differ; the rank is added here anyway.
        seeds = [runner.seed]
        broadcast_object_list(seeds)
        self._seed = seeds[0]
        self._inner_worker_init_fn = loader.worker_init_fn
        for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', loader.sampler)):
            if hasattr(sampler, 'seed'):
                sampler.seed = self._seed
            restart_sampler(sampler)
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            self.seed_step(loader, 0)
            runner.train_loop.dataloader_iterator = _SeededIterator(loader, self.seed_step)

    def before_train_epoch(self, runner) -> None:
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self.seed_step(runner.train_dataloader, runner.epoch)

    def seed_step(self, loader, step: int) -> None:
        """Seed this process, and the workers that it starts from now on."""
        entropy = (self._seed, step, get_rank())
        _seed_all(entropy)
        loader.worker_init_fn = partial(
            _init_worker, entropy=entropy, inner=self._inner_worker_init_fn)


class _SeededIterator:
    """mmengine's endless iterator over a data loader, with seeds for every batch."""

    def __init__(self, loader, seed_step: Callable):
        self._loader = loader
        self._seed_step = seed_step
        self._step = 0
        self._iterator = endless_iterator(loader)

    def __iter__(self):
        return self

    def __next__(self):
        self._seed_step(self._loader, self._step)
        self._step += 1
        return next(self._iterator)

    def skip_iter(self, num_iters: int) -> None:
        """Leave out batches, as a resumed loop of the maintained fork's mmengine asks for; other loops take them.

        Taken too, since they have workers draw the random numbers that they drew before.
        """
        for _ in range(num_iters):
            next(self)


def _seed_all(entropy) -> None:
    seeds = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))


def _init_worker(worker_id: int, entropy, inner: Callable | None) -> None:
    if inner is not None:
        inner(worker_id)
    _seed_all((*entropy, worker_id + 1))  # a trailing 0 would seed as the main process
