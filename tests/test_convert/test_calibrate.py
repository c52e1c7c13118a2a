"""Images of a config's training, to calibrate BatchNorm statistics with."""
import random

import numpy as np
import torch
from mmengine.config import Config

from mmone.convert.calibrate import training_images, training_loader


def test_expanding_sees_the_images_as_training_does(config):
    """Normalized: mmpretrain's configs may have the preprocessor beside the model."""
    cfg = Config.fromfile(config('mmpretrain', "data_preprocessor = model.pop('data_preprocessor')\n"))
    images = torch.cat(list(training_images(cfg, training_loader(cfg), 3)))
    assert images.shape[1:] == (3, 32, 32)
    assert -1.01 <= images.min() < -0.2 and images.max() < 1.01


def test_training_images_are_the_same_whatever_is_drawn_between_them(config):
    cfg = Config.fromfile(config('mmpretrain'))
    torch.manual_seed(1)
    alone = list(training_images(cfg, training_loader(cfg), 3))
    between = []
    for batch in training_images(cfg, training_loader(cfg), 3):
        between.append(batch)
        torch.rand(7), np.random.rand(7), random.random()
    assert all(torch.equal(a, b) for a, b in zip(alone, between, strict=True))
    assert not torch.equal(alone[0], alone[1])
