"""progan board"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), default=Path("runs"), metavar="[RUNS]")
@click.option("--port", type=click.IntRange(0, 65535), default=6006, show_default=True, help="Where it listens.")
@click.option("--host", default="localhost", show_default=True, help="Who may look: localhost, or 0.0.0.0 for all.")
def command(runs: Path, port: int, host: str) -> None:
    """Open TensorBoard on RUNS, a run directory or a folder of them, with every picture kept."""
    import os
    import subprocess
    import sys

    from progan.errors import UserError

    if not runs.is_dir():
        raise UserError(f"{runs} is no folder; give a run directory or a folder of runs.")
    # One generator draws them all: without the option TensorBoard keeps ten random pictures of each tag.
    options = ["--logdir", str(runs), "--port", str(port), "--host", host, "--samples_per_plugin", "images=1000"]
    command_line = [sys.executable, "-m", "tensorboard.main", *options]
    if sys.platform == "win32":
        raise SystemExit(subprocess.call(command_line))
    os.execv(sys.executable, command_line)  # this process becomes TensorBoard, so that signals reach it
