"""Models made ready to be measured: built, counted, written as ONNX, and asked for what they answer to an example.

One path for all, ours and others': random weights are drawn from seed 0, norms that have seen no data get their
statistics from a batch of noise (so that activations have the size of a trained network's; numbers too small for the
processor's fast path would be measured otherwise), train-time branches are folded and compared, and the network is
written from image to logits, without preparing images and without post-processing, in one opset, with a fixed batch
and size. Detectors and segmentors are written as their ``mode='tensor'`` answers.
"""
import copy
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmone.complexity import network_complexity, samples_of, tensors_in
from mmone.convert.reparameterize import switch_to_deploy
from mmone.errors import InputError, cause
from mmone.export.formats import get_writer
from mmone.files import publish, scratch_folder

from .cache import Prepared, difference, read
from .subject import Subject

TOLERANCE = 1e-3  # of the largest answer


class Network(nn.Module):
    """Whatever a model is, from images (N, 3, H, W) to a tuple of tensors."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.outputs: dict[str, tuple[str, ...]] = {}  # their names, for the exporter

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.model, BaseModel):
            return tuple(tensors_in(self.model(images, samples_of(images), mode='tensor')))
        return tuple(tensors_in(self.model(images)))


def build(subject: Subject, shape: tuple[int, int]) -> Network:
    """A model's network with its branches, in eval mode."""
    module, _, function = subject.factory.partition(':')
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = Network(getattr(import_module(module), function)(**subject.arguments)).eval()
        _settle(network, torch.rand(4, 3, *shape) * 2 - 1)
    return network


def _settle(network: Network, images: Tensor) -> None:
    """Take the statistics of norms that have seen no data from some images."""
    norms: list[Any] = [
        module for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        and not module.running_mean.any() and bool((module.running_var == 1).all())]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        network(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.eval()
        # Channels that noise leaves all but constant would be scaled up without end, layer by layer.
        norm.running_var.clamp_(min=norm.running_var.mean().item())


def fused(network: Network) -> nn.Module:
    """A copy with train-time branches folded: ours, mmpretrain's and timm's."""
    if type(network.model).__module__.startswith('timm.'):
        from timm.utils import reparameterize_model
        return reparameterize_model(network).eval()
    folded = copy.deepcopy(network)
    switch_to_deploy(folded)
    return folded.eval()


def prepare(subject: Subject, batch: int, shape: tuple[int, int], folder: Path) -> Prepared:
    """Make a model ready in a folder, unless it is.

    Raises:
        InputError: If it cannot compute such images, or answers otherwise with its branches folded.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as scratch:
        found = read(folder)
        if found is not None:
            return found
        made = scratch / folder.name
        made.mkdir()
        prepared = _make(subject, batch, shape, made)
        prepared.write()
        publish(made, folder)
        return prepared._replace(folder=folder)


def _make(subject: Subject, batch: int, shape: tuple[int, int], folder: Path) -> Prepared:
    images = torch.rand(batch, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    network = build(subject, shape)
    folded: Any = fused(network) if subject.fuse else network
    expected = answers(folded, images)
    apart = difference(answers(network, images), expected)
    if not apart < TOLERANCE:
        raise InputError(f'{subject.model.name} answers otherwise with its branches folded (by {apart:.1e})')
    size = network_complexity(folded, images[:1])
    prepared = Prepared(folder, size.parameters, size.multiply_adds, _count(network) != _count(folded))
    arrays: dict[str, Any] = {f'output{i}': array for i, array in enumerate(expected)}
    np.savez(prepared.example, images=images.numpy(), **arrays)
    folded.outputs = dict.fromkeys(arrays, ())
    try:
        with torch.no_grad():
            get_writer('onnx').write(folded, images, (), False, '{}', prepared.onnx)
    except Exception as error:  # whatever the exporter raises for an operator that ONNX has not
        prepared.onnx.unlink(missing_ok=True)
        return prepared._replace(error=f'it cannot be written as ONNX: {type(error).__name__}: {cause(error)}')
    return prepared


def answers(network: nn.Module, images: Tensor) -> list[np.ndarray]:
    """What a network answers, as arrays in float32."""
    with torch.no_grad():  # in inference mode, what some networks keep from it could not be traced afterwards
        return [answer.float().cpu().numpy() for answer in network(images)]


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
