"""The WGAN-GP loss of ProGAN: scores in, one number a sample out. Nothing here calls backward.

Gulrajani et al. 2017 with the drift term of Karras et al. 2018, appendix A.1. D minimises
fake - real + lambda / target^2 * (|gradient| - target)^2 + epsilon * real^2, G minimises -fake.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GP_NORMS = ("full", "native")


def wasserstein(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """What D minimises before any penalty: fake - real. [N], [N] -> [N]."""
    return fake_scores - real_scores


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


def norm_scale(gp_norm: str, stages_to_grow: int) -> float:
    """Factor from the gradient norm at the present resolution to the one that the penalty is about.

    The official code shows D images that are enlarged (nearest) to full resolution. There a gradient's norm is that
    at the native resolution divided by 2^(stages still to grow): `full`. `native` is what every port does.
    """
    return {"full": 0.5**stages_to_grow, "native": 1.0}[gp_norm]


def generator_loss(fake_scores: Tensor) -> Tensor:
    """What G minimises: -fake. [N] -> [N]."""
    return -fake_scores
