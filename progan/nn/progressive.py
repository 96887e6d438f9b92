"""Generator and discriminator of progressive growing. Karras et al. 2018, table 2 and appendix A.1.

All depths are built once and growth is an argument: `stage` = log2(R) - 2 picks the resolution R (0 is 4x4),
`alpha` is the weight of the new resolution while it fades in. Hence parameters never appear or vanish, and a
checkpoint's keys never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from progan.nn.attention import FORMS, SelfAttention
from progan.nn.layers import Conv2d, LatentTo4x4, Linear, Scheme, chosen, draw
from progan.nn.norms import Activation, MinibatchDiscrimination, takes_bias
from progan.nn.ops import blend, downscale2d, largest_group, minibatch_stddev, pixel_norm, upscale2d
from progan.schedule import stage_of

POOLS = ("before", "after")
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": lambda x: 2 * torch.sigmoid(x) - 1,
}
"""G's last step. `sigmoid` is the [0, 1] picture of Xiang & Li in our units, -1 to 1."""


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


@dataclass(frozen=True)
class Parts:
    """What the blocks of a network are made of.

    scheme: of all weights. norm, activation, slope: see `norms.Activation`. attention: the resolution that has it, 0
    for none. form: of attention.
    """

    scheme: Scheme
    norm: str
    activation: str
    slope: float
    attention: int
    form: str

    def conv(self, c_in: int, c_out: int) -> Conv2d:
        """A hidden 3x3 convolution."""
        return Conv2d(c_in, c_out, 3, scheme=self.scheme, bias=takes_bias(self.norm))

    def after(self, maps: int) -> Activation:
        """Norm and activation of so many maps."""
        return Activation(self.norm, self.activation, maps, self.slope, self.scheme.init)

    def gather(self, maps: int, resolution: int) -> SelfAttention | None:
        """Attention over so many maps, at its resolution."""
        return SelfAttention(maps, self.form, self.scheme) if resolution == self.attention else None

    def check(self, resolutions: list[int]) -> None:
        """Raises ValueError where attention has no such form, or no block its resolution."""
        chosen("the form of attention", self.form, FORMS)
        if self.attention and self.attention not in resolutions[1:]:
            raise ValueError(
                f"attention is at a resolution between 8 and {resolutions[-1]}, or 0 for none, not {self.attention}"
            )

    @property
    def standard(self) -> bool:
        """Whether weights, activation and attention are among those that `explicit` and `inference` know."""
        weights = self.scheme.weights in ("equalized", "plain")
        return weights and self.activation == "lrelu" and not self.attention


class ProgressiveNetwork(nn.Module):
    """What both networks share: tables of what each resolution has (a block, an RGB layer), first to last, and ways to
    ask about a stage. All children are such tables.
    """

    blocks: nn.ModuleDict
    rgb: nn.ModuleDict

    def __init__(self, max_res: int, channels: int, parts: Parts) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"pictures have 1 or 3 channels, not {channels}")
        self.resolutions = resolutions(max_res)
        self.max_res, self.channels, self.parts, self.slope = max_res, channels, parts, parts.slope
        parts.check(self.resolutions)

    def table(self, modules: Iterable[nn.Module]) -> nn.ModuleDict:
        """One module a resolution, by name."""
        return nn.ModuleDict({_name(r): module for r, module in zip(self.resolutions, modules)})

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all weights anew from one generator, in order of registration."""
        draw(self, generator)

    def stage_parameters(self, stage: int) -> list[nn.Parameter]:
        """The parameters that training may have moved up to a stage: its blocks and RGB layers and all those below."""
        names = [_name(r) for r in self.resolutions[: stage + 1]]
        tables = cast("list[nn.ModuleDict]", list(self.children()))
        return [p for name in names for table in tables for p in table[name].parameters()]

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


class FirstBlock(nn.Module):
    """G at 4x4: dense, conv. [N, latent_size] -> [N, c_out, 4, 4]."""

    def __init__(self, latent_size: int, c_out: int, parts: Parts) -> None:
        super().__init__()
        self.dense = LatentTo4x4(latent_size, c_out, scheme=parts.scheme, bias=takes_bias(parts.norm))
        self.after0 = parts.after(c_out)
        self.conv = parts.conv(c_out, c_out)
        self.after1 = parts.after(c_out)

    def forward(self, z: Tensor) -> Tensor:
        x = self.after0(self.dense(z))
        return self.after1(self.conv(x))  # type: ignore[no-any-return]

    def macs(self, resolution: int) -> int:
        return self.dense.macs() + self.conv.macs(resolution)


class GeneratorBlock(nn.Module):
    """G from 8x8 up: upscale, conv, conv, attention where it is wanted. [N, c_in, H, W] -> [N, c_out, 2H, 2W]."""

    def __init__(self, c_in: int, c_out: int, resolution: int, parts: Parts) -> None:
        super().__init__()
        self.conv0 = parts.conv(c_in, c_out)
        self.after0 = parts.after(c_out)
        self.conv1 = parts.conv(c_out, c_out)
        self.after1 = parts.after(c_out)
        self.attention = parts.gather(c_out, resolution)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after0(self.conv0(upscale2d(x)))
        x = self.after1(self.conv1(x))
        return x if self.attention is None else self.attention(x)

    def macs(self, resolution: int) -> int:
        gather = 0 if self.attention is None else self.attention.macs(resolution)
        return self.conv0.macs(resolution) + self.conv1.macs(resolution) + gather


class Generator(ProgressiveNetwork):
    """Latents to pictures: `G(z, stage, alpha)`, [N, latent_size] -> [N, channels, R, R], -1 black to 1 white.

    max_res: top resolution R, a power of two in 4..1024. fmap_base, fmap_max, fmap_decay: see `feature_maps`.
    weights, init, spectral_*: see `Scheme`. norm, activation, leaky_slope: after every hidden layer, see
    `norms.Activation`. output: one of OUTPUTS; `linear` is not bounded. latent_norm: normalise latents. attention: the
    resolution after whose block it stands (before its RGB layer), 0 for none; attention_form: see `attention`.
    Defaults: the paper's network for 1024x1024; every layer is conv, bias, leaky ReLU, pixel norm, in this order.
    """

    def __init__(
        self,
        max_res: int = 1024,
        channels: int = 3,
        latent_size: int = 512,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        fmap_decay: float = 1.0,
        weights: str = "equalized",
        norm: str = "pixel",
        activation: str = "lrelu",
        output: str = "linear",
        latent_norm: bool = True,
        init: str = "he",
        spectral_gain: float = 1.0,
        spectral_learned: bool = False,
        attention: int = 0,
        attention_form: str = "B",
        leaky_slope: float = 0.2,
    ) -> None:
        scheme = Scheme(weights, init, spectral_gain, spectral_learned)
        super().__init__(max_res, channels, Parts(scheme, norm, activation, leaky_slope, attention, attention_form))
        if latent_size < 1:
            raise ValueError(f"the latent size {latent_size} is below 1")
        chosen("output", output, OUTPUTS)
        self.latent_size, self.latent_norm, self.output = latent_size, latent_norm, output
        maps = [feature_maps(s + 1, fmap_base, fmap_max, fmap_decay) for s in range(len(self.resolutions))]
        self.blocks = nn.ModuleDict({"4x4": FirstBlock(latent_size, maps[0], self.parts)})
        for s, r in enumerate(self.resolutions[1:], 1):
            self.blocks[_name(r)] = GeneratorBlock(maps[s - 1], maps[s], r, self.parts)
        self.rgb = self.table([Conv2d(m, channels, 1, gain=1, scheme=scheme, affine=True) for m in maps])

    @property
    def pixel_norm(self) -> bool:
        """Whether every layer's output is normalised pixel by pixel."""
        return self.parts.norm == "pixel"

    @property
    def standard(self) -> bool:
        """Whether `training.explicit` and `nn.inference` compute this network."""
        normed = self.parts.norm in ("pixel", "none") and self.latent_norm == self.pixel_norm
        return normed and self.parts.standard and self.output == "linear"

    def forward(self, z: Tensor, stage: int | None = None, alpha: float | Tensor = 1.0, psi: float = 1.0) -> Tensor:
        """z: [N, latent_size] -> images [N, channels, R, R]. stage: default the top one. alpha: 0 the upscaled old
        resolution, 1 the new one alone. psi: factor on the normalised latents; 1 as trained, 0 the picture of the
        biases.
        """
        stage = len(self.resolutions) - 1 if stage is None else stage
        x = below = psi * (pixel_norm(z) if self.latent_norm else z)
        for s in range(stage + 1):
            below, x = x, self.block(s)(x)  # [N, maps, R_s, R_s]
        images = self._to_rgb(x, stage)
        if stage == 0 or is_one(alpha):
            return images
        return blend(upscale2d(self._to_rgb(below, stage - 1)), images, alpha)

    def _to_rgb(self, x: Tensor, stage: int) -> Tensor:
        return OUTPUTS[self.output](self.rgb_layer(stage)(x))


class DiscriminatorBlock(nn.Module):
    """D down to 8x8: attention where it is wanted, conv, conv, downscale. [N, c_in, H, W] -> [N, c_out, H/2, W/2]."""

    def __init__(self, c_in: int, c_out: int, resolution: int, pool: str, parts: Parts) -> None:
        super().__init__()
        self.attention = parts.gather(c_in, resolution)
        self.conv0 = parts.conv(c_in, c_in)
        self.after0 = parts.after(c_in)
        self.conv1 = parts.conv(c_in, c_out)
        self.after1 = parts.after(c_out)
        self.slope, self.pool = parts.slope, pool

    def forward(self, x: Tensor, group: int) -> Tensor:
        x = x if self.attention is None else self.attention(x)
        x = self.after0(self.conv0(x))
        if self.pool == "before":
            return self.after1(downscale2d(self.conv1(x)))  # type: ignore[no-any-return]
        return downscale2d(self.after1(self.conv1(x)))

    def macs(self, resolution: int) -> int:
        gather = 0 if self.attention is None else self.attention.macs(resolution)
        return self.conv0.macs(resolution) + self.conv1.macs(resolution) + gather


class LastBlock(nn.Module):
    """D at 4x4: minibatch stddev, conv, minibatch discrimination, dense, dense. [N, c_in, 4, 4] -> scores [N].

    kernels: of minibatch discrimination, 0 for none. Of the two that compare samples, each may be left out.
    """

    def __init__(self, c_in: int, c_out: int, stddev: bool, kernels: int, parts: Parts) -> None:
        super().__init__()
        self.conv = parts.conv(c_in + stddev, c_in)
        self.after0 = parts.after(c_in)
        self.compare = MinibatchDiscrimination(c_in * 16, kernels, scheme=parts.scheme) if kernels else None
        self.dense0 = Linear(c_in * 16 + kernels, c_out, scheme=parts.scheme, bias=takes_bias(parts.norm))
        self.after1 = parts.after(c_out)
        self.dense1 = Linear(c_out, 1, gain=1, scheme=parts.scheme, affine=True)
        self.slope, self.stddev = parts.slope, stddev

    def forward(self, x: Tensor, group: int) -> Tensor:
        x = minibatch_stddev(x, group) if self.stddev else x
        x = self.after0(self.conv(x)).flatten(1)
        x = x if self.compare is None else self.compare(x)
        return self.dense1(self.after1(self.dense0(x)))[:, 0]  # type: ignore[no-any-return]

    def macs(self, resolution: int) -> int:
        compare = 0 if self.compare is None else self.compare.macs()
        return self.conv.macs(resolution) + compare + self.dense0.macs() + self.dense1.macs()


class Discriminator(ProgressiveNetwork):
    """Pictures to scores: `D(images, stage, alpha)`, [N, channels, R, R] -> [N], linear.

    fmap_*, weights, init, spectral_*, norm, activation, leaky_slope, attention_form: as in `Generator`; no norm after
    the RGB layers. attention: the resolution before whose block it stands, 0 for none. mbstd_group: wanted group of the
    minibatch standard deviation; 0 or 1 leave the layer out. minibatch_discrimination: its kernels, 0 for none; a batch
    must then not be split. d_pool: take the 2x2 mean `before` the activation (official TensorFlow code) or `after` it
    (the paper's own code and its released networks); a batch or layer norm stands next to the activation.
    """

    def __init__(
        self,
        max_res: int = 1024,
        channels: int = 3,
        fmap_base: int = 8192,
        fmap_max: int = 512,
        fmap_decay: float = 1.0,
        weights: str = "equalized",
        norm: str = "none",
        activation: str = "lrelu",
        init: str = "he",
        spectral_gain: float = 1.0,
        spectral_learned: bool = False,
        attention: int = 0,
        attention_form: str = "B",
        mbstd_group: int = 4,
        minibatch_discrimination: int = 0,
        d_pool: str = "before",
        leaky_slope: float = 0.2,
    ) -> None:
        scheme = Scheme(weights, init, spectral_gain, spectral_learned)
        super().__init__(max_res, channels, Parts(scheme, norm, activation, leaky_slope, attention, attention_form))
        if d_pool not in POOLS:
            raise ValueError(f"d_pool is `before` or `after` (the activation), not `{d_pool}`")
        self.mbstd_group, self.minibatch_discrimination = mbstd_group, minibatch_discrimination
        maps = [feature_maps(s, fmap_base, fmap_max, fmap_decay) for s in range(len(self.resolutions) + 1)]
        last = LastBlock(maps[1], maps[0], mbstd_group > 1, minibatch_discrimination, self.parts)
        self.blocks = nn.ModuleDict({"4x4": last})
        for s, r in enumerate(self.resolutions[1:], 1):
            self.blocks[_name(r)] = DiscriminatorBlock(maps[s + 1], maps[s], r, d_pool, self.parts)
        self.rgb = self.table([Conv2d(channels, m, 1, scheme=scheme) for m in maps[1:]])
        self.after_rgb = self.table([Activation("none", activation, m, leaky_slope) for m in maps[1:]])

    @property
    def standard(self) -> bool:
        """Whether `training.explicit` computes this network."""
        return self.parts.standard and self.parts.norm == "none" and not self.minibatch_discrimination

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
        return self.after_rgb[_name(self.resolutions[stage])](self.rgb_layer(stage)(images))  # type: ignore[no-any-return]
