"""Laws of the maps: each equals its readable layer, its adjoint is one, its gradient is autograd's."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from progan.nn.layers import Conv2d, LatentTo4x4, Linear, Scaled
from progan.nn.maps import (
    Convolution,
    Dense,
    DenseTo4x4,
    Downscaling,
    Kernels,
    Map,
    NarrowDownscaling,
    NarrowUpscaling,
    Upscaling,
    box,
    downscaled_kernel,
    gather,
    spread,
    unbox,
    upscaled_kernel,
)
from progan.nn.ops import downscale2d, upscale2d
from progan.nn.winograd import WinogradConvolution

Case = tuple[Scaled, Map, Callable[[Tensor], Tensor], tuple[int, ...]]
NAMES = ["dense", "to4x4", "conv1x1", "conv3x3", "winograd", "down", "up", "narrow down", "narrow up"]


def _case(name: str, device: torch.device) -> Case:
    """(layer, its map, what the two should do, shape of an input), in float64."""
    conv, narrow = Conv2d(3, 5, 3, gain=1.3), Conv2d(3, 5, 1)
    dense, first = Linear(3 * 16, 5, gain=0.7), LatentTo4x4(6, 5)
    for layer in (conv, narrow, dense, first):
        torch.nn.init.normal_(layer.bias)
        layer.to(device, torch.float64)
    cases: dict[str, Callable[[], Case]] = {
        "dense": lambda: (dense, Dense(dense), lambda x: dense(x.flatten(1)), (2, 3, 4, 4)),
        "to4x4": lambda: (first, DenseTo4x4(first), first, (2, 6)),
        "conv1x1": lambda: (narrow, Convolution(narrow), narrow, (2, 3, 6, 8)),
        "conv3x3": lambda: (conv, Convolution(conv), conv, (2, 3, 6, 8)),
        "winograd": lambda: (conv, WinogradConvolution(conv), conv, (2, 3, 4, 8)),
        "down": lambda: (conv, Downscaling(conv), lambda x: downscale2d(conv(x)), (2, 3, 6, 8)),
        "up": lambda: (conv, Upscaling(conv), lambda x: conv(upscale2d(x)), (2, 3, 6, 8)),
        "narrow down": lambda: (conv, NarrowDownscaling(conv), lambda x: downscale2d(conv(x)), (2, 3, 6, 8)),
        "narrow up": lambda: (conv, NarrowUpscaling(conv), lambda x: conv(upscale2d(x)), (2, 3, 6, 8)),
    }
    return cases[name]()


def _close(a: Tensor, b: Tensor) -> bool:
    assert a.shape == b.shape
    return bool((a - b).norm() <= 1e-13 * b.norm())


@pytest.mark.parametrize("name", NAMES)
def test_a_map_is_its_layer(name, device):
    layer, linear, wanted, shape = _case(name, device)
    x = torch.randn(shape, dtype=torch.float64, device=device)
    assert _close(linear(x, layer.bias), wanted(x))
    assert _close(linear(x), wanted(x) - wanted(torch.zeros_like(x)))


@pytest.mark.parametrize("name", NAMES)
def test_adjoint_and_gradient_are_those_of_autograd(name, device):
    layer, linear, wanted, shape = _case(name, device)
    x = torch.randn(shape, dtype=torch.float64, device=device).requires_grad_()
    y = wanted(x)
    g = torch.randn_like(y)
    of_x, of_weight, of_bias = torch.autograd.grad(y, (x, layer.weight, layer.bias), g)
    with torch.no_grad():
        weight, bias = linear.gradient(g, x)
        assert _close(linear.adjoint(g).view_as(x), of_x)
    assert _close(weight, of_weight)
    assert _close(bias, of_bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_that_resample(dtype, device):
    x = torch.randn(2, 3, 8, 4, dtype=dtype, device=device)
    w = torch.randn(5, 3, 3, 3, dtype=dtype, device=device)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    up = F.conv_transpose2d(x, upscaled_kernel(w), stride=2, padding=1)
    down = F.conv2d(x, downscaled_kernel(w), stride=2, padding=1)
    assert torch.allclose(up, F.conv2d(upscale2d(x), w, padding=1), atol=tolerance, rtol=tolerance)
    assert torch.allclose(down, downscale2d(F.conv2d(x, w, padding=1)), atol=tolerance, rtol=tolerance)


def test_gather_is_the_adjoint_of_spread():
    w, g = torch.randn(5, 3, 3, 3).double(), torch.randn(5, 3, 4, 4).double()
    assert torch.isclose((spread(w) * g).sum(), (w * gather(g)).sum(), rtol=1e-12)
    assert spread(torch.ones(1, 1, 3, 3))[0, 0].tolist() == [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]


def test_unbox_is_the_adjoint_of_box():
    for total in (False, True):
        x, g = torch.randn(2, 3, 4, 6).double(), torch.randn(2, 3, 5, 7).double()
        assert torch.isclose((box(x, total) * g).sum(), (x * unbox(g, total)).sum(), rtol=1e-12)
    assert box(torch.ones(1, 1, 2, 2))[0, 0].tolist() == [[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]]


def test_which_map_a_layer_takes():
    """By widths, resolution, precision and kind of device: never by a clock, so that a run resumes to the bit."""
    wide, narrow, thin = Conv2d(256, 256, 3), Conv2d(64, 64, 3), Conv2d(256, 3, 1)
    with torch.device("meta"):
        elsewhere = Conv2d(256, 256, 3)
    fast = Kernels(winograd=True)
    assert isinstance(fast.convolution(wide, 8), WinogradConvolution)
    assert type(Kernels().convolution(wide, 8)) is Convolution
    for layer, resolution in ((wide, 4), (narrow, 8), (thin, 8), (elsewhere, 8)):
        assert type(fast.convolution(layer, resolution)) is Convolution
    assert Kernels(torch.bfloat16).convolution(wide, 8).weight.dtype == torch.bfloat16
    for layer, resolution, down, up in (
        (wide, 64, Downscaling, Upscaling),
        (narrow, 32, Downscaling, Upscaling),
        (narrow, 64, NarrowDownscaling, NarrowUpscaling),
    ):
        assert type(Kernels().downscaling(layer, resolution)) is down
        assert type(Kernels().upscaling(layer, resolution)) is up


@pytest.mark.parametrize("kind", [Convolution, Downscaling, Upscaling, NarrowDownscaling, NarrowUpscaling])
def test_in_half_precision_only_the_convolution_is_rounded(kind):
    conv = Conv2d(8, 6, 3)
    torch.nn.init.normal_(conv.bias)
    whole, half = kind(conv), kind(conv, torch.bfloat16)
    x = torch.randn(2, 8, 8, 8)
    y = whole(x, conv.bias)
    assert half(x, conv.bias).dtype == torch.bfloat16
    assert 1e-4 < (half(x, conv.bias) - y).norm() / y.norm() < 1e-2
    (weight, bias), (rounded, rounded_bias) = whole.gradient(y, x), half.gradient(y, x)
    assert rounded.dtype == rounded_bias.dtype == torch.float32
    assert 1e-4 < (rounded - weight).norm() / weight.norm() < 1e-2
    assert (rounded_bias - bias).norm() / bias.norm() < 1e-2
