"""From a model with branches to the same function without them, checked."""
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModule, is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmone.checkpoints.io import meta_of, read_checkpoint, state_dict_of, write_checkpoint
from mmone.config import build_model, literal_config, set_deploy
from mmone.errors import InputError
from mmone.files import check_output
from mmone.version import __version__

from .fit import check_backbone, load_strictly, named_for

# Height and width of the probe: odd, and large enough for every stage to have several positions.
PROBE_SIZE = (97, 129)
_LAYERS = (nn.Conv2d, _NormBase, nn.GroupNorm, nn.LayerNorm)


class DeployReport(NamedTuple):
    """What reparameterizing a model did.

    Attributes:
        modules (int): Modules (backbones, or blocks outside of one) that were switched.
        params_before (int): The model's parameters in training form.
        params_after (int): The model's parameters in deployed form.
        layers_before (int): Convolutions and norms of the switched modules in training form.
        layers_after (int): The same in deployed form.
        difference (float): Largest difference between the two forms' outputs on the probe,
            relative to the largest output.
    """
    modules: int
    params_before: int
    params_after: int
    layers_before: int
    layers_after: int
    difference: float

    def __str__(self) -> str:
        return (f'parameters {self.params_before:,} -> {self.params_after:,}, convolutions and '
                f'norms {self.layers_before} -> {self.layers_after}, largest relative difference '
                f'{self.difference:.1e}')


def deployables(model: nn.Module) -> Iterator[BaseModule]:
    """The outermost modules of a tree that know ``switch_to_deploy`` and are yet to do it."""
    if callable(getattr(model, 'switch_to_deploy', None)):
        if not getattr(model, 'deploy', False):
            yield model
    else:
        for child in model.children():
            yield from deployables(child)


def switch_to_deploy(model: nn.Module) -> int:
    """Reparameterize every module of a tree that can be, in place.

    Finds the modules anywhere: in a detector or segmentor, under DistributedDataParallel, in an
    averaged (EMA) or test-time-augmentation model; any module with ``switch_to_deploy()`` counts,
    mmpretrain's RepVGG too. Those that are deployed already are left alone.

    Returns:
        int: How many modules were switched.
    """
    modules = list(deployables(model))
    for module in modules:
        module.switch_to_deploy()
    return len(modules)


def _count(modules) -> int:
    return sum(isinstance(m, _LAYERS) for module in modules for m in module.modules())


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def _probe(module: BaseModule) -> tuple[Tensor, ...]:
    """Outputs on a fixed random batch, on the CPU in float64.

    Independent of the device's own precision (TF32, autocast): what is compared is the algebra
    and the rounding of the folded weights.
    """
    module = copy.deepcopy(module).cpu().double()
    module.eval()
    x = torch.randn(2, module.in_channels, *PROBE_SIZE, dtype=torch.float64,
                    generator=torch.Generator().manual_seed(0))
    out = module(x)
    return (out, ) if isinstance(out, Tensor) else tuple(out)


def _difference(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> float:
    # Not max(): its comparison would lose a NaN.
    ratios = [((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for b, a in zip(before, after)]
    return torch.stack(ratios).max().item()


def deployed_copy(model: nn.Module,
                  tolerance: float = 1e-4) -> tuple[nn.Module, DeployReport | None]:
    """A reparameterized copy of a model, checked against its branches.

    Args:
        model (nn.Module): Any tree; it is left as it is. A distributed wrapper is taken off.
        tolerance (float): Largest relative difference allowed on the probe batch. Defaults to
            1e-4.

    Returns:
        tuple[nn.Module, DeployReport | None]: The copy in eval mode, and what was done to it;
        None where nothing could be reparameterized.

    Raises:
        ValueError: If an output differs by more than ``tolerance``, or is not a number.
    """
    whole: Any = model.module if is_model_wrapper(model) else model
    clone = copy.deepcopy(whole)
    clone.eval()  # mmpretrain's backbones return None from it
    modules = list(deployables(clone))
    if not modules:
        return clone, None
    params, layers = _parameters(clone), _count(modules)
    difference = max(_switch(module, tolerance) for module in modules)
    return clone, DeployReport(
        len(modules), params, _parameters(clone), layers, _count(modules), difference)


def _switch(module: BaseModule, tolerance: float) -> float:
    """Reparameterize a module; returns the relative difference that it makes."""
    if not isinstance(getattr(module, 'in_channels', None), int):
        module.switch_to_deploy()  # unchecked: it has no image-like input of its own (LeViT's head)
        return 0.0
    before = _probe(module)
    module.switch_to_deploy()
    difference = _difference(before, _probe(module))
    if not difference <= tolerance:
        raise ValueError(
            f'the reparameterized {type(module).__name__} differs from its branches by {difference:.1e} '
            f'relative, more than the tolerance {tolerance:.1e}: its weights or statistics are not finite '
            'or degenerate')
    return difference


def deployed_checkpoint(model: nn.Module, checkpoint: dict, source: str,
                        tolerance: float = 1e-4) -> tuple[dict, DeployReport]:
    """Turn a training checkpoint into a deployed one.

    Args:
        model (nn.Module): The training-form model of the checkpoint; its weights are replaced.
        checkpoint (dict): With ``state_dict`` and, from mmengine, ``meta``.
        source (str): Where the checkpoint came from, for the record.
        tolerance (float): As in :func:`deployed_copy`.

    Returns:
        tuple[dict, DeployReport]: ``meta`` (class names, the config with ``deploy=True`` where its text is
        plain values, source, mmone's version) and ``state_dict``, as the stock tools and inferencers read
        them.

    Raises:
        InputError: If the weights do not fit the model, or have nothing to reparameterize.
    """
    state_dict = named_for(model, state_dict_of(checkpoint))
    check_backbone(model, state_dict, source, whole=True)
    load_strictly(model, state_dict, source, 'config')
    kinds = {type(module).__name__ for module in deployables(model)}
    deployed, report = deployed_copy(model, tolerance)
    if report is None:
        raise InputError(f'{source}: the config\'s model has nothing to reparameterize '
                         '(is it deployed already?)')
    meta = dict(meta_of(checkpoint))
    cfg = literal_config(meta.pop('cfg', ''))
    if cfg and 'model' in cfg:
        set_deploy(cfg.model, kinds)
        meta['cfg'] = cfg.pretty_text
    meta.update(source_checkpoint=str(source), mmone_version=__version__)
    return dict(meta=meta, state_dict=deployed.cpu().state_dict()), report


def reparameterize_checkpoint(cfg: Config,
                              source: str | Path,
                              out: str | Path,
                              trust: bool = False,
                              overwrite: bool = False,
                              tolerance: float = 1e-4) -> DeployReport:
    """Write the deployed form of a training checkpoint, whole or not at all.

    Args:
        cfg (Config): The config that the checkpoint was trained with.
        source (str | Path): The training checkpoint.
        out (str | Path): The file to write.
        trust (bool): Allow a pickle that can run code. Defaults to False.
        overwrite (bool): Replace ``out`` if it exists. Defaults to False.
        tolerance (float): As in :func:`deployed_copy`. Defaults to 1e-4.

    Raises:
        InputError: If a path cannot be used or the checkpoint does not fit the config.
    """
    source, out = Path(source), Path(out)
    if out.exists() and out.resolve() == source.resolve():
        raise InputError(f'{out} is the checkpoint itself: give another file to write')
    check_output(out, overwrite)
    checkpoint = read_checkpoint(source, trust)
    checkpoint = dict(meta=dict(meta_of(checkpoint), cfg=cfg.pretty_text), state_dict=state_dict_of(checkpoint))
    deployed, report = deployed_checkpoint(build_model(cfg), checkpoint, str(source), tolerance)
    write_checkpoint(deployed, out)
    return report
