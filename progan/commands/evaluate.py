"""progan evaluate"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import click

from progan.commands.generate import DEVICE, RUN
from progan.commands.types import Number

FILES = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@RUN
@click.option("--data", metavar="SRC", help="Reals to measure against.  [default: those that the run had learnt]")
@click.option("--metrics", "text", metavar="NAME,NAME", help="Which.  [default: all that need no weights]")
@click.option(
    "--images", type=click.IntRange(min=2), metavar="N", help="Fakes.  [default: 16384, but half of the reals at most]"
)
@click.option("--all-snapshots", is_flag=True, help="Measure every snapshot of the run.")
@click.option("--fakes", metavar="SRC", help="Measure these pictures instead of a generator's.")
@click.option("--reals", metavar="SRC", help="Against these, with --fakes.")
@click.option(
    "--inception", type=FILES, metavar="FILE", help="Weights of torch-fidelity's Inception, for fid, kid, is, prdc."
)
@click.option("--features", type=FILES, metavar="FILE", help="A TorchScript network in its place, for fd, kd, prdc.")
@click.option("--psi", type=Number(0, 2), default=1.0, show_default=True, help="Factor on the latents.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which latents, reals, directions."
)
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="For programs: a line a result.")
def command(
    run: Path | None,
    data: str | None,
    text: str | None,
    images: int | None,
    all_snapshots: bool,
    fakes: str | None,
    reals: str | None,
    inception: Path | None,
    features: Path | None,
    psi: float,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure how good a generator is: numbers, each beside its noise floor.

    RUN is a run directory (its newest snapshot), FILE a .safetensors file; without either, the newest run below ./runs.
    Results of a run are kept in RUN/metrics.jsonl and shown by TensorBoard; what is there already is not measured
    again, so that an interrupted command goes on. Nothing is downloaded: fid, kid, is and prdc take their weights
    from --inception FILE or from torch's cache.

    \b
    swd         sliced Wasserstein distance of each level of a Laplacian pyramid (x 1000)
    ms_ssim     similarity of pairs of fakes: the higher, the less varied
    spectrum    distance of radial power spectra, in dB
    diversity   colours, and differences between pictures
    neighbours  distance to the nearest training picture, and copies of some
    reconstruction  how near the best latent comes to real pictures (asked for by name)
    faces       modes and factors of the built-in portraits
    fid kid is prdc   on Inception features (pip install 'progan[metrics]')
    fd kd prdc        on the features of --features FILE

    A floor is the same metric with other real pictures in place of the fakes.
    """
    from progan.console import Console
    from progan.devices import pick_device
    from progan.metrics.evaluate import Tools, wanted
    from progan.metrics.runs import of_folders, of_run

    if bool(fakes) != bool(reals) or (fakes and (run or data or all_snapshots or psi != 1)):
        raise click.UsageError("--fakes SRC --reals SRC go together, without a run, --data, --psi or --all-snapshots.")
    tools = Tools(
        pick_device(device), Console(io.StringIO() if as_json else None), seed, inception=inception, features=features
    )
    names = None if text is None else wanted(text)
    if fakes and reals:
        found = of_folders(fakes, reals, names, images, tools)
    else:
        found = of_run(run, data, names, images, psi, all_snapshots, tools)
    for result in found:
        if as_json:
            click.echo(json.dumps(asdict(result)))
