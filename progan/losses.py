"""Losses: scores in, one number a sample out. Nothing here calls backward, nothing takes a mean.

What the scores are worth (`LOSSES`) and what keeps D's slope in bounds (a penalty, or none) are two choices. ProGAN's
is wgan with the penalty wgan-gp and the drift term: D minimises
fake - real + lambda / target^2 * (|gradient| - target)^2 + epsilon * real^2, G minimises -fake
(Gulrajani et al. 2017; Karras et al. 2018, appendix A.1). Scores are logits: no sigmoid comes before any of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GP_NORMS = ("full", "native")
PENALTIES = ("wgan-gp", "r1", "none")


def wasserstein(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """What D minimises before any penalty: fake - real. [N], [N] -> [N]. Arjovsky et al. 2017."""
    return fake_scores - real_scores


def generator_loss(fake_scores: Tensor) -> Tensor:
    """What G minimises under wgan and hinge: -fake. [N] -> [N]."""
    return -fake_scores


def hinge(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake). [N], [N] -> [N]. Lim and Ye 2017; Miyato et al. 2018, eq. 16."""
    return F.relu(1 - real_scores) + F.relu(1 + fake_scores)


def logistic(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """-log s(real) - log(1 - s(fake)) with s the sigmoid: the cross-entropy of right answers. [N], [N] -> [N].
    Goodfellow et al. 2014, eq. 1.
    """
    return F.softplus(-real_scores) + F.softplus(fake_scores)


def non_saturating(fake_scores: Tensor) -> Tensor:
    """-log s(fake): G's cross-entropy of the wrong answer. [N] -> [N]. Goodfellow et al. 2014, sec. 3."""
    return F.softplus(-fake_scores)


def least_squares(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """(real - 1)^2 + fake^2: the targets are 1 and 0, and there is no half before it. [N], [N] -> [N]. Mao et al. 2017,
    eq. 9.
    """
    return (real_scores - 1).square() + fake_scores.square()


def generator_least_squares(fake_scores: Tensor) -> Tensor:
    """(fake - 1)^2. [N] -> [N]."""
    return (fake_scores - 1).square()


@dataclass(frozen=True)
class Adversarial:
    """What D minimises, (real scores [N], fake scores [N]) -> [N], and what G does, fake scores [N] -> [N]."""

    d: Callable[[Tensor, Tensor], Tensor]
    g: Callable[[Tensor], Tensor]


LOSSES = {
    "wgan": Adversarial(wasserstein, generator_loss),
    "hinge": Adversarial(hinge, generator_loss),
    "logistic": Adversarial(logistic, non_saturating),
    "lsgan": Adversarial(least_squares, generator_least_squares),
    "bce": Adversarial(logistic, non_saturating),
}
"""bce is logistic under the name that it has in DCGAN's and WN-GAN's code: a binary cross-entropy with logits, summed
over real and fake, is the same function.
"""


def adversarial(kind: str) -> Adversarial:
    """The loss of a name. Raises ValueError, with the list, for another name."""
    if kind not in LOSSES:
        raise ValueError(f"the loss `{kind}` is none of {', '.join(LOSSES)}")
    return LOSSES[kind]


def drift(real_scores: Tensor, epsilon: float) -> Tensor:
    """epsilon * real^2 keeps the scores near 0; on real scores only. [N] -> [N]."""
    return epsilon * real_scores.square()


def gradient_penalty(
    D: Callable[[Tensor], Tensor], reals: Tensor, fakes: Tensor, mix: Tensor, weight: float, target: float, scale: float
) -> Tensor:
    """weight / target^2 * (scale * |dD/dx| - target)^2 at x = lerp(reals, fakes, mix), one mix a sample. -> [N].

    D: images -> scores [N]; its gradient is kept differentiable. mix: [N] in 0..1. scale: `norm_scale`.
    The norm runs over all values of a sample; its derivative at a zero gradient is taken as 0.
    """
    x = torch.lerp(reals, fakes, mix[:, None, None, None]).requires_grad_()
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    norm: Tensor = scale * torch.linalg.vector_norm(gradient.flatten(1), dim=1)  # [N]
    return weight / target**2 * (norm - target).square()


def r1_penalty(real_scores: Tensor, reals: Tensor, gamma: float, scale: float) -> Tensor:
    """gamma / 2 * (scale * |dD/dx|)^2 at the reals. -> [N]. Mescheder et al. 2018, eq. 9.

    real_scores [N] = D(reals), of a pass in which reals [N, C, R, R] required a gradient; it is kept differentiable.
    scale: `norm_scale`.
    """
    (gradient,) = torch.autograd.grad(real_scores.sum(), reals, create_graph=True)
    return gamma / 2 * scale**2 * gradient.flatten(1).square().sum(1)  # [N]


def r1_weight(gamma: float, interval: int, step: int) -> float:
    """Weight of the penalty at D's step of a number: interval times gamma at every interval-th, else 0. So its mean
    over time is gamma. Karras et al. 2020 (StyleGAN2), sec. 3.1, "lazy regularization".
    """
    return interval * gamma if step % interval == 0 else 0.0


def norm_scale(gp_norm: str, stages_to_grow: int) -> float:
    """Factor from the gradient norm at the present resolution to the one that the penalty is about.

    The official code shows D images that are enlarged (nearest) to full resolution. There a gradient's norm is that
    at the native resolution divided by 2^(stages still to grow): `full`. `native` is what every port does.
    """
    return {"full": 0.5**stages_to_grow, "native": 1.0}[gp_norm]
