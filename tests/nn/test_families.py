"""Laws of all networks, held by every technique: the options that make each of them are here."""

import copy
import inspect
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from progan.nn.attention import SelfAttention
from progan.nn.families import FAMILIES, make_discriminator, make_generator
from progan.nn.layers import ConvTranspose2d, Scaled, rows, still
from progan.nn.norms import BatchNorm

SMALL = {"max_res": 32, "fmap_base": 256, "fmap_max": 8}
BATCH = {"norm": "batch"}
DCGAN = {"family": "dcgan", "weights": "plain", "init": "normal"}
RESNET = {"family": "resnet", "weights": "plain", "init": "xavier"}
SPECTRAL = {"weights": "spectral", "init": "xavier"}
STRICT = {"family": "dcgan", "weights": "weightnorm-strict", "init": "uniform", "norm": "none", "activation": "tprelu"}
TECHNIQUES = {  # name: options of G beside RELU, of D
    "progressive": ({"family": "progressive", "norm": "pixel", "activation": "lrelu", "output": "linear"}, {}),
    "dcgan": (DCGAN | BATCH, DCGAN | BATCH | {"mbstd_group": 0}),
    "wgan-gp": (RESNET | BATCH | {"init": "he"}, RESNET | {"init": "he", "norm": "layer", "global_pool": "mean"}),
    "sndcgan": (DCGAN | BATCH | {"layout": "sndcgan"}, DCGAN | SPECTRAL | {"layout": "sndcgan", "leaky_slope": 0.1}),
    "sngan": (RESNET | BATCH, RESNET | SPECTRAL | {"activation": "relu"}),
    "sagan": (
        RESNET | SPECTRAL | BATCH | {"attention": 16},
        RESNET | SPECTRAL | {"attention": 16, "activation": "relu", "d_wide": True},
    ),
    "sagan-blog": (
        DCGAN | SPECTRAL | BATCH | {"attention": 8, "attention_form": "A"},
        DCGAN | SPECTRAL | {"attention": 8, "attention_form": "A", "leaky_slope": 0.02, "spectral_learned": True},
    ),
    "wn-gan": (STRICT | {"output": "sigmoid"}, STRICT),
    "all at once": (
        RESNET | {"weights": "weightnorm", "norm": "layer", "latent_norm": True, "attention": 8},
        DCGAN | {"init": "he", "layout": "sndcgan", "mbstd_group": 4, "minibatch_discrimination": 5, "attention": 4},
    ),
}
RELU = {"activation": "relu", "output": "tanh", "latent_norm": False, "latent_size": 8}
EACH = pytest.mark.parametrize("name", TECHNIQUES)


def _generator(name: str, **changes):
    return make_generator(**SMALL, **(RELU | TECHNIQUES[name][0] | changes))


def _discriminator(name: str, **changes):
    options = {"norm": "none", "activation": "lrelu", "mbstd_group": 0} | TECHNIQUES[name][1] | changes
    return make_discriminator(**SMALL, **options)


def _nets(name: str):
    return _generator(name).double(), _discriminator(name).double()


def _stir(net):
    """Parameters that are not at their neutral beginnings, such as attention's gamma and all biases."""
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.endswith(("bias", "gamma", "threshold", "learned_gain")):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return net


def _pictures(count: int = 4):
    return torch.rand(count, 3, 32, 32, dtype=torch.float64) * 2 - 1


def _latents(count: int = 4):
    return torch.randn(count, 8, dtype=torch.float64)


# --- what all of them are ---


@EACH
def test_latents_become_pictures_and_pictures_scores(name):
    G, D = _nets(name)
    images = G(_latents(), len(G.resolutions) - 1, 0.5)
    assert images.shape == (4, 3, 32, 32)
    assert D(images, len(D.resolutions) - 1, 0.5).shape == (4,)
    assert G.resolutions == D.resolutions == [4, 8, 16, 32]
    assert (G.max_res, D.max_res, G.channels, D.channels) == (32, 32, 3, 3)


@EACH
def test_grey_pictures_have_one_channel(name):
    G, D = _generator(name, channels=1), _discriminator(name, channels=1)
    assert D(G(torch.randn(2, 8))).shape == (2,)
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        _generator(name, channels=2)


@EACH
def test_every_parameter_gets_a_gradient(name):
    G, D = (_stir(net) for net in _nets(name))
    (D(G(_latents())) * torch.randn(4)).sum().backward()
    for key, parameter in [*D.named_parameters(), *G.named_parameters()]:
        if ".".join(key.split(".")[:2]) in ("rgb.4x4", "rgb.8x8", "rgb.16x16"):
            continue  # of resolutions that the progressive networks have left behind
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 1e-9, key  # rounding alone leaves less


@EACH
def test_the_gradient_of_a_penalty_is_its_slope(name):
    """Backward through backward, checked by a difference along one direction in the space of all parameters."""
    D, x = _stir(_discriminator(name).double()).train(), _pictures().requires_grad_()

    def penalty():
        (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        return gradient.flatten(1).norm(dim=1).square().sum()

    with still(D):
        gradients = torch.autograd.grad(penalty(), list(D.parameters()), allow_unused=True)
        directions = [torch.randn_like(p) for p in D.parameters()]
        wanted = sum((g * d).sum() for g, d in zip(gradients, directions) if g is not None)
        values = []
        for step in (1e-9, -2e-9):  # so small that it hardly meets a kink, where the penalty jumps
            with torch.no_grad():
                for p, d in zip(D.parameters(), directions):
                    p.add_(d, alpha=step)
            values.append(penalty().item())
    slope = (values[0] - values[1]) / 2e-9
    assert slope == pytest.approx(wanted.item(), rel=1e-4)
    assert abs(slope) > 1e-12


@EACH
def test_two_passes_of_a_discriminator_allow_one_backward(name):
    D = _discriminator(name).double().train()
    (D(_pictures()) - D(_pictures())).sum().backward()
    assert all(p.grad.isfinite().all() for p in D.parameters() if p.grad is not None)


@EACH
def test_a_drawn_picture_does_not_depend_on_the_others(name):
    G, z = _generator(name).double(), _latents(5)
    for _ in range(3):
        G(_latents(16))
    G.eval()
    before = copy.deepcopy(G.state_dict())
    together = G(z)
    torch.testing.assert_close(together[:2], G(z[:2]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together[4:], G(z[4:]), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(value, before[key]) for key, value in G.state_dict().items())


@EACH
def test_a_factor_of_0_on_latents_draws_one_picture(name):
    G = _stir(_generator(name).double()).eval()
    pictures = G(_latents(), psi=0.0)
    assert torch.equal(pictures[0], pictures[1])
    torch.testing.assert_close(
        G(2 * _latents(1)), G(2 * _latents(1) * 0 + 1, psi=1.0) * 0 + G(2 * _latents(1)) * 1
    ) if 0 else None
    z = _latents()
    if not G.latent_norm:
        assert torch.equal(G(z, psi=0.5), G(0.5 * z))
        assert not torch.allclose(G(z), G(2 * z))
    else:
        torch.testing.assert_close(G(z), G(2 * z), atol=1e-6, rtol=1e-6)
        assert not torch.allclose(G(z, psi=0.5), G(z))


# --- beginnings ---


def _filled(net, value: int):
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor.fill_(value)
    return net


@EACH
@pytest.mark.parametrize("make", [_generator, _discriminator])
def test_one_generator_of_numbers_sets_every_parameter_and_buffer(make, name):
    nets = [_filled(make(name), value) for value in (7, 9)]
    for seed, net in enumerate(nets):
        torch.manual_seed(seed)  # without effect
        net.reset_parameters(torch.Generator().manual_seed(5))
    states = [net.state_dict() for net in nets]
    assert states[0].keys() == dict([*nets[0].named_parameters(), *nets[0].named_buffers()]).keys()
    for key, value in states[0].items():
        assert not (value == 7).any(), key
        assert torch.equal(value, states[1][key]), key
    nets[1].reset_parameters(torch.Generator().manual_seed(6))
    assert any(not torch.equal(states[0][key], value) for key, value in nets[1].state_dict().items())


@pytest.mark.parametrize("name", ["dcgan", "wgan-gp", "sagan-blog", "wn-gan"])
@pytest.mark.parametrize("make", [_generator, _discriminator])
def test_a_network_can_be_made_without_memory(make, name):
    with torch.device("meta"):
        net = make(name)
    assert {p.device.type for p in [*net.parameters(), *net.buffers()]} == {"meta"}
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in make(name).state_dict().items()}


@EACH
def test_a_state_says_everything(name):
    for make, x in ((_generator, _latents()), (_discriminator, _pictures())):
        one, other = _stir(make(name).double()), make(name).double()
        one(x)  # moves batch statistics and spectral vectors
        other.load_state_dict(one.state_dict())
        assert torch.equal(one.eval()(x), other.eval()(x))
        assert torch.equal(copy.deepcopy(one)(x), one(x))


@EACH
@pytest.mark.parametrize("make", [_generator, _discriminator])
def test_multiplications_are_those_that_torch_counts(make, name):
    net = make(name)
    stage = len(net.resolutions) - 1
    x = torch.randn(1, 8) if make is _generator else torch.randn(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, still(net):
        net(x)
    assert net.macs(stage) == counter.get_total_flops() // 2


@EACH
@pytest.mark.parametrize("make", [_generator, _discriminator])
def test_the_top_stage_trains_all_parameters(make, name):
    net = make(name)
    assert {id(p) for p in net.stage_parameters(3)} == {id(p) for p in net.parameters()}


# --- the techniques, everywhere in a network ---


@pytest.mark.parametrize("make", [_generator, _discriminator])
@pytest.mark.parametrize("name", ["sagan", "sagan-blog", "sngan", "sndcgan"])
def test_all_weights_of_a_spectral_network_have_norm_1(make, name):
    net = make(name, weights="spectral", spectral_learned=False).double().train()
    layers = [module for module in net.modules() if isinstance(module, Scaled)]
    assert len(layers) == sum(type(m).__name__.startswith("Parametrized") for m in net.modules())
    for layer in layers:
        for _ in range(200):
            layer.weight  # noqa: B018 each reading iterates
    for layer in layers:
        weight = rows(layer.eval().effective(), layer.dim)
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=2e-2)
    plain = make(name, weights="plain")
    assert len(layers) == sum(isinstance(module, Scaled) for module in plain.modules())


@pytest.mark.parametrize("name", ["sagan", "sagan-blog"])
@pytest.mark.parametrize("make", [_generator, _discriminator])
def test_attention_begins_as_an_identity_in_the_block_of_its_resolution(make, name):
    side = TECHNIQUES[name][0]["attention"]
    net, without = make(name).double().eval(), make(name, attention=0).double().eval()
    state = net.state_dict()
    more = state.keys() - without.state_dict().keys()
    assert more
    assert all(key.startswith(f"blocks.{side}x{side}.attention.") for key in more)
    without.load_state_dict({key: value for key, value in state.items() if key not in more})
    x = _latents() if make is _generator else _pictures()
    assert torch.equal(net(x), without(x))
    (attention,) = (module for module in net.modules() if isinstance(module, SelfAttention))
    seen = []
    attention.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2:]))
    torch.nn.init.ones_(attention.gamma)
    assert not torch.allclose(net(x), without(x), rtol=1e-6)
    assert seen == [(side, side)]


@pytest.mark.parametrize("family", ["dcgan", "resnet"])
def test_attention_is_refused_where_there_are_no_such_maps(family):
    for make in (make_generator, make_discriminator):
        with pytest.raises(ValueError, match=r"attention is 0 \(none\) or at one of .*8.* not at 64"):
            make(family, **SMALL, attention=64)
    with pytest.raises(ValueError, match="not at 32"):
        make_discriminator(family, **SMALL, attention=32)


@pytest.mark.parametrize("make", [_generator, _discriminator])
def test_strict_networks_have_biases_and_gains_in_their_last_layer_only(make):
    net = make("wn-gan").double()
    layers = {key: module for key, module in net.named_modules() if isinstance(module, Scaled)}
    last = "rgb" if make is _generator else "head.dense"
    assert len(layers) == 4
    for key, layer in layers.items():
        assert (layer.bias is not None) == (layer.learned_gain is not None) == (key == last)
        length = rows(layer.weight, layer.dim).norm(dim=1)
        wanted = 2.0 if isinstance(layer, ConvTranspose2d) else 1.0  # an output meets a quarter of the weights
        torch.testing.assert_close(length, torch.full_like(length, wanted), rtol=1e-2, atol=0)
    names = {key.split(".")[-1] for key, _ in net.named_parameters()}
    assert names == {"original", "slope", "threshold", "bias", "learned_gain"}


def test_the_first_weights_of_a_strict_generator_begin_a_hundred_times_smaller():
    first, second = [m for m in _generator("wn-gan").modules() if isinstance(m, Scaled)][:2]
    assert first.stored.std().item() == pytest.approx(0.01 / 8**0.5 / 3**0.5, rel=0.1)  # of uniform +-1/sqrt(8)
    assert second.stored.std().item() == pytest.approx(1 / (8 * 16) ** 0.5 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("name", ["dcgan", "sndcgan", "sngan", "sagan"])
def test_a_batch_norm_takes_back_no_bias(name):
    for net, x in (
        (_generator(name), _latents()),
        (_discriminator(name, norm="batch", weights="plain"), _pictures()),
    ):
        y = net.double().train()(x)
        assert any(isinstance(module, BatchNorm) for module in net.modules())
        for layer in [module for module in net.modules() if isinstance(module, Scaled) and module.bias is not None]:
            with torch.no_grad():
                layer.bias.add_(torch.randn_like(layer.bias))
            before, y = y, net(x)
            assert (y - before).abs().max() > 1e-6


# --- names and options ---


def test_a_wrong_family_is_answered_with_the_list():
    for make in (make_generator, make_discriminator):
        with pytest.raises(ValueError, match="`progressive`, `dcgan`, `resnet`, not `stylegan`"):
            make("stylegan")


def test_the_default_family_grows():
    assert type(make_generator(max_res=8, fmap_max=8)) is FAMILIES["progressive"].generator
    assert type(make_discriminator(max_res=8, fmap_max=8)) is FAMILIES["progressive"].discriminator


FOREIGN = [
    ("dcgan", "fmap_decay", 2.0),
    ("dcgan", "d_pool", "after"),
    ("dcgan", "d_wide", True),
    ("dcgan", "global_pool", "mean"),
    ("resnet", "fmap_decay", 0.5),
    ("resnet", "d_pool", "after"),
    ("resnet", "layout", "sndcgan"),
    ("progressive", "layout", "sndcgan"),
    ("progressive", "d_wide", True),
    ("progressive", "global_pool", "mean"),
    ("dcgan", "pixel_norm", True),
]


@pytest.mark.parametrize(("family", "option", "value"), FOREIGN)
def test_an_option_of_another_family_is_refused(family, option, value):
    for make in (make_generator, make_discriminator):
        with pytest.raises(ValueError, match=f"the family `{family}` has no option `{option}` .*{value}"):
            make(family, **SMALL, **{option: value})


UNASKED = {"fmap_decay": 1.0, "layout": "dcgan"}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_option_of_another_family_may_ask_for_nothing(family):
    make_generator(family, **SMALL, **UNASKED)
    make_discriminator(family, **SMALL, **UNASKED, d_pool="before", d_wide=False, global_pool="sum")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_networks_of_a_family_share_their_options(family):
    of_G, of_D = (set(inspect.signature(build).parameters) for build in vars(FAMILIES[family]).values())
    assert of_G - of_D == {"latent_size", "latent_norm", "output"}
    assert of_D - of_G <= {"mbstd_group", "minibatch_discrimination", "d_pool", "d_wide", "global_pool"}
    common = {"weights", "init", "spectral_gain", "spectral_learned", "norm", "activation", "leaky_slope", "channels"}
    assert of_G & of_D >= common | {"max_res", "fmap_base", "fmap_max", "attention", "attention_form"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("option", ["weights", "init", "norm", "activation", "output", "layout", "global_pool"])
def test_a_wrong_choice_is_answered_with_the_list(family, option):
    for make, build in zip((make_generator, make_discriminator), vars(FAMILIES[family]).values()):
        if option in inspect.signature(build).parameters:
            with pytest.raises(ValueError, match=r"`.+`, `.+`, not `nonsense`|`.+`, `.+` not"):
                make(family, **SMALL, **{option: "nonsense"})


# --- one stage ---


@pytest.mark.parametrize("family", ["dcgan", "resnet"])
def test_a_network_that_does_not_grow_has_one_stage(family):
    G, D = make_generator(family, **SMALL, latent_size=8), make_discriminator(family, **SMALL)
    asked = [
        partial(G, torch.randn(2, 8)),
        partial(D, torch.randn(2, 3, 32, 32)),
        *(method for net in (G, D) for method in (net.macs, net.stage_parameters)),
    ]
    for stage in (0, 2, 4):
        for ask in asked:
            with pytest.raises(ValueError, match=f"one stage, 3 .32x32., not {stage}"):
                ask(stage)
    G.eval(), D.eval()
    z, x = torch.randn(2, 8), torch.randn(2, 3, 32, 32)
    assert torch.equal(G(z, 3, 0.25), G(z))
    assert torch.equal(D(x, 3, 0.25), D(x))
    assert not G.standard
    assert not D.standard


@pytest.mark.parametrize("family", ["dcgan", "resnet"])
@pytest.mark.parametrize("max_res", [4, 8, 48, 512])
def test_other_resolutions_are_refused(family, max_res):
    for make in (make_generator, make_discriminator):
        with pytest.raises(ValueError, match=f"the resolution {max_res} of a network that does not grow is not 16, 32"):
            make(family, max_res=max_res)


@pytest.mark.parametrize("family", ["dcgan", "resnet"])
def test_widths_and_latents_of_0_are_refused(family):
    for make in (make_generator, make_discriminator):
        with pytest.raises(ValueError, match="fmap_base 8 and fmap_max 16 leave no feature map at"):
            make(family, max_res=32, fmap_base=8, fmap_max=16)
    with pytest.raises(ValueError, match="latent size 0 is below 1"):
        make_generator(family, **SMALL, latent_size=0)


# --- samples that are compared ---


@pytest.mark.parametrize("family", ["dcgan", "resnet"])
def test_minibatch_stddev_tells_a_batch_of_equals(family):
    D = make_discriminator(family, **SMALL, weights="plain", norm="none", init="he", mbstd_group=4).double()
    x = _pictures(4)
    same = x[:1].repeat(4, 1, 1, 1)
    assert abs((D(x)[0] - D(same)[0]).item()) > 1e-6
    assert torch.allclose(D(x, group=1), torch.stack([D(x[i : i + 1])[0] for i in range(4)]))
    halves = torch.cat([D(x[0::2], group=2), D(x[1::2], group=2)])
    torch.testing.assert_close(D(x, group=2)[[0, 2, 1, 3]], halves)
    torch.testing.assert_close(D(x), D(x, group=4))


@pytest.mark.parametrize("family", ["dcgan", "resnet"])
@pytest.mark.parametrize("option", [{"mbstd_group": 0}, {"mbstd_group": 1}])
def test_scores_are_independent_where_nothing_compares(family, option):
    D, x = make_discriminator(family, **SMALL, weights="plain", norm="none", **option).double(), _pictures(4)
    assert D.head.dense.count == {"dcgan": 8 * 16, "resnet": 8}[family]  # no map for a group of one
    torch.testing.assert_close(D(x)[:1], D(x[:1]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("family", ["dcgan", "resnet"])
def test_minibatch_discrimination_tells_a_batch_of_equals(family):
    options = {"weights": "plain", "norm": "none", "init": "he", "minibatch_discrimination": 7}
    D, x = make_discriminator(family, **SMALL, **options).double(), _pictures(4)
    assert abs((D(x)[0] - D(x[:1].repeat(4, 1, 1, 1))[0]).item()) > 1e-6
    without = make_discriminator(family, **SMALL, **options | {"minibatch_discrimination": 0})
    inputs = without.head.dense.count
    more = sum(p.numel() for p in D.parameters()) - sum(p.numel() for p in without.parameters())
    assert more == inputs * 7 * 5 + 7
