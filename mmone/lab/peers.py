"""Networks that MobileOne is compared with, by their published definitions in timm and torchvision.

MobileNeXt and Mobile-Former, which the paper compares with too, are in neither package, and left out.
"""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from mmone.models import MobileOne
from mmone.models.backbones.archs import ARCHS, stage_channels

from . import paper

CLASSES = 1000


class Peer(NamedTuple):
    """A network of the study.

    Attributes:
        family (str): By which reports colour it.
        package (str): ``'timm'``, ``'torchvision'`` or ``'mmone'``.
        model (str): Its name there.
        top1 (float, optional): Published, in percent. Of those in the paper's Table 9, that is what counts.
        source (str, optional): Where it is published, and what is to be known of it.
    """
    family: str
    package: str
    model: str
    top1: float | None = None
    source: str | None = None


_V4 = 'https://arxiv.org/abs/2404.10518, Table 6'
_REPVIT = 'https://github.com/THU-MIG/RepViT (300 epochs, distilled)'
_FASTVIT = 'https://github.com/apple/ml-fastvit (images of 256×256)'
_EFFICIENTVIT = 'https://github.com/microsoft/Cream/tree/main/EfficientViT'
_GHOST = 'https://arxiv.org/abs/2404.11202, abstract (distilled)'
_STAR = 'https://arxiv.org/abs/2403.19967, Table 6'
_TABLE_10 = f'{paper.SOURCE}, Table 10'

PEERS = {
    **{f'mobileone-{arch}': Peer('mobileone', 'mmone', arch) for arch in ARCHS
       if arch != 's4_no_se'},  # which the paper has as a segmentor only
    'mobilenetv1_100': Peer('mobilenet', 'timm', 'mobilenetv1_100'),
    'mobilenetv2_100': Peer('mobilenet', 'timm', 'mobilenetv2_100'),
    'mobilenetv2_140': Peer('mobilenet', 'timm', 'mobilenetv2_140'),
    'mobilenetv3_small_100': Peer('mobilenet', 'timm', 'mobilenetv3_small_100'),
    'mobilenetv3_large_100': Peer('mobilenet', 'timm', 'mobilenetv3_large_100'),
    'mobilenetv4_conv_small': Peer('mobilenet', 'timm', 'mobilenetv4_conv_small', 73.8, _V4),
    'mobilenetv4_conv_medium': Peer('mobilenet', 'timm', 'mobilenetv4_conv_medium', 79.9,
                                    f'{_V4} (images of 256×256)'),
    'efficientnet_b0': Peer('efficientnet', 'timm', 'efficientnet_b0'),
    'mnasnet_a1': Peer('mnasnet', 'timm', 'semnasnet_100'),  # with squeeze-excite, which B1, mnasnet_100, has not
    'mixnet_s': Peer('mixnet', 'timm', 'mixnet_s'),
    'shufflenet_v2_x1_0': Peer('shufflenet', 'torchvision', 'shufflenet_v2_x1_0'),
    'shufflenet_v2_x2_0': Peer('shufflenet', 'torchvision', 'shufflenet_v2_x2_0'),
    'repvgg_a0': Peer('repvgg', 'timm', 'repvgg_a0'),
    'repvgg_a1': Peer('repvgg', 'timm', 'repvgg_a1'),
    'repvgg_a2': Peer('repvgg', 'timm', 'repvgg_a2'),
    'repvgg_b0': Peer('repvgg', 'timm', 'repvgg_b0'),
    'repvgg_b1': Peer('repvgg', 'timm', 'repvgg_b1'),
    'resnet18': Peer('resnet', 'timm', 'resnet18', 69.8, _TABLE_10),
    'resnet50': Peer('resnet', 'timm', 'resnet50', 79.0, _TABLE_10),
    'deit_tiny_patch16_224': Peer('deit', 'timm', 'deit_tiny_patch16_224'),
    'pit_ti_224': Peer('pit', 'timm', 'pit_ti_224'),
    'convit_tiny': Peer('convit', 'timm', 'convit_tiny'),
    'mobilevit_xxs': Peer('mobilevit', 'timm', 'mobilevit_xxs'),
    'mobilevit_xs': Peer('mobilevit', 'timm', 'mobilevit_xs'),
    'mobilevit_s': Peer('mobilevit', 'timm', 'mobilevit_s'),
    'repvit_m0_9': Peer('repvit', 'timm', 'repvit_m0_9', 78.7, _REPVIT),
    'repvit_m1_0': Peer('repvit', 'timm', 'repvit_m1_0', 80.0, _REPVIT),
    'fastvit_t8': Peer('fastvit', 'timm', 'fastvit_t8', 76.2, _FASTVIT),
    'fastvit_s12': Peer('fastvit', 'timm', 'fastvit_s12', 79.9, _FASTVIT),
    'efficientvit_m4': Peer('efficientvit', 'timm', 'efficientvit_m4', 74.3, _EFFICIENTVIT),
    'efficientvit_m5': Peer('efficientvit', 'timm', 'efficientvit_m5', 77.1, _EFFICIENTVIT),
    'ghostnetv3_100': Peer('ghostnet', 'timm', 'ghostnetv3_100'),
    'ghostnetv3_130': Peer('ghostnet', 'timm', 'ghostnetv3_130', 79.1, _GHOST),
    'starnet_s1': Peer('starnet', 'timm', 'starnet_s1', 73.5, _STAR),
    'starnet_s3': Peer('starnet', 'timm', 'starnet_s3', 77.3, _STAR),
}


def published(name: str) -> tuple[float | None, str | None]:
    """The published top-1 of a peer, and where it is published; None where none is known.

    The micro variants have none: their shapes are ours, and nobody trained them.
    """
    if name in paper.LATENCIES:
        return paper.LATENCIES[name].top1, f'{paper.SOURCE}, Table 9'
    return PEERS[name].top1, PEERS[name].source


def build(name: str) -> nn.Module:
    """A peer with random weights."""
    peer = PEERS[name]
    return FACTORIES[peer.package](peer.model)


def mobileone(arch: str | Mapping[str, Sequence]) -> nn.Module:
    """An image classifier of ours, by the name of its arch or the dict: (N, 3, H, W) → (N, 1000)."""
    return _Classifier(MobileOne(arch if isinstance(arch, str) else dict(arch)))


def timm(name: str) -> nn.Module:
    """An image classifier of timm's."""
    from timm import create_model
    return create_model(name, pretrained=False)


def torchvision(name: str) -> nn.Module:
    """An image classifier of torchvision's."""
    from torchvision.models import get_model
    return get_model(name, weights=None)


FACTORIES = dict(mmone=mobileone, timm=timm, torchvision=torchvision)


class _Classifier(nn.Module):
    """A backbone, pooling, and a linear layer."""

    def __init__(self, backbone: MobileOne):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                  nn.Linear(stage_channels(backbone.arch)[-1], CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[-1])
