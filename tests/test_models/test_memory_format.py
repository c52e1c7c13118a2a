"""Operators that read channels_last maps as contiguous ones: those that are named, no others."""
from contextlib import nullcontext

import mmcv.ops
import pytest
import torch
from torch import nn

from mmone.errors import InputError
from mmone.models import MobileOne, memory_format
from tests.conftest import TINY

BOXES = torch.tensor([[0, 1., 2, 30, 40], [1, 4, 4, 60, 60]])
TURNED = torch.tensor([[0, 20., 20, 30, 40, 0.3], [1, 30, 24, 20, 30, 0.1]])
OPERATORS = {
    'RoIAlign': (lambda: mmcv.ops.RoIAlign(7, 0.25), BOXES),
    'RoIAlign of torchvision': (lambda: mmcv.ops.RoIAlign(7, 0.25, use_torchvision=True), BOXES),
    'SimpleRoIAlign': (lambda: mmcv.ops.SimpleRoIAlign(7, 0.25), BOXES),
    'RoIAlignRotated': (lambda: mmcv.ops.RoIAlignRotated(7, 0.25, 2), TURNED),
    'DCNv2': (lambda: mmcv.ops.ModulatedDeformConv2dPack(8, 8, 3, padding=1), None),
    'CrissCrossAttention': (lambda: mmcv.ops.CrissCrossAttention(8), None),
    'SAConv2d': (lambda: mmcv.ops.SAConv2d(8, 8, 3, padding=1, use_deform=False), None),
    'Conv2d': (lambda: nn.Conv2d(8, 8, 3), None),
}


def _with_backbone(operator, channels_last):
    return nn.ModuleDict(dict(backbone=MobileOne(TINY, channels_last=channels_last), neck=nn.ModuleList([operator])))


@pytest.mark.parametrize('name', OPERATORS)
def test_named_is_what_computes_something_else(name):
    make, rois = OPERATORS[name]
    torch.manual_seed(0)
    operator = make()
    for parameter in operator.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 8, 20, 20)
    others = () if rois is None else (rois, )
    with torch.no_grad():
        found, expected = operator(x.contiguous(memory_format=torch.channels_last), *others), operator(x, *others)
    wrong = not torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"^model\.neck\.0, mmcv's .*channels_last=False") if wrong else nullcontext():
        memory_format.check(_with_backbone(operator, True))
    memory_format.check(_with_backbone(operator, False))
