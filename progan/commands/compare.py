"""progan compare"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from progan.commands.types import Number

if TYPE_CHECKING:
    from progan.metrics.compare import Comparison, Run

NO_MATPLOTLIB = "No curves: they need matplotlib; `pip install 'progan[plots]'` installs it."


@click.command(name="compare")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Compare by this one, e.g. swd; may be repeated.  [default: those that two runs have, four at most]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Directory for curves.png and pictures.png.  [default: compare/NAMES]",
)
@click.option(
    "--at",
    "kimg",
    type=Number(0),
    metavar="KIMG",
    help="Show the pictures of so many thousand images.  [default: as far as all runs are]",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(
    runs: tuple[Path, ...], metrics: tuple[str, ...], out: Path | None, kimg: float | None, as_json: bool
) -> None:
    """Set runs side by side: a table of numbers, curves against kimg and hours, pictures at equal kimg.

    RUN is a run directory. Numbers come from training and from `progan evaluate`; those that were measured otherwise
    than the others' are marked. The settings that differ are listed. Nothing is replaced: where another picture has
    the name of one, the command stops once the table is printed.
    """
    from progan.console import plain
    from progan.metrics import compare

    comparison = compare.compare(compare.read_runs(runs), metrics)
    at = compare.common_kimg(comparison.runs) if kimg is None else kimg
    pictures, missing = draw(comparison, at)
    out = out or default_out(comparison.runs)
    if as_json:
        files = {name.removesuffix(".png"): str(out / name) for name in pictures}
        said = compare.as_json(comparison) | {"at_kimg": at, "files": files}
        click.echo(json.dumps(said | {"notes": said["notes"] + missing}, indent=2))
    else:
        for line in [*lines(comparison), *missing]:
            click.echo(plain(line))
    write(out, pictures, as_json)


def lines(comparison: Comparison) -> list[str]:
    """All that is to be read, a blank line between its parts."""
    from progan.metrics import compare

    marked = [f"[{number}] {text}" for number, text in enumerate(compare.footnotes(comparison).values(), 1)]
    parts = [
        compare.table_lines(comparison) + marked,
        compare.setting_lines(comparison.runs),
        compare.notes(comparison),
    ]
    return [line for part in parts if part for line in [*part, ""]]


def draw(comparison: Comparison, kimg: float) -> tuple[dict[str, bytes], list[str]]:
    """{name of a file: its bytes} of what can be drawn, and a sentence on each thing that cannot."""
    from progan.metrics import compare

    files, missing = {}, []
    if comparison.series:
        try:
            files["curves.png"] = compare.curves_png(comparison)
        except ImportError:
            missing.append(NO_MATPLOTLIB)
    sheets = compare.pictures_png(comparison.runs, kimg)
    if sheets:
        files["pictures.png"] = sheets
    unseen = [run.name for run in comparison.runs if not compare.sheet_at(run, kimg)]
    missing += [f"No pictures of {name}: there is no fakes-*.png up to {kimg:g} kimg." for name in unseen]
    return files, missing


def default_out(runs: tuple[Run, ...]) -> Path:
    """compare/A-B of the runs A and B: the same command finds the same directory."""
    return Path("compare") / "-".join(run.name.replace("/", "-") for run in runs)[:120]


def write(out: Path, pictures: dict[str, bytes], silent: bool) -> None:
    """The files, each of which must be new or already what it is to be."""
    from progan.files import write_new

    for name, content in pictures.items():
        write_new(out / name, content, "give --out another directory")
    if pictures and not silent:
        click.echo(f"{out}: {' and '.join(pictures)}")
