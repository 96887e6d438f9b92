"""progan schedule"""

from __future__ import annotations

import dataclasses
import json

import click

from progan.commands.types import Number


@click.command()
@click.option("--max-res", type=int, metavar="R", help="Final resolution: a power of two from 4 to 1024.")
@click.option("--config", "preset", metavar="NAME|FILE", help="A preset or a .toml file.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one knob, e.g. growth.fade_kimg=30."
)
@click.option("--at", "at_kimg", type=Number(min=0), metavar="KIMG", help="Only where KIMG thousand images are.")
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="Whose memory to plan for."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(
    max_res: int | None,
    preset: str | None,
    overrides: tuple[str, ...],
    at_kimg: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Print the growth plan as a table: what happens at which thousand images (kimg), with which batch and rates.

    \b
    Presets: default (official, 1 GPU), paper-celebahq, paper-cifar10, lsun-256, v2-8gpu, quickstart,
    progan-sn, progan-attention, progan-hinge-r1,
    dcgan, wgan, wgan-gp, wgan-gp-ttur, sndcgan, sngan, sagan, sagan-blog, wngan,
    table1-a, table1-b, table1-c, table1-d, table1-e-star, table1-e, table1-f, table1-g, table1-h.
    """
    from progan import config as config_module
    from progan.devices import pick_device
    from progan.training import plan

    config = config_module.load(preset, overrides, {} if max_res is None else {"growth.max_res": max_res})
    if at_kimg is not None:
        point = config_module.schedule_of(config).at(round(at_kimg * 1000))
        rows = dataclasses.asdict(point)
        lines = [json.dumps(rows, indent=2)] if as_json else [f"{key:>10}  {value:g}" for key, value in rows.items()]
    elif as_json:
        lines = [json.dumps(plan.plan_rows(config, pick_device(device)), indent=2)]
    else:
        lines = plan.describe_plan(config, pick_device(device))
    for line in lines:
        click.echo(line)
