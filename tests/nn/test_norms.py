"""Laws of norms, activations, their order, and of minibatch discrimination."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from progan.nn.layers import draw
from progan.nn.norms import (
    ACTIVATIONS,
    NORMS,
    Activation,
    BatchNorm,
    LayerNorm,
    MinibatchDiscrimination,
    TPReLU,
    closeness,
    layer_norm,
    takes_bias,
    tprelu,
)
from progan.nn.ops import pixel_norm

SHAPES = pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 6)], ids=["dense", "maps"])


def _channels(values, ndim: int) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float64).view(-1, *[1] * (ndim - 2))


# --- norms ---


@SHAPES
def test_layer_norm_is_of_a_sample_alone_over_all_its_values(shape):
    x = 7 + 3 * torch.randn(shape, dtype=torch.float64)
    gain, bias = torch.randn(2, 3, dtype=torch.float64)
    got = layer_norm(x, gain, bias)
    for sample, y in zip(x, got):
        normed = (sample - sample.mean()) / (sample.var(unbiased=False) + 1e-5).sqrt()
        wanted = normed * _channels(gain, len(shape)) + _channels(bias, len(shape))
        assert torch.allclose(y, wanted, rtol=1e-10, atol=1e-12)
    assert torch.allclose(layer_norm(x[:1], gain, bias), got[:1], rtol=1e-10, atol=1e-12)


@SHAPES
def test_layer_norm_has_second_derivatives(shape):
    x, gain = torch.randn(2, *shape[1:], dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, gain, gain.clone())]
    assert gradcheck(layer_norm, leaves, fast_mode=True)
    assert gradgradcheck(layer_norm, leaves, fast_mode=True)


@SHAPES
def test_batch_norm_is_of_a_channel_over_the_batch(shape):
    norm, x = BatchNorm(3).double(), 7 + 3 * torch.randn(shape, dtype=torch.float64)
    dims = [d for d in range(len(shape)) if d != 1]
    mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
    y = norm(x)
    assert y.shape == x.shape
    assert torch.allclose(y, (x - mean) / (var + 1e-5).sqrt(), rtol=1e-10)
    mean, var = 0.1 * mean, 0.9 + 0.1 * x.var(dims, keepdim=True)
    assert torch.allclose(norm.eval()(x), (x - mean) / (var + 1e-5).sqrt(), rtol=1e-10)


@pytest.mark.parametrize(("init", "spread"), [("he", 0.0), ("xavier", 0.0), ("normal", 0.02)])
def test_gains_of_batch_norm_begin_at_one_or_near_it_as_in_dcgan(init, spread):
    norm, other = BatchNorm(5000, init), BatchNorm(5000, init)
    assert math.isclose(norm.weight.std().item(), spread, rel_tol=0.1)
    assert math.isclose(norm.weight.mean().item(), 1, rel_tol=0.002)
    norm(torch.randn(4, 5000))
    state = torch.get_rng_state()
    for one in (norm, other):
        draw(one, torch.Generator().manual_seed(4))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(norm.state_dict().values(), other.state_dict().values()))
    assert norm.running_mean.abs().max() == 0


# --- activations ---


def _thresholds() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(5, 3, 4, dtype=torch.float64), torch.tensor([-0.5, 0.0, 0.7], dtype=torch.float64)


def test_without_slope_it_is_the_maximum_with_the_threshold():
    x, a = _thresholds()
    assert torch.allclose(tprelu(x, torch.zeros_like(a), a), torch.maximum(x, a[:, None]), rtol=0, atol=1e-15)


def test_without_threshold_it_is_prelu():
    x, a = _thresholds()
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.equal(tprelu(x, p, 0 * a), F.prelu(x, p))


@SHAPES
def test_each_channel_has_its_slope_and_threshold(shape):
    x, p, a = torch.randn(shape, dtype=torch.float64), _channels([0.1, 0.5, 0.9], len(shape)), [-0.5, 0.0, 0.7]
    a = _channels(a, len(shape))
    wanted = torch.where(x > a, x, a + p * (x - a))
    assert torch.allclose(tprelu(x, p.flatten(), a.flatten()), wanted, rtol=1e-12, atol=1e-14)


def test_slopes_stay_between_0_and_1():
    x, a = _thresholds()
    p = torch.tensor([-3.0, 0.5, 4.0], dtype=torch.float64)
    assert torch.equal(tprelu(x, p, a), tprelu(x, p.clamp(0, 1), a))
    assert torch.allclose(tprelu(x, p, a)[:, 2], x[:, 2])


def test_tprelu_begins_at_a_quarter_and_has_both_derivatives():
    module = TPReLU(3).double()
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(module(x), F.leaky_relu(x, 0.25))
    with torch.no_grad():
        module.slope.fill_(0.4)
        module.threshold.fill_(0.3)
    p, a = (t.detach().clone().requires_grad_() for t in (module.slope, module.threshold))
    assert gradgradcheck(tprelu, (x, p, a), fast_mode=True)
    draw(module, torch.Generator())
    assert (module.slope.tolist(), module.threshold.tolist()) == ([0.25] * 3, [0.0] * 3)


# --- their order ---


def test_norms_of_statistics_go_before_the_activation_and_pixel_norm_after_it():
    x = 2 + torch.randn(5, 3, 4, 4, dtype=torch.float64)
    ones, zeros = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    wanted = {
        "pixel": pixel_norm(F.leaky_relu(x, 0.1)),
        "batch": F.leaky_relu(F.batch_norm(x, None, None, training=True), 0.1),
        "layer": F.leaky_relu(layer_norm(x, ones, zeros), 0.1),
        "none": F.leaky_relu(x, 0.1),
    }
    assert set(wanted) == set(NORMS)
    for norm, y in wanted.items():
        assert torch.allclose(Activation(norm, "lrelu", 3, 0.1).double()(x), y, rtol=1e-10, atol=1e-12), norm


def test_activations_by_name():
    x = torch.tensor([[-2.0, 3.0]])
    wanted = {"lrelu": [-0.2, 3.0], "relu": [0.0, 3.0], "tprelu": [-0.5, 3.0]}
    assert set(wanted) == set(ACTIVATIONS)
    for name, y in wanted.items():
        assert torch.allclose(Activation("none", name, 2, 0.1)(x), torch.tensor([y])), name
    assert x.tolist() == [[-2.0, 3.0]]  # not in place


def test_what_has_parameters():
    keys = {
        (norm, activation): set(dict(Activation(norm, activation, 3).named_parameters()))
        for norm in NORMS
        for activation in ACTIVATIONS
    }
    for (norm, activation), found in keys.items():
        wanted = {"norm.weight", "norm.bias"} if norm in ("batch", "layer") else set()
        wanted |= {"activation.slope", "activation.threshold"} if activation == "tprelu" else set()
        assert found == wanted, (norm, activation)


def test_wrong_names_answer_with_the_list():
    with pytest.raises(ValueError, match="norm is `pixel`, `batch`, `layer`, `none`, not `group`"):
        Activation("group", "lrelu", 3)
    with pytest.raises(ValueError, match="activation is `lrelu`, `relu`, `tprelu`, not `elu`"):
        Activation("none", "elu", 3)


def test_only_batch_norm_takes_a_bias_back():
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    shifted = x + torch.tensor([1.0, 5.0, -2.0])[:, None, None]
    for name, make in NORMS.items():
        norm = make(3, "he").double()
        assert torch.allclose(norm(x), norm(shifted), atol=1e-9) != takes_bias(name), name
    assert LayerNorm(3).weight.tolist() == [1.0] * 3


# --- minibatch discrimination ---


def test_closeness_by_loops():
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    got = closeness(x)
    for i in range(4):
        for k in range(6):
            wanted = sum(math.exp(-sum(abs(x[i, k, d] - x[j, k, d]) for d in range(5))) for j in range(4) if j != i)
            assert math.isclose(got[i, k].item(), wanted, rel_tol=1e-10)


def test_closeness_counts_equal_samples_and_not_oneself():
    x = torch.randn(1, 6, 5)
    assert closeness(x).tolist() == [[0.0] * 6]
    assert torch.allclose(closeness(x.expand(7, -1, -1)), torch.full((7, 6), 6.0))
    assert closeness(x.bfloat16()).dtype == torch.float32


def test_closeness_has_second_derivatives():
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(closeness, (x,))
    assert gradgradcheck(closeness, (x,))


def test_minibatch_discrimination_appends_to_the_features():
    module, x = MinibatchDiscrimination(12, kernels=6, dims=5).double(), torch.randn(4, 12, dtype=torch.float64)
    y = module(x)
    assert y.shape == (4, 18)
    assert torch.equal(y[:, :12], x)
    projected = (x @ module.projection.weight.T / math.sqrt(12)).view(4, 6, 5)
    assert torch.allclose(y[:, 12:], closeness(projected), rtol=1e-10)
    assert module.projection.bias is None
    assert module.macs() == 12 * 30
    assert MinibatchDiscrimination(12).projection.weight.shape == (500, 12)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(module(x[order]), y[order], rtol=1e-10)
    assert not torch.allclose(torch.cat([module(x[:2]), module(x[2:])]), y, rtol=1e-3)  # in parts: another function
