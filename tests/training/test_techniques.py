"""Laws of the steps with techniques other than ProGAN's: any loss with any penalty is what it says, spectral layers
iterate once, batch statistics are those of reals and of fakes apart, clipped weights stay within their bound.
"""

import copy
import itertools
import typing

import pytest
import torch
from torch import Tensor, nn

from progan import losses
from progan.config import Loss
from progan.nn.families import Discriminator, Generator, make_discriminator, make_generator
from progan.nn.layers import Scaled, power_iteration
from progan.training import steps
from progan.training.steps import (
    CriticLoss,
    Part,
    Where,
    clip_weights,
    d_gradients,
    d_step,
    g_gradients,
    g_step,
    split,
    update_average,
)

NET = {"max_res": 16, "fmap_base": 64, "fmap_max": 8}
DCGAN = {"family": "dcgan", "init": "normal"}
FAMILIES = {
    "progressive": ({}, {}),
    "spectral": ({"weights": "spectral", "attention": 8}, {"weights": "spectral", "attention": 8}),
    "batch norm": (DCGAN | {"norm": "batch"}, DCGAN | {"norm": "batch"}),
    "strict": (
        {"weights": "weightnorm-strict", "norm": "none", "activation": "tprelu"},
        {"weights": "weightnorm-strict", "activation": "tprelu"},
    ),
    "resnet": ({"family": "resnet", "norm": "batch"}, {"family": "resnet", "weights": "spectral"}),
}


def _nets(name: str, device: torch.device, of_D: dict | None = None) -> tuple[Generator, Discriminator]:
    """A pair of networks in float64, with biases that are not 0."""
    for_G, for_D = FAMILIES[name]
    G, D = make_generator(**NET, latent_size=6, **for_G), make_discriminator(**NET, **for_D | (of_D or {}))
    for net in (G, D):
        net.reset_parameters(torch.Generator().manual_seed(1))
        with torch.no_grad():
            for key, p in net.named_parameters():
                p.normal_(std=0.3) if key.endswith("bias") else p.add_(0.5) if key.endswith("gamma") else None
    return G.to(device, torch.float64), D.to(device, torch.float64)


def _part(count: int, device: torch.device, stage: int = 2) -> Part:
    reals = torch.randn(count, 3, 4 << stage, 4 << stage, dtype=torch.float64, device=device)
    return Part(
        reals,
        torch.randn(count, 6, dtype=torch.float64, device=device),
        torch.rand(count, dtype=torch.float64, device=device),
    )


def _cut(part: Part, samples: list[Tensor]) -> list[Part]:
    return [Part(part.reals[s], part.latents[s], part.mix[s]) for s in samples]


def _gradients(net: nn.Module) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])


def _sgd(net: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr)


def _buffers(net: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in net.named_buffers()}


def _apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """Names whose values differ at all."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


WHERE = Where(2, 1.0, 8, 4)


# --- any loss with any penalty ---

TERMS = {
    "wgan": lambda r, f: f - r,
    "hinge": lambda r, f: (1 - r).clamp(min=0) + (1 + f).clamp(min=0),
    "logistic": lambda r, f: -torch.sigmoid(r).log() - torch.sigmoid(-f).log(),
    "lsgan": lambda r, f: (r - 1) ** 2 + f**2,
    "bce": lambda r, f: -torch.sigmoid(r).log() - torch.sigmoid(-f).log(),
}
G_TERMS = {
    "wgan": lambda f: -f,
    "hinge": lambda f: -f,
    "logistic": lambda f: -torch.sigmoid(f).log(),
    "lsgan": lambda f: (f - 1) ** 2,
    "bce": lambda f: -torch.sigmoid(f).log(),
}


def _slopes(D: Discriminator, images: Tensor, where: Where) -> Tensor:
    """Squared length of D's gradient at each image, by one call for each output."""
    x = images.detach().clone().requires_grad_()
    scores = D(x, where.stage, where.alpha)
    rows = [torch.autograd.grad(score, x, create_graph=True)[0] for score in scores]
    return sum(rows).square().sum((1, 2, 3))  # minibatch stddev couples samples; the penalty is of the sum


def _plain(G, D, part: Part, loss: CriticLoss, where: Where) -> dict[str, Tensor]:
    """D's terms, a number a sample, written out."""
    fakes = G(part.latents, where.stage, where.alpha).detach()
    real, fake = D(part.reals, where.stage, where.alpha), D(fakes, where.stage, where.alpha)
    u = part.mix.view(-1, 1, 1, 1)
    found = {"kind": TERMS[loss.kind](real, fake)}
    if loss.kind == "wgan":
        found["drift"] = loss.epsilon * real**2
    if loss.penalty == "wgan-gp":
        norm = loss.scale * _slopes(D, (1 - u) * part.reals + u * fakes, where).sqrt()
        found["gradient_penalty"] = loss.weight * (norm - loss.target) ** 2 / loss.target**2
    if loss.penalty == "r1":
        found["r1"] = loss.gamma / 2 * loss.scale**2 * _slopes(D, part.reals, where)
    return found | {"score_real": real.detach(), "score_fake": fake.detach()}


@pytest.mark.parametrize("alpha", [1.0, 0.3], ids=["stable", "fade"])
@pytest.mark.parametrize(("kind", "penalty"), list(itertools.product(losses.LOSSES, losses.PENALTIES)))
def test_any_loss_of_d_with_any_penalty_is_that_of_a_plain_computation(kind, penalty, alpha, device):
    G, D = _nets("progressive", device)
    where = Where(1, alpha if alpha == 1 else torch.tensor(alpha, dtype=torch.float64), 8, 4)
    loss = CriticLoss(weight=3, target=2, epsilon=0.2, scale=0.5, kind=kind, penalty=penalty, gamma=4)
    part, other = _part(8, device, 1), copy.deepcopy(D)
    stats = d_gradients(G, D, part, where, loss)
    wanted = _plain(G, other, part, loss, where)
    scores = {name: wanted.pop(name) for name in ("score_real", "score_fake")}
    total = sum(wanted.values()).mean()
    total.backward()
    assert torch.allclose(_gradients(D), _gradients(other), rtol=1e-10, atol=1e-12)
    assert _gradients(D).abs().max() > 1e-3
    wanted.pop("kind")
    wanted |= scores | {"loss_D": total, "wasserstein": scores["score_real"] - scores["score_fake"]}
    assert stats.keys() == wanted.keys()
    assert all(torch.allclose(stats[name], wanted[name].mean(), rtol=1e-10, atol=1e-12) for name in stats)


@pytest.mark.parametrize("kind", losses.LOSSES)
def test_any_loss_of_g_is_that_of_a_plain_computation(kind, device):
    G, D = _nets("progressive", device)
    other, latents = copy.deepcopy(G), _part(8, device).latents
    stats = g_gradients(G, D, latents, WHERE, CriticLoss(kind=kind))
    total = G_TERMS[kind](D(other(latents))).mean()
    total.backward()
    assert torch.allclose(stats["loss_G"], total.detach(), rtol=1e-12)
    assert torch.allclose(_gradients(G), _gradients(other), rtol=1e-10, atol=1e-14)


def test_the_names_of_losses_and_penalties_are_those_of_the_configuration():
    hints = typing.get_type_hints(Loss)
    assert typing.get_args(hints["kind"]) == tuple(losses.LOSSES)
    assert typing.get_args(hints["penalty"]) == losses.PENALTIES == tuple(steps.PENALTIES)


def test_a_lazy_penalty_that_rests_is_0_and_pulls_at_nothing(device):
    G, D = _nets("progressive", device)
    part, other = _part(8, device), copy.deepcopy(D)
    stats = d_gradients(G, D, part, WHERE, CriticLoss(kind="logistic", penalty="r1", gamma=0.0))
    d_gradients(G, other, part, WHERE, CriticLoss(kind="logistic", penalty="none"))
    assert stats["r1"] == 0
    assert torch.equal(_gradients(D), _gradients(other))


# --- micro-batches ---


@pytest.mark.parametrize("name", ["progressive", "spectral", "strict"])
@pytest.mark.parametrize("loss", [CriticLoss(), CriticLoss(kind="hinge", penalty="r1"), CriticLoss(kind="lsgan")])
def test_a_step_in_parts_is_a_step_at_once(name, loss, device):
    """Spectral layers included: they iterate as often, and at the same place."""
    G, D = _nets(name, device)
    part, found = _part(8, device), []
    for samples in ([torch.arange(8)], split(8, 4, 4)):
        g, d = copy.deepcopy(G), copy.deepcopy(D)
        stats = d_step(g, d, _sgd(d), _cut(part, samples), WHERE, loss)
        stats |= g_step(g, d, _sgd(g), [part.latents[s] for s in samples], WHERE, loss=loss)
        found.append((_gradients(d), _gradients(g), stats, _buffers(d) | _buffers(g)))
    assert max(found[0][i].abs().max() for i in (0, 1)) > 1e-6
    for whole, cut in zip(found[0][:2], found[1][:2]):
        assert torch.allclose(cut, whole, rtol=0, atol=1e-10)
    assert all(torch.allclose(found[0][2][key], found[1][2][key], rtol=0, atol=1e-10) for key in found[0][2])
    assert _apart(found[0][3], found[1][3]) == set()


# --- the power iteration ---


def _iterated(net: nn.Module, count: int) -> dict[str, Tensor]:
    """Buffers of a network after so many steps of the power method on its weights as they are. RGB layers of lower
    resolutions do not take part.
    """
    found = _buffers(net)
    for name, layer in net.named_modules():
        if isinstance(layer, Scaled) and name not in ("rgb.4x4", "rgb.8x8") and count:
            prefix = f"{name}.parametrizations.weight.0."
            matrix = layer.stored.detach().transpose(0, layer.dim).flatten(1)
            found[prefix + "_u"], found[prefix + "_v"] = power_iteration(matrix, found[prefix + "_v"], count)
    return found


def _near(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=1e-12) for name in a)


PASSES = {"wgan-gp": 3, "r1": 2, "none": 2}
"""Of D in its own step."""


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("penalty", losses.PENALTIES)
def test_spectral_layers_iterate_once_where_they_are_trained(penalty, parts, device):
    """In D's pass over the reals and in G's own step, however the batch is cut, and in no other pass."""
    G, D = _nets("spectral", device)
    loss, samples, part = CriticLoss(kind="hinge", penalty=penalty), split(8, 4, 8 // parts), _part(8, device)
    of_D, of_G = _iterated(D, 1), _buffers(G)
    d_step(G, D, _sgd(D), _cut(part, samples), WHERE, loss)
    assert _near(_buffers(D), of_D)
    assert _near(_buffers(G), of_G)
    of_D, of_G = _buffers(D), _iterated(G, 1)
    g_step(G, D, _sgd(G), [part.latents[s] for s in samples], WHERE, loss=loss)
    assert _near(_buffers(D), of_D)
    assert _near(_buffers(G), of_G)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("penalty", losses.PENALTIES)
def test_spectral_layers_may_iterate_in_every_pass(penalty, parts, device):
    G, D = _nets("spectral", device)
    loss = CriticLoss(kind="hinge", penalty=penalty, iterate="always")
    samples, part = split(8, 4, 8 // parts), _part(8, device)
    of_D, of_G = _iterated(D, PASSES[penalty] * parts), _iterated(G, parts)
    d_step(G, D, _sgd(D), _cut(part, samples), WHERE, loss)
    assert _near(_buffers(D), of_D)
    assert _near(_buffers(G), of_G)
    of_D, of_G = _iterated(D, parts), _iterated(G, parts)
    g_step(G, D, _sgd(G), [part.latents[s] for s in samples], WHERE, loss=loss)
    assert _near(_buffers(D), of_D)
    assert _near(_buffers(G), of_G)


def _by_hand(G: Generator, D: Discriminator, part: Part, iterate: str) -> Tensor:
    """The gradient of mean(fake - real), a pass and a way back at a time. The norm is that of D's pass."""
    with torch.no_grad():
        fakes = G.train(iterate == "always")(part.latents)
    (-D(part.reals).mean()).backward()
    D.train(iterate == "always")(fakes).mean().backward()
    return _gradients(D)


@pytest.mark.parametrize("iterate", ["real", "always"])
def test_two_passes_and_one_way_back_take_each_its_own_norm(iterate, device):
    """Reals and fakes go through D apart, with the u and v of their pass, and one backward finds both gradients."""
    G, D = _nets("spectral", device)
    part, others = _part(8, device), copy.deepcopy((G, D))
    d_gradients(G, D, part, WHERE, CriticLoss(penalty="none", epsilon=0, iterate=iterate))
    assert torch.allclose(_gradients(D), _by_hand(*others, part, iterate), rtol=1e-10, atol=1e-14)
    assert _gradients(D).abs().max() > 1e-4


# --- batch norm ---


def test_reals_and_fakes_have_statistics_of_their_own(device):
    """What D says of the reals does not depend on the fakes, and its running statistics saw one after the other."""
    G, D = _nets("batch norm", device)
    loss, part = CriticLoss(kind="logistic", penalty="none"), _part(8, device)
    others = Part(part.reals, 3 * torch.randn_like(part.latents), part.mix)
    after = []
    for one in (part, others):
        g, d = copy.deepcopy(G), copy.deepcopy(D)
        after.append(d_gradients(g, d, one, WHERE, loss))
    assert torch.equal(after[0]["score_real"], after[1]["score_real"])
    assert not torch.equal(after[0]["score_fake"], after[1]["score_fake"])
    d, g = copy.deepcopy(D), copy.deepcopy(G)
    with torch.no_grad():
        d(part.reals), d(g(part.latents))
    d_gradients(G, D, part, WHERE, loss)
    assert _apart(_buffers(D), _buffers(d)) == set()
    assert _apart(_buffers(G), _buffers(g)) == set()


# --- the average ---


@pytest.mark.parametrize("name", ["spectral", "batch norm", "resnet"])
def test_the_average_copies_what_is_no_parameter(name, device):
    """An average of unit vectors is no unit vector."""
    G, _ = _nets(name, device)
    average = copy.deepcopy(G).eval().requires_grad_(False)
    with torch.no_grad():
        for p in average.parameters():
            p.normal_()
        for b in average.buffers():
            b.copy_(torch.randn(b.shape, dtype=torch.float64))
    old = {key: p.clone() for key, p in average.named_parameters()}
    update_average(average, G, 0.9, 2)
    assert _buffers(G)
    assert _apart(_buffers(average), _buffers(G)) == set()
    for key, p in average.named_parameters():
        assert torch.allclose(p, 0.9 * old[key] + 0.1 * G.get_parameter(key), rtol=1e-12), key
    units = [b for key, b in average.named_buffers() if key.endswith(("_u", "_v"))]
    assert all(torch.allclose(b.norm(), torch.ones_like(b.norm()), rtol=1e-6) for b in units)


def test_the_average_still_draws_in_eval_mode(device):
    """Nothing that it keeps moves while it draws."""
    G, _ = _nets("spectral", device)
    average = copy.deepcopy(G).eval().requires_grad_(False)
    update_average(average, G, 0.5, 2)
    before = _buffers(average)
    assert torch.equal(average(torch.ones(2, 6, dtype=torch.float64)), average(torch.ones(2, 6, dtype=torch.float64)))
    assert _apart(before, _buffers(average)) == set()


# --- clipping ---


@pytest.mark.parametrize("weights", ["equalized", "plain"])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_clipped_weights_are_within_the_bound_as_they_are_used(weights, norm, device):
    """After every step, biases and norms' gains too; and some are at the bound, so that it is no tighter."""
    G, D = _nets("progressive", device, {"weights": weights, "norm": norm})
    optimizer, loss = torch.optim.RMSprop(D.parameters(), lr=0.05), CriticLoss(penalty="none")
    before, bound = {key: p.detach().clone() for key, p in D.named_parameters()}, 0.02
    clip_weights(D, bound)
    for key, p in D.named_parameters():
        layer = D.get_submodule(key.rpartition(".")[0])
        factor = layer.scale if isinstance(layer, Scaled) and key.endswith("weight") else 1.0
        assert torch.equal(p, before[key].clamp(-bound / factor, bound / factor)), key
    for _ in range(3):
        d_step(G, D, optimizer, [_part(8, device)], WHERE, loss)
        clip_weights(D, bound)
        used = [layer.effective() for layer in D.modules() if isinstance(layer, Scaled)]
        rest = [p for key, p in D.named_parameters() if not key.endswith("weight") or "norm" in key]
        assert rest
        for tensor in (*used, *rest):
            assert tensor.abs().max() <= bound * (1 + 1e-12)
        assert all((tensor.abs() > bound * (1 - 1e-12)).any() for tensor in used[-3:])
    assert all(p.requires_grad for p in D.parameters())
