"""The search for pictures' latents, to look at: targets beside what was found, and the way there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from progan.images import enlarge, grid, to_frame, to_pixels
from progan.render.animation import Frame
from progan.render.walk import pictures_a_pass

MOST_FRAMES = 100  # of the way; a longer one is shown in larger strides
MOST_ROWS = 8  # of an animation; WebP has at most 16383 pixels a side


def side_by_side(targets: Tensor, found: Tensor) -> Tensor:
    """A row for each picture: the target, then what was found. uint8 [N, C, R, R], twice -> [C, N * R, 2 * R]."""
    return grid(torch.stack([targets, found], 1).flatten(0, 1), 2)


def shown_steps(steps: int, most: int = MOST_FRAMES) -> list[int]:
    """Those of the steps 0..steps that are shown: all, or `most` (2 at least) of them, as evenly as can be, with the
    first and the last.
    """
    count = min(steps + 1, most)
    return [round(n * steps / max(1, count - 1)) for n in range(count)]


@dataclass(frozen=True)
class Trail:
    """The latents of one picture's search at the shown steps: a `metrics.reconstruction.OnStep`."""

    shown: Sequence[int]
    kept: dict[int, list[Tensor]] = field(default_factory=dict)  # start -> [latent_size] on the CPU

    def __call__(self, restart: int, step: int, z: Tensor, error: Tensor) -> None:
        if step in self.shown:
            self.kept.setdefault(restart, []).append(z[0].cpu())

    def of(self, restart: int) -> Tensor:
        """The way from one start. -> [frames, latent_size]."""
        return torch.stack(self.kept[restart])


def search_frames(
    G: Callable[[Tensor], Tensor],
    targets: Tensor,
    ways: Tensor,
    found: Tensor,
    scale: int = 1,
    hold: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[Frame]:
    """`side_by_side` along the ways, then `hold` times with what was found, every pixel scale x scale.

    targets, found: uint8 [N, C, R, R], CPU. ways: z [frames, N, latent_size]. G(z) -> images [n, C, R, R] on `device`.
    -> uint8 arrays [N * R * scale, 2 * R * scale, 3], without the last axis where C is 1.
    """
    for z in ways:
        yield to_frame(enlarge(side_by_side(targets, _pictures(G, z.to(device), targets.shape[-1])), scale))
    for _ in range(hold):
        yield to_frame(enlarge(side_by_side(targets, found), scale))


@torch.inference_mode()
def _pictures(G: Callable[[Tensor], Tensor], z: Tensor, resolution: int) -> Tensor:
    """uint8 [N, C, R, R] on the CPU, in passes of bounded size."""
    return torch.cat([to_pixels(G(part)).cpu() for part in torch.split(z, pictures_a_pass(resolution))])
