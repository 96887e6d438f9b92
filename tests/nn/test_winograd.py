import pytest
import torch
import torch.nn.functional as F

from progan.nn import winograd
from progan.nn.layers import Conv2d
from progan.nn.maps import Convolution
from progan.nn.winograd import WinogradConvolution

SHAPES = [  # samples, inputs, outputs, height, width
    (1, 1, 3, 4, 4),
    (2, 5, 16, 8, 8),
    (3, 16, 5, 12, 8),
    (2, 3, 1, 4, 16),
]


def case(n, inputs, outputs, height, width, dtype=torch.float64):
    """A layer, its bias, an input, and a gradient that arrives at its output."""
    torch.manual_seed(0)
    layer = Conv2d(inputs, outputs, 3).to(dtype)
    x = torch.randn(n, inputs, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    g = torch.randn(n, outputs, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return layer, torch.randn(outputs, dtype=dtype), x, g


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.fixture(params=[1 << 21, 64], ids=["whole", "chunks"])
def _chunk(request, monkeypatch):
    monkeypatch.setattr(winograd, "CHUNK", request.param)


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_a_tile_by_the_matrices_is_its_direct_convolution():
    """y = A' [(G w G') * (B' d B)] A, as in the paper."""
    B, G, A = matrix(winograd.B), matrix(winograd.G), matrix(winograd.A)
    d, w = torch.randn(6, 6, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    y = A @ ((G @ w @ G.T) * (B @ d @ B.T)) @ A.T
    torch.testing.assert_close(y, F.conv2d(d[None, None], w[None, None])[0, 0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("transform", "rows"),
    [
        (winograd.transformed, winograd.B),
        (winograd.combined, winograd.A),
        (winograd.spread, tuple(zip(*winograd.A))),
    ],
)
def test_each_transform_is_its_matrix(transform, rows):
    values = torch.randn(len(rows[0]), 7, dtype=torch.float64)
    torch.testing.assert_close(torch.stack(transform(list(values))), matrix(rows) @ values, rtol=1e-13, atol=1e-13)


def test_turned_taps_are_the_transform_in_another_order():
    taps = torch.randn(3, dtype=torch.float64)
    G = matrix(winograd.G)
    torch.testing.assert_close(G @ taps.flip(0), (G @ taps)[list(winograd.TURNED)], rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_autograd_through_the_direct_convolution(shape):
    layer, bias, x, g = case(*shape)
    x.requires_grad_()
    bias.requires_grad_()
    y = F.conv2d(x, layer.weight * layer.scale, bias, padding=1)
    d_x, d_weight, d_bias = torch.autograd.grad(y, (x, layer.weight, bias), g)
    with torch.no_grad():
        fast = WinogradConvolution(layer)
        weight_gradient, bias_gradient = fast.gradient(g, x)
        pairs = [(fast(x, bias), y), (fast(x), y - bias[:, None, None]), (fast.adjoint(g), d_x)]
        for ours, theirs in [*pairs, (weight_gradient, d_weight), (bias_gradient, d_bias)]:
            assert ours.shape == theirs.shape
            assert distance(ours, theirs) < 1e-13


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_adjoint(shape):
    """<g, A x> = <A'g, x>."""
    layer, _, x, g = case(*shape)
    fast = WinogradConvolution(layer)
    torch.testing.assert_close((g * fast(x)).sum(), (fast.adjoint(g) * x).sum(), rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_rounds_about_twice_as_coarsely_as_the_direct_form():
    """In float32, by L2. With points 0, +-1, +-2 instead it would be above 1.5e-6."""
    layer, bias, x, g = case(4, 64, 64, 16, 16, torch.float32)
    fast = WinogradConvolution(layer)
    y, back, weight = fast(x, bias), fast.adjoint(g), fast.gradient(g, x)[0]
    exact = Convolution(layer.double())
    x, g = x.double(), g.double()
    for ours, theirs in [(y, exact(x, bias.double())), (back, exact.adjoint(g)), (weight, exact.gradient(g, x)[0])]:
        assert 1e-7 < distance(ours, theirs) < 1.2e-6


@torch.no_grad()
def test_results_are_channels_last():
    layer, bias, x, g = case(2, 5, 16, 8, 8)
    fast = WinogradConvolution(layer)
    for result in (fast(x, bias), fast.adjoint(g), fast.gradient(g, x)[0]):
        assert result.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_what_the_compiler_is_told_is_so():
    """Shapes and strides of the operators under torch.compile."""
    layer, bias, x, g = case(2, 5, 16, 8, 8, torch.float32)
    kernels = WinogradConvolution(layer).kernels
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(winograd.winograd, (x, kernels, bias, False), test_utils=tests)
    torch.library.opcheck(winograd.winograd, (g, kernels, None, True), test_utils=tests)
    torch.library.opcheck(winograd.winograd_gradient, (g, x), test_utils=tests)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@torch.no_grad()
def test_compiled_equals_eager(dtype, tolerance):
    def everything(x, g, bias):
        fast = WinogradConvolution(layer)
        return fast(x * 2, bias) * 2, fast.adjoint(g * 2) * 2, *fast.gradient(g * 2, x * 2)

    layer, bias, x, g = case(2, 5, 16, 8, 8, dtype)
    compiled = torch.compile(everything, fullgraph=True)
    for ours, theirs in zip(compiled(x, g, bias), everything(x, g, bias)):
        assert distance(ours, theirs) < tolerance
