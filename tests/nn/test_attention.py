"""Laws of self-attention: it is the paper's sum over pixels, begins as the identity, and has second derivatives."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from progan.nn.attention import FORMS, SelfAttention, attention, plain_attention
from progan.nn.layers import WEIGHTS, Scheme, draw, still

EACH_FORM = pytest.mark.parametrize("form", FORMS)


def _module(form: str, channels: int = 16, weights: str = "plain", gamma: float = 1.0) -> SelfAttention:
    module = SelfAttention(channels, form, Scheme(weights)).double()
    with torch.no_grad():
        module.gamma.fill_(gamma)
    return module


def _maps(layer: torch.nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution of one picture [C, H, W] as a sum."""
    return torch.einsum("oc,chw->ohw", layer.effective().detach()[:, :, 0, 0], x)


def _by_loops(module: SelfAttention, x: Tensor, pooled: bool) -> Tensor:
    """Zhang et al. 2019, equations 1 and 2, one output pixel after the other. x: [C, H, W]."""
    theta, phi, g = (_maps(layer, x) for layer in (module.queries, module.keys, module.values))
    if pooled:
        phi, g = (t.unfold(1, 2, 2).unfold(2, 2, 2).amax((3, 4)) for t in (phi, g))
    sources = [(i, j) for i in range(phi.shape[1]) for j in range(phi.shape[2])]
    gathered = torch.zeros(len(g), *x.shape[1:], dtype=x.dtype)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            weights = [math.exp(float(theta[:, row, column] @ phi[:, i, j])) for i, j in sources]
            mean = sum(w * g[:, i, j] for w, (i, j) in zip(weights, sources)) / sum(weights)
            gathered[:, row, column] = mean
    return x + module.gamma.detach() * (_maps(module.output, gathered) if pooled else gathered)


@pytest.mark.parametrize("gamma", [1.0, -0.3])
@EACH_FORM
def test_it_is_the_papers_sum_over_pixels(form, gamma):
    module, x = _module(form, gamma=gamma), 2 * torch.randn(2, 16, 4, 6, dtype=torch.float64)
    y = module(x)
    for got, picture in zip(y, x):
        assert torch.allclose(got, _by_loops(module, picture, form == "B"), rtol=1e-10, atol=1e-12)
    other = _by_loops(module, x[0], False) if form == "A" else x[0]
    assert torch.allclose(y[0], other, rtol=1e-3) == (form == "A")


@EACH_FORM
def test_it_begins_as_the_identity_to_the_bit(form):
    x = torch.randn(2, 16, 8, 8)
    module = SelfAttention(16, form)
    assert torch.equal(module(x), x)
    with torch.no_grad():
        module.gamma.fill_(3)
    draw(module, torch.Generator().manual_seed(1))
    assert module.gamma.item() == 0
    assert torch.equal(module(x), x)


@EACH_FORM
def test_gamma_moves_from_the_first_step(form):
    x, module = torch.randn(2, 16, 8, 8), SelfAttention(16, form)
    module(x).square().sum().backward()
    assert module.gamma.grad.abs() > 0
    assert module.queries.weight.grad.abs().max() == 0


def test_the_forms_have_the_maps_they_should_and_no_biases():
    shapes = {
        form: {key: tuple(p.shape) for key, p in SelfAttention(16, form).named_parameters() if p.ndim} for form in FORMS
    }
    a = {"queries.weight": (2, 16, 1, 1), "keys.weight": (2, 16, 1, 1), "values.weight": (16, 16, 1, 1)}
    b = {**a, "values.weight": (8, 16, 1, 1), "output.weight": (16, 8, 1, 1)}
    assert shapes == {"A": a, "B": b}
    for form in FORMS:
        assert SelfAttention(3, form)(torch.randn(1, 3, 4, 4)).shape == (1, 3, 4, 4)  # an eighth of 3 is 1
        gains = [m.scale * math.sqrt(m.weight[0].numel()) for m in SelfAttention(16, form).children()]
        assert all(math.isclose(gain, 1, rel_tol=1e-12) for gain in gains)


@pytest.mark.parametrize("keys", [16, 4])
def test_the_fast_forms_equal_the_plain_one(keys):
    q = torch.randn(2, 16, 3, dtype=torch.float64)
    k, v = torch.randn(2, keys, 3, dtype=torch.float64), torch.randn(2, keys, 5, dtype=torch.float64)
    wanted = plain_attention(3 * q, k, v)
    assert torch.allclose(attention(3 * q, k, v), wanted, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        assert torch.allclose(attention(3 * q, k, v), wanted, rtol=1e-12, atol=1e-13)
        same = torch.randn(2, 16, 8, dtype=torch.float64)  # values as wide as keys: torch's own kernel
        assert torch.allclose(attention(same, same, same), plain_attention(same, same, same), rtol=1e-10)


def test_attention_has_second_derivatives():
    leaves = [torch.randn(2, n, d, dtype=torch.float64, requires_grad=True) for n, d in ((4, 3), (4, 3), (4, 3))]
    assert gradcheck(attention, leaves)
    assert gradgradcheck(attention, leaves)


@pytest.mark.parametrize("weights", WEIGHTS)
@EACH_FORM
def test_the_module_has_second_derivatives(form, weights):
    module = _module(form, 8, weights, 0.7).eval()
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(module, (x,), fast_mode=True)
    assert gradgradcheck(module, (x,), fast_mode=True)


@EACH_FORM
def test_under_spectral_every_convolution_is_normalised_once_a_pass(form):
    module, x = _module(form, 16, "spectral"), torch.randn(1, 16, 4, 4, dtype=torch.float64)
    before = [b.clone() for b in module.buffers()]
    with still(module):
        module(x)
    assert len(before) == 2 * (3 if form == "A" else 4)
    assert all(torch.equal(a, b) for a, b in zip(before, module.buffers()))
    counts = []
    for layer in module.children():
        layer.parametrizations.weight[0].register_forward_hook(lambda *_: counts.append(1))
    module(x)
    assert len(counts) == len(before) // 2


def test_multiply_accumulates():
    pixels = 64
    a = pixels * (2 + 2 + 16) * 16 + pixels * pixels * (2 + 16)
    b = pixels * (2 + 2 + 8 + 8) * 16 + pixels * (pixels // 4) * (2 + 8)
    assert SelfAttention(16, "A").macs(8) == a
    assert SelfAttention(16, "B").macs(8) == b


def test_a_wrong_form_answers_with_the_list():
    with pytest.raises(ValueError, match="form of attention is `A`, `B`, not `C`"):
        SelfAttention(16, "C")
