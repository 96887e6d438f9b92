"""The one file a run goes on from: written whole or not at all, holding tensors and plain values only."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from progan.errors import UserError
from progan.files import atomic
from progan.version import __version__

FORMAT = "progan-checkpoint"
_NAME = re.compile(r"checkpoint-(\d{12})\.pt")


def path_of(folder: Path, cur_nimg: int) -> Path:
    """checkpoints/checkpoint-000000123456.pt: the number is cur_nimg."""
    return folder / f"checkpoint-{cur_nimg:012d}.pt"


def listed(folder: Path) -> list[Path]:
    """Files with a checkpoint's name, oldest first."""
    return sorted(p for p in folder.glob("checkpoint-*.pt") if _NAME.fullmatch(p.name))


def save(folder: Path, state: Mapping[str, Any], config: str, data: str) -> Path:
    """Write a packed state with its configuration (TOML) and its data's fingerprint. Raises UserError as `atomic`."""
    content = {
        "format": FORMAT,
        "version": 1,
        "progan": __version__,
        "config": config,
        "data": data,
        "state": dict(state),
    }
    path = path_of(folder, state["cur_nimg"])
    buffer = io.BytesIO()  # serialised first: a full disk then shows as a plain OSError
    torch.save(content, buffer)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return path


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Raises UserError where the file is truncated, unreadable or something else."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file that is none of its own
        reason = (str(error).splitlines() or ["empty"])[0][:100]
        raise UserError(f"{path} is truncated or no checkpoint ({type(error).__name__}: {reason}).") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of progan.")
    if content["version"] != 1:
        raise UserError(
            f"{path} was written by progan {content['progan']}, which is newer than this one, {__version__}."
        )
    return content


def newest(
    folder: Path, say: Callable[[str], None], unfit: Callable[[dict[str, Any]], str] = lambda content: ""
) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; each that cannot is skipped and said. None for a folder without any.

    Raises UserError where files are there and none of them can be read.
    """
    paths = listed(folder)
    for path in reversed(paths):
        try:
            content = load(path)
            reason = unfit(content)
        except UserError as error:
            reason = str(error)
        if not reason:
            return content
        say(f"Skipped {path.name}: {reason}")
    if paths:
        raise UserError(
            f"none of the {len(paths)} checkpoints in {folder} can be used ({reason}); --fresh starts over."
        )
    return None


def prune(folder: Path, newest: Path, keep: int, permanent: Callable[[int], bool]) -> None:
    """Of the checkpoints up to `newest`, the one just written, remove all but the last `keep` and the permanent ones.

    permanent: asked for each cur_nimg. What lies beyond `newest` is not this run's, and is neither counted nor touched.
    """
    for path in [p for p in listed(folder) if p.name <= newest.name][:-keep]:
        match = _NAME.fullmatch(path.name)
        if match and not permanent(int(match[1])):
            path.unlink()
