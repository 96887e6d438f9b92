"""progan prepare"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click


@click.command()
@click.argument("src", metavar="SRC")
@click.argument("dest", type=click.Path(path_type=Path), metavar="DEST")
@click.option("--max-res", type=int, required=True, metavar="R", help="Top level: a power of two from 4 to 1024.")
@click.option("--channels", type=click.Choice(["1", "3"]), default="3", show_default=True, help="3 colour, 1 grey.")
@click.option("--upscale", is_flag=True, help="Also take pictures that are smaller than R x R.")
def command(src: str, dest: Path, max_res: int, channels: str, upscale: bool) -> None:
    """Turn SRC, a folder or .zip of pictures (or `faces:COUNT`), into DEST, a pyramid: every picture at 4x4 .. R x R.

    Pictures are turned upright, cropped to the centre square and resized once (Lanczos). What cannot be read or is
    smaller than R x R is left out and listed in DEST/skipped.csv.
    """
    from progan.console import Console, bar
    from progan.data.prepare import prepare_any
    from progan.data.pyramid import open_pyramid

    console = Console()

    def progress(done: int, total: int) -> None:
        console.live(bar(done, total))

    skipped = prepare_any(src, dest, max_res, int(channels), upscale, progress)
    pyramid = open_pyramid(dest)
    console.line(f"{dest}: {pyramid.count:,} pictures at 4x4 to {max_res}x{max_res}, {len(skipped):,} skipped")
    for reason, count in Counter(skipped.values()).most_common(3):
        console.line(f"  {count:,} x {reason}")
