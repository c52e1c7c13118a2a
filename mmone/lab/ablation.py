"""The two ablations of section 3 of the MobileOne paper: one 30-layer network, its activations and its blocks.

The paper (https://arxiv.org/abs/2206.04040v2, "Key Bottlenecks") fixes that the network is convolutional, has 30
layers, is the same but for what is compared, and is timed at batch 1; Table 2 compares activations, Table 3 blocks
(its figures are not public). It says nothing of kernels, widths and image size. Ours: 30 convolutions, each with a
bias, as folding leaves it, and an activation: a dense 3×3 stem, 14 pairs of a depthwise 3×3 and a pointwise 1×1, and
a pointwise 1×1 to 1024 channels; the widths are MobileOne's base channels. So times are to be compared with each
other, and with the paper's as multiples of ReLU's.
"""
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmone.errors import InputError
from mmone.models.blocks.se_layer import SELayer

STEM, HEAD, CLASSES = 64, 1024, 1000
# (channels, pairs, stride of the first) of each stage.
STAGES = ((64, 2, 2), (128, 4, 2), (256, 6, 2), (512, 2, 2))


class HyperFunction(nn.Module):
    """What computes an activation's coefficients from its input: pooling, two linear layers, and a squashing.

    Args:
        channels (int): C of the (N, C, H, W) input.
        outputs (int): Number of coefficients.
        reduction (int): By which the hidden layer is narrower.
        squash (nn.Module): After the second layer.
    """

    def __init__(self, channels: int, outputs: int, reduction: int, squash: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, outputs), squash)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs)."""
        return self.layers(x.mean((2, 3)))


class DynamicReLU(nn.Module):
    r"""Dynamic ReLU (https://arxiv.org/abs/2003.10027, section 3).

    .. math:: y_c = \max_{1 \le k \le K} \{ a_c^k(x)\, x_c + b_c^k(x) \}

    with :math:`a_c^k(x) = \alpha^k + \lambda_a \Delta a_c^k(x)` and :math:`b_c^k(x) = \beta^k + \lambda_b \Delta
    b_c^k(x)`; the hyper function has :math:`\Delta a, \Delta b` as :math:`2\sigma(\cdot) - 1`. K = 2, α¹ = 1,
    α² = β¹ = β² = 0, λ_a = 1, λ_b = 0.5 and a reduction of 8, as in the paper: where the residuals are 0, it is ReLU.

    Args:
        channels (int): C of the (N, C, H, W) input.
        shared (bool): Variant A, whose coefficients all channels share; else B, where each channel has its own.
            Both share them over positions.
    """
    K = 2

    def __init__(self, channels: int, shared: bool):
        super().__init__()
        self.coefficients = HyperFunction(channels, 2 * self.K * (1 if shared else channels), 8, nn.Sigmoid())
        self.register_buffer('scale', torch.tensor([1.0, 1.0, 0.5, 0.5]).view(2 * self.K, 1))
        self.register_buffer('start', torch.tensor([1.0, 0.0, 0.0, 0.0]).view(2 * self.K, 1))

    def forward(self, x: Tensor) -> Tensor:
        residual = 2 * self.coefficients(x) - 1
        both = self.start + self.scale * residual.view(len(x), 2 * self.K, -1)  # (N, 2K, 1 or C)
        a1, a2, b1, b2 = both[..., None, None].unbind(1)
        return torch.maximum(a1 * x + b1, a2 * x + b2)


class DynamicShiftMax(nn.Module):
    r"""Dynamic Shift-Max (https://arxiv.org/abs/2108.05894, section 4).

    .. math:: y_i = \max_{1 \le k \le K} \Big\{ \sum_{j=0}^{J-1} a_{i,j}^k(x)\, x_{(i + j C / G) \bmod C} \Big\}

    K = J = 2, as in the paper. The range of the coefficients, the hard sigmoid and the start, a¹₀ = 1 and the others
    0, are those of the authors' code, :math:`a = \text{start} + 4\,(\text{hsigmoid}(\cdot) - 0.5)`. G, the groups of
    the convolution before it, is ours, since that convolution has none here: 4, as is the reduction.

    Args:
        channels (int): C of the (N, C, H, W) input, a multiple of G.
    """
    GROUPS = 4

    def __init__(self, channels: int):
        super().__init__()
        self.shift = channels // self.GROUPS
        self.coefficients = HyperFunction(channels, 4 * channels, 4, nn.Hardsigmoid())
        self.register_buffer('start', torch.tensor([1.0, 0.0, 0.0, 0.0]).view(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.start + 4 * (self.coefficients(x).view(len(x), 4, -1) - 0.5)
        first, first_shifted, second, second_shifted = a[..., None, None].unbind(1)  # (N, C, 1, 1) each
        shifted = torch.cat((x[:, self.shift:], x[:, :self.shift]), 1)
        return torch.maximum(first * x + first_shifted * shifted, second * x + second_shifted * shifted)


# Activations by name: what makes one for a number of channels. SE-ReLU is squeeze-excite before ReLU.
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    'relu': lambda channels: nn.ReLU(),
    'gelu': lambda channels: nn.GELU(),
    'silu': lambda channels: nn.SiLU(),
    'hard-swish': lambda channels: nn.Hardswish(),
    'se-relu': lambda channels: nn.Sequential(SELayer(channels), nn.ReLU()),
    'dynamic-shift-max': DynamicShiftMax,
    'dynamic-relu-a': partial(DynamicReLU, shared=True),
    'dynamic-relu-b': partial(DynamicReLU, shared=False),
}


class Layer(nn.Module):
    """A convolution of k branches that are summed, what comes after it, and the activation.

    Args:
        convs (list[nn.Conv2d]): The branches.
        activation (nn.Module): The last.
        se (bool): Whether to squeeze and excite before the activation.
    """

    def __init__(self, convs: list[nn.Conv2d], activation: nn.Module, se: bool):
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.se = SELayer(convs[0].out_channels) if se else nn.Identity()
        self.activation = activation

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        out = self.convs[0](x)
        for conv in self.convs[1:]:
            out = out + conv(x)
        out = self.se(out)
        return self.activation(out if skip is None else out + skip)


class Pair(nn.Module):
    """A depthwise and a pointwise layer, with or without an identity around both.

    The identity is added before the last activation, as in ResNet.
    """

    def __init__(self, depthwise: Layer, pointwise: Layer, skip: bool):
        super().__init__()
        self.depthwise = depthwise
        self.pointwise = pointwise
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x), x if self.skip else None)


# Blocks by name: what differs from the plain chain. Squeeze-excite is once a pair, behind the depthwise convolution
# as in MobileNetV3; skip connections are around each pair that keeps the shape; k branches are unfused convolutions.
BLOCKS: dict[str, dict[str, Any]] = {
    'plain': dict(),
    'se': dict(se=True),
    'skip': dict(skip=True),
    'branches-2': dict(branches=2),
    'branches-4': dict(branches=4),
}


class AblationNet(nn.Module):
    """The 30-layer network, an image classifier: (N, 3, H, W) → (N, 1000).

    Args:
        activation (str): One of :data:`ACTIVATIONS`.
        block (str): One of :data:`BLOCKS`.

    Raises:
        InputError: If there is none of such a name.
    """

    def __init__(self, activation: str = 'relu', block: str = 'plain'):
        for name, known in ((activation, ACTIVATIONS), (block, BLOCKS)):
            if name not in known:
                raise InputError(f'there is no {name!r} among {", ".join(known)}')
        super().__init__()
        self._activation, self._block = ACTIVATIONS[activation], BLOCKS[block]
        channels = STEM
        layers: list[nn.Module] = [self._layer(3, channels, 3, 2)]
        for width, pairs, stride in STAGES:
            for number in range(pairs):
                layers.append(self._pair(channels, width, stride if number == 0 else 1))
                channels = width
        self.features = nn.Sequential(*layers, self._layer(channels, HEAD, 1))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(HEAD, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))

    def _layer(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, se: bool = False
               ) -> Layer:
        convs = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
                 for _ in range(self._block.get('branches', 1))]
        return Layer(convs, self._activation(outputs), se)

    def _pair(self, inputs: int, outputs: int, stride: int) -> Pair:
        depthwise = self._layer(inputs, inputs, 3, stride, inputs, se=self._block.get('se', False))
        skip = self._block.get('skip', False) and inputs == outputs and stride == 1
        return Pair(depthwise, self._layer(inputs, outputs, 1), skip)


# The networks by the names that measurements have, as arguments. The first, plain with ReLU, is in both ablations.
NETWORKS = {
    **{f'ablation-{name}': dict(activation=name) for name in ACTIVATIONS},
    **{f'ablation-block-{name}': dict(block=name) for name in BLOCKS if name != 'plain'},
}
