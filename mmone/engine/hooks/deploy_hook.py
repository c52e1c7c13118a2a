"""Evaluate and ship the reparameterized model."""
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmone.checkpoints.io import read_checkpoint, write_checkpoint
from mmone.checkpoints.loading import trusted
from mmone.convert.reparameterize import deployables, deployed_checkpoint, deployed_copy
from mmone.errors import InputError
from mmone.registry import HOOKS


@HOOKS.register_module()
class DeployHook(Hook):
    """Test, optionally validate, and save the model in its deployed form.

    - Before a test epoch the runner's model is replaced by its reparameterized copy, for good.
    - With ``validate``, each validation runs on a reparameterized copy, which is dropped
      afterwards; the training model, its optimizer state and its EMA are untouched.
    - After training, ``<checkpoint>_deploy.pth`` is written beside the last and each best
      checkpoint, by rank 0, whole or not at all. Its ``meta`` holds the class names, the config
      with ``deploy=True``, the source checkpoint and mmone's version, so that the stock test tools
      (with ``model.backbone.deploy=True``) and inferencers use it directly. With
      EMAHook, what mmengine saves as ``state_dict``, and so what ships, are the averaged weights.

    Each time the copy is checked against the branches on a probe batch, and what changed is
    logged. Models are copied, not switched in place, because EMAHook swaps parameters with the
    model it was given until after the epoch.

    Args:
        validate (bool): Also validate in deployed form. Defaults to False.
        tolerance (float): Largest difference allowed, relative to the largest output, in float64
            on the CPU. Defaults to 1e-4.

    Raises:
        ValueError: If the difference is above ``tolerance`` or not a number.
    """

    # After EMAHook (NORMAL) has swapped the averaged weights in, and back in time for
    # CheckpointHook (VERY_LOW), which saves the runner's model after validation.
    priority = 'LOW'

    def __init__(self, validate: bool = False, tolerance: float = 1e-4):
        self.validate = validate
        self.tolerance = tolerance
        self._training_model: torch.nn.Module | None = None

    def _deploy(self, runner) -> None:
        runner.model, report = deployed_copy(runner.model, self.tolerance)
        runner.logger.info('DeployHook: ' + (
            f'reparameterized: {report}' if report else 'the model is deployed already'))

    def before_test_epoch(self, runner) -> None:
        self._deploy(runner)

    def before_val_epoch(self, runner) -> None:
        if self.validate:
            self._training_model = runner.model
            self._deploy(runner)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        if self._training_model is not None:
            runner.model = self._training_model
            self._training_model = None

    @master_only
    def after_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not any(deployables(model)):
            runner.logger.info('DeployHook: the model is deployed already, so are its checkpoints')
            return
        for path in self._saved_checkpoints(runner):
            try:
                # Not written by this run if the checkpoint that it was resumed from says so.
                checkpoint = read_checkpoint(path, trusted())
            except InputError as error:
                runner.logger.warning(f'DeployHook: not reparameterized: {error}')
                continue
            deployed, report = deployed_checkpoint(
                copy.deepcopy(model), checkpoint, str(path), self.tolerance)
            out = path.with_name(f'{path.stem}_deploy.pth')
            write_checkpoint(deployed, out)
            runner.logger.info(f'DeployHook: {out}: {report}')

    @staticmethod
    def _saved_checkpoints(runner) -> Sequence[Path]:
        info = runner.message_hub.runtime_info
        paths = [Path(path) for key, path in info.items()
                 if key == 'last_ckpt' or key.startswith('best_ckpt')]
        for path in paths:
            if not path.is_file():
                runner.logger.warning(f'DeployHook: {path} is no local file, not reparameterized')
        return [path for path in dict.fromkeys(paths) if path.is_file()]
