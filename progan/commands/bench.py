"""progan bench"""

from __future__ import annotations

import io
import json

import click

from progan.commands.types import Number


@click.command()
@click.option("--max-res", type=int, metavar="R", help="Final resolution: a power of two from 4 to 1024.")
@click.option(
    "--config", "preset", metavar="NAME|FILE", help="A preset (see `progan schedule --help`) or a .toml file."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one knob, e.g. growth.fade_kimg=30."
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Where to compute.")
@click.option(
    "--budget",
    "budget_sec",
    type=Number(min=0, min_open=True),
    default=90,
    show_default=True,
    metavar="SEC",
    help="Measure so long; the rest is predicted.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(
    max_res: int | None, preset: str | None, overrides: tuple[str, ...], device: str, budget_sec: float, as_json: bool
) -> None:
    """Measure how fast this machine would train: images/s, memory and hours by stage, and hours in all.

    Takes no data and writes nothing. Stages are measured while --budget lasts, the cheapest first.
    """
    from progan import config as config_module
    from progan.console import Console
    from progan.data.cache import cache_folder
    from progan.devices import pick_device
    from progan.training import bench, plan
    from progan.training.engine import is_standard, open_engine

    config = config_module.load(preset, overrides, {} if max_res is None else {"growth.max_res": max_res})
    where, console, knobs = pick_device(device), Console(io.StringIO() if as_json else None), config.training
    standard = is_standard(*plan.on_meta(config), plan.critic_loss(config, 0))
    engine = open_engine(knobs.engine, knobs.precision, where, console.line, cache_folder() / "compiled", standard)
    rows = bench.bench(config, where, engine, budget_sec, console.live)
    if engine.name in ("compiled", "graphs") and budget_sec < bench.COMPILING_SEC:
        console.line(
            f"Steps ran uncompiled; --budget {bench.COMPILING_SEC:g} measures the faster ones that train uses."
        )
    if as_json:
        click.echo(json.dumps(bench.bench_json(rows, where), indent=2))
        return
    for line in bench.bench_lines(rows, where):
        console.line(line)
