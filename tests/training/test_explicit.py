"""Derivatives written out equal those of autograd, whatever the network, the place, and the loss."""

import math

import pytest
import torch

from progan.nn.maps import Kernels
from progan.nn.ops import minibatch_stddev
from progan.nn.progressive import Discriminator, Generator
from progan.training import explicit, steps
from progan.training.engine import Engine, adding, without_loss
from progan.training.explicit import Gradients, Stddev, d_terms, g_terms, penalise
from progan.training.steps import CriticLoss, Part, Where, d_step, frozen, g_step, update_average

NETWORKS = {
    "official": {},
    "pool after": {"d_pool": "after"},
    "no stddev": {"mbstd_group": 0},
    "no pixel norm": {"norm": "none", "latent_norm": False},
    "not equalized": {"weights": "plain"},
    "grey": {"channels": 1},
    "slope": {"leaky_slope": 0.05},
    "linear": {"leaky_slope": 1.0},
}
PLACES = [(0, 1.0), (0, 0.3), (1, 1.0), (1, 0.3), (3, 1.0), (3, 0.3), (3, 0.0)]
LOSS = CriticLoss(weight=7.0, target=2.0, epsilon=0.3, scale=0.5)
EXPLICIT = Engine("eager", adding(d_terms), adding(without_loss(g_terms)))


def _nets(
    device: torch.device, dtype: torch.dtype = torch.float64, **options: object
) -> tuple[Generator, Discriminator]:
    shape = {"max_res": 32, "fmap_base": 64, "fmap_max": 8}
    of_G = {k: v for k, v in options.items() if k not in ("d_pool", "mbstd_group")}
    of_D = {k: v for k, v in options.items() if k not in ("norm", "latent_norm")}
    G, D = Generator(**shape, latent_size=6, **of_G), Discriminator(**shape, **of_D)
    for net in (G, D):
        for module in net.modules():
            if hasattr(module, "bias"):
                torch.nn.init.normal_(module.bias, std=0.3)
    return G.to(device, dtype), D.to(device, dtype)


def _part(G: Generator, stage: int, count: int, device: torch.device, dtype: torch.dtype = torch.float64) -> Part:
    reals = torch.randn(count, G.channels, 4 << stage, 4 << stage, dtype=dtype).to(device)
    return Part(reals, torch.randn(count, 6, dtype=dtype).to(device), torch.rand(count, dtype=dtype).to(device))


def _where(stage: int, alpha: float, batch: int, group: int = 4) -> Where:
    return Where(stage, alpha if alpha == 1 else torch.tensor(alpha), batch, group)


def _worst(found: Gradients, net: torch.nn.Module) -> float:
    """Largest relative difference to `.grad`; infinite unless exactly the same parameters have one."""
    pairs = {id(p): g for p, g in found}
    if len(pairs) != len(found) or pairs.keys() != {id(p) for p in net.parameters() if p.grad is not None}:
        return math.inf
    return max(((p.grad - g).norm() / p.grad.norm().clamp(min=1e-30)).item() for p, g in found)


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize(("stage", "alpha"), PLACES)
def test_gradients_are_those_of_autograd(options, stage, alpha, device):
    G, D = _nets(device, **options)
    part, where = _part(G, stage, 8, device), _where(stage, alpha, 8)
    for terms, gradients, arguments, net in (
        (d_terms, steps.d_gradients, (part, where, LOSS), D),
        (g_terms, steps.g_gradients, (part.latents, where), G),
    ):
        with frozen(D) if net is G else torch.enable_grad():
            wanted = gradients(G, D, *arguments)
        stats, found = terms(G, D, *arguments)
        assert stats.keys() == wanted.keys()
        assert all(torch.isclose(stats[name], wanted[name], rtol=1e-11, atol=1e-13) for name in wanted)
        assert _worst(found, net) < 1e-10


@pytest.mark.parametrize("alpha", [1.0, 0.3], ids=["stable", "fade"])
@pytest.mark.parametrize("micro_batch", [12, 6])
def test_weights_after_three_steps(alpha, micro_batch, device):
    """Adam, averages and micro-batches included: the whole iteration of either engine ends in the same place."""
    where, ends = _where(2, alpha, 12, group=3), []
    for engine in (Engine("readable"), EXPLICIT):
        torch.manual_seed(1)
        G, D = _nets(device)
        nets = [net.to(memory_format=torch.channels_last) for net in (G, D)]
        opts = [torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.0, 0.99), eps=1e-8, fused=True) for net in nets]
        G_ema, _ = _nets(device)
        for _ in range(3):
            whole = _part(G, 2, 12, device)
            parts = [Part(whole.reals[s], whole.latents[s], whole.mix[s]) for s in steps.split(12, 3, micro_batch)]
            d_step(G, D, opts[1], parts, where, LOSS, engine.d_gradients)
            update_average(G_ema, G, 0.9, 2)
            g_step(G, D, opts[0], [part.latents for part in parts], where, engine.g_gradients)
        ends.append([p.detach().clone() for net in (G, D, G_ema) for p in net.parameters()])
    for readable, explicit_ in zip(*ends):
        assert (readable - explicit_).norm() <= 1e-7 * readable.norm()  # Adam divides by the root of tiny squares


def test_groups_are_strided_within_each_batch(device):
    """Samples of the reals must not meet those of the fakes in a group: a map a batch, as if each came alone."""
    x = torch.randn(3 * 6, 4, 4, 4, dtype=torch.float64, device=device)
    together = Stddev(group=3, batches=3).forward(x)
    alone = torch.cat([minibatch_stddev(part, 3) for part in x.split(6)])
    assert torch.allclose(together, alone, rtol=1e-13)


def test_the_derivatives_of_stddev(device):
    """First and second derivative against autograd's, for the whole layer."""
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64, device=device, requires_grad=True)
    g = torch.randn(6, 4, 4, 4, dtype=torch.float64, device=device, requires_grad=True)
    u = torch.randn(6, 3, 4, 4, dtype=torch.float64, device=device)
    (first,) = torch.autograd.grad(minibatch_stddev(x, 3), x, g, create_graph=True)
    of_x, of_g = torch.autograd.grad(first, (x, g), u)
    node = Stddev(group=3, batches=1)
    with torch.no_grad():
        node.forward(x)
        assert torch.allclose(node.backward(g), first, rtol=1e-12, atol=1e-14)
        assert torch.allclose(node.tangent(u), of_g, rtol=1e-12, atol=1e-14)
        assert torch.allclose(node.second(None), of_x, rtol=1e-12, atol=1e-14)


def test_the_penalty_and_its_derivative(device):
    slope = torch.randn(5, 3, 4, 4, dtype=torch.float64, device=device)
    slope[2] = 0
    leaf = slope.clone().requires_grad_()
    length = LOSS.scale * torch.linalg.vector_norm(leaf.flatten(1), dim=1)
    wanted = LOSS.weight / LOSS.target**2 * (length - LOSS.target).square()
    (derivative,) = torch.autograd.grad(wanted.sum(), leaf)
    penalty, found = penalise(slope, LOSS)
    assert torch.allclose(penalty, wanted, rtol=1e-12)
    assert torch.allclose(found, derivative, rtol=1e-12)
    assert found[2].abs().max() == 0


def test_half_precision_rounds_the_convolutions_and_nothing_else(device):
    """Statistics stay within bfloat16's rounding, and everything that leaves is float32."""
    torch.manual_seed(0)
    G, D = _nets(device, torch.float32)
    part, where = _part(G, 2, 8, device, torch.float32), _where(2, 0.4, 8)
    exact, rounded = d_terms(G, D, part, where, LOSS), d_terms(G, D, part, where, LOSS, Kernels(torch.bfloat16))
    assert {t.dtype for t in rounded[0].values()} | {g.dtype for _, g in rounded[1]} == {torch.float32}
    for name, value in exact[0].items():
        assert abs(rounded[0][name] - value) < 0.05 * abs(value) + 0.02, name
    errors = [((a - b).norm() / a.norm()).item() for (_, a), (_, b) in zip(exact[1], rounded[1])]
    assert 1e-4 < max(errors) < 0.3


def test_nothing_is_recorded_for_autograd(device):
    G, D = _nets(device)
    part = _part(G, 1, 4, device)
    for stats, found in (
        d_terms(G, D, part, _where(1, 0.5, 4), LOSS),
        g_terms(G, D, part.latents, _where(1, 0.5, 4)),
    ):
        assert not any(t.requires_grad for t in [*stats.values(), *(g for _, g in found)])
    assert all(p.grad is None for p in [*G.parameters(), *D.parameters()])


def test_every_node_names_its_passes():
    """A piece that joins later must bring all five."""
    for kind in (explicit.Layer, explicit.Stddev, explicit.Chain, explicit.Fade):
        assert {"forward", "backward", "tangent", "second", "gradients"} <= set(dir(kind))
