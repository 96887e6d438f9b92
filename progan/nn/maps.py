"""The linear maps inside the layers, each with what a hand-written derivative needs: itself, its adjoint, and the
gradient of its weight.

A map A with weight w is bilinear in x and w, so three kernels serve every order of derivative: y = A x, the adjoint
A' g, and the gradient of <g, A x> with respect to w. An equalized layer's run-time scale, and the resampling before or
after a convolution, are folded into the weight once a step; `gradient` undoes the folding.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from progan.nn.layers import Conv2d, LatentTo4x4, Linear


def upscaled_kernel(weight: Tensor) -> Tensor:
    """`conv2d(upscale2d(x), weight, padding=1)` is `conv_transpose2d(x, this, stride=2, padding=1)`: 16 products an
    input pixel instead of 36. [O, I, 3, 3] -> [I, O, 4, 4].
    """
    return spread(weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last))


def downscaled_kernel(weight: Tensor) -> Tensor:
    """`downscale2d(conv2d(x, weight, padding=1))` is `conv2d(x, this, stride=2, padding=1)`: 16 products an output
    pixel instead of 36. [O, I, 3, 3] -> [O, I, 4, 4].
    """
    return spread(weight / 4)


def spread(weight: Tensor) -> Tensor:
    """Add each tap to a 2x2 square of taps: what two neighbouring pixels share. [A, B, 3, 3] -> [A, B, 4, 4]."""
    wide = F.pad(weight, (1, 0)) + F.pad(weight, (0, 1))  # [A, B, 3, 4]
    return F.pad(wide, (0, 0, 1, 0)) + F.pad(wide, (0, 0, 0, 1))


def gather(gradient: Tensor) -> Tensor:
    """The adjoint of `spread`. [A, B, 4, 4] -> [A, B, 3, 3]."""
    narrow = gradient[..., 1:] + gradient[..., :-1]  # [A, B, 4, 3]
    return narrow[:, :, 1:] + narrow[:, :, :-1]


class Map(Protocol):
    """What all maps do. bias: added to A x where given."""

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """A x + bias."""

    def adjoint(self, g: Tensor) -> Tensor:
        """The gradient of <g, A x> with respect to x."""

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of <g, A x + bias> with respect to the layer's weight, and to its bias."""


class Dense:
    """x: [N, ...] -> [N, out]; what it is given is flattened."""

    def __init__(self, layer: Linear) -> None:
        self.scale, self.weight = layer.scale, layer.weight * layer.scale

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x.flatten(1).to(self.weight.dtype), self.weight, bias)

    def adjoint(self, g: Tensor) -> Tensor:
        return g @ self.weight

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return g.T @ x.flatten(1).to(g.dtype) * self.scale, g.sum(0)


class DenseTo4x4:
    """x: [N, in] -> [N, maps, 4, 4], with one bias a map."""

    def __init__(self, layer: LatentTo4x4) -> None:
        self.scale, self.weight = layer.scale, layer.weight * layer.scale

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.weight).view(len(x), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        return y if bias is None else y.add_(bias[:, None, None])

    def adjoint(self, g: Tensor) -> Tensor:
        return g.flatten(1) @ self.weight

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return g.flatten(1).T @ x * self.scale, g.sum((0, 2, 3))


class Convolution:
    """A zero-padded convolution of odd kernel, stride 1. [N, in, H, W] -> [N, out, H, W]. dtype: that it computes in,
    default the weight's own; the gradients of weight and bias are of the weight's in any case.
    """

    stride, padding = 1, 1

    def __init__(self, layer: Conv2d, dtype: torch.dtype | None = None) -> None:
        self.scale, self.own = layer.scale, layer.weight.dtype
        self.weight = self.fold(layer.weight * layer.scale).to(dtype)
        self.padding = (self.weight.shape[-1] - 1) // 2

    def fold(self, weight: Tensor) -> Tensor:
        return weight

    def unfold(self, gradient: Tensor) -> Tensor:
        return gradient

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.convolve(x, bias)

    def adjoint(self, g: Tensor) -> Tensor:
        return self.convolve_back(g)

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self.products(g, x)
        return self.unfold(weight) * self.scale, bias

    def convolve(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = None if bias is None else bias.to(self.weight.dtype)
        return F.conv2d(x.to(self.weight.dtype), self.weight, bias, self.stride, self.padding)

    def convolve_back(self, g: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = None if bias is None else bias.to(self.weight.dtype)
        return F.conv_transpose2d(g.to(self.weight.dtype), self.weight, bias, self.stride, self.padding)

    def products(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of <g, convolve(x) + bias> with respect to the convolution's own weight, and to bias."""
        dtype, stride, padding = self.weight.dtype, [self.stride] * 2, [self.padding] * 2
        _, weight, bias = torch.ops.aten.convolution_backward(
            g.to(dtype), x.to(dtype), self.weight, [g.shape[1]], stride, padding, [1, 1], False, [0, 0], 1,
            (False, True, True),
        )  # fmt: skip
        return weight.to(self.own), bias.to(self.own)


class Downscaling(Convolution):
    """A 3x3 convolution, then the mean of 2x2 pixels. [N, in, 2H, 2W] -> [N, out, H, W]."""

    stride = 2

    def fold(self, weight: Tensor) -> Tensor:
        return downscaled_kernel(weight)

    def unfold(self, gradient: Tensor) -> Tensor:
        return gather(gradient) / 4


class Upscaling(Convolution):
    """Nearest x2, then a 3x3 convolution: a convolution of stride 2 backwards. [N, in, H, W] -> [N, out, 2H, 2W]."""

    stride = 2

    def fold(self, weight: Tensor) -> Tensor:
        return upscaled_kernel(weight)

    def unfold(self, gradient: Tensor) -> Tensor:
        return gather(gradient).transpose(0, 1).flip(2, 3)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.convolve_back(x, bias)

    def adjoint(self, g: Tensor) -> Tensor:
        return self.convolve(g)

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        weight, _ = self.products(x, g)
        return self.unfold(weight) * self.scale, g.sum((0, 2, 3), dtype=self.own)
