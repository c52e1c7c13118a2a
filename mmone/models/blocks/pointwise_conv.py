"""The 1×1 convolution of a block."""
import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseConv2d(nn.Conv2d):
    """A bias-free 1×1 convolution that takes its stride by slicing the input.

    Equal to ``nn.Conv2d(..., 1, stride)``. PyTorch's channels_last backward of the strided one
    corrupts memory on CPU for few input channels (``nn.Conv2d(3, 64, 1, stride=2)``, the stem's
    scale branch; seen with torch 2.1.2, 2.11.0 and 2.12.1).
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.stride != (1, 1):  # a slice of everything costs two copies in the backward pass
            try:
                # clone() makes the slice dense in the input's memory format.
                x = x[..., ::self.stride[0], ::self.stride[1]].clone()
            except IndexError:  # no image: F.conv2d says so
                pass
        return F.conv2d(x, self.weight, groups=self.groups)
