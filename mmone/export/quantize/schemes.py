"""How runtimes compute on integers: what may be done with a network follows from it."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """How a runtime computes on integers.

    Attributes:
        symmetric (bool): Tensors become integers of -127 to 127 with 0 for 0; else of 0 to 255, with 0 anywhere.
        between (bool): What lies between layers is computed on integers too; else layers alone, and each one's
            output is in float.
        largest_pair (int): The most that the magnitudes of any two weights of a kernel may add up to.
    """
    symmetric: bool
    between: bool
    largest_pair: int


# ONNX Runtime and OpenVINO. Processors without VNNI multiply an unsigned byte by a signed one in pairs, and add each
# pair up in 16 bits, which saturate: 255 x 128 = 32,640 does not reach 32,767, whatever the input, and whichever two
# are neighbours. Seven bits would do that too. But a kernel that skip and scale branches were folded into has one
# large weight, and may have eight bits for it.
QDQ = Scheme(symmetric=False, between=True, largest_pair=128)
# LiteRT, with XNNPACK: products in 16 bits are added up in 32.
LITERT = Scheme(symmetric=False, between=True, largest_pair=254)
# ncnn multiplies signed bytes, which do not saturate: 127 x 254 = 32,258.
NCNN = Scheme(symmetric=True, between=False, largest_pair=254)
