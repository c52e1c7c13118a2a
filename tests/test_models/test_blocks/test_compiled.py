"""Nothing reaches C unless it is exactly what C is written for."""
import pytest
import torch
from torch._subclasses import FakeTensorMode

from mmone.models.blocks import compiled
from mmone.models.blocks.compiled import NormSum

from ...memory import misaligned

SIZE = (2, 5, 4, 3)
BRANCHES = (2, 5)


@pytest.fixture(autouse=True)
def _compiled():
    assert compiled._ext is not None, 'the compiled module was not built'


@pytest.fixture
def no_c(monkeypatch):
    """C's functions, which fail the test when they are called."""

    def call(*args):
        raise AssertionError('C was called')

    class Module:

        def __getattr__(self, name):
            return call

    monkeypatch.setattr(compiled, '_ext', Module())


class Subclass(torch.Tensor):
    pass


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def with_storage(x, change):
    """A copy whose storage has so many bytes more, or none."""
    x = x.clone()
    x.untyped_storage().resize_(x.untyped_storage().nbytes() + change if change else 0)
    return x


def fake(x):
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


# What a tensor may be instead of what C is written for.
OTHERS = {
    'of another dtype': lambda x: x.to(torch.float64 if x.dtype == torch.float32 else torch.float32),
    'float16': lambda x: x.half(), 'integer': lambda x: x.int(), 'complex': lambda x: x.to(torch.complex64),
    'longer': lambda x: torch.cat([x, x]), 'shorter': lambda x: x[:-1], 'empty': lambda x: x[:0],
    'of one dimension more': lambda x: x[None], 'of one less': lambda x: x[0],
    'transposed': lambda x: x.mT.contiguous().mT, 'expanded': lambda x: x[:1].expand_as(x),
    'every second value': lambda x: torch.stack([x, x], -1)[..., 0], 'misaligned': misaligned,
    'freed': lambda x: with_storage(x, 0), 'cut off': lambda x: with_storage(x, -1),
    'negated lazily': lambda x: torch._neg_view(-x),
    'zeros of no memory': lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype),
    'on another device': lambda x: x.to('meta'), 'fake': fake, 'of a subclass': lambda x: x.as_subclass(Subclass),
    'sparse': lambda x: x.to_sparse(), 'nested': lambda x: torch.nested.nested_tensor(list(x)),
    'quantized': lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    'of oneDNN': lambda x: x.float().to_mkldnn(),
}
# There are no such vectors; and images and branches may be of any number.
EXCEPT = {*(('sum', 'bias', other) for other in ('transposed', 'nested')),
          *(('statistics', argument, other) for argument in ('x', 'kernels') for other in ('longer', 'shorter'))}


def calls():
    """Every function that calls C, with tensors that it takes: name -> (function, name of each tensor -> tensor)."""

    def normal(*shape, dtype=torch.float32):
        return torch.randn(*shape, dtype=dtype)

    x, y, grad, grad_x = (channels_last(normal(*SIZE)) for _ in range(4))
    kernels, grad_kernels = normal(2, 2, 5, 1, 3, 3)
    products, patch_mean = normal(*BRANCHES, 9, dtype=torch.float64), normal(5, 9, dtype=torch.float64)
    mean, scale, slope, offset = (normal(*BRANCHES) for _ in range(4))
    bias = normal(5)
    good = NormSum([y, x], mean, scale, bias, True)
    return {
        'statistics': (lambda x, kernels: compiled.depthwise_statistics(x, kernels, True, 1, 1),
                       dict(x=x, kernels=kernels)),
        'gradient': (lambda x, kernels, *rest: compiled.add_depthwise_gradient(x, kernels, False, 1, 1, *rest), dict(
            x=x, kernels=kernels, products=products, patch_mean=patch_mean, grad_mean=mean, grad_var=scale,
            grad_kernels=grad_kernels, grad_x=grad_x)),
        'sum': (lambda y, x, *rest: NormSum([y, x], *rest, True).output(),
                dict(y=y, x=x, mean=mean, scale=scale, bias=bias)),
        'gradient sums': (good.gradient_sums, dict(grad=grad)),
        'gradient of y': (good.gradient_of_y, dict(grad=grad, slope=slope, offset=offset)),
        'gradient of x': (good.add_gradient_of_x, dict(grad=grad, slope=slope, offset=offset, grad_x=grad_x)),
    }


ARGUMENTS = [(name, argument) for name, (_, arguments) in calls().items() for argument in arguments]


@pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::DeprecationWarning')
@pytest.mark.parametrize('name, argument', ARGUMENTS, ids=str)
def test_every_other_tensor_is_refused(name, argument, no_c):
    function, arguments = calls()[name]
    with pytest.raises(AssertionError, match='C was called'):  # these are taken
        function(*arguments.values())
    right = arguments[argument]
    for other, change in OTHERS.items():
        if (name, argument, other) not in EXCEPT:
            arguments[argument] = change(right)
            with pytest.raises((ValueError, RuntimeError)) as error:  # nested ones raise PyTorch's own
                function(*arguments.values())
            assert other == 'nested' or str(error.value).startswith('mmone._ext takes'), other

    def within(value):
        return function(*{**arguments, argument: value}.values())

    for transform in (torch.vmap(within), lambda values: torch.func.grad(within)(values[0])):
        with pytest.raises(ValueError, match='^mmone._ext takes'):
            transform(torch.stack([right, right]))


@pytest.mark.parametrize('stride, dilation', [
    (0, 1), (-1, 1), (1, 0), (1, -2), (1 << 31, 1), (1, 1 << 15), (1, 1 << 62)])
def test_geometries_that_c_has_no_numbers_or_memory_for_are_refused(stride, dilation, no_c):
    x, kernels = channels_last(torch.randn(*SIZE)), torch.randn(2, 5, 1, 3, 3)
    assert compiled.takes_depthwise(x, 1, 1) and not compiled.takes_depthwise(x, stride, dilation)
    with pytest.raises(ValueError, match=f'stride {stride}, dilation {dilation}'):
        compiled.depthwise_statistics(x, kernels, True, stride, dilation)


def test_rows_too_long_for_the_memory_of_a_thread_are_refused(no_c):
    x = torch.empty(1, 1, 1, 1 << 18).contiguous(memory_format=torch.channels_last)
    assert compiled.takes(x) and not compiled.takes_depthwise(x, 1, 1)


def test_without_a_skip_branch_there_is_no_gradient_of_it(no_c):
    y = channels_last(torch.randn(*SIZE))
    one = torch.ones(1, 5)
    with pytest.raises(ValueError, match='no skip branch'):
        NormSum([y], one, one, one[0], True).add_gradient_of_x(y, one, one, y.clone())


def test_what_is_taken():
    x = torch.randn(*SIZE)
    assert compiled.takes(x) and compiled.takes(x.double()) and compiled.takes(x.bfloat16())
    assert all(map(compiled.takes, (torch.nn.Parameter(x), x.transpose(2, 3), x[:1].expand_as(x))))
    with torch.inference_mode():
        assert compiled.takes(torch.randn(*SIZE))
        compiled.depthwise_statistics(channels_last(torch.randn(*SIZE)), torch.randn(2, 5, 1, 3, 3), True, 1, 1)


def test_default_devices_do_not_reach_c():
    # What is made on the way to C must lie on the CPU, and must not be kept where it does not.
    x, kernels = channels_last(torch.randn(1, 5, 11, 13)), torch.randn(2, 5, 1, 3, 3)
    found = []
    for device in ('meta', 'cpu'):
        with torch.device(device):
            mean, var, products, patch_mean = compiled.depthwise_statistics(x, kernels, True, 1, 1)
            grad_kernels, grad_x = torch.zeros_like(kernels), torch.zeros_like(x)
            compiled.add_depthwise_gradient(
                x, kernels, True, 1, 1, products, patch_mean, mean, var, grad_kernels, grad_x)
            found.append([mean, var, grad_kernels, grad_x])
    for first, second in zip(*found):
        assert torch.equal(first, second)
