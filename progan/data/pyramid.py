"""A data set at every resolution: one uint8 memmap a level and a manifest. The one thing that training reads.

pyramid.json     version, count, channels, resolutions, fingerprint, source, ...
0004x0004.npy    [count, channels, 4, 4] uint8, and so on up to the top level
skipped.csv      what was left out, and why
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from progan import seeds
from progan.errors import UserError

MANIFEST = "pyramid.json"
VERSION = 1


def level_name(resolution: int) -> str:
    """0064x0064.npy"""
    return f"{resolution:04d}x{resolution:04d}.npy"


@dataclass(frozen=True)
class Pyramid:
    """An opened pyramid. `fingerprint` is a hash of the top level's pixels: equal for equal data, wherever it lies."""

    path: Path
    count: int
    channels: int
    resolutions: tuple[int, ...]
    fingerprint: str
    levels: dict[int, np.memmap[Any, Any]]  # [count, channels, R, R] uint8

    def batch(self, indices: Tensor, resolution: int) -> Tensor:
        """Pictures by number. indices: [N] -> pixels uint8 [N, channels, R, R]."""
        return torch.from_numpy(np.stack([self.levels[resolution][i] for i in indices.tolist()]))


def open_pyramid(path: Path) -> Pyramid:
    """Open a pyramid's folder and check that its levels are whole. Raises UserError where it is none, or is damaged."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no pyramid: {MANIFEST} cannot be read ({error}).") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is no pyramid: {MANIFEST} holds no table.")
    if manifest.get("version") != VERSION:
        raise UserError(f"{path} has the pyramid format {manifest.get('version')}; this progan reads {VERSION}.")
    missing = {"count", "channels", "resolutions", "fingerprint"} - manifest.keys()
    if missing:
        raise UserError(f"{path / MANIFEST} is damaged ({', '.join(sorted(missing))} missing); prepare the data again.")
    count, channels = manifest["count"], manifest["channels"]
    levels = {r: _level(path, r, (count, channels, r, r)) for r in manifest["resolutions"]}
    return Pyramid(path, count, channels, tuple(manifest["resolutions"]), manifest["fingerprint"], levels)


def _level(path: Path, resolution: int, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    file = path / level_name(resolution)
    try:
        level = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); prepare the data again.") from None
    if level.shape != shape or level.dtype != np.uint8:
        raise UserError(
            f"{file} holds {level.dtype} {level.shape} where uint8 {shape} is expected; prepare the data again."
        )
    return level  # type: ignore[no-any-return]


def batch_indices(seed: int, cur_nimg: int, batch: int, count: int) -> Tensor:
    """Which pictures the step at cur_nimg shows: [batch], a pure function. Each epoch shows every picture once.

    Positions cur_nimg .. cur_nimg + batch - 1 of an endless row of permutations of 0..count-1, one an epoch.
    """
    positions = range(cur_nimg, cur_nimg + batch)
    return torch.stack([_permutation(seed, p // count, count)[p % count] for p in positions])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> Tensor:
    return torch.randperm(count, generator=seeds.generator(seed, "order", epoch))
