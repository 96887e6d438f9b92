"""`progan interpolate`: a walk through the latents as an animation."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from progan.commands.generate import DEVICE, PSI, RES, RUN, parse_grid, parse_seeds, stage_and_alpha
from progan.commands.types import Number

if TYPE_CHECKING:
    from progan.latents import Walk
    from progan.render.animation import Frame

WALKS = ("slerp", "lerp", "smooth", "circle")
FPS = 25.0  # 40 ms a frame: exact in GIF, which counts in 10 ms, and in everything else
LEAST_SECONDS = 6.0
LEAST_KEYS = 6
LEAST_CELL = 128  # pixels: the smallest cell that --scale aims at by default


@click.command(name="interpolate")
@RUN
@click.option(
    "--seeds",
    type=parse_seeds,
    metavar="SEEDS",
    help=(
        "slerp, lerp: the pictures to visit, in this order, like 0,3,5-9; smooth, circle: one for each cell. "
        f"[default: from 0, as many as needed; slerp, lerp: {LEAST_KEYS}]"
    ),
)
@click.option(
    "--walk",
    type=click.Choice(WALKS),
    default="slerp",
    show_default=True,
    help=("slerp: along great circles; lerp: along straight lines; smooth: a random drift; circle: one great circle."),
)
@click.option(
    "--seconds",
    type=Number(0, 86400, min_open=True),
    help=(f"Length.  [default: 1 a seed, at least {LEAST_SECONDS:g}]"),
)
@click.option("--fps", type=Number(0.1, 240), default=FPS, show_default=True, help="Frames a second.")
@click.option("--frames", type=click.IntRange(min=1), help="Length in frames, instead of --seconds.")
@click.option(
    "--loop/--no-loop",
    default=True,
    show_default=True,
    help=("Lead back to the start and play for ever; or end on the last seed (smooth: elsewhere) and play once."),
)
@click.option(
    "--smoothing",
    metavar="SECONDS",
    type=Number(min=0.05),
    help=("smooth: how slowly it drifts, the sigma of the Gaussian filter.  [default: 1]"),
)
@click.option(
    "--grid",
    type=parse_grid,
    metavar="CxR",
    default="1x1",
    show_default=True,
    help=("C columns x R rows of walks side by side; slerp, lerp: each starts at another of the seeds."),
)
@PSI
@RES
@click.option(
    "--scale",
    type=click.IntRange(min=1),
    help=(f"Enlarge every pixel this many times.  [default: what makes a cell at least {LEAST_CELL} pixels wide]"),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="walk.webp",
    show_default=True,
    help=(".webp, .gif, .png (animated), .mp4 or .webm; a name without suffix: a new directory of PNGs."),
)
@DEVICE
def command(
    run: Path | None,
    seeds: list[int] | None,
    walk: str,
    seconds: float | None,
    fps: float,
    frames: int | None,
    loop: bool,
    smoothing: float | None,
    grid: tuple[int, int],
    psi: float,
    resolution: int | None,
    scale: int | None,
    out: Path,
    device: str,
) -> None:
    """Render a walk through the latents.

    RUN is a run directory, FILE a .safetensors file; without either, the newest run below ./runs. A file of the name of
    --out is replaced when the new one is whole.
    """
    if seconds and frames:
        raise click.UsageError("--seconds and --frames both set the length; give one of them.")
    if smoothing and walk != "smooth":
        raise click.UsageError(f"--smoothing belongs to --walk smooth, not to {walk}.")
    seeds = seeds or default_seeds(walk, grid[0] * grid[1], frames or LEAST_KEYS)
    frames = frames or max(1, round((seconds or max(LEAST_SECONDS, len(seeds))) * fps))

    plan = {"seeds": seeds, "frames": frames, "cells": grid[0] * grid[1], "loop": loop, "fps": fps}
    plan |= {"smoothing_sec": smoothing} if smoothing else {}
    cell = render(run, walk, plan, grid[0], psi, resolution, scale, out, device)
    click.echo(summary(out, grid, cell, frames, fps))


def render(
    run: Path | None,
    walk: str,
    plan: dict[str, Any],
    columns: int,
    psi: float,
    resolution: int | None,
    scale: int | None,
    out: Path,
    device: str,
) -> int:
    """Load the snapshot, walk, write; `plan` holds WalkPlan's fields but for latent_size. Returns a cell's pixels."""
    from progan.devices import pick_device
    from progan.exchange.snapshots import find_snapshot, load_snapshot, painter
    from progan.render.animation import check_target, write_animation
    from progan.render.walk import walk_frames

    check_target(out, plan["fps"])
    chosen = pick_device(device)
    snapshot = load_snapshot(find_snapshot(run), chosen)
    stage, alpha = stage_and_alpha(snapshot, resolution)
    scale = scale or -(-LEAST_CELL // (4 << stage))
    path = build_walk(walk, plan | {"latent_size": snapshot.G.latent_size})
    frames = walk_frames(
        painter(snapshot.G, stage), path, stage=stage, alpha=alpha, psi=psi, columns=columns, scale=scale, device=chosen
    )
    write_animation(out, with_progress(frames, path.frames), plan["fps"], plan["loop"])
    return scale * (4 << stage)


def default_seeds(walk: str, cells: int, frames: int) -> list[int]:
    """From 0: one a cell, and for the walks from seed to seed at least LEAST_KEYS, or one a frame."""
    return list(range(max(cells, 2, min(LEAST_KEYS, frames)) if walk in ("slerp", "lerp") else cells))


def build_walk(name: str, plan: dict[str, Any]) -> Walk:
    """The walk; what cannot be one is the user's mistake."""
    from progan.errors import UserError
    from progan.latents import WalkPlan, make_walk

    try:
        return make_walk(name, WalkPlan(**plan))
    except ValueError as error:
        raise UserError(f"{error}.") from error


def with_progress(frames: Iterable[Frame], count: int) -> Iterator[Frame]:
    """The frames, with a bar on stderr where a person may see it."""
    if not sys.stderr.isatty():
        yield from frames
        return
    with click.progressbar(frames, length=count, label="rendering", file=sys.stderr) as bar:
        yield from bar


def summary(out: Path, grid: tuple[int, int], cell: int, frames: int, fps: float) -> str:
    """One line: what was written, its size, frames and seconds."""
    files = [out] if out.is_file() else list(out.iterdir())
    size = sum(file.stat().st_size for file in files) / 1e6
    return f"{out}: {grid[0] * cell}x{grid[1] * cell} pixels, {frames} frames, {frames / fps:.1f} s, {size:.2f} MB"
