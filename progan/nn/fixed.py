"""What networks that do not grow share: one resolution, the choice of their layers, the end of a discriminator."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from progan.nn.layers import Linear, Scheme, draw
from progan.nn.norms import MinibatchDiscrimination
from progan.nn.ops import largest_group, minibatch_stddev, pixel_norm
from progan.nn.progressive import Parts, resolutions


def feature_maps(side: int, base: int, maximum: int) -> int:
    """min(base // side, maximum), the maps of side x side pixels. Raises ValueError where that is none."""
    maps = min(base // side, maximum)
    if maps < 1:
        raise ValueError(f"fmap_base {base} and fmap_max {maximum} leave no feature map at {side}x{side}")
    return maps


def name_of(side: int) -> str:
    return f"{side}x{side}"


def without_norm(parts: Parts) -> Parts:
    """The same for layers that see pictures or make scores."""
    return replace(parts, norm="none")


def check_latents(size: int) -> None:
    """Raises ValueError for a size below 1."""
    if size < 1:
        raise ValueError(f"the latent size {size} is below 1")


def check_attention(wanted: int, sides: list[int]) -> None:
    """Raises ValueError unless attention is wanted at one of `sides`, or not at all (0)."""
    if wanted not in (0, *sides):
        choice = ", ".join(map(str, sorted(sides)))
        raise ValueError(f"attention is 0 (none) or at one of {choice} in this network, not at {wanted}")


class FixedNetwork(nn.Module):
    """A network with one stage, the top one of `resolutions`; to others it answers with ValueError. `blocks` come one
    after another, each knows its `macs()`.

    standard: whether the layers are those that the hand-written derivatives and the faster drawing know.
    """

    standard = False
    blocks: nn.ModuleDict

    def __init__(self, max_res: int, channels: int) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"pictures have 1 or 3 channels, not {channels}")
        if max_res not in (16, 32, 64, 128, 256):
            raise ValueError(f"the resolution {max_res} of a network that does not grow is not 16, 32, 64, 128 or 256")
        self.resolutions = resolutions(max_res)
        self.max_res, self.channels = max_res, channels

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw all values anew from one generator, in order of registration; clear what training has counted."""
        draw(self, generator)

    def stage_parameters(self, stage: int | None = None) -> list[nn.Parameter]:
        """All parameters."""
        self.check_stage(stage)
        return list(self.parameters())

    def through_blocks(self, x: Tensor) -> Tensor:
        """What the last block makes of the first one's input."""
        for block in self.blocks.values():
            x = block(x)  # [N, maps, S, S]
        return x

    def macs_of_blocks(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(block.macs() for block in self.blocks.values())  # type: ignore[operator]

    def check_stage(self, stage: int | None) -> None:
        """Raises ValueError unless the stage is the top one, or None, which means it."""
        top = len(self.resolutions) - 1
        if stage not in (None, top):
            raise ValueError(
                f"a network that does not grow has one stage, {top} ({name_of(self.max_res)}), not {stage}"
            )


def starting_point(z: Tensor, psi: float, normalise: bool) -> Tensor:
    """The latents as G's first layer takes them. [N, latent_size] -> same shape."""
    return psi * (pixel_norm(z) if normalise else z)


class LatentToMaps(nn.Module):
    """The dense layer from latents to side x side maps; its bias is one number a unit. [N, c_in] -> [N, c_out, side,
    side].
    """

    def __init__(self, c_in: int, c_out: int, side: int, gain: float, scheme: Scheme, *, bias: bool = True) -> None:
        super().__init__()
        self.dense = Linear(c_in, c_out * side**2, gain, scheme, bias=bias)
        self.side = side

    def forward(self, z: Tensor) -> Tensor:
        return self.dense(z).view(len(z), -1, self.side, self.side)  # type: ignore[no-any-return]

    def macs(self, resolution: int = 1) -> int:
        """Multiply-accumulates of one image."""
        return self.dense.macs()


class Stddev(nn.Module):
    """`minibatch_stddev` with a wanted group; 0 or 1 leave it out. [N, C, H, W] -> [N, C+1, H, W]."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.wanted, self.maps = wanted, int(wanted > 1)  # maps: that it adds

    def forward(self, x: Tensor, group: int | None) -> Tensor:
        """group: default the largest divisor of N up to the wanted one."""
        return minibatch_stddev(x, group or largest_group(len(x), self.wanted)) if self.maps else x


class Head(nn.Module):
    """The end of D: minibatch discrimination where wanted (`kernels` > 0), dense. [N, c_in] -> scores [N], linear."""

    def __init__(self, c_in: int, kernels: int, scheme: Scheme, *, bias: bool = True) -> None:
        super().__init__()
        self.discrimination = MinibatchDiscrimination(c_in, kernels, scheme=scheme) if kernels else None
        self.dense = Linear(c_in + kernels, 1, 1.0, scheme, bias=bias, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.discrimination is None else self.discrimination(x)
        return self.dense(x)[:, 0]  # type: ignore[no-any-return]

    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.dense.macs() + (0 if self.discrimination is None else self.discrimination.macs())
