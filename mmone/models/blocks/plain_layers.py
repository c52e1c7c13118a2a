"""Layers by config where there is no mmcv: what its builders give for the layers that PyTorch has."""
from mmengine.model import kaiming_init
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmone.errors import InputError
from mmone.libraries import pip_name

# What mmcv calls otherwise than PyTorch.
_NAMES = {'BN': nn.BatchNorm2d, 'BN1d': nn.BatchNorm1d, 'BN2d': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm,
          'HSwish': nn.Hardswish, 'Conv': nn.Conv2d}
_NOT_INPLACE = ('Tanh', 'PReLU', 'Sigmoid', 'GELU')


def build_layer(cfg: dict, *args, **defaults) -> nn.Module:
    """The layer of a config, or of a class or a name that is registered."""
    kind = cfg['type']
    if isinstance(kind, str):
        found = MODELS.get(kind) or _NAMES.get(kind) or getattr(nn, kind, None)
        if found is None:
            raise InputError(f'type={kind!r} is no layer of PyTorch, and mmcv, which may have it, is not installed: '
                             f'pip install {pip_name("mmcv")}')
        kind = found
    return kind(*args, **{**defaults, **{key: value for key, value in cfg.items() if key != 'type'}})


def build_norm_layer(cfg: dict, channels: int) -> tuple[str, nn.Module]:
    """The abbreviated name and the layer, as mmcv's function gives them."""
    options = {key: value for key, value in cfg.items() if key != 'requires_grad'}
    norm = build_layer(options, channels, eps=1e-5)
    return 'norm', norm.requires_grad_(cfg.get('requires_grad', True))


def build_activation_layer(cfg: dict) -> nn.Module:
    return build_layer(cfg)


class ConvModule(nn.Module):
    """A convolution and an activation, initialized as mmcv's."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool | str, conv_cfg: dict | None,
                 act_cfg: dict):
        super().__init__()
        self.conv = build_layer(conv_cfg or dict(type='Conv2d'), in_channels, out_channels, kernel_size,
                                bias=bias in ('auto', True))
        inplace = {} if act_cfg['type'] in _NOT_INPLACE else dict(inplace=True)
        self.activate = build_layer(act_cfg, **inplace)
        self.init_weights()

    def init_weights(self) -> None:
        kaiming_init(self.conv, a=getattr(self.activate, 'negative_slope', 0), nonlinearity='leaky_relu')

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.conv(x))
