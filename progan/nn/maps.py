"""The linear maps inside the layers, each with what a hand-written derivative needs: itself, its adjoint, and the
gradient of its weight.

A map A with weight w is bilinear in x and w, so three kernels serve every order of derivative: y = A x, the adjoint
A' g, and the gradient of <g, A x> with respect to w. An equalized layer's run-time scale, and the resampling before or
after a convolution, are folded into the weight once a step; `gradient` undoes the folding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from progan.nn.layers import Conv2d, LatentTo4x4, Linear
from progan.nn.winograd import WinogradConvolution

BOX_MAPS = 256  # from so many maps on the far side, fewer products are worth one more pass over the near one;
BOX_PIXELS = 32  # and up to this resolution, where a pass finds everything in a cache
WINOGRAD_MAPS = 128  # from so many maps on both sides, on a CPU, a quarter of the products is worth the transforms


def upscaled_kernel(weight: Tensor) -> Tensor:
    """`conv2d(upscale2d(x), weight, padding=1)` is `conv_transpose2d(x, this, stride=2, padding=1)`: 16 products an
    input pixel instead of 36. [O, I, 3, 3] -> [I, O, 4, 4].
    """
    return spread(turned(weight))


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

    def __init__(self, layer: Linear | LatentTo4x4) -> None:
        self.scale, self.weight = layer.scale, layer.weight  # as it is, since it is large: what meets it is scaled

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.linear(x.flatten(1).to(self.weight.dtype), self.weight).mul_(self.scale)
        return y if bias is None else y.add_(bias)

    def adjoint(self, g: Tensor) -> Tensor:
        return (g * self.scale) @ self.weight

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return (g * self.scale).T @ x.flatten(1).to(g.dtype), g.sum(0)


class DenseTo4x4(Dense):
    """x: [N, in] -> [N, maps, 4, 4], with one bias a map."""

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = super().__call__(x).view(len(x), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        return y if bias is None else y.add_(bias[:, None, None])

    def adjoint(self, g: Tensor) -> Tensor:
        return super().adjoint(g.flatten(1))

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().gradient(g.flatten(1), x)[0], g.sum((0, 2, 3))


class Convolution:
    """A zero-padded convolution of odd kernel, stride 1. [N, in, H, W] -> [N, out, H, W]. dtype: that it computes in,
    default the weight's own; the gradients of weight and bias are of the weight's in any case.
    """

    stride, padding = 1, 1

    def __init__(self, layer: Conv2d, dtype: torch.dtype | None = None) -> None:
        self.scale, self.own = layer.scale, layer.weight.dtype
        self.weight = self.fold(layer.weight * layer.scale).to(dtype)
        if self.weight.shape[-1] == 1:
            self.padding = 0

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
        return self.unfold(weight).mul_(self.scale), bias

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
    """A 3x3 convolution, then the mean of 2x2 pixels. [N, in, 2H, 2W] -> [N, out, H, W].

    The mean goes first: it commutes with the convolution, of which only every second pixel is then wanted. 9 products
    an output pixel instead of 36, for one more pass over the input.
    """

    stride, padding = 2, 0

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.convolve(box(x), bias)

    def adjoint(self, g: Tensor) -> Tensor:
        return unbox(self.convolve_back(g))

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().gradient(g, box(x))


class Upscaling(Convolution):
    """Nearest x2, then a 3x3 convolution. [N, in, H, W] -> [N, out, 2H, 2W]. `Downscaling` the other way round: 9
    products an input pixel instead of 36.
    """

    stride, padding = 2, 0

    def fold(self, weight: Tensor) -> Tensor:
        return turned(weight)

    def unfold(self, gradient: Tensor) -> Tensor:
        return turned(gradient)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = unbox(self.convolve_back(x), total=True)
        return y if bias is None else y.add_(bias[:, None, None])

    def adjoint(self, g: Tensor) -> Tensor:
        return self.convolve(box(g, total=True))

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().gradient(x, box(g, total=True))[0], g.sum((0, 2, 3), dtype=self.own)


class NarrowDownscaling(Convolution):
    """`Downscaling` by a 4x4 kernel: 16 products an output pixel, and no pass more."""

    stride = 2

    def fold(self, weight: Tensor) -> Tensor:
        return downscaled_kernel(weight)

    def unfold(self, gradient: Tensor) -> Tensor:
        return gather(gradient) / 4


class NarrowUpscaling(Convolution):
    """`Upscaling` by a 4x4 kernel: 16 products an input pixel, and no pass more."""

    stride = 2

    def fold(self, weight: Tensor) -> Tensor:
        return upscaled_kernel(weight)

    def unfold(self, gradient: Tensor) -> Tensor:
        return turned(gather(gradient))

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.convolve_back(x, bias)

    def adjoint(self, g: Tensor) -> Tensor:
        return self.convolve(g)

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().gradient(x, g)[0], g.sum((0, 2, 3), dtype=self.own)


def box(x: Tensor, total: bool = False) -> Tensor:
    """The mean (or total) of each 2x2 neighbourhood, zeros around. [N, C, H, W] -> [N, C, H+1, W+1]."""
    return F.avg_pool2d(x, 2, stride=1, padding=1, divisor_override=1 if total else 4)


def unbox(g: Tensor, total: bool = False) -> Tensor:
    """The adjoint of `box`. [N, C, H+1, W+1] -> [N, C, H, W]."""
    return F.avg_pool2d(g, 2, stride=1, divisor_override=1 if total else 4)


def turned(weight: Tensor) -> Tensor:
    """The kernel of the convolution backwards. [O, I, K, K] -> [I, O, K, K], channels last."""
    return weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


# ---- which map a layer takes: measured, see docs/decisions/0008


@dataclass(frozen=True)
class Kernels:
    """How convolutions are computed: the same but for rounding. The choice between maps is one of widths, resolution
    and kind of device, never of a clock, so that a run resumes to the bit.
    """

    dtype: torch.dtype | None = None  # that they compute in; None: their weights' own
    winograd: bool = False  # on a CPU, where layers are wide: twice the rounding error of float32, half the time

    def convolution(self, layer: Conv2d, resolution: int) -> Map:
        """A 3x3 or 1x1 layer at resolution x resolution pixels."""
        wide = min(layer.weight.shape[:2]) >= WINOGRAD_MAPS and layer.weight.shape[-1] == 3 and resolution >= 8
        if self.winograd and wide and layer.weight.device.type == "cpu":
            return WinogradConvolution(layer)
        return Convolution(layer, self.dtype)

    def downscaling(self, layer: Conv2d, resolution: int) -> Map:
        """A 3x3 layer, then the mean of 2x2 pixels of resolution x resolution."""
        wide = layer.weight.shape[0] >= BOX_MAPS or resolution <= BOX_PIXELS
        return (Downscaling if wide else NarrowDownscaling)(layer, self.dtype)

    def upscaling(self, layer: Conv2d, resolution: int) -> Map:
        """Nearest x2 to resolution x resolution pixels, then a 3x3 layer."""
        wide = layer.weight.shape[1] >= BOX_MAPS or resolution <= BOX_PIXELS
        return (Upscaling if wide else NarrowUpscaling)(layer, self.dtype)
