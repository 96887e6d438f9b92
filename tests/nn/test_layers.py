"""Laws of the layers: weights N(0, 1) times gain / sqrt(fan_in), biases neither scaled nor random."""

import math

import pytest
import torch
import torch.nn.functional as F

from progan.nn.layers import SQRT2, Conv2d, LatentTo4x4, Linear, Scheme

LAYERS = {
    "conv": (lambda **k: Conv2d(8, 64, 3, **k), (2, 8, 5, 5), 72, SQRT2),
    "conv1x1": (lambda **k: Conv2d(8, 64, 1, **k), (2, 8, 5, 5), 8, SQRT2),
    "conv1x1 gain 1": (lambda **k: Conv2d(8, 64, 1, gain=1, **k), (2, 8, 5, 5), 8, 1),
    "linear": (lambda **k: Linear(96, 64, **k), (2, 96), 96, SQRT2),
    "linear gain 1": (lambda **k: Linear(96, 64, gain=1, **k), (2, 96), 96, 1),
    "latents": (lambda **k: LatentTo4x4(128, 32, **k), (2, 128), 128, SQRT2 / 4),
}
ALL = pytest.mark.parametrize("name", LAYERS)


@ALL
def test_the_multiplier_is_gain_over_the_root_of_fan_in(name, device):
    make, shape, fan_in, gain = LAYERS[name]
    layer, x = make().to(device).double(), torch.randn(shape, dtype=torch.float64, device=device)
    y = layer(x)
    wanted = gain / math.sqrt(fan_in)
    assert math.isclose(layer.scale, wanted, rel_tol=1e-12)
    with torch.no_grad():
        layer.weight /= wanted  # now the scaled weight is the drawn one
        if x.ndim == 4:
            plain = F.conv2d(x, layer.weight * wanted**2, None, padding=layer.weight.shape[-1] // 2)
        else:
            plain = F.linear(x, layer.weight * wanted**2)
    assert torch.allclose(y, plain.reshape(y.shape), rtol=1e-10, atol=1e-12)


@ALL
def test_weights_are_standard_normal_and_biases_zero(name):
    layer = LAYERS[name][0]()
    count = layer.weight.numel()
    assert abs(layer.weight.mean()) < 5 / math.sqrt(count)
    assert abs(layer.weight.std() - 1) < 4 / math.sqrt(2 * count)
    assert torch.equal(layer.bias, torch.zeros_like(layer.bias))


@ALL
def test_without_equalizing_the_weight_itself_has_that_deviation(name):
    make, _, fan_in, gain = LAYERS[name]
    layer = make(scheme=Scheme("plain"))
    count, wanted = layer.weight.numel(), gain / math.sqrt(fan_in)
    assert layer.scale == 1
    assert abs(layer.weight.std() / wanted - 1) < 4 / math.sqrt(2 * count)


@ALL
def test_the_bias_is_added_unscaled(name, device):
    make, shape, _, _ = LAYERS[name]
    layer, x = make().to(device), torch.randn(shape, device=device)
    before = layer(x)
    with torch.no_grad():
        layer.bias += 3.0
    assert torch.allclose(layer(x) - before, torch.full_like(before, 3.0), atol=1e-4, rtol=0)


@ALL
def test_equalizing_keeps_the_output_of_unit_variance_for_gain_one(name):
    """What the constant is for: unit variance in, gain^2 out."""
    make, shape, _, gain = LAYERS[name]
    layer = make().double()
    if isinstance(layer, Conv2d):
        x = torch.randn(64, shape[1], 9, 9, dtype=torch.float64)
        y = layer(x)[:, :, 1:-1, 1:-1]  # the edge sees padding
    else:
        y = layer(torch.randn(512, shape[1], dtype=torch.float64))
    assert math.isclose(y.var().item(), gain**2, rel_tol=0.25)


def test_the_first_dense_layer_of_the_paper_multiplies_by_one_64th():
    with torch.device("meta"):
        assert math.isclose(LatentTo4x4(512, 512).scale, 1 / 64, rel_tol=1e-12)


def test_the_latents_layer_has_one_bias_a_map_and_fills_map_by_map():
    layer = LatentTo4x4(3, 2)
    assert (tuple(layer.weight.shape), tuple(layer.bias.shape)) == ((32, 3), (2,))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(32.0)[:, None] / layer.scale * torch.tensor([1.0, 0.0, 0.0]))
        layer.bias.copy_(torch.tensor([100.0, 200.0]))
    y = layer(torch.tensor([[1.0, 5.0, 5.0]]))
    wanted = torch.arange(32.0).reshape(1, 2, 4, 4) + torch.tensor([100.0, 200.0])[:, None, None]
    assert torch.allclose(y, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_keeps_the_size_and_pads_with_zeros(kernel):
    layer = Conv2d(1, 1, kernel)
    with torch.no_grad():
        layer.weight.fill_(1 / layer.scale)
    y = layer(torch.ones(1, 1, 4, 4))[0, 0]
    assert y.shape == (4, 4)
    corner, middle = (4, 9) if kernel == 3 else (1, 1)
    assert math.isclose(y[0, 0].item(), corner, rel_tol=1e-6)
    assert math.isclose(y[1, 1].item(), middle, rel_tol=1e-6)


@ALL
def test_a_reset_is_a_function_of_the_generator(name):
    make = LAYERS[name][0]
    a, b = make(), make()
    with torch.no_grad():
        a.bias += 1
    for layer in (a, b):
        layer.reset_parameters(torch.Generator().manual_seed(5))
    assert torch.equal(a.weight, b.weight)
    assert torch.equal(a.bias, torch.zeros_like(a.bias))
    b.reset_parameters(torch.Generator().manual_seed(6))
    assert not torch.equal(a.weight, b.weight)


def test_multiply_accumulates():
    assert Conv2d(2, 5, 3).macs(8) == 2 * 5 * 9 * 64
    assert Conv2d(2, 5, 1).macs(8) == 2 * 5 * 64
    assert Linear(7, 5).macs() == 35
    assert LatentTo4x4(7, 5).macs(4) == 7 * 5 * 16
