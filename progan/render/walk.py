"""A walk through the latents as frames: grids of pictures, rendered in batches of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from progan.images import enlarge, grid, to_frame, to_pixels
from progan.latents import Walk
from progan.render.animation import Frame

MAX_PICTURES = 64  # a forward pass, whatever their size: at low resolutions feature maps outweigh pixels
MAX_PIXELS = 1 << 20  # a forward pass: one picture of 1024 px, 16 of 256 px


def walk_frames(
    G: Callable[..., Tensor],
    walk: Walk,
    *,
    stage: int,
    alpha: float = 1.0,
    psi: float = 1.0,
    columns: int = 1,
    scale: int = 1,
    batch: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Frame]:
    """The walk's frames in order: grids of its cells, row by row, `columns` in a row, every pixel scale x scale.

    G(z, stage, alpha, psi) -> images [N, C, R, R] on `device`, C 1 or 3. batch: pictures in a forward pass; None: as
    many as MAX_PICTURES and MAX_PIXELS allow. -> uint8 arrays [H, W, 3], or [H, W] where C is 1.
    """
    limit = batch or pictures_a_pass(4 << stage)
    step = max(1, limit // walk.cells)  # frames
    for start in range(0, walk.frames, step):
        z = walk.at(range(start, min(start + step, walk.frames))).flatten(0, 1)  # [frames * cells, latent_size]
        pixels = _pictures(
            G, torch.split(z, limit), stage, alpha, psi, torch.device(device)
        )  # [frames * cells, C, R, R]
        for cells in torch.split(pixels, walk.cells):
            yield to_frame(enlarge(grid(cells, columns), scale))


def pictures_a_pass(resolution: int) -> int:
    """How many pictures of this resolution one forward pass may make."""
    return min(MAX_PICTURES, max(1, MAX_PIXELS // resolution**2))


@torch.inference_mode()
def _pictures(
    G: Callable[..., Tensor], batches: tuple[Tensor, ...], stage: int, alpha: float, psi: float, device: torch.device
) -> Tensor:
    """G's pictures of the latents, batch by batch, as pixels on the CPU. -> uint8 [N, C, R, R]."""
    return torch.cat([to_pixels(G(z.to(device), stage, alpha, psi)).cpu() for z in batches])
