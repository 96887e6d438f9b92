"""One step of D and one step of G. A step receives every random number as an argument and draws none itself.

A batch arrives as parts, each of whole minibatch-stddev groups, and its loss is a mean over the samples of all
parts. So a batch cut into micro-batches, or dealt to several processes, gives the gradients of the uncut one, up to
float rounding. (Not so where batch norm or minibatch discrimination look at all samples of a pass: there a batch is one
part.)

Spectral layers take one step of their power iteration where a net is trained and nowhere else: D's in its pass over the
reals of the first part, G's in its pass over the first part of its own step (SAGAN's code; `CriticLoss.iterate`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from progan import losses
from progan.errors import RunFailed
from progan.nn.families import Discriminator, Generator
from progan.nn.layers import Scaled, copy_buffers, still

T = TypeVar("T")
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
    """Knobs of the losses of D and G: see `losses`. Defaults: ProGAN's."""

    weight: float = 10.0  # of the penalty wgan-gp
    target: float = 1.0
    epsilon: float = 0.001  # of the drift, which wgan alone has
    scale: float = 1.0  # losses.norm_scale
    kind: str = "wgan"  # one of losses.LOSSES
    penalty: str = "wgan-gp"  # one of losses.PENALTIES
    gamma: float = 10.0  # of the penalty r1; 0: it rests in this step
    iterate: str = "real"  # spectral layers' power iteration; `always`: in every pass


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
    with torch.no_grad(), resting(G, loss):
        fakes = G(part.latents, where.stage, where.alpha)

    def critic(images: Tensor) -> Tensor:
        return D(images, where.stage, where.alpha, where.group)  # type: ignore[no-any-return]

    reals = part.reals.detach().requires_grad_(loss.penalty == "r1" and loss.gamma > 0)
    real_scores = critic(reals)
    with resting(D, loss):
        fake_scores = critic(fakes)
        extra = PENALTIES[loss.penalty](critic, reals, real_scores, fakes, part.mix, loss)
    if loss.kind == "wgan":
        extra["drift"] = losses.drift(real_scores, loss.epsilon)
    total = sum(extra.values(), losses.adversarial(loss.kind).d(real_scores, fake_scores))
    (total.sum() / where.batch).backward()  # type: ignore[no-untyped-call]
    terms = {"loss_D": total, "wasserstein": real_scores - fake_scores, **extra}
    return _means(terms | {"score_real": real_scores, "score_fake": fake_scores}, where.batch)


Critic = Callable[[Tensor], Tensor]
Terms = dict[str, Tensor]


def _wgan_gp(D: Critic, reals: Tensor, _: Tensor, fakes: Tensor, mix: Tensor, loss: CriticLoss) -> Terms:
    penalty = losses.gradient_penalty(D, reals, fakes, mix, loss.weight, loss.target, loss.scale)
    return {"gradient_penalty": penalty}


def _r1(D: Critic, reals: Tensor, real_scores: Tensor, fakes: Tensor, mix: Tensor, loss: CriticLoss) -> Terms:
    if loss.gamma == 0:
        return {"r1": torch.zeros_like(real_scores)}
    return {"r1": losses.r1_penalty(real_scores, reals, loss.gamma, loss.scale)}


PENALTIES: dict[str, Callable[[Critic, Tensor, Tensor, Tensor, Tensor, CriticLoss], Terms]] = {
    "wgan-gp": _wgan_gp,
    "r1": _r1,
    "none": lambda *_: {},
}


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
    stats = _over_parts(D, parts, loss, lambda part: gradients(G, D, part, where, loss))
    stats["norm_D"] = _checked_norm("D", D, stats)
    opt_D.step()
    return stats


def g_gradients(
    G: Generator, D: Discriminator, latents: Tensor, where: Where, loss: CriticLoss = CriticLoss()
) -> Stats:
    """Add a part's share of the gradient of G's loss to G's `.grad`."""
    images = G(latents, where.stage, where.alpha)
    with resting(D, loss):
        scores = D(images, where.stage, where.alpha, where.group)
    total = losses.adversarial(loss.kind).g(scores)
    (total.sum() / where.batch).backward()  # type: ignore[no-untyped-call]
    return _means({"loss_G": total}, where.batch)


GGradients = Callable[[Generator, Discriminator, Tensor, Where, CriticLoss], Stats]
"""`g_gradients`, or what does the same another way."""


def g_step(
    G: Generator, D: Discriminator, opt_G: torch.optim.Optimizer, parts: Sequence[Tensor], where: Where,
    gradients: GGradients = g_gradients, loss: CriticLoss = CriticLoss(),
) -> Stats:  # fmt: skip
    """Move G once; parts: latents [n, latent_size]. Raises RunFailed as `d_step` does."""
    opt_G.zero_grad(set_to_none=True)
    with frozen(D):
        stats = _over_parts(G, parts, loss, lambda latents: gradients(G, D, latents, where, loss))
    stats["norm_G"] = _checked_norm("G", G, stats)
    opt_G.step()
    return stats


def resting(net: nn.Module, loss: CriticLoss) -> contextlib.AbstractContextManager[None]:
    """A pass in which a net's spectral layers do not iterate, unless they always do."""
    return contextlib.nullcontext() if loss.iterate == "always" else still(net)


def _over_parts(net: nn.Module, parts: Sequence[T], loss: CriticLoss, share: Callable[[T], Stats]) -> Stats:
    """The sum of all parts' shares. A net's spectral layers iterate in the first one alone, as in an uncut batch."""
    stats = []
    for index, part in enumerate(parts):
        with resting(net, loss) if index else contextlib.nullcontext():
            stats.append(share(part))
    return _sum(stats)


def update_average(G_ema: Generator, G: Generator, beta: float, stage: int) -> None:
    """G_ema <- beta * G_ema + (1 - beta) * G, for all parameters that may have moved up to a stage. Buffers are copied:
    averaged unit vectors would be shorter than 1, and a spectral norm by them too small.
    """
    average = get_ema_multi_avg_fn(beta)  # type: ignore[no-untyped-call]
    average(G_ema.stage_parameters(stage), G.stage_parameters(stage), 0)
    copy_buffers(G_ema, G)


@torch.no_grad()
def clip_weights(D: nn.Module, bound: float) -> None:
    """Bring all parameters of D into -bound..bound: weights as they are used, so that an equalized one's stored number
    may be up to bound / scale; biases, and norms' gains, as they are. Arjovsky et al. 2017, algorithm 1.

    Differs from the paper's code, which clips before each step of D: done after each, and once before the first, it
    gives the same networks.
    """
    for module in D.modules():
        scale = module.scale if isinstance(module, Scaled) else 1.0
        for name, parameter in module.named_parameters(recurse=False):
            limit = bound / scale if name == "weight" else bound
            parameter.clamp_(-limit, limit)


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
