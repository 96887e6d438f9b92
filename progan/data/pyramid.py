"""A data set at every resolution: one uint8 memmap a level and a manifest. The one thing that training reads.

pyramid.json     version, count, channels, resolutions, labels, how and of what it was made, hashes
0004x0004.npy    [count, channels, 4, 4] uint8, and so on up to the top level
labels.npy       where there are labels: classes int64 [count], or vectors float32 [count, L]
skipped.csv      what was left out, and why
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from progan.data.source import Labels, Levels, Source
from progan.errors import UserError

MANIFEST, LABELS, SKIPPED = "pyramid.json", "labels.npy", "skipped.csv"
VERSION = 2


def level_name(resolution: int) -> str:
    """0064x0064.npy"""
    return f"{resolution:04d}x{resolution:04d}.npy"


def is_pyramid(path: Path) -> bool:
    """Whether a path looks like a pyramid's folder."""
    return (path / MANIFEST).is_file()


def hash_file(path: Path) -> str:
    """32 hexadecimal digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def fingerprint(hashes: Mapping[str, str], top: int) -> str:
    """A hash of the top level and of the labels, made of their files' hashes."""
    text = hashes[level_name(top)] + hashes.get(LABELS, "")
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Pyramid:
    """An opened pyramid. `fingerprint` is a hash of the top level's pixels and of the labels: equal for equal data,
    wherever it lies. `about` is the whole manifest.
    """

    path: Path
    count: int
    channels: int
    resolutions: tuple[int, ...]
    fingerprint: str
    levels: Mapping[int, np.memmap[Any, Any]]  # [count, channels, R, R] uint8
    labels: Labels | None
    about: Mapping[str, Any]

    @property
    def top(self) -> int:
        """The highest resolution."""
        return max(self.resolutions)

    def batch(self, indices: Tensor, resolution: int) -> Tensor:
        """Pictures by number. indices: [N] -> pixels uint8 [N, channels, R, R]."""
        return torch.from_numpy(self.levels[resolution][indices.numpy()])


def open_pyramid(path: Path) -> Pyramid:
    """Open a pyramid's folder and check that its levels are whole. Raises UserError where it is none, or is damaged."""
    about = read_manifest(path)
    count, channels, resolutions = about["count"], about["channels"], about["resolutions"]
    levels = {r: _level(path, r, (count, channels, r, r)) for r in resolutions}
    labels = None if about["labels"] is None else _labels(path, count, about["labels"])
    return Pyramid(path, count, channels, tuple(resolutions), about["fingerprint"], levels, labels, about)


def read_manifest(path: Path) -> dict[str, Any]:
    """What a pyramid's folder says of itself. Raises UserError where that cannot be read, or is of another format."""
    try:
        about = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is no pyramid: {MANIFEST} cannot be read ({error}); progan prepare makes one."
        ) from None
    if not isinstance(about, dict):
        raise UserError(f"{path} is no pyramid: {MANIFEST} holds no table.")
    if about.get("version") != VERSION:
        found = about.get("version")
        raise UserError(f"{path} has the pyramid format {found}; this progan reads {VERSION}: prepare the data again.")
    missing = {"count", "channels", "resolutions", "labels", "fingerprint", "hashes"} - about.keys()
    if missing:
        raise UserError(f"{path / MANIFEST} is damaged ({', '.join(sorted(missing))} missing); prepare the data again.")
    return about


def _level(path: Path, resolution: int, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    file = path / level_name(resolution)
    level = _load(file, "r")
    if level.shape != shape or level.dtype != np.uint8:
        raise UserError(
            f"{file} holds {level.dtype} {level.shape} where uint8 {shape} is expected; prepare the data again."
        )
    return level  # type: ignore[no-any-return]


def _labels(path: Path, count: int, about: Mapping[str, Any]) -> Labels:
    file = path / LABELS
    values, names = _load(file, None), tuple(about["names"])
    wanted = (np.int64, (count,)) if names else (np.float32, (count, about["size"]))
    if (values.dtype, values.shape) != wanted:
        raise UserError(f"{file} holds {values.dtype} {values.shape}, which does not fit; prepare the data again.")
    return Labels(values, names)


def _load(file: Path, mode: Any) -> Any:
    try:
        return np.load(file, mmap_mode=mode)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); prepare the data again.") from None


def pyramid_source(path: Path) -> Source:
    """A pyramid as a source: every picture with its ready levels, in its order."""
    pyramid = open_pyramid(path)
    names = [f"{n:06d}" for n in range(pyramid.count)]
    return Source(
        names, partial(_levels_of, pyramid), pyramid.fingerprint, pyramid.labels, shuffled=True, parallel=False,
        top=pyramid.top, channels=pyramid.channels,
    )  # fmt: skip


def _levels_of(pyramid: Pyramid, name: str) -> Levels:
    return tuple(pyramid.levels[r][int(name)] for r in sorted(pyramid.resolutions, reverse=True))
