"""`progan project`: the latents of given pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from progan.commands.generate import DEVICE, RES, stage_and_alpha, write_picture
from progan.commands.interpolate import LEAST_CELL

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from progan.console import Console
    from progan.exchange.snapshots import Snapshot
    from progan.metrics.reconstruction import Make, OnStep, Reconstruction, Search
    from progan.render.projection import Trail

RATE, FALL = 0.1, 0.05  # of the search: the metric's own rate, 0.01, takes many times as long
FPS = 25
FORMAT = "progan-latent"
SHEET, FILM = "comparison.png", "search.webp"
MEND = "give --out another directory"


@click.command(name="project")
@click.argument("paths", metavar="[RUN|FILE] IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="Of each search.")
@click.option(
    "--restarts", type=click.IntRange(min=1), default=4, show_default=True, help="Searches a picture; the best counts."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Where they start.")
@RES
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="projected",
    show_default=True,
    help="Directory for what is found.",
)
@click.option("--webp/--no-webp", "film", default=True, show_default=True, help="Also write the search as a film.")
@DEVICE
def command(
    paths: tuple[Path, ...],
    steps: int,
    restarts: int,
    seed: int,
    resolution: int | None,
    out: Path,
    film: bool,
    device: str,
) -> None:
    """Find the latent of pictures: the z whose picture is nearest, pixel by pixel.

    RUN is a run directory, FILE a .safetensors file; without either, the newest run below ./runs. An IMAGE may be of
    any size and format: it is cut to the square in its middle and resized. What is found for it does not depend on the
    other ones. Nothing is replaced.

    \b
    NAME-projected.png           G's nearest picture to NAME.jpg
    NAME-projected.safetensors   z, its error, the stage and alpha of the picture
    comparison.png               a row for each picture: as given, and as found
    search.webp                  how it was found (the first 8 pictures)

    \b
    from progan import load_generator
    from safetensors.torch import load_file
    found = load_file("projected/NAME-projected.safetensors")
    images = load_generator(RUN)(found["z"], int(found["stage"]), float(found["alpha"]))

    The error is the mean squared difference of values in 0..1; 0 is the same picture.
    """
    run, files = parted(paths)
    check_free(out, files, film)
    work = prepared(run, resolution, steps, restarts, seed, device)
    targets = [target(file, work.resolution, work.snapshot.G.channels) for file in files]
    found = [projected(work, out, file, pixels) for file, pixels in zip(files, targets)]
    write_sheet(out / SHEET, found)
    if film:
        write_film(out / FILM, work, found)
    work.console.line(
        f"{out}: {len(files)} picture{'s' * (len(files) > 1)}, {work.resolution}x{work.resolution} pixels"
    )


@dataclass(frozen=True)
class Work:
    """How every picture's latent is looked for."""

    snapshot: Snapshot
    stage: int
    alpha: float
    search: Search
    console: Console

    @property
    def resolution(self) -> int:
        """Pixels."""
        return 4 << self.stage

    @property
    def make(self) -> Make:
        """The generator as a function of z alone, which lets gradients through."""
        return functools.partial(self.snapshot.G, stage=self.stage, alpha=self.alpha)

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return next(self.snapshot.G.parameters()).device


@dataclass(frozen=True)
class Found:
    """A picture and what was found for it: uint8 [C, R, R] each, and the way there, z [frames, latent_size]."""

    target: Tensor
    pixels: Tensor
    way: Tensor


def prepared(run: Path | None, resolution: int | None, steps: int, restarts: int, seed: int, device: str) -> Work:
    """The generator and the search. UserError where there is no such generator."""
    from progan.console import Console
    from progan.devices import pick_device
    from progan.exchange.snapshots import find_snapshot, load_snapshot
    from progan.metrics.reconstruction import Search

    snapshot = load_snapshot(find_snapshot(run), pick_device(device))
    stage, alpha = stage_and_alpha(snapshot, resolution)
    return Work(snapshot, stage, alpha, Search(steps, restarts, RATE, seed=seed, fall=FALL), Console())


def parted(paths: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """The run, where the first path is a directory or a .safetensors file, and the pictures. UsageError without any."""
    first, *others = paths
    run, files = (first, others) if first.is_dir() or first.suffix == ".safetensors" else (None, list(paths))
    if not files:
        raise click.UsageError(f"{first} is the generator; name pictures to project after it.")
    return run, files


def file_of(out: Path, picture: Path, suffix: str) -> Path:
    """Where what was found for a picture is written."""
    return out / f"{picture.stem}-projected{suffix}"


def check_free(out: Path, files: Sequence[Path], film: bool) -> None:
    """Raises UserError where a file to be written is there already: before a search that takes minutes, not after it.
    Also where two pictures would be written to one file."""
    from progan.errors import UserError
    from progan.files import check_new

    names: dict[str, Path] = {}
    for file in files:
        other = names.setdefault(file.stem.casefold(), file)
        if other is not file:
            raise UserError(f"{other} and {file} would both become {file_of(out, file, '.png')}; rename one of them.")
    wanted = [file_of(out, file, suffix) for file in files for suffix in (".png", ".safetensors")]
    for path in [*wanted, out / SHEET, *([out / FILM] if film else [])]:
        check_new(path)


def target(file: Path, resolution: int, channels: int) -> Tensor:
    """A picture file as `progan prepare` would take it: uint8 [channels, resolution, resolution]. UserError where it
    cannot be read."""
    import torch

    from progan.data.pictures import Recipe, pixels
    from progan.data.source import Unreadable
    from progan.errors import UserError

    try:
        return torch.from_numpy(pixels(file.read_bytes(), Recipe(resolution, channels, upscale=True)))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}; name pictures.") from None
    except Unreadable as error:
        raise UserError(f"{file} is no picture to project ({error}).") from None


def projected(work: Work, out: Path, file: Path, picture: Tensor) -> Found:
    """Find a picture's latent, alone, so that it does not depend on the others, and write what was found."""
    from progan.images import to_images, to_pixels
    from progan.metrics.reconstruction import reconstruct
    from progan.render.projection import Trail, shown_steps

    trail, G = Trail(shown_steps(work.search.steps)), work.snapshot.G
    images = to_images(picture[None]).to(work.device)
    watch = watched(trail, work, file.name)
    found = reconstruct(work.make, images, G.latent_size, work.search, G.latent_norm, numbers=[0], on_step=watch)
    pixels, error = to_pixels(found.images[0]).cpu(), float(found.error[0])
    write_picture(file_of(out, file, ".png"), pixels, {"error": f"{error:.6g}", "seed": str(work.search.seed)})
    write_latent(file_of(out, file, ".safetensors"), work, found, file.name)
    work.console.line(f"{file.name}: error {error:.5f}")
    return Found(picture, pixels, trail.of(int(found.restart[0])))


def watched(trail: Trail, work: Work, name: str) -> OnStep:
    """The trail, with a bar for those who watch."""
    from progan.console import Meter

    meter, steps = Meter(work.console, f"steps for {name}"), work.search.steps + 1

    def on_step(restart: int, step: int, z: Tensor, error: Tensor) -> None:
        trail(restart, step, z, error)
        meter(restart * steps + step + 1, work.search.restarts * steps)

    return on_step


def write_latent(path: Path, work: Work, found: Reconstruction, name: str) -> None:
    """z [1, latent_size], error [1], seed, stage and alpha as tensors; what else made it so in the metadata."""
    import torch
    from safetensors.torch import save

    from progan.files import write_new

    tensors = {
        "z": found.z.cpu().contiguous(),
        "error": found.error.cpu(),
        "seed": torch.tensor(work.search.seed),
        "stage": torch.tensor(work.stage),
        "alpha": torch.tensor(work.alpha, dtype=torch.float64),
    }
    search = {"steps": str(work.search.steps), "restarts": str(work.search.restarts)}
    about = {"format": FORMAT, "picture": name, "generator": work.snapshot.path.name, **search}
    write_new(path, save(tensors, about), MEND)


def write_sheet(path: Path, found: Sequence[Found]) -> None:
    """All pictures beside what was found, a row each, as one PNG."""
    import torch

    from progan.render.projection import side_by_side

    targets, pixels = torch.stack([one.target for one in found]), torch.stack([one.pixels for one in found])
    write_picture(path, side_by_side(targets, pixels), {})


def write_film(path: Path, work: Work, found: Sequence[Found]) -> None:
    """The searches for the first pictures as an animation, which stays on the result for a second."""
    import torch

    from progan.files import check_new
    from progan.render.animation import write_animation
    from progan.render.projection import MOST_ROWS, search_frames

    shown = found[:MOST_ROWS]
    targets, pixels = torch.stack([one.target for one in shown]), torch.stack([one.pixels for one in shown])
    ways = torch.stack([one.way for one in shown], 1)  # [frames, N, latent_size]
    scale = -(-LEAST_CELL // work.resolution)
    check_new(path)
    write_animation(path, search_frames(work.make, targets, ways, pixels, scale, FPS, work.device), FPS)
