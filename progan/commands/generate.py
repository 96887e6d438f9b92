"""`progan generate`: pictures of seeds. Also the grammar that it shares with `progan interpolate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from progan.commands.types import Number

if TYPE_CHECKING:
    from torch import Tensor

    from progan.exchange.snapshots import Plain, Snapshot
    from progan.nn.inference import Compact

MOST_SEEDS = 100_000


def parse_seeds(text: str) -> list[int]:
    """`0,3,5-9` -> [0, 3, 5, 6, 7, 8, 9], in the order written, repetitions kept. BadParameter, in one sentence."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part, re.ASCII)
        if not match:
            raise click.BadParameter(f"{part.strip()!r} is neither a seed nor a range; write seeds like 0,3,5-9.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= 2**63:
            raise click.BadParameter(f"{part.strip()!r} is no range of seeds; write the smaller first, below 2^63.")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise click.BadParameter(f"{text!r} names more than {MOST_SEEDS} seeds.")
        seeds += range(first, last + 1)
    return seeds


def parse_grid(text: str) -> tuple[int, int]:
    """`3x2` -> (3 columns, 2 rows). BadParameter, in one sentence."""
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", text, re.ASCII)
    if not match:
        raise click.BadParameter(f"{text!r} is no grid; write columns x rows, like 4x2, each from 1 to 999.")
    return int(match[1]), int(match[2])


def stage_and_alpha(snapshot: Snapshot, resolution: int | None) -> tuple[int, float]:
    """The stage of a resolution and its alpha: the snapshot's own at its own resolution (None), 1 below. UserError for
    what is no resolution, or not grown yet."""
    from progan.config import grows
    from progan.errors import UserError

    if resolution is None or resolution == snapshot.resolution:
        return snapshot.stage, snapshot.alpha
    grown = [4 << stage for stage in range(snapshot.stage + 1)]
    if not grows(snapshot.config):
        raise UserError(f"--res {resolution}: {snapshot.path} does not grow; it shows {snapshot.resolution} pixels.")
    if resolution not in grown:
        raise UserError(f"--res {resolution}: {snapshot.path} can show {', '.join(map(str, grown))} pixels.")
    return grown.index(resolution), 1.0


RUN = click.argument("run", metavar="[RUN|FILE]", required=False, type=click.Path(path_type=Path))
PSI = click.option(
    "--psi",
    type=Number(0, 2),
    default=1.0,
    show_default=True,
    help=("Factor on the latents: 1 as trained, towards 0 less varied."),
)
RES = click.option(
    "--res",
    "resolution",
    metavar="PIXELS",
    type=int,
    help=("An earlier resolution of the growth.  [default: the snapshot's own]"),
)
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")


@click.command(name="generate")
@RUN
@click.option(
    "--seeds",
    type=parse_seeds,
    metavar="SEEDS",
    default="0-15",
    show_default=True,
    help="Which pictures, like 0,3,5-9.",
)
@click.option("--grid", type=parse_grid, metavar="CxR", help="Also write one sheet of all seeds, C columns x R rows.")
@PSI
@RES
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="generated",
    show_default=True,
    help="Directory for the pictures.",
)
@DEVICE
def command(
    run: Path | None,
    seeds: list[int],
    grid: tuple[int, int] | None,
    psi: float,
    resolution: int | None,
    out: Path,
    device: str,
) -> None:
    """Write pictures of seeds, one PNG each: seed0000.png, seed0001.png ...

    RUN is a run directory, FILE a .safetensors file; without either, the newest run below ./runs. A seed's picture
    does not depend on the other seeds. Nothing is replaced: where a file of the same name differs, the command stops.
    """
    from progan.devices import pick_device
    from progan.exchange.snapshots import find_snapshot, load_snapshot, painter

    if grid and grid[0] * grid[1] != len(seeds):
        raise click.UsageError(
            f"--grid {grid[0]}x{grid[1]} has {grid[0] * grid[1]} cells, but there are {len(seeds)} seeds."
        )
    snapshot = load_snapshot(find_snapshot(run), pick_device(device))
    stage, alpha = stage_and_alpha(snapshot, resolution)
    G, pictures = painter(snapshot.G, stage), []
    for seed in seeds:
        picture = render(G, seed, alpha, psi)
        write_picture(out / f"seed{seed:04}.png", picture, {"seed": str(seed), "psi": f"{psi:g}"})
        pictures += [picture] if grid else []
    if grid:
        write_sheet(out / f"sheet{seeds[0]:04}-{seeds[-1]:04}.png", pictures, grid[0], psi)
    click.echo(f"{out}: {len(seeds)} pictures{' and a sheet' if grid else ''}, {4 << stage}x{4 << stage} pixels")


def render(G: Compact | Plain, seed: int, alpha: float, psi: float) -> Tensor:
    """The picture of a seed at G's top stage, alone in its forward pass: its pixels are the same whatever is rendered
    beside it. -> uint8 [C, R, R] on the CPU."""
    from progan.images import to_pixels
    from progan.latents import latents_from_seeds

    z = latents_from_seeds([seed], G.latent_size).to(G.device)
    return to_pixels(G(z, alpha=alpha, psi=psi)[0]).cpu()


def write_sheet(path: Path, pictures: list[Tensor], columns: int, psi: float) -> None:
    """All pictures, row by row, as one PNG."""
    import torch

    from progan.images import grid

    write_picture(path, grid(torch.stack(pictures), columns), {"psi": f"{psi:g}"})


def write_picture(path: Path, pixels: Tensor, text: dict[str, str]) -> None:
    """A PNG of uint8 pixels [C, H, W] with text chunks. Nothing is replaced."""
    from progan.files import write_new
    from progan.images import png

    write_new(path, png(pixels, text), "give --out another directory")
