"""Exported files of mmone's, whole: from uint8 images to the final answer."""
import numpy as np

from mmone.runtime import Runtime

from ..store import Setting
from . import Runner, clocked


def open_file(path: str, setting: Setting) -> Runner:
    runtime = Runtime(path, threads=setting.threads)
    shape = (setting.batch, runtime.channels, setting.height, setting.width)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    given = images.astype(np.float32) if runtime.normalizes_outside else images
    return clocked(lambda: list(runtime(given).values()))
