"""One step of D and one step of G. A step receives every random number as an argument and draws none itself.

A batch arrives as parts, each of whole minibatch-stddev groups, and its loss is a mean over the samples of all
parts. So a batch cut into micro-batches, or dealt to several processes, gives the gradients of the uncut one, up to
float rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from progan import losses
from progan.errors import RunFailed
from progan.nn.progressive import Discriminator, Generator

Stats = dict[str, Tensor]
"""Means over the batch, 0-dim tensors on the device: no step waits for them."""


@dataclass(frozen=True)
class Where:
    """Where in its growth the networks are, and how the whole batch (all parts together) is grouped."""

    stage: int
    alpha: float | Tensor  # 1.0 when stable, a 0-dim tensor while fading
    batch: int  # samples
    group: int  # samples of a minibatch-stddev group


@dataclass(frozen=True)
class CriticLoss:
    """Knobs of D's loss: see `losses`."""

    weight: float = 10.0
    target: float = 1.0
    epsilon: float = 0.001
    scale: float = 1.0  # losses.norm_scale


@dataclass(frozen=True)
class Part:
    """Whole groups of a batch: real images [n, C, R, R], latents [n, latent_size], mixing weights [n] in 0..1."""

    reals: Tensor
    latents: Tensor
    mix: Tensor


def split(batch: int, group: int, micro_batch: int) -> list[Tensor]:
    """Sample numbers of each part of a batch: whole groups (sample n is in group n mod batch/group), at most
    micro_batch samples a part where a group is no larger.
    """
    groups = torch.arange(batch).reshape(group, batch // group)  # [G, M] column m = group m
    return [columns.flatten() for columns in torch.split(groups, max(1, micro_batch // group), dim=1)]


def d_gradients(G: Generator, D: Discriminator, part: Part, where: Where, loss: CriticLoss) -> Stats:
    """Add a part's share of the gradient of D's loss to D's `.grad`."""
    with torch.no_grad():
        fakes = G(part.latents, where.stage, where.alpha)

    def critic(images: Tensor) -> Tensor:
        return D(images, where.stage, where.alpha, where.group)  # type: ignore[no-any-return]

    real_scores, fake_scores = critic(part.reals), critic(fakes)
    distance = losses.wasserstein(real_scores, fake_scores)
    penalty = losses.gradient_penalty(critic, part.reals, fakes, part.mix, loss.weight, loss.target, loss.scale)
    drift = losses.drift(real_scores, loss.epsilon)
    total = distance + penalty + drift
    (total.sum() / where.batch).backward()  # type: ignore[no-untyped-call]
    terms = {"loss_D": total, "wasserstein": -distance, "gradient_penalty": penalty, "drift": drift}
    return _means(terms | {"score_real": real_scores, "score_fake": fake_scores}, where.batch)


DGradients = Callable[[Generator, Discriminator, Part, Where, CriticLoss], Stats]
"""`d_gradients`, or what does the same another way."""


def d_step(
    G: Generator, D: Discriminator, opt_D: torch.optim.Optimizer, parts: Sequence[Part], where: Where, loss: CriticLoss,
    gradients: DGradients = d_gradients,
) -> Stats:  # fmt: skip
    """Move D once. On a CPU, raises RunFailed before D has moved where the loss or a gradient is not finite; elsewhere
    looking would wait for the device, and whoever reads the statistics has to look.
    """
    opt_D.zero_grad(set_to_none=True)
    stats = _sum([gradients(G, D, part, where, loss) for part in parts])
    stats["norm_D"] = _checked_norm("D", D, stats)
    opt_D.step()
    return stats


def g_gradients(G: Generator, D: Discriminator, latents: Tensor, where: Where) -> Stats:
    """Add a part's share of the gradient of G's loss to G's `.grad`."""
    scores = D(G(latents, where.stage, where.alpha), where.stage, where.alpha, where.group)
    loss = losses.generator_loss(scores)
    (loss.sum() / where.batch).backward()  # type: ignore[no-untyped-call]
    return _means({"loss_G": loss}, where.batch)


GGradients = Callable[[Generator, Discriminator, Tensor, Where], Stats]
"""`g_gradients`, or what does the same another way."""


def g_step(
    G: Generator, D: Discriminator, opt_G: torch.optim.Optimizer, parts: Sequence[Tensor], where: Where,
    gradients: GGradients = g_gradients,
) -> Stats:  # fmt: skip
    """Move G once; parts: latents [n, latent_size]. Raises RunFailed as `d_step` does."""
    opt_G.zero_grad(set_to_none=True)
    with frozen(D):
        stats = _sum([gradients(G, D, latents, where) for latents in parts])
    stats["norm_G"] = _checked_norm("G", G, stats)
    opt_G.step()
    return stats


def update_average(G_ema: Generator, G: Generator, beta: float, stage: int) -> None:
    """G_ema <- beta * G_ema + (1 - beta) * G, for all parameters that may have moved up to a stage."""
    average = get_ema_multi_avg_fn(beta)  # type: ignore[no-untyped-call]
    average(G_ema.stage_parameters(stage), G.stage_parameters(stage), 0)


def average_beta(beta: float, ema_kimg: float, batch: int) -> float:
    """Share that the average keeps at a step: `beta`, or the one whose half-life is ema_kimg thousand images."""
    return 0.5 ** (batch / (ema_kimg * 1000)) if ema_kimg else beta


@contextlib.contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Let gradients flow through a network, but not into its parameters."""
    net.requires_grad_(False)
    try:
        yield
    finally:
        net.requires_grad_(True)


def _means(terms: dict[str, Tensor], batch: int) -> Stats:
    return {name: term.detach().sum() / batch for name, term in terms.items()}


def _sum(stats: list[Stats]) -> Stats:
    return {name: torch.stack([s[name] for s in stats]).sum() for name in stats[0]}


def _checked_norm(name: str, net: nn.Module, stats: Stats) -> Tensor:
    """Norm of all gradients of a network. On a CPU, raises RunFailed, naming the first culprit, where it or a loss is
    not finite.
    """
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm.device.type == "cpu" and not torch.isfinite(norm + sum(stats.values())):
        raise RunFailed(f"{_culprit(name, net, stats)} is not finite; {name} was not moved by it.")
    return norm


def _culprit(name: str, net: nn.Module, stats: Stats) -> str:
    for term in sorted(stats, key=lambda term: term.startswith("loss")):  # the terms before their sum
        if not torch.isfinite(stats[term]):
            return term
    for key, parameter in net.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name}.{key}"
    return f"the norm of {name}'s gradients"
