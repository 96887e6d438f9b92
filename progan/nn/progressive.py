"""Generator and discriminator of progressive growing. Karras et al. 2018, table 2 and appendix A.1.

All depths are built once and growth is an argument: `stage` = log2(R) - 2 picks the resolution R (0 is 4x4),
`alpha` is the weight of the new resolution while it fades in. Hence parameters never appear or vanish, and a
checkpoint's keys never change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progan.nn.layers import Conv2d, LatentTo4x4, Linear, Scaled
from progan.nn.ops import blend, downscale2d, largest_group, minibatch_stddev, pixel_norm, upscale2d
from progan.schedule import stage_of

POOLS = ("before", "after")


def feature_maps(index: int, base: int = 8192, maximum: int = 512, decay: float = 1.0) -> int:
    """min(base / 2^(index * decay), maximum); the block that works at R x R pixels has index log2(R) - 1."""
    return min(int(base / 2.0 ** (index * decay)), maximum)


def resolutions(max_res: int) -> list[int]:
    """[4, 8, ..., max_res]. Raises ValueError unless max_res is a power of two in 4..1024."""
    return [4 << s for s in range(stage_of(max_res) + 1)]


def _name(resolution: int) -> str:
    return f"{resolution}x{resolution}"


def is_one(alpha: float | Tensor) -> bool:
    """Whether the old branch can be left out. A tensor is not looked at: that would wait for the device."""
    return not isinstance(alpha, Tensor) and alpha == 1


class ProgressiveNetwork(nn.Module):
    """What both networks share: a block and an RGB layer a resolution, first to last, and ways to ask about a stage."""

    blocks: nn.ModuleDict
    rgb: nn.ModuleDict

    def __init__(self, max_res: int, channels: int) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"pictures have 1 or 3 channels, not {channels}")
        self.resolutions = resolutions(max_res)
        self.max_res, self.channels = max_res, channels

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights anew from one generator, in order of registration."""
        for module in self.modules():
            if isinstance(module, Scaled):
                module.reset_parameters(generator)

    def stage_parameters(self, stage: int) -> list[nn.Parameter]:
        """The parameters that training may have moved up to a stage: its blocks and RGB layers and all those below."""
        names = [_name(r) for r in self.resolutions[: stage + 1]]
        return [p for name in names for table in (self.blocks, self.rgb) for p in table[name].parameters()]

    def macs(self, stage: int) -> int:
        """Multiply-accumulates of one image's forward pass at a stage, faded in."""
        resolution = self.resolutions[stage]
        blocks = sum(self.block(s).macs(self.resolutions[s]) for s in range(stage + 1))
        return blocks + self.rgb_layer(stage).macs(resolution)

    def block(self, stage: int) -> GeneratorBlock | DiscriminatorBlock | FirstBlock | LastBlock:
        """The block that works at a stage's resolution."""
        return self.blocks[_name(self.resolutions[stage])]  # type: ignore[return-value]

    def rgb_layer(self, stage: int) -> Conv2d:
        """The 1x1 convolution between feature maps and pictures at a stage's resolution."""
        return self.rgb[_name(self.resolutions[stage])]  # type: ignore[return-value]


class Activation(nn.Module):
    """Leaky ReLU, then pixel norm where wanted. [N, C, H, W] -> same shape."""

    def __init__(self, slope: float, pixel_norm: bool) -> None:
        super().__init__()
        self.slope, self.pixel_norm = slope, pixel_norm

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(x, self.slope)
        return pixel_norm(y) if self.pixel_norm else y


class FirstBlock(nn.Module):
    """G at 4x4: dense, conv. [N, latent_size] -> [N, c_out, 4, 4]."""

    def __init__(self, latent_size: int, c_out: int, activation: Activation, equalized: bool) -> None:
        super().__init__()
        self.dense = LatentTo4x4(latent_size, c_out, equalized=equalized)
        self.conv = Conv2d(c_out, c_out, 3, equalized=equalized)
        self.activation = activation

    def forward(self, z: Tensor) -> Tensor:
        x = self.activation(self.dense(z))
        return self.activation(self.conv(x))  # type: ignore[no-any-return]

    def macs(self, resolution: int) -> int:
        return self.dense.macs() + self.conv.macs(resolution)


class GeneratorBlock(nn.Module):
    """G from 8x8 up: upscale, conv, conv. [N, c_in, H, W] -> [N, c_out, 2H, 2W]."""

    def __init__(self, c_in: int, c_out: int, activation: Activation, equalized: bool) -> None:
        super().__init__()
        self.conv0 = Conv2d(c_in, c_out, 3, equalized=equalized)
        self.conv1 = Conv2d(c_out, c_out, 3, equalized=equalized)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.conv0(upscale2d(x)))
        return self.activation(self.conv1(x))  # type: ignore[no-any-return]

    def macs(self, resolution: int) -> int:
        return self.conv0.macs(resolution) + self.conv1.macs(resolution)


class Generator(ProgressiveNetwork):
    """Latents to pictures: `G(z, stage, alpha)`, [N, latent_size] -> [N, channels, R, R], linear output around [-1, 1].

    max_res: top resolution R, a power of two in 4..1024. fmap_base, fmap_max, fmap_decay: see `feature_maps`.
    pixel_norm: normalise latents and every layer's output. equalized: equalized learning rate.
    Every layer is conv, bias, leaky ReLU, pixel norm, in this order. Defaults: the paper's network for 1024x1024.
    """

    def __init__(
        self,
        max_res: int = 1024,
        channels: int = 3,
        latent_size: int = 512,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        fmap_decay: float = 1.0,
        pixel_norm: bool = True,
        equalized: bool = True,
        leaky_slope: float = 0.2,
    ) -> None:
        super().__init__(max_res, channels)
        if latent_size < 1:
            raise ValueError(f"the latent size {latent_size} is below 1")
        self.latent_size, self.pixel_norm, self.slope = latent_size, pixel_norm, leaky_slope
        maps = [feature_maps(s + 1, fmap_base, fmap_max, fmap_decay) for s in range(len(self.resolutions))]
        activation = Activation(leaky_slope, pixel_norm)
        self.blocks = nn.ModuleDict({"4x4": FirstBlock(latent_size, maps[0], activation, equalized)})
        for s, r in enumerate(self.resolutions[1:], 1):
            self.blocks[_name(r)] = GeneratorBlock(maps[s - 1], maps[s], activation, equalized)
        self.rgb = nn.ModuleDict(
            {_name(r): Conv2d(m, channels, 1, gain=1, equalized=equalized) for r, m in zip(self.resolutions, maps)}
        )

    def forward(self, z: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, psi: float = 1.0) -> Tensor:
        """z: [N, latent_size] -> images [N, channels, R, R]. stage: default the top one. alpha: 0 the upscaled old
        resolution, 1 the new one alone. psi: factor on the normalised latents; 1 as trained, 0 the picture of the
        biases.
        """
        stage = len(self.resolutions) - 1 if stage is None else stage
        x = below = psi * (pixel_norm(z) if self.pixel_norm else z)
        for s in range(stage + 1):
            below, x = x, self.block(s)(x)  # [N, maps, R_s, R_s]
        images: Tensor = self.rgb_layer(stage)(x)
        if stage == 0 or is_one(alpha):
            return images
        return blend(upscale2d(self.rgb_layer(stage - 1)(below)), images, alpha)


class DiscriminatorBlock(nn.Module):
    """D down to 8x8: conv, conv, downscale. [N, c_in, H, W] -> [N, c_out, H/2, W/2]."""

    def __init__(self, c_in: int, c_out: int, slope: float, pool: str, equalized: bool) -> None:
        super().__init__()
        self.conv0 = Conv2d(c_in, c_in, 3, equalized=equalized)
        self.conv1 = Conv2d(c_in, c_out, 3, equalized=equalized)
        self.slope, self.pool = slope, pool

    def forward(self, x: Tensor, group: int) -> Tensor:
        x = F.leaky_relu(self.conv0(x), self.slope)
        if self.pool == "before":
            return F.leaky_relu(downscale2d(self.conv1(x)), self.slope)
        return downscale2d(F.leaky_relu(self.conv1(x), self.slope))

    def macs(self, resolution: int) -> int:
        return self.conv0.macs(resolution) + self.conv1.macs(resolution)


class LastBlock(nn.Module):
    """D at 4x4: minibatch stddev, conv, dense, dense. [N, c_in, 4, 4] -> scores [N]."""

    def __init__(self, c_in: int, c_out: int, slope: float, stddev: bool, equalized: bool) -> None:
        super().__init__()
        self.conv = Conv2d(c_in + stddev, c_in, 3, equalized=equalized)
        self.dense0 = Linear(c_in * 16, c_out, equalized=equalized)
        self.dense1 = Linear(c_out, 1, gain=1, equalized=equalized)
        self.slope, self.stddev = slope, stddev

    def forward(self, x: Tensor, group: int) -> Tensor:
        x = minibatch_stddev(x, group) if self.stddev else x
        x = F.leaky_relu(self.conv(x), self.slope)
        x = F.leaky_relu(self.dense0(x.flatten(1)), self.slope)
        return self.dense1(x)[:, 0]  # type: ignore[no-any-return]

    def macs(self, resolution: int) -> int:
        return self.conv.macs(resolution) + self.dense0.macs() + self.dense1.macs()


class Discriminator(ProgressiveNetwork):
    """Pictures to scores: `D(images, stage, alpha)`, [N, channels, R, R] -> [N], linear.

    fmap_*, equalized, leaky_slope: as in `Generator`. mbstd_group: wanted group of the minibatch standard
    deviation; 0 or 1 leave the layer out. d_pool: take the 2x2 mean `before` the activation (official TensorFlow
    code) or `after` it (the paper's own code and its released networks).
    """

    def __init__(
        self,
        max_res: int = 1024,
        channels: int = 3,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        fmap_decay: float = 1.0,
        equalized: bool = True,
        mbstd_group: int = 4,
        d_pool: str = "before",
        leaky_slope: float = 0.2,
    ) -> None:
        super().__init__(max_res, channels)
        if d_pool not in POOLS:
            raise ValueError(f"d_pool is `before` or `after` (the activation), not `{d_pool}`")
        self.mbstd_group, self.slope = mbstd_group, leaky_slope
        maps = [feature_maps(s, fmap_base, fmap_max, fmap_decay) for s in range(len(self.resolutions) + 1)]
        self.blocks = nn.ModuleDict({"4x4": LastBlock(maps[1], maps[0], leaky_slope, mbstd_group > 1, equalized)})
        for s, r in enumerate(self.resolutions[1:], 1):
            self.blocks[_name(r)] = DiscriminatorBlock(maps[s + 1], maps[s], leaky_slope, d_pool, equalized)
        self.rgb = nn.ModuleDict(
            {_name(r): Conv2d(channels, m, 1, equalized=equalized) for r, m in zip(self.resolutions, maps[1:])}
        )

    def forward(
        self, images: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, group: int | None = None
    ) -> Tensor:
        """images: [N, channels, R, R] -> scores [N]. stage, alpha: as in `Generator.forward`. group: size of the
        minibatch standard deviation's groups, default the largest divisor of N up to `mbstd_group`; the parts of a
        split batch say it.
        """
        stage = len(self.resolutions) - 1 if stage is None else stage
        group = group or largest_group(len(images), self.mbstd_group)
        x: Tensor = self.block(stage)(self._from_rgb(images, stage), group)
        if stage > 0 and not is_one(alpha):
            x = blend(self._from_rgb(downscale2d(images), stage - 1), x, alpha)  # [N, maps, R/2, R/2]
        for s in reversed(range(stage)):
            x = self.block(s)(x, group)
        return x

    def _from_rgb(self, images: Tensor, stage: int) -> Tensor:
        return F.leaky_relu(self.rgb_layer(stage)(images), self.slope)
