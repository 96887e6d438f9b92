"""Laws of how weights are drawn and normalised: what the norm is, when it moves, and that it lets gradients through."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils import parametrizations

from progan.nn import layers
from progan.nn.layers import (
    INITS,
    WEIGHTS,
    Conv2d,
    ConvTranspose2d,
    LatentTo4x4,
    Linear,
    Scheme,
    Spectral,
    copy_buffers,
    power_iteration,
    settle,
    still,
    unit_length,
)
from progan.nn.norms import tprelu

MAKERS = {
    "conv": lambda scheme, **k: Conv2d(6, 8, 3, scheme=scheme, **k),
    "strided": lambda scheme, **k: Conv2d(6, 8, 4, scheme=scheme, stride=2, padding=1, **k),
    "transposed": lambda scheme, **k: ConvTranspose2d(6, 8, 4, 2, 1, scheme=scheme, **k),
    "linear": lambda scheme, **k: Linear(12, 20, scheme=scheme, **k),
    "latents": lambda scheme, **k: LatentTo4x4(12, 3, scheme=scheme, **k),
}
EVERY = pytest.mark.parametrize("name", MAKERS)
EACH_SCHEME = pytest.mark.parametrize("weights", WEIGHTS)


def _input(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((2, 12) if name in ("linear", "latents") else (2, 6, 6, 6), dtype=dtype)


def _rows(name: str, weight: Tensor) -> Tensor:
    """One row an output channel, by hand."""
    if name != "transposed":
        return weight.reshape(len(weight), -1)
    return torch.stack([weight[:, channel].flatten() for channel in range(weight.shape[1])])


def _norm(name: str, layer: nn.Module) -> float:
    """The largest singular value of the weight in use, read without a step."""
    with torch.no_grad(), still(layer):
        return torch.linalg.matrix_norm(_rows(name, layer.weight), 2).item()


def _uv(layer: nn.Module) -> list[Tensor]:
    return [x.clone() for x in layer.buffers()]


# --- spectral: the norm is 1 ---


@EVERY
def test_a_new_spectral_weight_has_norm_one_and_soon_exactly(name):
    layer = MAKERS[name](Scheme("spectral")).double()
    assert 1 - 1e-12 <= _norm(name, layer) < 1.06
    for _ in range(50):
        layer(_input(name))
    assert 1 - 1e-12 <= _norm(name, layer) < 1.001


@EVERY
def test_u_is_as_long_as_there_are_output_channels(name):
    layer = MAKERS[name](Scheme("spectral"))
    u, v = _uv(layer)
    out = 48 if name == "latents" else 20 if name == "linear" else 8
    assert (len(u), len(v)) == (out, layer.stored.numel() // out)
    assert math.isclose(u.norm().item(), 1, rel_tol=1e-5)
    assert math.isclose(v.norm().item(), 1, rel_tol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_numbers_and_keys_are_torchs(transposed):
    ours = MAKERS["transposed" if transposed else "linear"](Scheme("spectral")).double()
    theirs = (nn.ConvTranspose2d(6, 8, 4, 2, 1) if transposed else nn.Linear(12, 20)).double()
    theirs = parametrizations.spectral_norm(theirs)
    theirs.load_state_dict(ours.state_dict())  # strictly: the keys are the same
    for _ in range(3):
        assert torch.allclose(ours.weight, theirs.weight, rtol=1e-12, atol=0)
    for a, b in zip(ours.buffers(), theirs.buffers()):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_a_pass_takes_one_step_in_train_mode_and_none_elsewhere():
    layer, x = MAKERS["conv"](Scheme("spectral")).double(), _input("conv")
    with torch.no_grad():
        layer.stored.normal_()  # far from u and v
    start = _uv(layer)
    one = power_iteration(layer.stored.detach().flatten(1), start[1], 1)
    layer.eval()
    layer(x)
    layer.train()
    with still(layer):
        layer(x)
        with still(layer):  # as it was, not as it is by default
            layer(x)
        layer(x)
    layer.macs(6)
    layer.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(_uv(layer), start))
    layer(x)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(_uv(layer), one))
    assert not torch.allclose(_uv(layer)[0], start[0], atol=1e-3)


def test_still_ends_with_an_error_too():
    layer = MAKERS["conv"](Scheme("spectral"))
    before = _uv(layer)
    with pytest.raises(KeyError), still(layer):
        raise KeyError
    layer(_input("conv", torch.float32))
    assert not torch.equal(before[0], _uv(layer)[0])


def test_still_holds_every_layer_of_a_net():
    net = nn.Sequential(
        Linear(12, 12, scheme=Scheme("spectral")), nn.Sequential(Linear(12, 5, scheme=Scheme("spectral")))
    )
    before = [x.clone() for x in net.buffers()]
    with still(net):
        net(_input("linear", torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers()))


# --- spectral: gradients ---


def test_the_gradient_passes_through_the_norm_with_u_and_v_constant():
    """Miyato et al. 2018, equation 12."""
    layer = MAKERS["linear"](Scheme("spectral")).double().eval()
    u, v = _uv(layer)
    g = torch.randn(20, 12, dtype=torch.float64)
    (layer.weight * g).sum().backward()
    sigma = u @ layer.stored @ v
    wanted = (g - (g * layer.weight).sum() * torch.outer(u, v)) / sigma
    assert torch.allclose(layer.stored.grad, wanted, rtol=1e-10, atol=1e-12)


def test_two_passes_and_one_backward():
    """Reals, fakes, penalty: the second pass moves u and v, of which the first one's gradient knows nothing."""
    layer = MAKERS["linear"](Scheme("spectral")).double()
    reals, fakes = _input("linear"), _input("linear").requires_grad_()
    alone = copy.deepcopy(layer)
    alone(reals).sum().backward()
    first = layer(reals).sum()
    slope = torch.autograd.grad(layer(fakes).square().sum(), fakes, create_graph=True)[0]
    (first + 0 * slope.square().sum()).backward()
    assert torch.allclose(layer.stored.grad, alone.stored.grad, rtol=1e-12)


@EACH_SCHEME
@EVERY
def test_second_derivatives(name, weights):
    """As gradient penalties take them: with respect to inputs and to all parameters."""
    affine = {} if name == "latents" else {"affine": True}
    layer = MAKERS[name](Scheme(weights, spectral_learned=True), **affine)
    layer = layer.double().eval()
    names = [key for key, _ in layer.named_parameters()]

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    leaves = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    x = _input(name)[:1].requires_grad_()
    assert gradcheck(function, (x, *leaves), fast_mode=True)
    assert gradgradcheck(function, (x, *leaves), fast_mode=True)


# --- spectral: precision, gain, randomness ---


def test_the_norm_is_reckoned_in_float32_under_autocast_and_of_bfloat16_weights():
    layer = Linear(200, 300, scheme=Scheme("spectral")).eval()
    wanted = layer.weight.detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, wanted)
        assert layer(torch.randn(2, 200)).dtype == torch.bfloat16
    half = layer.bfloat16()
    used, stored = half.weight.detach().float(), half.stored.detach().float()
    assert half.weight.dtype == torch.bfloat16
    u, v = (b.float() for b in half.buffers())
    sigma = (stored.norm() / used.norm()).item()  # as it was used
    assert math.isclose(sigma, (u @ stored @ v).item(), rel_tol=1e-4)  # rounded to bfloat16 it is off by 1e-3


def test_no_autocast_reaches_the_norm(monkeypatch, device):
    """On CUDA it would take products of matrices and vectors in half precision."""
    seen = []

    def spy(function):
        def spied(*arguments):
            seen.append((function.__name__, torch.is_autocast_enabled(device.type)))
            return function(*arguments)

        return spied

    for name in ("spectral_norm", "power_iteration"):
        monkeypatch.setattr(layers, name, spy(getattr(layers, name)))
    layer = Linear(12, 20, scheme=Scheme("spectral")).to(device)
    seen.clear()
    with torch.autocast(device.type, torch.bfloat16):
        layer(torch.randn(2, 12, device=device))
        assert torch.is_autocast_enabled(device.type)
    assert seen == [("power_iteration", False), ("spectral_norm", False)]


def test_steps_under_autocast_are_those_without():
    a = Linear(200, 300, scheme=Scheme("spectral"))
    b, x = copy.deepcopy(a), torch.randn(2, 200)
    a(x)
    with torch.autocast("cpu", torch.bfloat16):
        b(x)
    assert all(torch.equal(p, q) for p, q in zip(a.buffers(), b.buffers()))


@EVERY
def test_the_spectral_gain_is_a_factor_fixed_or_learned(name):
    torch.manual_seed(3)
    one = MAKERS[name](Scheme("spectral")).double().eval()
    torch.manual_seed(3)
    fixed = MAKERS[name](Scheme("spectral", spectral_gain=2.5)).double().eval()
    torch.manual_seed(3)
    learned = MAKERS[name](Scheme("spectral", spectral_gain=2.5, spectral_learned=True)).double().eval()
    x = _input(name)
    assert torch.allclose(fixed(x), 2.5 * one(x), rtol=1e-10)
    assert torch.allclose(learned(x), 2.5 * one(x), rtol=1e-10)
    assert (one.scale, fixed.scale, learned.scale) == (1.0, 2.5, 1.0)
    assert {k for k, _ in learned.named_parameters()} - {k for k, _ in one.named_parameters()} == {"learned_gain"}
    learned(x).sum().backward()
    assert learned.learned_gain.grad != 0
    with torch.no_grad():
        learned.learned_gain.fill_(7)
    learned.reset_parameters()
    assert learned.learned_gain.item() == 2.5


@EACH_SCHEME
@EVERY
def test_a_reset_draws_everything_from_the_generator(name, weights):
    a, b = (MAKERS[name](Scheme(weights, spectral_learned=True)) for _ in range(2))
    with torch.no_grad():
        for tensor in b.state_dict().values():
            tensor.fill_(9)
    state = torch.get_rng_state()
    for layer, seed in ((a, 5), (b, 5)):
        layer.reset_parameters(torch.Generator().manual_seed(seed))
    assert torch.equal(state, torch.get_rng_state())
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    b.reset_parameters(torch.Generator().manual_seed(6))
    assert not torch.equal(a.stored, b.stored)
    assert all(not torch.equal(p, q) for p, q in zip(a.buffers(), b.buffers()))


@EVERY
def test_after_a_reset_u_and_v_are_the_new_weights_own(name):
    layer = MAKERS[name](Scheme("spectral")).double()
    layer.reset_parameters(torch.Generator().manual_seed(11))
    assert 1 - 1e-12 <= _norm(name, layer.eval()) < 1.1


# --- strict weight norm ---


STRICT = Scheme("weightnorm-strict")


@EVERY
def test_strict_rows_have_length_one_and_hidden_layers_nothing_else(name):
    layer = MAKERS[name](STRICT).double()
    share = 1 / 4 if name == "transposed" else 1
    # LatentTo4x4 begins a hundred times smaller, where 1e-8 below the root shows
    lengths = (_rows(name, layer.weight).square().sum(1) * share).sqrt()
    assert torch.allclose(lengths, torch.ones_like(lengths), atol=2e-3 if name == "latents" else 1e-7)
    assert [key for key, _ in layer.named_parameters()] == ["parametrizations.weight.original"]
    assert layer.scale == 1


@pytest.mark.parametrize("name", ["conv", "strided", "transposed", "linear"])
def test_an_affine_layer_has_gain_and_bias(name):
    layer, x = MAKERS[name](STRICT, affine=True).double(), _input(name)
    channels = 20 if name == "linear" else 8
    assert layer.learned_gain.tolist() == [1.0] * channels
    assert layer.bias.tolist() == [0.0] * channels
    before = layer(x)
    with torch.no_grad():
        layer.learned_gain.copy_(torch.arange(channels))
        layer.bias.fill_(3.0)
    factor = torch.arange(channels, dtype=torch.float64).view(1, -1, *[1] * (before.ndim - 2))
    assert torch.allclose(layer(x), factor * before + 3, rtol=1e-10)


@pytest.mark.parametrize("name", ["conv", "strided", "transposed", "linear", "latents"])
def test_strict_layers_keep_unit_variance(name):
    make = {
        "conv": lambda: Conv2d(32, 32, 3, scheme=STRICT, padding=0),
        "strided": lambda: Conv2d(32, 32, 4, scheme=STRICT, stride=2, padding=0),
        "transposed": lambda: ConvTranspose2d(32, 32, 4, 2, 3, scheme=STRICT),  # the edge cut away
        "linear": lambda: Linear(32, 256, scheme=STRICT),
        "latents": lambda: LatentTo4x4(32, 64, scheme=STRICT),
    }
    x = torch.randn(64, 32) if name in ("linear", "latents") else torch.randn(64, 32, 16, 16)
    samples = torch.cat([make[name]()(x).flatten() for _ in range(4)])
    assert math.isclose(samples.std().item(), 1, abs_tol=0.02)


def test_the_latents_layer_begins_a_hundred_times_smaller_under_strict():
    layer = LatentTo4x4(64, 16, scheme=Scheme("weightnorm-strict", "normal"))
    assert math.isclose(layer.stored.std().item(), 0.02 / 100, rel_tol=0.1)
    layer = Linear(64, 256, scheme=Scheme("weightnorm-strict", "normal"))
    assert math.isclose(layer.stored.std().item(), 0.02, rel_tol=0.1)


def test_unit_length_by_hand():
    w = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert torch.allclose(unit_length(w), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert torch.allclose(unit_length(w, 1), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert torch.allclose(unit_length(w, 0, 0.25), torch.tensor([[1.2, 1.6], [0.0, 0.0]]))
    tiny = torch.full((1, 1), 1e-4, dtype=torch.float64)  # its square is the number below the root
    assert math.isclose(unit_length(tiny).item(), 0.5**0.5, rel_tol=1e-12)


def test_what_linear_relu_affine_layers_express_strict_ones_with_thresholds_do_too():
    """Xiang & Li 2017, sec. 3: lengths and biases of the hidden layer move into thresholds and the last layer."""
    w1, b1 = torch.randn(20, 12, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    w2, b2 = torch.randn(5, 20, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    x = torch.randn(50, 12, dtype=torch.float64)
    wanted = F.linear(F.relu(F.linear(x, w1, b1)), w2, b2)

    hidden, last = Linear(12, 20, scheme=STRICT).double(), Linear(20, 5, scheme=STRICT, affine=True).double()
    length = (w1.square().sum(1) + 1e-8).sqrt()
    a = -b1 / length
    with torch.no_grad():
        hidden.stored.copy_(w1)
        last.stored.copy_(w2 * length)
        last.learned_gain.copy_((last.stored.square().sum(1) + 1e-8).sqrt())
        last.bias.copy_(b2 - (w2 * length) @ a)
    assert torch.allclose(last(tprelu(hidden(x), torch.zeros_like(a), a)), wanted, rtol=1e-10, atol=1e-10)


# --- weight norm with its gain ---


@pytest.mark.parametrize("transposed", [False, True])
def test_weight_norms_numbers_and_keys_are_torchs(transposed):
    ours = MAKERS["transposed" if transposed else "linear"](Scheme("weightnorm")).double()
    theirs = (nn.ConvTranspose2d(6, 8, 4, 2, 1) if transposed else nn.Linear(12, 20)).double()
    theirs = parametrizations.weight_norm(theirs, dim=ours.dim)
    theirs.load_state_dict(ours.state_dict())  # strictly: the keys are the same
    assert torch.allclose(ours.weight, theirs.weight, rtol=1e-6, atol=0)  # 1e-8 below the root


@pytest.mark.parametrize("init", INITS)
@EVERY
def test_weight_norm_begins_as_the_weight_that_was_drawn(name, init):
    plain, normed = (MAKERS[name](Scheme(weights, init)) for weights in ("plain", "weightnorm"))
    for layer in (plain, normed):
        layer.reset_parameters(torch.Generator().manual_seed(2))
    assert torch.allclose(plain.weight, normed.weight, rtol=1e-5, atol=1e-8)
    assert normed.bias is not None
    with torch.no_grad():
        normed.stored.mul_(3)  # of v only the direction counts
    assert torch.allclose(plain.weight, normed.weight, rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        normed.parametrizations.weight.original0.mul_(2)
    assert torch.allclose(2 * plain.weight, normed.weight, rtol=1e-5, atol=1e-8)


# --- how weights begin ---


LARGE = {
    "conv": (lambda scheme: Conv2d(40, 60, 3, gain=1.5, scheme=scheme), 360, 360, 540),
    "strided": (lambda scheme: Conv2d(40, 60, 4, gain=1.5, scheme=scheme, stride=2), 640, 640, 960),
    "transposed": (lambda scheme: ConvTranspose2d(40, 60, 4, 2, 1, 1.5, scheme), 160, 640, 960),
    "linear": (lambda scheme: Linear(100, 200, gain=1.5, scheme=scheme), 100, 100, 200),
    "latents": (lambda scheme: LatentTo4x4(100, 30, gain=1.5, scheme=scheme), 100, 100, 480),
}
"""name -> maker, inputs an output sums, weights an output has, weights an input has"""


@pytest.mark.parametrize("weights", ["plain", "spectral", "weightnorm"])
@pytest.mark.parametrize("name", LARGE)
def test_inits(name, weights):
    make, fan_in, taps, fan_out = LARGE[name]
    glorot = 1.5 * math.sqrt(6 / (taps + fan_out))
    deviations = {
        "he": 1.5 / math.sqrt(fan_in),
        "normal": 0.02,
        "xavier": glorot / math.sqrt(3),
        "uniform": 1 / math.sqrt(3 * taps),
    }
    assert set(deviations) == set(INITS)
    for init, wanted in deviations.items():
        stored = make(Scheme(weights, init)).stored
        assert math.isclose(stored.std().item(), wanted, rel_tol=0.04), init
        if init in ("xavier", "uniform"):
            assert stored.abs().max() <= wanted * math.sqrt(3)


@EVERY
def test_equalized_draws_what_it_draws_whatever_init_says(name):
    drawn = []
    for init in INITS:
        layer = MAKERS[name](Scheme("equalized", init))
        layer.reset_parameters(torch.Generator().manual_seed(1))
        drawn.append((layer.weight, layer.scale))
    assert all(torch.equal(weight, drawn[0][0]) and scale == drawn[0][1] for weight, scale in drawn)
    assert math.isclose(drawn[0][0].std().item(), 1, rel_tol=0.2)


def test_an_equalized_transposed_convolution_keeps_unit_variance():
    layer = ConvTranspose2d(32, 32, 4, 2, 3, gain=1.0)
    assert math.isclose(layer(torch.randn(64, 32, 16, 16)).std().item(), 1, rel_tol=0.05)


# --- the layers around the weights ---


@pytest.mark.parametrize("bias", [False, True])
def test_transposed_and_strided_convolutions_are_torchs(bias):
    x = _input("conv")
    for ours, theirs in (
        (ConvTranspose2d(6, 8, 4, 2, 1, bias=bias), nn.ConvTranspose2d(6, 8, 4, 2, 1, bias=bias)),
        (Conv2d(6, 8, 4, stride=2, padding=1, bias=bias), nn.Conv2d(6, 8, 4, 2, 1, bias=bias)),
        (Conv2d(6, 8, 3, stride=2, bias=bias), nn.Conv2d(6, 8, 3, 2, 1, bias=bias)),
        (Conv2d(6, 8, 4, padding=0, bias=bias), nn.Conv2d(6, 8, 4, bias=bias)),
    ):
        ours.double(), theirs.double()
        with torch.no_grad():
            theirs.weight.copy_(ours.effective())
            if bias:
                ours.bias.copy_(theirs.bias)
        assert (ours.bias is not None) == bias
        assert torch.allclose(ours(x), theirs(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("kernel", "stride", "padding", "side"), [(4, 2, 1, 8), (4, 1, 0, 4), (3, 1, 1, 8)])
def test_multiply_accumulates_of_a_transposed_convolution(kernel, stride, padding, side):
    """Each input pixel meets every weight once."""
    layer = ConvTranspose2d(2, 5, kernel, stride, padding)
    inputs = {(4, 2): 4, (4, 1): 1, (3, 1): 8}[kernel, stride]
    assert layer(torch.randn(1, 2, inputs, inputs)).shape[-1] == side
    assert layer.macs(side) == 2 * 5 * kernel**2 * inputs**2


@EACH_SCHEME
@EVERY
def test_state_survives_saving_copying_and_other_memory_layouts(name, weights):
    a, b = (MAKERS[name](Scheme(weights, spectral_learned=True)).eval() for _ in range(2))
    x = _input(name, torch.float32)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x), b(x))
    c = copy.deepcopy(a)
    assert torch.equal(a(x), c(x))
    with torch.no_grad():
        c.stored.normal_(generator=torch.Generator().manual_seed(1))
    assert torch.equal(a(x), b(x))
    assert not torch.allclose(a(x), c(x), rtol=1e-3)
    wide = a.to(memory_format=torch.channels_last)
    assert torch.allclose(wide(x), b(x), rtol=1e-4, atol=1e-5)


@EACH_SCHEME
def test_layers_can_be_built_without_data(weights):
    with torch.device("meta"):
        layer = MAKERS["conv"](Scheme(weights))
        assert layer(torch.empty(2, 6, 5, 5)).shape == (2, 8, 5, 5)


# --- averages ---


def test_copied_buffers_are_the_others_and_u_and_v_settle():
    net, average = (nn.Sequential(Linear(12, 20, scheme=Scheme("spectral")), nn.BatchNorm1d(20)) for _ in range(2))
    net(_input("linear", torch.float32))
    parameters = [p.clone() for p in average.parameters()]
    copy_buffers(average, net)
    assert all(torch.equal(a, b) for a, b in zip(average.buffers(), net.buffers()))
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), parameters))
    net(_input("linear", torch.float32))
    assert not torch.equal(next(average.buffers()), next(net.buffers()))  # a copy, not a share
    assert _norm("linear", average[0].eval()) > 1.1
    settle(average)
    assert _norm("linear", average[0]) < 1.06


# --- the choice ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "orthogonal"}, "weights is `equalized`, `plain`, `spectral`, .*, not `orthogonal`"),
        ({"init": "zeros"}, "init is `he`, `normal`, `xavier`, `uniform`, not `zeros`"),
        ({"spectral_gain": 0.0}, "spectral gain 0.0 is not above 0"),
        ({"spectral_gain": math.nan}, "spectral gain nan is not above 0"),
    ],
)
def test_a_wrong_name_answers_with_the_list(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scheme(**arguments)


def test_each_scheme_is_what_it_says():
    found = {weights: type(MAKERS["conv"](Scheme(weights))).__name__ for weights in WEIGHTS}
    assert found == {
        "equalized": "Conv2d",
        "plain": "Conv2d",
        "spectral": "ParametrizedConv2d",
        "weightnorm-strict": "ParametrizedConv2d",
        "weightnorm": "ParametrizedConv2d",
    }
    assert isinstance(MAKERS["conv"](Scheme("spectral")).parametrizations.weight[0], Spectral)
