"""What is in a pyramid, and whether it is whole. All is read in chunks: a pyramid may be larger than the memory."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from progan.data.pyramid import LABELS, MANIFEST, SKIPPED, Pyramid, fingerprint, hash_file, level_name, read_manifest
from progan.data.source import Array, Labels, Progress
from progan.errors import UserError
from progan.images import enlarge, grid
from progan.nn.ops import downscale2d

CHUNK_BYTES = 1 << 24  # of pixels that are looked at together
SAMPLE_BYTES = 1 << 32  # of the top level that the statistics read: seconds, however large the data
SUSPICIOUS = 16  # the resolution at which pictures that may be duplicates are found
STRANGER = 24.0  # grey values: two pictures that differ by more on average are no two forms of one
CELL, COLUMNS, ROWS, GAP = 128, 8, 3, 8  # of the sheet: pixels of a sample, samples of a row, rows, pixels in between
MOST_CLASSES = 10  # that have a row of their own


def chunks(count: int, shape: Sequence[int]) -> Iterator[slice]:
    """Pictures 0 .. count-1 of a shape [C, R, R], so many at a time as CHUNK_BYTES hold."""
    step = max(1, CHUNK_BYTES // int(np.prod(shape)))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def level_at_most(pyramid: Pyramid, resolution: int) -> int:
    """The highest resolution that is not above the given one."""
    return max(r for r in pyramid.resolutions if r <= resolution)


# --- what is in it ---


@dataclass(frozen=True)
class Statistics:
    """Of a level's first pictures, all in 0..255."""

    pictures: int
    picture: Array  # float64 [C, R, R] their mean picture
    mean: Array  # float64 [C]
    deviation: Array  # float64 [C] standard deviation of a channel's values around their common mean


def statistics(level: Array, pictures: int, progress: Progress) -> Statistics:
    """Of the first so many pictures of a level uint8 [N, C, R, R]; sums are whole numbers, so that none is rounded."""
    total, histogram = np.zeros(level.shape[1:], np.int64), np.zeros((level.shape[1], 256), np.int64)
    for part in chunks(pictures, level.shape[1:]):
        pixels = np.asarray(level[part])
        total += pixels.sum(0, dtype=np.int64)
        histogram += [np.bincount(pixels[:, c].ravel(), minlength=256) for c in range(len(histogram))]
        progress(part.stop, pictures)
    values, shares = np.arange(256), histogram / histogram.sum(1, keepdims=True)
    mean = shares @ values
    deviation = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
    return Statistics(pictures, total / pictures, mean, deviation)


def sample_size(pyramid: Pyramid) -> int:
    """How many pictures the statistics read. They are the first ones: a pyramid's order is random."""
    return min(pyramid.count, max(1, SAMPLE_BYTES // (pyramid.channels * pyramid.top**2)))


def class_counts(labels: Labels) -> Array:
    """Pictures of each class, int64 [K]. Raises UserError where a label is of no class."""
    if outside(labels):
        raise UserError(f"a label of {LABELS} is of none of the {len(labels.names)} classes; prepare the data again.")
    return np.bincount(labels.values, minlength=len(labels.names))


def reasons(path: Path) -> Counter[str]:
    """{why: how many pictures were left out}, of a pyramid's skipped.csv. Raises UserError where it is damaged."""
    try:
        with (path / SKIPPED).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.reader(file)
            head, counts = next(rows, []), Counter(reason for _, reason in rows)
    except OSError as error:
        raise UserError(f"{path / SKIPPED} cannot be read ({error.strerror}).") from None
    except (csv.Error, ValueError):
        raise UserError(f"{path / SKIPPED} has a line that is no picture and reason.") from None
    if head != ["picture", "reason"]:
        raise UserError(f"{path / SKIPPED} does not begin with `picture,reason`.")
    return counts


def duplicates(pyramid: Pyramid, progress: Progress) -> list[list[int]]:
    """Groups of the numbers of pictures that have the same pixels, in ascending order.

    Only pictures that are the same at a low level are read at the top one.
    """
    low = level_at_most(pyramid, SUSPICIOUS)
    groups = alike(pyramid.levels[low], range(pyramid.count), progress)
    return alike(pyramid.levels[pyramid.top], sorted(chain(*groups)), progress)


def alike(level: Array, numbers: Sequence[int], progress: Progress) -> list[list[int]]:
    """Groups of those of the ascending numbers whose pictures have one 64-bit hash. level: uint8 [N, C, R, R]."""
    keys = np.fromiter(_keys(level, numbers, progress), np.uint64, len(numbers))
    _, key, count = np.unique(keys, return_inverse=True, return_counts=True)
    groups: dict[int, list[int]] = defaultdict(list)
    for position in np.flatnonzero(count[key] > 1).tolist():
        groups[key[position]].append(numbers[position])
    return sorted(groups.values())


def _keys(level: Array, numbers: Sequence[int], progress: Progress) -> Iterator[int]:
    flat = np.asarray(level).reshape(len(level), -1)
    for done, number in enumerate(numbers, 1):
        yield int.from_bytes(hashlib.blake2b(flat[number], digest_size=8).digest(), "little")
        if done % 256 == 0:
            progress(done, len(numbers))


def blanks(pyramid: Pyramid) -> list[int]:
    """The numbers of the pictures whose pixels all have one colour, in ascending order."""
    top, low = (pyramid.levels[r] for r in (pyramid.top, min(pyramid.resolutions)))
    parts = chunks(pyramid.count, low.shape[1:])
    suspects = chain.from_iterable(part.start + np.flatnonzero(_even(np.asarray(low[part]))) for part in parts)
    return [int(n) for n in suspects if _even(np.asarray(top[n : n + 1]))]


def _even(pixels: Array) -> Array:
    """Whether a picture has one colour. [N, C, R, R] -> bool [N]."""
    even: Array = (pixels == pixels[:, :, :1, :1]).all((1, 2, 3))
    return even


# --- the sheet ---


def sheet(pyramid: Pyramid, mean: Array) -> Tensor:
    """The mean picture [C, R, R], beside it samples, a row a class where the classes are few: uint8 [C, H, W]."""
    rows = samples(pyramid.labels, pyramid.count)
    cells = grid(torch.cat([_row(pyramid, row) for row in rows]), COLUMNS)
    height, left = max(len(rows), 2) * CELL, 2 * CELL + GAP
    pixels = torch.full((pyramid.channels, height, left + COLUMNS * CELL), 255, dtype=torch.uint8)
    pixels[:, : 2 * CELL, : 2 * CELL] = _sized(torch.from_numpy(mean), 2 * CELL).round().to(torch.uint8)
    pixels[:, : cells.shape[1], left:] = cells
    return pixels


def samples(labels: Labels | None, count: int) -> list[list[int]]:
    """The numbers of the pictures to show, row by row: the first ones of each class, or the first of all."""
    if labels is not None and 0 < len(labels.names) <= MOST_CLASSES:
        return [np.flatnonzero(labels.values == k)[:COLUMNS].tolist() for k in range(len(labels.names))]
    shown = range(min(count, ROWS * COLUMNS))
    return [list(shown[start : start + COLUMNS]) for start in shown[::COLUMNS]]


def _row(pyramid: Pyramid, numbers: list[int]) -> Tensor:
    """Pictures as uint8 [COLUMNS, C, CELL, CELL], white where there are not enough."""
    cells = torch.full((COLUMNS, pyramid.channels, CELL, CELL), 255, dtype=torch.uint8)
    pictures = pyramid.batch(torch.tensor(numbers, dtype=torch.int64), level_at_most(pyramid, CELL))
    cells[: len(numbers)] = _sized(pictures, CELL)
    return cells


def _sized(pictures: Tensor, size: int) -> Tensor:
    """Pictures [..., R, R] halved or enlarged to [..., size, size]; R and size are powers of two."""
    while pictures.shape[-1] > size:
        pictures = downscale2d(pictures)
    return enlarge(pictures, size // pictures.shape[-1])


# --- whether it is whole ---


def damaged(path: Path, progress: Callable[[str, int, int], None]) -> list[str]:
    """What is wrong with the files of a pyramid, one clause each; reads all of them.

    progress: called with (file, bytes done, bytes of all). Raises UserError where pyramid.json is no use.
    """
    about = manifest(path)
    sizes = {name: _size(path / name) for name in parts(about)}
    faults: list[str | None] = []
    for place, name in enumerate(sizes):
        progress(name, sum(list(sizes.values())[:place]), sum(sizes.values()))
        faults.append(_fault(path / name, about["hashes"].get(name), _least(about).get(name, 0)))
    return [fault for fault in [*faults, _listing_fault(path, about), _fingerprint_fault(about)] if fault]


def manifest(path: Path) -> Mapping[str, Any]:
    """pyramid.json, whatever is the matter with the files beside it. Raises UserError where it cannot be relied on."""
    about = read_manifest(path)
    if not _sound(about):
        raise UserError(f"{path / MANIFEST} is damaged; prepare the data again.")
    return about


def _sound(about: Mapping[str, Any]) -> bool:
    """Whether a manifest's entries are of the kinds that they must be, and name nothing outside the folder."""
    resolutions, labels, hashes = about["resolutions"], about["labels"], about["hashes"]
    return (
        all(type(about[key]) is int and about[key] > 0 for key in ("count", "channels"))
        and isinstance(resolutions, list)
        and resolutions == [4 << stage for stage in range(max(1, len(resolutions)))]
        and (labels is None or (isinstance(labels, dict) and {"names", "size"} <= labels.keys()))
        and isinstance(hashes, dict)
        and all(isinstance(value, str) and Path(name).name == name for name, value in hashes.items())
    )


def parts(about: Mapping[str, Any]) -> list[str]:
    """The files that a pyramid is made of, from its manifest, the smaller levels first."""
    named = [level_name(r) for r in about["resolutions"]] + [LABELS] * (about["labels"] is not None)
    return sorted({*named, *about["hashes"]})


def strangers(path: Path, about: Mapping[str, Any]) -> list[str]:
    """What else lies in a pyramid's folder."""
    return sorted({file.name for file in path.iterdir()} - {*parts(about), MANIFEST, SKIPPED})


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _least(about: Mapping[str, Any]) -> dict[str, int]:
    """{level: bytes of its pixels}"""
    return {level_name(r): about["count"] * about["channels"] * r**2 for r in about["resolutions"]}


def _fault(file: Path, written: str | None, least: int) -> str | None:
    """What is wrong with a file of which the hash and the least size are known; None where nothing is."""
    if not file.is_file():
        return f"{file.name} is missing"
    if _size(file) < least:
        return f"{file.name} is cut off"
    if written is None:
        return f"{file.name} has no hash in {MANIFEST}"
    try:
        return None if hash_file(file) == written else f"{file.name} does not hold what was written"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"


def _listing_fault(path: Path, about: Mapping[str, Any]) -> str | None:
    """What is wrong with the list of the skipped."""
    try:
        listed = reasons(path).total()
    except UserError as error:
        return str(error).removesuffix(".")
    wanted = about.get("skipped", listed)
    return None if listed == wanted else f"{SKIPPED} lists {listed:,} pictures where {MANIFEST} counts {wanted:,}"


def _fingerprint_fault(about: Mapping[str, Any]) -> str | None:
    """Whether the manifest contradicts itself."""
    top = max(about["resolutions"])
    if level_name(top) in about["hashes"] and fingerprint(about["hashes"], top) != about["fingerprint"]:
        return f"the fingerprint in {MANIFEST} is not that of the hashes there"
    return None


def outside(labels: Labels) -> int:
    """How many labels are no label: of no class, or a vector with a number that is not finite."""
    values = labels.values
    wrong = (values < 0) | (values >= len(labels.names)) if labels.names else ~np.isfinite(values).all(1)
    return int(wrong.sum())


@dataclass(frozen=True)
class Deviation:
    """How a level differs from the official one: the rounded 2x2 means of the unrounded means above, of the top one."""

    resolution: int
    pictures: int = 0  # that differ
    most: int = 0  # grey values, anywhere
    stranger: int | None = None  # the number of the first picture that is another one at the top


def deviations(pyramid: Pyramid, progress: Progress) -> list[Deviation]:
    """The levels that are not the official ones, from the top down; empty where all are. Reads all levels.

    Float32 holds the means exactly: 8 bits, and 2 more at each of at most 8 halvings.
    """
    top, found = pyramid.levels[pyramid.top], {r: Deviation(r) for r in sorted(pyramid.resolutions)[-2::-1]}
    for part in chunks(pyramid.count, top.shape[1:]):
        level = torch.from_numpy(np.array(top[part])).float()
        for r, so_far in found.items():
            level = downscale2d(level)
            stored = torch.from_numpy(np.array(pyramid.levels[r][part]))
            found[r] = _further(so_far, level.round(), stored, part.start)
        progress(part.stop, pyramid.count)
    return [deviation for deviation in found.values() if deviation.pictures]


def _further(so_far: Deviation, official: Tensor, stored: Tensor, start: int) -> Deviation:
    """With some more pictures [n, C, R, R], the first of which has the number `start`."""
    distance = (official - stored.float()).abs()
    most, strange = distance.amax((1, 2, 3)), distance.mean((1, 2, 3)) > STRANGER
    first = start + int(strange.int().argmax()) if strange.any() else None
    return Deviation(
        so_far.resolution,
        so_far.pictures + int((most > 0).sum()),
        max(so_far.most, int(most.max())),
        so_far.stranger if so_far.stranger is not None else first,
    )


def contradictions(labels: Labels | None, off: Sequence[Deviation]) -> list[str]:
    """What is wrong with a pyramid whose files all hold what was written, one clause each."""
    wrong = 0 if labels is None else outside(labels)
    faults = [
        f"picture {d.stranger:,} of {level_name(d.resolution)} is not the one of the top level"
        for d in off
        if d.stranger is not None
    ]
    return [*faults, f"{LABELS} has {wrong:,} labels of no class or not finite"] if wrong else faults
