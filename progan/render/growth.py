"""The growth of a run, from the grids of pictures that training leaves behind: `fakes-KKKKKK.png`, square cells
without gaps (R x R pixels each, perhaps repeated), with the text chunks resolution, kimg, columns and rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from progan.errors import UserError
from progan.files import atomic
from progan.render.animation import PNG_LEVEL, Frame

_NAME = re.compile(r"fakes-\d{6,}\.png")


@dataclass(frozen=True)
class Grid:
    """One file of pictures and what it says of itself."""

    path: Path
    resolution: int
    kimg: float
    columns: int
    rows: int


def growth_frames(
    run_dir: Path | str,
    size: int = 256,
    cells: tuple[int, int] = (4, 4),
    until_kimg: float | None = None,
    most: int = 60,
) -> Iterator[Frame]:
    """The run's grids in order of kimg as frames of one size: the (columns, rows) cells at the top left of each (fewer
    where a grid has fewer), each brought to size // rows pixels: repeated pixels up, box means down.

    size: height in pixels, rounded down to whole cells. until_kimg: later grids are left out. most: how many frames at
    most, evenly chosen, among them the first, the last and one of each resolution. -> uint8 [H, W, 3] or [H, W].
    UserError where there are no grids, or a file is not one. ValueError: `most` is too small for that.
    """
    grids = [g for g in read_grids(run_dir) if until_kimg is None or g.kimg <= until_kimg]
    if not grids:
        raise UserError(f"{run_dir}: no fakes-*.png up to {until_kimg} kimg.")
    columns, rows = _common_cells(grids, cells)
    picks = thin([g.resolution for g in grids], most)
    return (excerpt(grids[i], columns, rows, max(1, size // rows)) for i in picks)


def growth_strip(run_dir: Path | str, path: Path | str, cells: tuple[int, int] = (2, 4), height: int = 256) -> None:
    """One PNG: side by side, for every resolution, the (columns, rows) cells at the top left of its last grid (a fade
    comes before its stable phase, so this is a stable one if there is any), with white gaps of height // 64 pixels.
    Replaces a file of this name. UserError: as growth_frames."""
    grids = list({g.resolution: g for g in read_grids(run_dir)}.values())  # the later replaces the earlier
    columns, rows = _common_cells(grids, cells)
    blocks = [excerpt(g, columns, rows, max(1, height // rows)) for g in grids]
    gap = np.full((blocks[0].shape[0], height // 64, *blocks[0].shape[2:]), 255, np.uint8)
    strip = np.concatenate([piece for block in blocks for piece in (gap, block)][1:], axis=1)
    with atomic(Path(path)) as draft:
        Image.fromarray(strip).save(draft, "PNG", compress_level=PNG_LEVEL)


def read_grids(run_dir: Path | str) -> list[Grid]:
    """All grids of a run in order of kimg. UserError where there are none or one lacks its text chunks."""
    paths = [path for path in sorted(Path(run_dir).glob("fakes-*.png")) if _NAME.fullmatch(path.name)]
    grids = [_read_grid(path) for path in paths]
    if not grids:
        raise UserError(f"{run_dir}: no fakes-*.png here; give the directory of a run that has shown pictures.")
    return sorted(grids, key=lambda g: g.kimg)


def _read_grid(path: Path) -> Grid:
    """What the file says of itself; its pixels are not read."""
    try:
        with Image.open(path) as image:
            text = {name: str(value) for name, value in image.info.items()}
        resolution, columns, rows = (int(text[name]) for name in ("resolution", "columns", "rows"))
        return Grid(path, resolution, float(text["kimg"]), columns, rows)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a grid that progan train wrote ({error}); move it elsewhere.") from error


def _common_cells(grids: Sequence[Grid], cells: tuple[int, int]) -> tuple[int, int]:
    """The (columns, rows) that every grid has, at most `cells`."""
    return min(cells[0], *(g.columns for g in grids)), min(cells[1], *(g.rows for g in grids))


def excerpt(grid: Grid, columns: int, rows: int, cell: int) -> Frame:
    """The cells at the top left, whatever their size in the file, each resized to cell x cell pixels.
    -> uint8 [rows*cell, columns*cell, 3], or [rows*cell, columns*cell] where the file is grey."""
    try:
        with Image.open(grid.path) as image:
            size = image.width // grid.columns  # pixels of a stored cell
            corner = image.crop((0, 0, columns * size, rows * size))
    except OSError as error:
        raise UserError(f"{grid.path}: cannot be read ({error}); move it elsewhere.") from error
    how = Image.Resampling.NEAREST if cell >= size else Image.Resampling.BOX
    return np.asarray(corner.resize((columns * cell, rows * cell), how))


def thin(resolutions: Sequence[int], most: int) -> list[int]:
    """Which of these (in order of kimg) to show: at most `most` indices, the first, the last and one of each resolution
    among them, the others spread evenly."""
    last = len(resolutions) - 1
    count = min(most, last + 1)
    picks = {round(i * last / max(1, count - 1)) for i in range(count)}
    picks |= {0, last} | {i for i in range(last) if resolutions[i + 1] != resolutions[i]}
    while len(picks) > most:
        picks.remove(_most_dispensable(sorted(picks), resolutions))
    return sorted(picks)


def _most_dispensable(picks: list[int], resolutions: Sequence[int]) -> int:
    """The pick that leaves the smallest gap and is neither the first, nor the last, nor alone of its resolution."""
    shown = [resolutions[i] for i in picks]
    inner = [k for k in range(1, len(picks) - 1) if shown.count(shown[k]) > 1]
    if not inner:
        raise ValueError(f"the growth needs at least {len(picks)} frames to show every resolution")
    return picks[min(inner, key=lambda k: picks[k + 1] - picks[k - 1])]
