"""Core ML, which computes on macOS only."""
import coremltools
import torch

from ..building import build, fused
from ..cache import Prepared
from ..store import Setting
from ..subject import Subject
from . import Runner, clocked


def open_model(subject: Subject, prepared: Prepared, setting: Setting) -> Runner:
    network, images = build(subject, (setting.height, setting.width)), prepared.images()
    traced = torch.jit.trace(fused(network) if subject.fuse else network, torch.from_numpy(images), check_trace=False)
    model = coremltools.convert(
        traced, inputs=[coremltools.TensorType('images', shape=images.shape)], convert_to='mlprogram',
        compute_precision=coremltools.precision.FLOAT32)
    return clocked(lambda: list(model.predict({'images': images}).values()))
