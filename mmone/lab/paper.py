"""What the MobileOne paper measured: figures of https://arxiv.org/abs/2206.04040v2, to stand beside one's own."""
from typing import NamedTuple

SOURCE = 'https://arxiv.org/abs/2206.04040v2'
PHONE = 'iPhone 12, Core ML'
CPU = 'Xeon Gold 5118'
GPU = '2080 Ti, TensorRT'


class Rank(NamedTuple):
    """Spearman's ρ of latency with a count, and its p-value."""
    rho: float
    p: float


# Table 1, by the device and what latency is compared with.
CORRELATIONS = {
    PHONE: dict(multiply_adds=Rank(0.47, 0.03), parameters=Rank(0.30, 0.18)),
    CPU: dict(multiply_adds=Rank(0.06, 0.80), parameters=Rank(0.07, 0.77)),
}

PLAIN = 'ablation-relu'  # what the ablations are compared with
# Table 2: a 30-layer network on the phone, ms, by the names of mmone.lab.ablation. Hard-swish is not in it.
ACTIVATIONS = {
    PLAIN: 1.53, 'ablation-gelu': 1.63, 'ablation-se-relu': 2.10, 'ablation-silu': 2.54,
    'ablation-dynamic-shift-max': 57.04, 'ablation-dynamic-relu-a': 273.49, 'ablation-dynamic-relu-b': 242.14,
}


class Row(NamedTuple):
    """A row of Table 9: batch 1 at 224×224."""
    title: str
    top1: float
    multiply_adds: int  # millions
    parameters: float  # millions
    cpu: float  # ms
    gpu: float | None  # ms
    phone: float  # ms


# Table 9, by the names of mmone.lab.peers; those that no package has are left out there.
LATENCIES = {
    'mobileformer-96': Row('Mobile-Former-96', 72.8, 96, 4.6, 37.36, None, 16.95),
    'convit_tiny': Row('ConViT-tiny', 73.1, 1000, 5.7, 28.95, None, 10.99),
    'mobilevit_s': Row('MobileViT-S', 78.4, 1792, 5.6, 30.76, None, 9.21),
    'mobileformer-52': Row('Mobile-Former-52', 68.7, 52, 3.6, 29.23, None, 9.02),
    'pit_ti_224': Row('PiT-ti', 71.3, 710, 4.9, 16.37, 1.97, 8.81),
    'mobilevit_xs': Row('MobileViT-XS', 74.8, 941, 2.3, 27.21, None, 6.97),
    'deit_tiny_patch16_224': Row('DeiT-tiny', 72.2, 1300, 5.9, 16.68, 1.78, 4.78),
    'mobilevit_xxs': Row('MobileViT-XXS', 69.0, 373, 1.3, 23.03, None, 4.70),
    'repvgg_b1': Row('RepVGG-B1', 78.4, 11800, 51.8, 193.7, 3.17, 3.73),
    'repvgg_a2': Row('RepVGG-A2', 76.5, 5100, 25.5, 93.43, 2.41, 2.41),
    'mobileone-s4': Row('MobileOne-S4', 79.4, 2978, 14.8, 26.60, 0.95, 1.86),
    'repvgg_b0': Row('RepVGG-B0', 75.1, 3100, 14.3, 55.97, 1.45, 1.82),
    'efficientnet_b0': Row('EfficientNet-B0', 77.1, 390, 5.3, 28.71, 1.35, 1.72),
    'repvgg_a1': Row('RepVGG-A1', 74.5, 2400, 12.8, 47.15, 1.42, 1.68),
    'mobileone-s3': Row('MobileOne-S3', 78.1, 1896, 10.1, 16.47, 0.76, 1.53),
    'mobilenetv2_140': Row('MobileNetV2-x1.4', 74.7, 585, 6.9, 15.67, 0.80, 1.36),
    'repvgg_a0': Row('RepVGG-A0', 72.4, 1400, 8.3, 43.61, 1.23, 1.28),
    'mobilenext-1.4': Row('MobileNeXt-x1.4', 76.1, 590, 6.1, 18.06, 1.04, 1.27),
    'mobileone-s2': Row('MobileOne-S2', 77.4, 1299, 7.8, 14.87, 0.72, 1.18),
    'mixnet_s': Row('MixNet-S', 75.8, 256, 4.1, 40.09, 2.41, 1.13),
    'mobilenetv3_large_100': Row('MobileNetV3-L', 75.2, 219, 5.4, 17.09, 3.8, 1.09),
    'shufflenet_v2_x2_0': Row('ShuffleNetV2-2.0', 74.9, 591, 7.4, 20.85, 4.76, 1.08),
    'mnasnet_a1': Row('MNASNet-A1', 75.2, 312, 3.9, 24.06, 0.95, 1.00),
    'mobilenetv2_100': Row('MobileNetV2-x1.0', 72.0, 300, 3.4, 13.65, 0.69, 0.98),
    'mobilenetv1_100': Row('MobileNetV1', 70.6, 575, 4.2, 10.65, 0.58, 0.95),
    'mobilenext-1.0': Row('MobileNeXt-x1.0', 74.0, 311, 3.4, 16.04, 1.02, 0.92),
    'mobileone-s1': Row('MobileOne-S1', 75.9, 825, 4.8, 13.04, 0.66, 0.89),
    'mobilenetv3_small_100': Row('MobileNetV3-S', 67.4, 56, 2.5, 10.38, 3.74, 0.83),
    'shufflenet_v2_x1_0': Row('ShuffleNetV2-1.0', 69.4, 146, 2.3, 16.60, 4.58, 0.68),
    'mobileone-s0': Row('MobileOne-S0', 71.4, 275, 2.1, 10.55, 0.56, 0.79),
}
