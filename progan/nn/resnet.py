"""Residual networks that do not grow: those of SN-GAN, WGAN-GP and SAGAN, by options.

Miyato et al. 2018, arXiv:1802.05957, tables 4 to 6; Gulrajani et al. 2017, arXiv:1704.00028; Zhang et al. 2019,
arXiv:1805.08318. R is the resolution of the pictures, S a side of feature maps.

G   dense to 4x4; a block that doubles the side up to R; norm, activation, 3x3 convolution.
D   a block for each of the sides R, R/2, ... 4; activation, sum over pixels, dense. The first ones halve the side,
    until it is 8 (32x32, table 4), 2 (64x64, as in the authors' code) or 4 (others, table 6).

A block of G gives, and D's block for S gives, min(fmap_base // S, fmap_max) maps. The papers' networks: fmap_base 64 R,
fmap_max 1024; and for 32x32 fmap_base 8192, fmap_max 256 (SN-GAN's G) or 128 (all others).

A block adds a shortcut, a 1x1 convolution (none in D where neither side nor maps change), to two 3x3 convolutions, each
after norm and activation; D's first block, which takes pictures, begins with a convolution and has no norm. The initial
gain is sqrt(2) for these two and 1 for all others. Differs from the official code: no convolution has a bias that a
batch norm takes back, which is all in G but the last one; D's dense layer has one at 32x32 too.
"""

from __future__ import annotations

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
from progan.nn.layers import Conv2d, Scheme, chosen
from progan.nn.norms import takes_bias
from progan.nn.ops import downscale2d, upscale2d
from progan.nn.progressive import OUTPUTS, Parts

LAST_SIDES = {32: 8, 64: 2}
"""Sides of D's last maps, by resolution; elsewhere 4."""

GLOBAL_POOLS = {"sum": lambda x: x.sum((2, 3)), "mean": lambda x: x.mean((2, 3))}
"""D's features, [N, C, H, W] -> [N, C]: SN-GAN and SAGAN take the sum, WGAN-GP the mean."""


class UpBlock(nn.Module):
    """G: norm, activation, x2, conv, norm, activation, conv; plus a shortcut. [N, c_in, S/2, S/2] -> [N, c_out, S, S].

    Attention, where wanted at S, follows.
    """

    def __init__(self, c_in: int, c_out: int, side: int, parts: Parts) -> None:
        super().__init__()
        # A map's bias on the sum stays one along all shortcuts; the norm before the picture takes it back too.
        bias = takes_bias(parts.norm)
        self.activation0 = parts.after(c_in)
        self.conv0 = Conv2d(c_in, c_out, 3, scheme=parts.scheme, bias=bias)
        self.activation1 = parts.after(c_out)
        self.conv1 = Conv2d(c_out, c_out, 3, scheme=parts.scheme, bias=bias)
        self.shortcut = Conv2d(c_in, c_out, 1, 1.0, parts.scheme, bias=bias)
        self.attention, self.side = parts.gather(c_out, side), side

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv0(upscale2d(self.activation0(x)))
        y = self.conv1(self.activation1(y))
        y = y + upscale2d(self.shortcut(x))  # convolved after x2 in the paper: the same numbers, four times the work
        return y if self.attention is None else self.attention(y)  # type: ignore[no-any-return]

    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        count = sum(layer.macs(self.side) for layer in (self.conv0, self.conv1)) + self.shortcut.macs(self.side // 2)
        return count if self.attention is None else count + self.attention.macs(self.side)


class FirstBlock(nn.Module):
    """D's first: conv, activation, conv, 2x2 mean; plus a shortcut. [N, c_in, S, S] -> [N, c_out, S/2, S/2]."""

    def __init__(self, c_in: int, c_out: int, side: int, parts: Parts) -> None:
        super().__init__()
        self.conv0 = Conv2d(c_in, c_out, 3, scheme=parts.scheme)
        self.activation = without_norm(parts).after(c_out)
        self.conv1 = Conv2d(c_out, c_out, 3, scheme=parts.scheme)
        self.shortcut = Conv2d(c_in, c_out, 1, 1.0, parts.scheme)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.activation(self.conv0(x)))
        return downscale2d(y) + self.shortcut(downscale2d(x))  # type: ignore[no-any-return]

    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.conv0.macs(self.side) + self.conv1.macs(self.side) + self.shortcut.macs(self.side // 2)


class DownBlock(nn.Module):
    """D: norm, activation, conv, norm, activation, conv, 2x2 mean if `halve`; plus a shortcut. [N, c_in, S, S] ->
    [N, c_out, S/2, S/2].

    Attention, where wanted at S, comes first. wide: c_out maps between the convolutions (SAGAN), not c_in (SN-GAN).
    """

    def __init__(self, c_in: int, c_out: int, side: int, halve: bool, wide: bool, parts: Parts) -> None:
        super().__init__()
        hidden = c_out if wide else c_in
        self.attention, self.side, self.halve = parts.gather(c_in, side), side, halve
        self.activation0 = parts.after(c_in)
        self.conv0 = Conv2d(c_in, hidden, 3, scheme=parts.scheme, bias=takes_bias(parts.norm))
        self.activation1 = parts.after(hidden)
        self.conv1 = Conv2d(hidden, c_out, 3, scheme=parts.scheme)
        self.shortcut = Conv2d(c_in, c_out, 1, 1.0, parts.scheme) if halve or c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.attention is None else self.attention(x)
        y = self.conv0(self.activation0(x))
        y = self.conv1(self.activation1(y))
        if self.halve:
            y, x = downscale2d(y), downscale2d(x)  # the mean comes after the 1x1 convolution in the paper: as above
        return y + (x if self.shortcut is None else self.shortcut(x))  # type: ignore[no-any-return]

    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        count = self.conv0.macs(self.side) + self.conv1.macs(self.side)
        count += 0 if self.shortcut is None else self.shortcut.macs(self.side // 2 if self.halve else self.side)
        return count if self.attention is None else count + self.attention.macs(self.side)


class ResnetGenerator(FixedNetwork):
    """Latents to pictures: `G(z)`, [N, latent_size] -> [N, channels, max_res, max_res].

    max_res: 16, 32, ... 256. fmap_base, fmap_max: see the module. norm, activation, leaky_slope: as in `Activation`.
    weights, init, spectral_*: as in `Scheme`. output: one of OUTPUTS, on the last convolution. latent_norm: normalise
    the latents first. attention: the resolution whose block it ends; 0 for none. Defaults: SN-GAN of 64x64.
    """

    def __init__(
        self,
        max_res: int = 64,
        channels: int = 3,
        latent_size: int = 128,
        fmap_base: int = 4096,
        fmap_max: int = 1024,
        weights: str = "plain",
        init: str = "xavier",
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
        check_attention(attention, self.resolutions[1:])
        self.latent_size, self.latent_norm = latent_size, latent_norm
        chosen("output", output, OUTPUTS)
        check_latents(latent_size)
        self.output = output
        maps = [feature_maps(side, fmap_base, fmap_max) for side in self.resolutions]
        self.blocks = nn.ModuleDict({"4x4": LatentToMaps(latent_size, maps[0], 4, 1.0, scheme)})
        for side, c_in, c_out in zip(self.resolutions[1:], maps, maps[1:]):
            self.blocks[name_of(side)] = UpBlock(c_in, c_out, side, parts)
        self.activation = parts.after(maps[-1])
        self.rgb = Conv2d(maps[-1], channels, 3, 1.0, scheme, affine=True)

    def forward(self, z: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, psi: float = 1.0) -> Tensor:
        """z: [N, latent_size] -> images [N, channels, R, R]. psi: factor on the (normalised) latents. stage: None or
        the top one. alpha: without effect, nothing fades here.
        """
        self.check_stage(stage)
        x = self.through_blocks(starting_point(z, psi, self.latent_norm))
        return OUTPUTS[self.output](self.rgb(self.activation(x)))

    def macs(self, stage: int | None = None) -> int:
        """Multiply-accumulates of one image's forward pass."""
        self.check_stage(stage)
        return self.macs_of_blocks() + self.rgb.macs(self.max_res)


class ResnetDiscriminator(FixedNetwork):
    """Pictures to scores: `D(images)`, [N, channels, max_res, max_res] -> [N], linear.

    Options as in `ResnetGenerator`, and: global_pool: one of GLOBAL_POOLS. d_wide: see `DownBlock`. attention: the
    resolution whose block it begins. mbstd_group: wanted group of the minibatch standard deviation, a map more before
    the pool; 0 or 1 leave it out. minibatch_discrimination: kernels after the pool, 0 for none. Defaults: SN-GAN of
    64x64.
    """

    def __init__(
        self,
        max_res: int = 64,
        channels: int = 3,
        fmap_base: int = 4096,
        fmap_max: int = 1024,
        weights: str = "spectral",
        init: str = "xavier",
        spectral_gain: float = 1.0,
        spectral_learned: bool = False,
        norm: str = "none",
        activation: str = "relu",
        leaky_slope: float = 0.2,
        attention: int = 0,
        attention_form: str = "B",
        mbstd_group: int = 0,
        minibatch_discrimination: int = 0,
        global_pool: str = "sum",
        d_wide: bool = False,
    ) -> None:
        super().__init__(max_res, channels)
        scheme = Scheme(weights, init, spectral_gain, spectral_learned)
        parts = Parts(scheme, norm, activation, leaky_slope, attention, attention_form)
        names, last = self.resolutions[::-1], LAST_SIDES.get(max_res, 4)
        check_attention(attention, [side for side in names[1:] if side >= last])
        maps = [feature_maps(side, fmap_base, fmap_max) for side in names]
        self.blocks = nn.ModuleDict({name_of(max_res): FirstBlock(channels, maps[0], max_res, parts)})
        for name, c_in, c_out in zip(names[1:], maps, maps[1:]):
            side = max(name, last)
            self.blocks[name_of(name)] = DownBlock(c_in, c_out, side, side > last, d_wide, parts)
        self.activation = without_norm(parts).after(maps[-1])
        chosen("global_pool", global_pool, GLOBAL_POOLS)
        self.pool = global_pool
        self.mbstd_group, self.stddev = mbstd_group, Stddev(mbstd_group)
        self.head = Head(maps[-1] + self.stddev.maps, minibatch_discrimination, scheme)

    def forward(
        self, images: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, group: int | None = None
    ) -> Tensor:
        """images: [N, channels, R, R] -> scores [N]. stage, alpha: as in `ResnetGenerator.forward`. group: size of the
        minibatch standard deviation's groups, default the largest divisor of N up to `mbstd_group`.
        """
        self.check_stage(stage)
        x = self.through_blocks(images)
        return self.head(GLOBAL_POOLS[self.pool](self.stddev(self.activation(x), group)))  # type: ignore[no-any-return]

    def macs(self, stage: int | None = None) -> int:
        """Multiply-accumulates of one image's forward pass."""
        self.check_stage(stage)
        return self.macs_of_blocks() + self.head.macs()
