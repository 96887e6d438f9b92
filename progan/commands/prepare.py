"""progan prepare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from progan.errors import UserError

if TYPE_CHECKING:
    from progan.console import Console


@click.command()
@click.argument("src", metavar="SRC")
@click.argument("dest", type=click.Path(path_type=Path), metavar="DEST")
@click.option(
    "--max-res", type=int, metavar="R", help="Top level: a power of two from 4 to 1024.  [default: SRC's own]"
)
@click.option("--channels", type=click.Choice(["1", "3"]), help="3 colour, 1 grey.  [default: SRC's own, or 3]")
@click.option("--crop", default="centre", show_default=True, metavar="HOW",
              help="centre, refuse (skip what is not square), pad, pad:SIZE, celeba, or X,Y,SIZE.")  # fmt: skip
@click.option(
    "--filter", type=click.Choice(["lanczos", "box"]), default="lanczos", show_default=True, help="To shrink with."
)
@click.option(
    "--background", default="white", show_default=True, metavar="COLOUR", help="Behind transparency and pads."
)
@click.option("--upscale", is_flag=True, help="Also take pictures that are smaller than R x R.")
@click.option("--max-images", type=click.IntRange(min=1), metavar="N", help="Take N pictures of the shuffled order.")
@click.option("--strict", is_flag=True, help="Stop at the first picture that cannot be taken.")
@click.option("--allow-skips", is_flag=True, help="Go through with it though more than half are skipped.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Processes that decode pictures; 0 = none.  [default: one a core]",
)
@click.option("--root", type=click.Path(path_type=Path), metavar="DIR", help="Where torchvision's files lie.")
@click.option("--download", is_flag=True, help="Let torchvision fetch its files into --root.")
@click.option("--to", type=click.Choice(["pyramid", "zip", "tfrecords"]), default="pyramid", show_default=True,
              help="Write a pyramid back as a StyleGAN zip or official TFRecords.")  # fmt: skip
def command(
    src: str,
    dest: Path,
    max_res: int | None,
    channels: str | None,
    crop: str,
    filter: str,
    background: str,
    upscale: bool,
    max_images: int | None,
    strict: bool,
    allow_skips: bool,
    workers: int | None,
    root: Path | None,
    download: bool,
    to: str,
) -> None:
    """Turn SRC into DEST, a pyramid: every picture at 4x4, 8x8 .. R x R. An interrupted preparation goes on when the
    same command is given again.

    SRC is a folder, .zip or .tar of pictures (class folders become labels), a StyleGAN zip or folder, official
    TFRecords, a .npy or .npz of uint8 pictures, a torchvision name (cifar10, mnist, svhn, celeba, lsun:bedroom_train
    ...), `faces:COUNT`, or a pyramid.

    Pictures are turned upright, cropped to a square and resized once. What cannot be read or is smaller than R x R is
    left out and listed in DEST/skipped.csv.

    \b
    progan prepare photos.zip photos --max-res 256
    progan prepare mnist digits --max-res 32 --channels 1 --crop pad:32 --background black --download
    progan prepare photos photos.zip --to zip
    """
    from progan.console import Console, Meter
    from progan.data.cache import torchvision_root
    from progan.data.inspect import reasons
    from progan.data.pictures import Recipe
    from progan.data.prepare import Wish, prepare
    from progan.data.sources import is_torchvision

    console = Console()
    if to != "pyramid":
        _export(src, dest, to, max_res, console)
        return
    if (root or download) and not is_torchvision(src):
        raise UserError(f"--root and --download are for torchvision's sets, and {src} is none.")
    recipe = Recipe(max_res or 0, int(channels or 0), crop, filter, background, upscale)
    wish = Wish(strict, allow_skips, max_images or 0, workers)
    try:
        pyramid = prepare(src, dest, recipe, wish, root or torchvision_root(), download, Meter(console))
    except KeyboardInterrupt:
        console.line(f"{dest} is not complete; the same command goes on where this one stopped.")
        raise
    skipped = reasons(dest)
    classes = f" in {len(pyramid.labels.names)} classes" if pyramid.labels and pyramid.labels.names else ""
    sizes = f"4x4 to {pyramid.top}x{pyramid.top}"
    console.line(f"{dest}: {pyramid.count:,} pictures{classes} at {sizes}, {skipped.total():,} skipped")
    for reason, count in skipped.most_common(3):
        console.line(f"  {count:,} x {reason}")


def _export(src: str, dest: Path, to: str, max_res: int | None, console: Console) -> None:
    from progan.console import Meter
    from progan.data.export import EXPORTS
    from progan.data.pyramid import is_pyramid, open_pyramid

    context = click.get_current_context()
    beside = [name for name in context.params if name not in ("src", "dest", "to", "max_res")]
    given = [name for name in beside if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"--to {to} writes a pyramid back as it is, without {flags}; prepare another pyramid for that.")
    if not is_pyramid(Path(src)):
        raise UserError(f"--to {to} writes a pyramid back, and {src} is none: first progan prepare {src} PYRAMID.")
    pyramid = open_pyramid(Path(src))
    top = max_res or pyramid.top
    if top not in pyramid.resolutions:
        known = ", ".join(map(str, pyramid.resolutions))
        raise UserError(f"--max-res {top}: {src} has the resolutions {known}.")
    EXPORTS[to](pyramid, dest, top, Meter(console))
    console.line(f"{dest}: {pyramid.count:,} pictures at {top}x{top}, as {to}")
