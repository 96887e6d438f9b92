"""The directory of a run: made, found again, compared with what is asked for now, never emptied."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from progan import config as config_module
from progan.config import Config
from progan.devices import describe
from progan.errors import UserError
from progan.files import lock, remove_leftovers, write_text
from progan.version import __version__

CONFIG = "config.toml"
LOCK = ".lock"


def default_run(config: Config, name: str | None) -> Path:
    """runs/PRESET-DATA-RESOLUTION: the same command finds the same run."""
    preset = Path(name or "default").stem
    data = Path(config.data.source.replace(":", "-")).stem
    return Path("runs") / f"{preset}-{data}-{config.growth.max_res}px"


def fresh_run(folder: Path) -> Path:
    """The folder, or folder-2, folder-3, ...: the first that does not exist or is empty."""
    candidates = [folder, *(folder.with_name(f"{folder.name}-{n}") for n in range(2, 10_000))]
    return next(c for c in candidates if not c.exists() or (c.is_dir() and not any(c.iterdir())))


def check(folder: Path, config: Config) -> None:
    """Raises UserError where the folder is neither free nor a run of the same configuration. Changes nothing."""
    stored = folder / CONFIG
    if stored.is_file():
        compare(stored, config)
    elif folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - {LOCK}):
        raise UserError(f"--out {folder} exists and is no run directory ({CONFIG} is missing); choose another one.")
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(f"--out {folder} cannot be written: {above} is no directory that lets you.")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing, and keep other processes from training the same run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}.") from None
    with lock(folder / LOCK, f"{folder} is being trained by another process; wait for it, or choose another --out."):
        yield


def enter(folder: Path, config: Config, device: torch.device) -> None:
    """Make the run directory, or bring what it says of itself up to date. Raises UserError where the disk refuses."""
    write_text(folder / CONFIG, config_module.dump(config))
    write_text(folder / "environment.json", json.dumps(environment(device), indent=2) + "\n")
    for name in ("checkpoints", "snapshots"):
        (folder / name).mkdir(exist_ok=True)
        remove_leftovers(folder / name)


def compare(stored: Path, config: Config) -> None:
    """Raises UserError, listing the knobs, where a run was trained with others than are asked for now."""
    try:
        text = stored.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{stored} cannot be read: {error}.") from None
    differing = config_module.binding_diff(config_module.parse(text, str(stored)), config)
    if differing:
        fields = "; ".join(f"{key} was {was!r}, is now {now!r}" for key, (was, now) in differing.items())
        raise UserError(
            f"{stored.parent} was trained with other settings ({fields}); use those, another --out, or --fresh."
        )


def environment(device: torch.device) -> dict[str, Any]:
    """What the run ran on, for whoever wants to repeat it."""
    packages = ("torch", "torchvision", "numpy", "pillow", "tensorboard")
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "device": describe(device),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "progan": __version__,
        "packages": {name: version(name) for name in packages},
        "git_commit": git_commit(Path(__file__).parents[2]),
    }


def git_commit(checkout: Path) -> str | None:
    """The commit of the checkout that this package lies in, with `+changes` where files differ; None outside of one."""
    if not (checkout / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None
