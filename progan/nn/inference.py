"""The generator for drawing pictures only: the numbers of `Generator.forward` up to rounding, in about half the time.

The weights are prepared once: the run-time scale is multiplied in, nearest x2 and the convolution after it become one
transposed convolution (`maps.upscaled_kernel`; `maps.Upscaling` where layers are wide), and on a CPU they are put in
the order that its kernels read. Leaky ReLU and pixel norm work in place. On a CPU, what is in work stays in its caches,
and in memory that the system need not clear anew: few pictures at a time, and large ones in strips of rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from progan.nn.layers import Conv2d, Scaled
from progan.nn.maps import BOX_MAPS, turned, unbox, upscaled_kernel
from progan.nn.ops import blend, pixel_norm, upscale2d
from progan.nn.progressive import FirstBlock, Generator, GeneratorBlock, is_one

CACHE = 8 << 20  # bytes of a layer's output that a CPU works on at a time: 4 and 16 MB are about as good, 2 is slower

Step = Callable[[Tensor], Tensor]  # a convolution of feature maps [N, C, H, W], with bias and leaky ReLU
Span = tuple[int, int]  # rows of a picture: the first, and the one after the last


class Compact:
    """G as it is now, up to a stage (default the top one), called as G is: `Compact(G)(z, stage, alpha, psi)`.

    Nothing is learnt here, and what G learns later is not seen. Device and dtype are G's. The same latents in the same
    call give the same bytes; a picture drawn among others equals the one drawn alone up to rounding, as with G itself.
    """

    @torch.inference_mode()
    def __init__(self, G: Generator, stage: int | None = None) -> None:
        self.resolutions = G.resolutions[: None if stage is None else stage + 1]
        layers = [G.rgb_layer(s) for s in range(len(self.resolutions))]
        weight = layers[0].weight
        self.device, self.latent_size, self.pixel_norm = weight.device, G.latent_size, G.pixel_norm
        self.cache = CACHE if self.device.type == "cpu" else 1 << 62
        self.sizes = [  # bytes of one picture's feature maps
            layer.weight[0].numel() * r**2 * weight.element_size() for layer, r in zip(layers, self.resolutions)
        ]
        self.first = First(G.block(0), G)  # type: ignore[arg-type]
        self.blocks = {s: Block(G.block(s), G, r // 2) for s, r in enumerate(self.resolutions) if s}  # type: ignore[arg-type]
        self.rgb = [(scaled(layer).flatten(1), copy_of(layer.bias)) for layer in layers]

    @torch.inference_mode()
    def __call__(self, z: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, psi: float = 1.0) -> Tensor:
        """z: [N, latent_size] -> images [N, channels, R, R]. stage, alpha, psi: as in `Generator.forward`."""
        stage = len(self.resolutions) - 1 if stage is None else stage
        z = psi * (pixel_norm(z) if self.pixel_norm else z)
        together = max(1, self.cache // max(self.sizes[: stage + 1]))  # pictures
        return joined([self.pictures(few, stage, alpha) for few in torch.split(z, together)], 0)

    def pictures(self, z: Tensor, stage: int, alpha: float | Tensor) -> Tensor:
        """Images of normalised latents: feature maps as a whole while they fit the cache, then strip by strip."""
        x, low = self.first(z), 0
        if stage == 0:
            return self.to_rgb(x, 0)
        while low + 1 < stage and self.sizes[low + 1] <= self.cache:
            x, low = self.blocks[low + 1](x, (0, self.resolutions[low]), (0, self.resolutions[low + 1])), low + 1
        return joined([self.strip(x, low, stage, alpha, rows) for rows in self.strips(stage)], 2)

    def strips(self, stage: int) -> list[Span]:
        """The rows of a stage, in pieces of even height whose feature maps fit the cache."""
        side = self.resolutions[stage]
        height = max(2, min(side, side * self.cache // self.sizes[stage]) // 2 * 2)
        return [(a, min(a + height, side)) for a in range(0, side, height)]

    def strip(self, x: Tensor, low: int, stage: int, alpha: float | Tensor, rows: Span) -> Tensor:
        """Those rows of the images. x: the feature maps of stage `low`, below `stage`, as a whole."""
        spans = {stage: rows}
        for s in reversed(range(low, stage)):
            spans[s] = needed(spans[s + 1], self.resolutions[s])
        below = x = crop(x, 0, spans[low])
        for s in range(low + 1, stage + 1):
            below, x = x, self.blocks[s](x, spans[s - 1], spans[s])
        images = self.to_rgb(x, stage)
        if is_one(alpha):
            return images
        old = crop(below, spans[stage - 1][0], (rows[0] // 2, rows[1] // 2))
        return blend(upscale2d(self.to_rgb(old, stage - 1)), images, alpha)

    def to_rgb(self, x: Tensor, stage: int) -> Tensor:
        """The 1x1 convolution as a product of matrices. [N, C, H, W] -> [N, channels, H, W]."""
        return F.linear(x.permute(0, 2, 3, 1), *self.rgb[stage]).permute(0, 3, 1, 2)


class First:
    """`FirstBlock`, its dense layer in channels-last order. [N, latent_size] -> [N, C, 4, 4]."""

    def __init__(self, block: FirstBlock, G: Generator) -> None:
        self.slope, self.norm = G.slope, G.pixel_norm
        weight = scaled(block.dense).view(-1, 16, G.latent_size)  # [C, 4*4, latent_size]
        self.weight = weight.transpose(0, 1).flatten(0, 1)  # [4*4*C, latent_size]
        self.bias = copy_of(block.dense.bias).repeat(16)
        self.conv = convolution(block.conv, G.slope, 4)

    def __call__(self, z: Tensor) -> Tensor:
        x = F.linear(z, self.weight, self.bias).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
        x = normalised(F.leaky_relu_(x, self.slope), self.norm)
        return normalised(self.conv(x), self.norm)


class Block:
    """`GeneratorBlock`, for some rows of a picture. side: pixels of its input's edge."""

    def __init__(self, block: GeneratorBlock, G: Generator, side: int) -> None:
        self.norm, self.side = G.pixel_norm, 2 * side
        self.conv0 = convolution(block.conv0, G.slope, side, up=True)
        self.conv1 = convolution(block.conv1, G.slope, 2 * side)

    def __call__(self, x: Tensor, span: Span, rows: Span) -> Tensor:
        """x: the rows `span` of the input, those that are `needed`, [N, C, h, W] -> `rows` of the output."""
        between = widened(rows, self.side)
        x = normalised(crop(self.conv0(x), 2 * span[0], between), self.norm)
        return normalised(crop(self.conv1(x), between[0], rows), self.norm)


def widened(rows: Span, side: int) -> Span:
    """The rows that a 3x3 convolution needs, in a picture of `side` rows."""
    return max(rows[0] - 1, 0), min(rows[1] + 1, side)


def needed(rows: Span, side: int) -> Span:
    """The input's rows, of `side`, that a block needs for some rows of its output."""
    a, b = widened(rows, 2 * side)
    return max((a - 1) // 2, 0), min(b // 2 + 1, side)


def crop(x: Tensor, start: int, rows: Span) -> Tensor:
    """Some rows of those that begin with row `start`; the others have met a border that is none."""
    if x.shape[2] == rows[1] - rows[0]:
        return x  # a view less: small pictures take as long as their operators need to start
    return x[:, :, rows[0] - start : rows[1] - start]


def normalised(x: Tensor, norm: bool) -> Tensor:
    """`ops.pixel_norm` in place, where wanted: one pass for the length, one for the product."""
    if not norm:
        return x
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x.mul_(length.square_().div_(x.shape[1]).add_(1e-8).rsqrt_())


def boxed(layer: Conv2d, slope: float, side: int) -> Step:
    """`leaky_relu(layer(upscale2d(x)))` as `maps.Upscaling` does it: 9 products an input pixel, one more pass."""
    weight, bias = turned(scaled(layer)), copy_of(layer.bias)[:, None, None]
    back = packed_back(weight, side) if packable(weight) else lambda x: F.conv_transpose2d(x, weight, None, 2)
    return lambda x: F.leaky_relu_(unbox(back(x), total=True).add_(bias), slope)


def packed_back(weight: Tensor, side: int) -> Step:
    """`conv_transpose2d(x, weight, stride=2)` by a weight that oneDNN need not put in order: see `packed`."""
    ops, none, one, two = torch.ops.mkldnn, [0, 0], [1, 1], [2, 2]
    shape = [1, weight.shape[0], side, side]
    weight = ops._reorder_convolution_transpose_weight(weight, none, none, two, one, 1, shape)
    return lambda x: ops._convolution_transpose_pointwise(x, weight, None, none, none, two, one, 1, "none", [], "")


def convolution(layer: Conv2d, slope: float, side: int, up: bool = False) -> Step:
    """`leaky_relu(layer(x))`, with `up` `leaky_relu(layer(upscale2d(x)))`. side: the pixels that x usually has."""
    if up and layer.weight.shape[1] >= BOX_MAPS:
        return boxed(layer, slope, side)
    weight = upscaled_kernel(scaled(layer)) if up else scaled(layer)
    weight, bias = weight.contiguous(memory_format=torch.channels_last), copy_of(layer.bias)
    if packable(weight):
        return packed(weight, bias, slope, side, up)

    def step(x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, weight, bias, 2, 1) if up else F.conv2d(x, weight, bias, padding=1)
        return F.leaky_relu_(y, slope)

    return step


def packable(weight: Tensor) -> bool:
    """Whether torch has oneDNN, with the operators of `packed`, and it can keep this weight in its own order."""
    there = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_reorder_convolution_transpose_weight")
    return there and weight.device.type == "cpu" and weight.dtype == torch.float32


def packed(weight: Tensor, bias: Tensor, slope: float, side: int, up: bool) -> Step:
    """The same with a weight that oneDNN need not put in order at each call, and the leaky ReLU inside.

    torch's compiler uses these operators; F.conv2d has no way to. A picture of 8x8 takes half the time.
    """
    ops, none, one, two = torch.ops.mkldnn, [0, 0], [1, 1], [2, 2]
    activation = ("leaky_relu", [slope], "")
    if up:
        weight = ops._reorder_convolution_transpose_weight(
            weight, one, none, two, one, 1, [1, weight.shape[0], side, side]
        )
        return lambda x: ops._convolution_transpose_pointwise(x, weight, bias, one, none, two, one, 1, *activation)
    weight = ops._reorder_convolution_weight(weight, one, one, one, 1, [1, weight.shape[1], side, side])
    return lambda x: ops._convolution_pointwise(x, weight, bias, one, one, one, 1, *activation)


def scaled(layer: Scaled) -> Tensor:
    return layer.weight * layer.scale


def copy_of(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias.clone()


def joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
