"""Small models of the three tasks, with weights that a trained one could have."""
import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmone.apis import get_config, get_model
from mmone.datasets.shapes import make_sample
from mmone.export.compare import answers, compare
from mmone.runtime.images import resize

ROOT = Path(__file__).resolve().parents[2]
NAMES = dict(
    classification='mobileone-s0_8xb32_in1k',
    detection='ssdlite_mobileone-s0_8xb16-200e_coco-320x320',
    segmentation='mobileone-s0-d16_deeplabv3_4xb16-50e_voc12aug-512x512')
ARCH = dict(num_blocks=(1, 1, 1, 1), width_factor=(0.25, 0.25, 0.125, 0.125), num_conv_branches=(1, 1, 1, 2),
            num_se_blocks=(0, 0, 0, 1))
WIDTHS = (32, 64)  # of its last two stages


def small(name):
    """A config of the model zoo with a small backbone, narrow heads, and for a detector four levels of six."""
    cfg = get_config(name, deploy=False)
    model = cfg.model
    model.backbone.arch = ARCH
    if 'head' in model:
        model.head.in_channels = WIDTHS[1]
    elif 'bbox_head' in model:
        model.neck.update(in_channels=WIDTHS, out_channels=(*WIDTHS, 32, 16), level_strides=(2, 2),
                          level_paddings=(1, 1))
        model.bbox_head.in_channels = model.neck.out_channels
        for key in ('strides', 'ratios', 'min_sizes', 'max_sizes'):
            model.bbox_head.anchor_generator[key] = model.bbox_head.anchor_generator[key][:4]
    else:
        model.decode_head.update(in_channels=WIDTHS[1], channels=16)
        model.auxiliary_head.update(in_channels=WIDTHS[0], channels=16)
    return cfg


def benchmark():
    spec = importlib.util.spec_from_file_location('export_parity', ROOT / 'benchmarks' / 'export_parity.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def build(tmp_path_factory):
    """Build a model, and save its checkpoint: its path is the model's attribute ``source``."""
    random_checkpoint = benchmark().random_checkpoint
    folder = tmp_path_factory.mktemp('weights')

    def build(cfg, deploy=True, change=lambda state_dict: None):
        path = folder / f'{len(list(folder.iterdir()))}.pth'
        torch.manual_seed(0)
        random_checkpoint(cfg, path)
        checkpoint = torch.load(path, weights_only=True)
        change(checkpoint['state_dict'])
        torch.save(checkpoint, path)
        model = get_model(cfg, str(path), 'cpu', deploy=deploy)
        model.source = path
        return model

    return build


def softened(state_dict):
    """Halve a detector's classification weights: scores near 0 and 1 tell less of rounding, and of ranks more."""
    for key, value in state_dict.items():
        if key.startswith('bbox_head.cls') and value.dim() == 4:
            value *= 0.5


@pytest.fixture(scope='session')
def model_of(build):
    """The small model of a task, deployed; tests share it."""
    return functools.cache(lambda task: build(small(NAMES[task]), change=softened))


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """Four images to compare on."""
    folder = tmp_path_factory.mktemp('images')
    for i in range(4):
        cv2.imwrite(str(folder / f'{i}.png'), make_sample(1, i, 96).image)
    return folder


def photographs(shape, count, seed=1):
    """Generated images (N, 3, H, W) in RGB."""
    return np.stack([resize(make_sample(seed, i, max(shape)).image, shape).transpose(2, 0, 1)
                     for i in range(count)])


def assert_same(model, exported, images):
    found = compare(exported.task, [answers(model, images)], [exported(images)], exported.meta['half'])
    assert found.within, found.text
    return found
