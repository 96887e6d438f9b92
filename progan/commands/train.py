"""progan train"""

from __future__ import annotations

from pathlib import Path

import click

from progan.commands.types import Number


@click.command()
@click.option("--data", metavar="SRC", help="Anything that `progan prepare` takes, or `faces`, the built-in set.")
@click.option("--max-res", type=int, metavar="R", help="Final resolution: a power of two from 4 to 1024.")
@click.option(
    "--config", "preset", metavar="NAME|FILE", help="A preset (see `progan schedule --help`) or a .toml file."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one knob, e.g. growth.fade_kimg=30."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Run directory.  [default: runs/...]")
@click.option("--kimg", type=Number(min=0, min_open=True), metavar="N", help="Stop at N thousand images.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images a step, at every resolution.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Every random number follows from it.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where to compute.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="Use only this class; may be repeated.")
@click.option("--max-images", type=click.IntRange(min=1), metavar="N", help="Use the first N pictures only.")
@click.option("--mirror/--no-mirror", default=None, help="Turn every other real picture left to right, or none.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the plan and stop; nothing is written.")
@click.option("--fresh", is_flag=True, help="Start over in a new run directory; the old one stays.")
def command(
    data: str | None,
    max_res: int | None,
    preset: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    kimg: float | None,
    batch: int | None,
    seed: int | None,
    device: str,
    labels: tuple[str, ...],
    max_images: int | None,
    mirror: bool | None,
    dry_run: bool,
    fresh: bool,
) -> int:
    """Grow a GAN. The same command again continues the run exactly where it stopped, in mid-fade too.

    \b
    progan train --config quickstart                     faces at 32x32 in minutes, on any machine
    progan train --data photos.zip --max-res 256         your pictures, official settings
    """
    from progan import config as config_module
    from progan.console import Console
    from progan.devices import pick_device
    from progan.training import loop, plan, rundir

    flags = {
        "data.source": data,
        "data.labels": labels or None,
        "data.max_images": max_images,
        "data.mirror": mirror,
        "growth.max_res": max_res,
        "growth.batch": batch,
        "training.seed": seed,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    config = config_module.load(preset, overrides, given)
    folder = out or rundir.default_run(config, preset)
    folder = rundir.fresh_run(folder) if fresh else folder
    where = pick_device(device)
    if dry_run:
        notes = [f"Note: {doubt}" for doubt in config_module.doubts(config)]
        for line in (f"{folder}, on {where}", *plan.describe_plan(config, where), *notes):
            click.echo(line)
        return 0
    return loop.train(config, folder, where, kimg, Console())
