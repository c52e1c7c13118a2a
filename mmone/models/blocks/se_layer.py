"""Squeeze-and-excitation as mmpretrain builds it: the same arguments, names and numbers of channels."""
from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from .layers import ConvModule


class SELayer(BaseModule):
    """Squeeze-and-excitation (https://arxiv.org/abs/1709.01507).

    Args:
        channels (int): Channels C of the (N, C, H, W) input.
        squeeze_channels (int | None): Squeezed channels; None for ``channels // ratio`` rounded to a
            multiple of ``divisor``, at least 0.9 of it. Defaults to None.
        ratio (int): Defaults to 16.
        divisor (int): Defaults to 8.
        bias (bool | str): Of both convolutions, as mmcv's ``ConvModule`` takes it. Defaults to ``'auto'``.
        conv_cfg (dict | None): Of both convolutions. Defaults to None, plain ones.
        act_cfg (dict | Sequence[dict]): Activations after the two convolutions, one config for both or two.
            Defaults to ReLU and Sigmoid.
        return_weight (bool): Return the weights (N, C, 1, 1) alone. Defaults to False.
        init_cfg (dict | list[dict] | None): Defaults to None.
    """

    def __init__(self,
                 channels: int,
                 squeeze_channels: int | None = None,
                 ratio: int = 16,
                 divisor: int = 8,
                 bias: bool | str = 'auto',
                 conv_cfg: dict | None = None,
                 act_cfg: dict | Sequence[dict] = (dict(type='ReLU'), dict(type='Sigmoid')),
                 return_weight: bool = False,
                 init_cfg: dict | list[dict] | None = None):
        super().__init__(init_cfg)
        if squeeze_channels is None:
            squeeze_channels = _round(channels // ratio, divisor)
        first, second = (act_cfg, act_cfg) if isinstance(act_cfg, dict) else act_cfg
        self.return_weight = return_weight
        self.conv1 = ConvModule(channels, squeeze_channels, 1, bias=bias, conv_cfg=conv_cfg, act_cfg=first)
        self.conv2 = ConvModule(squeeze_channels, channels, 1, bias=bias, conv_cfg=conv_cfg, act_cfg=second)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv2(self.conv1(F.adaptive_avg_pool2d(x, 1)))
        return weight if self.return_weight else x * weight


def _round(channels: int, divisor: int) -> int:
    """The nearest multiple of ``divisor`` that is at least 0.9 of ``channels``."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
