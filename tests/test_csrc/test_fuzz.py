"""What is drawn at random: the compiled module against plain loops, and blocks against their branches.

The same few examples each time; ``make sanitize`` draws many new ones, as the environment variable ``MMONE_FUZZ`` says.
"""
import copy
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from mmone.models.blocks import compiled
from mmone.models.blocks.mobileone_block import MobileOneBlock

from ..memory import LAYOUTS
from .test_ext import check_depthwise, check_norm_sum

EXAMPLES = int(os.environ.get('MMONE_FUZZ', 0))
FUZZ = settings(max_examples=EXAMPLES or 25, derandomize=not EXAMPLES, database=None, deadline=None,
                suppress_health_check=list(HealthCheck))

DTYPES = st.sampled_from([torch.float32, torch.float64])
BOOLS = st.booleans()
# Parts of a vector of 16 channels, one, and one and a part.
CHANNELS = st.integers(1, 35)


@pytest.fixture(autouse=True)
def _compiled():
    assert compiled._ext is not None, 'the compiled module was not built'


@FUZZ
@given(data=st.data())
def test_depthwise_statistics_are_those_of_plain_loops(data):
    images, height, width = (data.draw(st.integers(1, most), name) for name, most in
                             (('images', 3), ('height', 9), ('width', 25)))
    # The loops take a second for some ten thousand values.
    channels = min(data.draw(CHANNELS, 'channels'), max(1, 2000 // (images * height * width)))
    check_depthwise(
        channels, (height, width), data.draw(st.integers(1, 5), 'stride'), data.draw(st.integers(1, 7), 'dilation'),
        data.draw(st.integers(1, 4), 'branches'), data.draw(BOOLS, 'skip'), data.draw(DTYPES, 'dtype'), images,
        LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)), 'layout')])


@FUZZ
@given(rows=st.integers(1, 400), channels=CHANNELS, skip=BOOLS, relu=BOOLS, dtype=DTYPES)
def test_sums_of_norms_are_those_of_plain_loops(rows, channels, skip, relu, dtype):
    check_norm_sum(min(rows, 4000 // channels), channels, skip, relu, dtype)


@st.composite
def blocks(draw):
    """Arguments of a block: every geometry, depthwise or not."""
    kernel_size, channels = draw(st.sampled_from([1, 3, 3, 5])), draw(st.integers(1, 20))
    depthwise = draw(BOOLS)
    return dict(
        in_channels=channels, out_channels=channels if depthwise or draw(BOOLS) else draw(st.integers(1, 20)),
        kernel_size=kernel_size, num_convs=draw(st.integers(1, 4)), stride=draw(st.integers(1, 3)),
        dilation=draw(st.integers(1, 4)) if kernel_size > 1 else 1, groups=channels if depthwise else 1,
        use_scale=draw(BOOLS), use_skip=draw(BOOLS), act_cfg=dict(type=draw(st.sampled_from(['ReLU', 'Tanh']))))


@st.composite
def inputs(draw, channels):
    """An input, and the layout of the gradient of its output; now and then one that nothing takes."""
    wrong = draw(st.sampled_from(['', '', '', '', '', '', 'channels', 'dtype', 'empty', 'dimensions', 'size']))
    shape = [draw(st.integers(1, 4)), channels, draw(st.integers(1, 12)), draw(st.integers(1, 12))]
    if wrong == 'channels':
        shape[1] = draw(st.integers(0, 40))
    if wrong in ('empty', 'size'):
        shape[0 if wrong == 'empty' else draw(st.integers(2, 3))] = 0
    if wrong == 'dimensions':
        shape = shape[draw(st.integers(1, 3)):]
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int32, torch.complex128])) \
        if wrong == 'dtype' else torch.float64
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) + draw(st.sampled_from([0, 1, 10]))).to(dtype)
    layouts = [layout for layout in LAYOUTS if x.dim() == 4 and x.numel() or layout == 'contiguous']
    return LAYOUTS[draw(st.sampled_from(layouts))](x), draw(st.sampled_from(list(LAYOUTS)))


def trained(block, x, layout):
    """What a step leaves, or the kind of error: two modes may find another fault of an input first."""
    x = x.detach()
    x.requires_grad_(x.is_floating_point() or x.is_complex())
    try:
        out = block(x)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return type(error)
    factors = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    out.backward(LAYOUTS[layout](factors) if out.numel() else factors)
    return [out, x.grad, *(parameter.grad for parameter in block.parameters()), *block.buffers()]


@FUZZ
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:branch_mode='fused'")
def test_blocks_are_their_branches_whatever_they_are_given(data):
    options = data.draw(blocks(), 'block')
    x, layout = data.draw(inputs(options['in_channels']), 'input')
    torch.manual_seed(0)
    separate = MobileOneBlock(**options, branch_mode='separate').double().train()
    for parameter in separate.parameters():
        nn.init.normal_(parameter)
    fused = copy.deepcopy(separate)
    fused.branch_mode = 'fused'
    expected, found = trained(separate, x, layout), trained(fused, x, layout)
    if isinstance(expected, type) or isinstance(found, type):
        # By PyTorch's convolution or by its norm, whichever of them is first.
        assert {expected, found} <= {RuntimeError, ValueError}
    else:
        # Two values of a channel may be as good as one: its gradients are of the size of 1 / ε.
        scale = max(1, *(value.abs().max().item() for value in expected if value is not None and value.numel()))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9 * scale)
