"""PyTorch: eager, with branches and without, compiled, and TorchScript; on a CPU or a GPU."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..building import build, fused
from ..cache import Prepared
from ..store import Setting
from ..subject import Subject
from . import Runner, clocked


def eager(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    return _open(subject, prepared, setting)


def with_branches(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    return _open(subject, prepared, setting, branches=True)


def compiled(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    return _open(subject, prepared, setting, change=lambda network, images: torch.compile(network, dynamic=False))


def scripted(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    return _open(subject, prepared, setting, change=lambda network, images: torch.jit.freeze(
        torch.jit.trace(network, images, check_trace=False)))


def _open(subject: Subject, prepared: Prepared, setting: Setting, branches: bool = False,
          change: Callable[[Any, Tensor], Any] = lambda network, images: network) -> Runner:
    torch.set_num_threads(setting.threads)
    network: Any = build(subject, (setting.height, setting.width))
    if subject.fuse and not branches:
        network = fused(network)
    dtype = getattr(torch, setting.precision)
    network = network.to(setting.device, dtype).requires_grad_(False)
    given = prepared.images()
    images = torch.from_numpy(given).to(setting.device, dtype)
    with torch.no_grad():
        network = change(network, images)
    if setting.device != 'cpu':
        return _by_events(network, images)

    def answer() -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in network(torch.from_numpy(given))]

    return clocked(answer)


def _by_events(network: Any, images: Tensor) -> Runner:
    """Timed by the GPU's own events, with the image and the answer in its memory."""

    def answer() -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.float().cpu().numpy() for output in network(images)]

    def run() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.inference_mode():
            torch.cuda.synchronize()
            start.record()
            network(images)
            end.record()
            torch.cuda.synchronize()
        return start.elapsed_time(end)

    return Runner(answer, run)
