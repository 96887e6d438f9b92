"""Layers with an equalized learning rate. Karras et al. 2018, sec. 4.1.

Weights are drawn from N(0, 1) and multiplied at run time by gain / sqrt(fan_in), He's constant, so that Adam moves
every weight at the same pace. Biases start at 0 and are not scaled.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQRT2 = math.sqrt(2)


class Scaled(nn.Module):
    """A weight with its run-time scale, and a bias. equalized=False draws the weight with std = scale and uses it
    as it is.

    weight: [out, in, ...]; fan_in counts everything but `out`. bias: [bias], or none for bias=0.
    """

    def __init__(self, *shape: int, gain: float, bias: int, equalized: bool) -> None:
        super().__init__()
        std = gain / math.sqrt(math.prod(shape[1:]))
        self.init_std, self.scale = (1.0, std) if equalized else (std, 1.0)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(bias)) if bias else None
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weight anew, clear the bias."""
        nn.init.normal_(self.weight, std=self.init_std, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Conv2d(Scaled):
    """Convolution, stride 1, zero-padded to the input's size. [N, in, H, W] -> [N, out, H, W]. kernel: odd."""

    def __init__(self, c_in: int, c_out: int, kernel: int, gain: float = SQRT2, equalized: bool = True) -> None:
        super().__init__(c_out, c_in, kernel, kernel, gain=gain, bias=c_out, equalized=equalized)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)

    def macs(self, resolution: int) -> int:
        """Multiply-accumulates of one image at resolution x resolution output pixels."""
        return self.weight.numel() * resolution**2


class Linear(Scaled):
    """Dense layer. [N, in] -> [N, out]."""

    def __init__(self, c_in: int, c_out: int, gain: float = SQRT2, equalized: bool = True) -> None:
        super().__init__(c_out, c_in, gain=gain, bias=c_out, equalized=equalized)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)

    def macs(self, resolution: int = 1) -> int:
        """Multiply-accumulates of one image."""
        return self.weight.numel()


class LatentTo4x4(Scaled):
    """The dense layer from latents to 4x4 maps, whose bias is one number a map, not a unit. [N, in] -> [N, out, 4,
    4].
    """

    def __init__(self, c_in: int, c_out: int, gain: float = SQRT2 / 4, equalized: bool = True) -> None:
        super().__init__(c_out * 16, c_in, gain=gain, bias=c_out, equalized=equalized)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        y = F.linear(x, self.weight * self.scale)  # [N, out*16]
        return y.view(len(x), -1, 4, 4) + self.bias[:, None, None]

    def macs(self, resolution: int = 4) -> int:
        """Multiply-accumulates of one image."""
        return self.weight.numel()
