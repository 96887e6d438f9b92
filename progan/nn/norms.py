"""What stands after a convolution: norms, activations, their order; and minibatch discrimination.

pixel and none have no parameters. A norm of statistics (batch, layer) goes before the activation, pixel norm after it,
as in the official code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progan.nn.layers import EQUALIZED, Drawn, Linear, Scheme, chosen
from progan.nn.ops import pixel_norm

# ---- norms


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Each sample to mean 0 and variance 1 over all its values; then a gain and a bias a channel. Ba et al. 2016,
    arXiv:1607.06450; over C, H and W as in the critic of Gulrajani et al. 2017. x: [N, C, ...]; gain, bias: [C].
    """
    return F.group_norm(x, 1, gain, bias, eps)


class PixelNorm(nn.Module):
    """`ops.pixel_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        return pixel_norm(x)


class LayerNorm(Drawn):
    """`layer_norm`. The gain begins at 1, the bias at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias)


class BatchNorm(nn.BatchNorm2d, Drawn):
    """Each channel to mean 0 and variance 1 over the batch (in eval mode: over all batches, as a running mean), then a
    gain and a bias a channel. Ioffe & Szegedy 2015, arXiv:1502.03167. [N, C, H, W] or [N, C] -> same shape.

    The gain begins at 1, or with init `normal` at N(1, 0.02^2) as in DCGAN; the bias at 0.
    """

    spread = 0.0

    def __init__(self, channels: int, init: str = "he") -> None:
        super().__init__(channels, eps=1e-5, momentum=0.1)
        self.spread = 0.02 if init == "normal" else 0.0
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        self.reset_running_stats()
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if self.spread:
            nn.init.normal_(self.weight, 1.0, self.spread, generator)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return super().forward(x[:, :, None, None]).flatten(1)
        return super().forward(x)


NORMS: dict[str, Callable[[int, str], nn.Module]] = {
    "pixel": lambda channels, init: PixelNorm(),
    "batch": BatchNorm,
    "layer": lambda channels, init: LayerNorm(channels),
    "none": lambda channels, init: nn.Identity(),
}


# ---- activations


def tprelu(x: Tensor, slope: Tensor, threshold: Tensor) -> Tensor:
    """Parametric ReLU with a threshold a: x where it is above a, a + p (x - a) below, p the slope within 0..1. Xiang &
    Li 2017, sec. 3. x: [N, C, ...]; slope, threshold: [C].
    """
    a = threshold.view([-1] + [1] * (x.ndim - 2))
    return F.prelu(x - a, slope.clamp(0, 1)) + a


class TPReLU(Drawn):
    """`tprelu`. The slopes begin at 0.25, the thresholds at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope, self.threshold = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        nn.init.constant_(self.slope, 0.25)
        nn.init.zeros_(self.threshold)

    def forward(self, x: Tensor) -> Tensor:
        return tprelu(x, self.slope, self.threshold)


ACTIVATIONS: dict[str, Callable[[int, float], nn.Module]] = {
    "lrelu": lambda channels, slope: nn.LeakyReLU(slope),
    "relu": lambda channels, slope: nn.ReLU(),
    "tprelu": lambda channels, slope: TPReLU(channels),
}


class Activation(nn.Module):
    """Norm and activation after a convolution: batch or layer norm before the activation, pixel norm after it.
    [N, C, ...] -> same shape.

    norm: one of NORMS. activation: one of ACTIVATIONS. slope: of `lrelu`. init: as in `Scheme`.
    """

    def __init__(self, norm: str, activation: str, channels: int, slope: float = 0.2, init: str = "he") -> None:
        super().__init__()
        self.norm = chosen("norm", norm, NORMS)(channels, init)
        self.activation = chosen("activation", activation, ACTIVATIONS)(channels, slope)
        self.norm_last = norm == "pixel"

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.activation, self.norm) if self.norm_last else (self.norm, self.activation)
        return second(first(x))  # type: ignore[no-any-return]


def takes_bias(norm: str) -> bool:
    """Whether a convolution before this norm has use for a bias: batch norm takes any back."""
    return norm != "batch"


# ---- minibatch discrimination


def closeness(x: Tensor) -> Tensor:
    """How near a sample is to all others: for each kernel, the sum over them of exp(-L1 distance). Salimans et al.
    2016, arXiv:1606.03498, sec. 3.2. x: [N, kernels, dims] -> [N, kernels], 0 for a sample that is alone.

    Differs from the paper, as its code does: a sample is not counted as near to itself, which would add a constant 1.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    distance = (x[:, None] - x).abs().sum(3)  # [N, N, kernels]
    return torch.exp(-distance).sum(1) - 1


class MinibatchDiscrimination(nn.Module):
    """Features, and how near each sample's are to the others'. Salimans et al. 2016, sec. 3.2. [N, c_in] ->
    [N, c_in + kernels].

    All samples of a pass are compared, reals or fakes: a batch in parts is another function than the whole one.
    Differs from the paper's code: no bias on what is added, since the dense layer after it has one, and the projection
    is the network's kind of layer (gain 1) instead of one that first measures a batch.
    """

    def __init__(self, c_in: int, kernels: int = 100, dims: int = 5, scheme: Scheme = EQUALIZED) -> None:
        super().__init__()
        self.projection = Linear(c_in, kernels * dims, gain=1, scheme=scheme, bias=False)
        self.kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        projected = self.projection(x).view(len(x), self.kernels, -1)  # [N, kernels, dims]
        return torch.cat([x, closeness(projected).to(x.dtype)], 1)

    def macs(self) -> int:
        """Multiply-accumulates of one image, without the comparisons."""
        return self.projection.macs()
