"""Strided convolutions that do not grow: DCGAN, SN-DCGAN, WN-GAN, and the critic of WGAN, by options.

`layout` names where the convolutions are; R is the resolution of the pictures.

dcgan     Radford et al. 2016, arXiv:1511.06434 (WN-GAN likewise: Xiang & Li 2017, arXiv:1704.03971).
          G: dense to 4x4, then 4x4 transposed convolutions of stride 2 up to R. D mirrors it: 4x4 convolutions of
          stride 2 from R down to 4x4, then a 4x4 one to a score, which is a dense layer on all that there is.
sndcgan   Miyato et al. 2018, arXiv:1802.05957, table 3.
          G: dense to R/8, three such transposed convolutions, a 3x3 convolution to the picture. D: pairs of a 3x3
          convolution and a 4x4 one of stride 2, from R down to R/8, there one of 3x3 and a dense layer.

Feature maps at S x S pixels: min(fmap_base // S, fmap_max), in both networks. The papers' networks have fmap_base
32 R (dcgan) or 64 R (sndcgan): 64 maps at the largest side, doubled with each halving of it.

Norms stand after every convolution but G's last, D's first and D's last, and no convolution before a batch norm has a
bias. Differs from the code of SN-DCGAN: a strided convolution keeps the number of maps and the 3x3 one after it doubles
it, as the paper's table has it, not the other way round.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from progan.nn.fixed import (
    FixedNetwork,
    Head,
    LatentToMaps,
    Stddev,
    check_attention,
    check_latents,
    feature_maps,
    name_of,
    starting_point,
    without_norm,
)
from progan.nn.layers import SQRT2, Conv2d, ConvTranspose2d, LatentTo4x4, Scheme, chosen
from progan.nn.norms import Activation, takes_bias
from progan.nn.progressive import OUTPUTS, Parts

Convolution = Conv2d | ConvTranspose2d | LatentTo4x4 | LatentToMaps


def _halvings(side: int, last: int) -> list[int]:
    return [side] if side == last else [side, *_halvings(side // 2, last)]


LAYOUTS = {
    "dcgan": lambda max_res: _halvings(max_res // 2, 4),
    "sndcgan": lambda max_res: _halvings(max_res, max_res // 8),
}
"""The sides in pixels at which both networks have feature maps, largest first."""


class Layer(nn.Module):
    """A convolution, or G's dense layer, then norm and activation."""

    def __init__(self, conv: Convolution, activation: Activation) -> None:
        super().__init__()
        self.conv, self.activation = conv, activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """The layers whose outputs are side x side pixels, then attention where wanted."""

    def __init__(self, layers: list[Layer], parts: Parts, side: int, channels: int) -> None:
        super().__init__()
        self.layers, self.side = nn.Sequential(*layers), side
        self.attention = parts.gather(channels, side)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        return x if self.attention is None else self.attention(x)

    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        count: int = sum(layer.conv.macs(self.side) for layer in self.layers)  # type: ignore[operator, union-attr]
        return count if self.attention is None else count + self.attention.macs(self.side)


def _edge_bias(layout: str, norm: str) -> bool:
    """Whether G's last layer, D's first and D's last, which have no norm, have a bias: DCGAN's networks have none."""
    return layout != "dcgan" or takes_bias(norm)


class DcganGenerator(FixedNetwork):
    """Latents to pictures: `G(z)`, [N, latent_size] -> [N, channels, max_res, max_res].

    max_res: 16, 32, ... 256. layout, fmap_base, fmap_max: see the module. norm, activation, leaky_slope: as in
    `Activation`. weights, init, spectral_*: as in `Scheme`. output: one of OUTPUTS, on the last convolution.
    latent_norm: normalise the latents first. attention: the resolution whose feature maps get it, after the
    activation; 0 for none. Defaults: DCGAN of 64x64.
    """

    def __init__(
        self,
        max_res: int = 64,
        channels: int = 3,
        latent_size: int = 100,
        fmap_base: int = 2048,
        fmap_max: int = 1024,
        layout: str = "dcgan",
        weights: str = "plain",
        init: str = "normal",
        spectral_gain: float = 1.0,
        spectral_learned: bool = False,
        norm: str = "batch",
        activation: str = "relu",
        leaky_slope: float = 0.2,
        output: str = "tanh",
        latent_norm: bool = False,
        attention: int = 0,
        attention_form: str = "B",
    ) -> None:
        super().__init__(max_res, channels)
        scheme = Scheme(weights, init, spectral_gain, spectral_learned)
        parts = Parts(scheme, norm, activation, leaky_slope, attention, attention_form)
        sides = chosen("layout", layout, LAYOUTS)(max_res)[::-1]  # smallest first
        check_attention(attention, sides)
        self.latent_size, self.latent_norm = latent_size, latent_norm
        chosen("output", output, OUTPUTS)
        check_latents(latent_size)
        self.output = output
        maps = [feature_maps(side, fmap_base, fmap_max) for side in sides]
        convs = [_first(layout, latent_size, maps[0], sides[0], parts)]
        convs += [_up(c_in, c_out, parts) for c_in, c_out in pairwise(maps)]
        self.blocks = nn.ModuleDict()
        for side, conv, c_out in zip(sides, convs, maps):
            self.blocks[name_of(side)] = Block([Layer(conv, parts.after(c_out))], parts, side, c_out)
        self.rgb = _to_rgb(layout, maps[-1], channels, parts)

    def forward(self, z: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, psi: float = 1.0) -> Tensor:
        """z: [N, latent_size] -> images [N, channels, R, R]. psi: factor on the (normalised) latents. stage: None or
        the top one. alpha: without effect, nothing fades here.
        """
        self.check_stage(stage)
        x = self.through_blocks(starting_point(z, psi, self.latent_norm))
        return OUTPUTS[self.output](self.rgb(x))

    def macs(self, stage: int | None = None) -> int:
        """Multiply-accumulates of one image's forward pass."""
        self.check_stage(stage)
        return self.macs_of_blocks() + self.rgb.macs(self.max_res)


def _first(layout: str, latent_size: int, maps: int, side: int, parts: Parts) -> Convolution:
    bias = takes_bias(parts.norm)
    if layout == "dcgan":
        return LatentTo4x4(latent_size, maps, SQRT2, parts.scheme, bias=bias)
    return LatentToMaps(latent_size, maps, side, SQRT2, parts.scheme, bias=bias)


def _up(c_in: int, c_out: int, parts: Parts) -> Convolution:
    return ConvTranspose2d(c_in, c_out, 4, 2, 1, scheme=parts.scheme, bias=takes_bias(parts.norm))


def _to_rgb(layout: str, maps: int, channels: int, parts: Parts) -> Conv2d | ConvTranspose2d:
    bias = _edge_bias(layout, parts.norm)
    if layout == "dcgan":
        return ConvTranspose2d(maps, channels, 4, 2, 1, 1.0, parts.scheme, bias=bias, affine=True)
    return Conv2d(maps, channels, 3, 1.0, parts.scheme, bias=bias, affine=True)


class DcganDiscriminator(FixedNetwork):
    """Pictures to scores: `D(images)`, [N, channels, max_res, max_res] -> [N], linear.

    Options as in `DcganGenerator`. mbstd_group: wanted group of the minibatch standard deviation, a map more before the
    last layer; 0 or 1 leave it out. minibatch_discrimination: kernels before the last layer, 0 for none. Defaults:
    DCGAN of 64x64.
    """

    def __init__(
        self,
        max_res: int = 64,
        channels: int = 3,
        fmap_base: int = 2048,
        fmap_max: int = 1024,
        layout: str = "dcgan",
        weights: str = "plain",
        init: str = "normal",
        spectral_gain: float = 1.0,
        spectral_learned: bool = False,
        norm: str = "batch",
        activation: str = "lrelu",
        leaky_slope: float = 0.2,
        attention: int = 0,
        attention_form: str = "B",
        mbstd_group: int = 0,
        minibatch_discrimination: int = 0,
    ) -> None:
        super().__init__(max_res, channels)
        scheme = Scheme(weights, init, spectral_gain, spectral_learned)
        parts = Parts(scheme, norm, activation, leaky_slope, attention, attention_form)
        sides = chosen("layout", layout, LAYOUTS)(max_res)
        check_attention(attention, sides)
        maps = [feature_maps(side, fmap_base, fmap_max) for side in sides]
        self.blocks = nn.ModuleDict()
        for side, c_in, c_out in zip(sides, [channels, *maps], maps):
            build = _first_down if side == sides[0] else _down
            self.blocks[name_of(side)] = Block(build(layout, c_in, c_out, parts), parts, side, c_out)
        self.mbstd_group, self.stddev = mbstd_group, Stddev(mbstd_group)
        features = (maps[-1] + self.stddev.maps) * sides[-1] ** 2
        self.head = Head(features, minibatch_discrimination, scheme, bias=_edge_bias(layout, norm))

    def forward(
        self, images: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, group: int | None = None
    ) -> Tensor:
        """images: [N, channels, R, R] -> scores [N]. stage, alpha: as in `DcganGenerator.forward`. group: size of the
        minibatch standard deviation's groups, default the largest divisor of N up to `mbstd_group`.
        """
        self.check_stage(stage)
        x = self.through_blocks(images)
        return self.head(self.stddev(x, group).flatten(1))  # type: ignore[no-any-return]

    def macs(self, stage: int | None = None) -> int:
        """Multiply-accumulates of one image's forward pass."""
        self.check_stage(stage)
        return self.macs_of_blocks() + self.head.macs()


def _first_down(layout: str, c_in: int, c_out: int, parts: Parts) -> list[Layer]:
    """The layer that takes the picture: half its side (dcgan), or the same (sndcgan)."""
    bias, after = _edge_bias(layout, parts.norm), without_norm(parts).after(c_out)
    if layout == "dcgan":
        return [Layer(Conv2d(c_in, c_out, 4, scheme=parts.scheme, bias=bias, stride=2, padding=1), after)]
    return [Layer(Conv2d(c_in, c_out, 3, scheme=parts.scheme, bias=bias), after)]


def _down(layout: str, c_in: int, c_out: int, parts: Parts) -> list[Layer]:
    """From 2S x 2S to S x S."""
    bias = takes_bias(parts.norm)
    strided = c_out if layout == "dcgan" else c_in
    conv = Conv2d(c_in, strided, 4, scheme=parts.scheme, bias=bias, stride=2, padding=1)
    layers = [Layer(conv, parts.after(strided))]
    if layout == "sndcgan":
        conv = Conv2d(c_in, c_out, 3, scheme=parts.scheme, bias=bias)
        layers.append(Layer(conv, parts.after(c_out)))
    return layers
