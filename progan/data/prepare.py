"""From pictures to a pyramid: decode, crop to a square, resize once, then halve down to 4x4.

Lower levels follow the official rule: 2x2 means of the unrounded floats of the level above, then rounded.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import lzma
import os
import random
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from progan.data.faces import faces
from progan.data.pyramid import MANIFEST, VERSION, Pyramid, level_name, open_pyramid
from progan.data.sources import UNDERSTOOD, Source, open_source
from progan.errors import UserError
from progan.files import atomic_folder
from progan.nn.ops import downscale2d
from progan.schedule import stage_of
from progan.version import __version__

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

Outcome = np.ndarray[Any, Any] | str
"""A picture [C, R, R] uint8, or the reason why it was skipped."""

UNREADABLE = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError,
)  # fmt: skip
"""What Pillow and zipfile raise for files that are damaged, encrypted, or no pictures."""

FACES_BYTES = 500_000_000  # of the built-in set's top level, unless a count is given: a minute or so of drawing


def open_data(source: str, max_res: int, channels: int, say: Callable[[str], None], progress: Progress) -> Pyramid:
    """The pyramid that `--data` means; what is none yet is prepared once into the cache.

    Raises UserError where the source is not understood or does not reach max_res or has other channels.
    """
    path = Path(source)
    prepared = (path / MANIFEST).is_file()
    pyramid = open_pyramid(path) if prepared else _cached(source, max_res, channels, say, progress)
    if max(pyramid.resolutions) < max_res:
        top = max(pyramid.resolutions)
        raise UserError(f"{source} reaches {top}x{top} only; use --max-res {top}, or prepare it for {max_res}.")
    if pyramid.channels != channels:
        raise UserError(f"{source} has {pyramid.channels} channels: use --set networks.channels={pyramid.channels}.")
    return pyramid


@dataclass(frozen=True)
class Recipe:
    """How to prepare what a user named. `depends_on` changes whenever the pictures may have; `make` fills a new folder
    and returns {name: reason} of the skipped.
    """

    name: str
    count: int
    depends_on: str
    make: Callable[[Path], dict[str, str]]


def _cached(source: str, max_res: int, channels: int, say: Callable[[str], None], progress: Progress) -> Pyramid:
    recipe = _recipe(source, max_res, channels, progress)
    key = f"{__version__}/{channels}/{recipe.depends_on}".encode(errors="surrogateescape")
    digest = hashlib.blake2b(key, digest_size=5).hexdigest()
    folder = cache_folder() / f"{recipe.name}-{max_res}px-{digest}"
    if not folder.exists():
        say(f"Preparing {source}, {recipe.count:,} pictures, for {max_res}x{max_res}, once, into {folder}")
        try:
            skipped = recipe.make(folder)
        except UserError:
            if not folder.exists():  # else another run has prepared the same data meanwhile
                raise
            skipped = {}
        if skipped:
            say(f"Left out {len(skipped):,} of them: {folder / 'skipped.csv'} says why")
    return open_pyramid(folder)


def _recipe(source: str, max_res: int, channels: int, progress: Progress) -> Recipe:
    if _is_faces(source):
        n = faces_count(source, max_res)
        return Recipe("faces", n, str(n), lambda folder: prepare_faces(folder, n, max_res, channels, progress))
    path, opened = Path(source), open_source(Path(source))
    depends_on = f"{path.resolve()}{opened.state}"
    make = partial(prepare, opened, max_res=max_res, channels=channels, upscale=False, progress=progress)
    return Recipe(path.stem, len(opened.names), depends_on, make)


def cache_folder() -> Path:
    """Where prepared data is kept: $PROGAN_CACHE, else progan below $XDG_CACHE_HOME, else ~/.cache/progan."""
    if "PROGAN_CACHE" in os.environ:
        return Path(os.environ["PROGAN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "progan"


def prepare(
    source: Source, folder: Path, max_res: int, channels: int, upscale: bool, progress: Progress
) -> dict[str, str]:
    """Write a source's pictures as a pyramid, in an order shuffled once and for all. Returns {name: reason} of the
    skipped.

    upscale: also take pictures that are smaller than max_res. Raises UserError where nothing is left, where the folder
    exists, or the disk refuses; then no folder is left behind.
    """
    names = list(source.names)
    random.Random(123).shuffle(names)

    def decoded(name: str) -> tuple[str, Outcome]:
        return name, decode(source.open, name, max_res, channels, upscale)

    def pictures(skipped: dict[str, str]) -> Iterator[np.ndarray[Any, Any]]:
        with ThreadPoolExecutor() as pool:
            for done, (name, outcome) in enumerate(_windowed(pool, decoded, names), 1):
                progress(done, len(names))
                if isinstance(outcome, str):
                    skipped[name] = outcome
                else:
                    yield outcome

    skipped: dict[str, str] = {}
    _write(folder, pictures(skipped), max_res, channels, skipped)
    return skipped


def prepare_any(
    source: str, folder: Path, max_res: int, channels: int, upscale: bool, progress: Progress
) -> dict[str, str]:
    """`prepare` for what a user names: a path, `faces` or `faces:COUNT`. Raises UserError for anything else."""
    if max_res not in [4 << s for s in range(9)]:
        raise UserError(f"--max-res {max_res} is not a power of two between 4 and 1024.")
    if channels not in (1, 3):
        raise UserError(f"--channels {channels}: pictures have 1 channel (grey) or 3.")
    if _is_faces(source):
        return prepare_faces(folder, faces_count(source, max_res), max_res, channels, progress)
    return prepare(open_source(Path(source)), folder, max_res, channels, upscale, progress)


def _windowed(
    pool: ThreadPoolExecutor, work: Callable[[str], tuple[str, Outcome]], names: list[str], window: int = 64
) -> Iterator[tuple[str, Outcome]]:
    """pool.map in order, but never more than a window of results at a time."""
    for start in range(0, len(names), window):
        yield from pool.map(work, names[start : start + window])


def decode(open_file: Callable[[str], BinaryIO], name: str, max_res: int, channels: int, upscale: bool) -> Outcome:
    """One picture as a person sees it, centre square, [channels, max_res, max_res] uint8; or why it cannot be had."""
    try:
        with open_file(name) as file, Image.open(file) as image:
            if min(image.size) < max_res and not upscale:
                return f"smaller than {max_res}x{max_res}"
            picture = _as_seen(image, channels)
    except UNREADABLE as error:
        return f"unreadable: {error}".splitlines()[0][:200]
    picture = ImageOps.fit(picture, (max_res, max_res), Image.Resampling.LANCZOS)
    return np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)


def _as_seen(image: Image.Image, channels: int) -> Image.Image:
    """Upright by its EXIF orientation, transparency over white, in RGB or grey."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # convert() would cut 16 bits off at 255
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB" if channels == 3 else "L")


def prepare_faces(folder: Path, count: int, max_res: int, channels: int, progress: Progress) -> dict[str, str]:
    """Write the first `count` pictures of the built-in set as a pyramid. Nothing is ever skipped."""
    step = max(1, min(64, 64 * 128**2 // max_res**2))

    def pictures() -> Iterator[np.ndarray[Any, Any]]:
        for start in range(0, count, step):
            pixels, _ = faces(torch.arange(start, min(start + step, count)), max_res)
            if channels == 1:
                pixels = pixels.float().mean(1, keepdim=True).round().to(torch.uint8)
            progress(min(start + step, count), count)
            yield from pixels.numpy()

    _write(folder, pictures(), max_res, channels, {})
    return {}


def _is_faces(source: str) -> bool:
    return source == "faces" or source.startswith("faces:")


def faces_count(source: str, max_res: int) -> int:
    """`faces:5000` -> 5000; `faces` -> 10,000, or fewer where the top level would exceed FACES_BYTES."""
    _, colon, count = source.partition(":")
    if not colon:
        return min(10_000, FACES_BYTES // (3 * max_res**2))
    if not (count.isascii() and count.isdigit()) or int(count) < 1:
        raise UserError(f"--data {source}: write faces:COUNT with a whole number; data is {UNDERSTOOD}.")
    return int(count)


def _write(
    folder: Path, pictures: Iterable[np.ndarray[Any, Any]], max_res: int, channels: int, skipped: dict[str, str]
) -> None:
    """Stream pictures [C, R, R] uint8 into a new pyramid, which appears whole or not at all."""
    if folder.exists():
        raise UserError(f"{folder} exists already; choose another destination or remove it yourself.")
    resolutions = [4 << s for s in range(stage_of(max_res) + 1)]
    with atomic_folder(folder) as temporary, contextlib.ExitStack() as stack:
        levels = {r: _Level(temporary / level_name(r), (channels, r, r)) for r in resolutions}
        for level_file in levels.values():
            stack.callback(level_file.file.close)
        digest, count = hashlib.blake2b(digest_size=16), 0
        for picture in pictures:
            for r, level in zip(reversed(resolutions), halvings(picture)):
                levels[r].append(level)
            digest.update(np.ascontiguousarray(picture).tobytes())
            count += 1
        for level_file in levels.values():
            level_file.close(count)
        _check_left(count, skipped)
        _describe(temporary, count, channels, resolutions, digest.hexdigest(), skipped)


def halvings(picture: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """A picture [C, R, R] uint8 at R, R/2, ... 4: rounded 2x2 means of the unrounded level above."""
    level = torch.from_numpy(np.array(picture, np.float32))
    while True:
        yield level.round().to(torch.uint8).numpy()
        if level.shape[-1] == 4:
            return
        level = downscale2d(level[None])[0]


class _Level:
    """A .npy file that grows picture by picture; its header is written for good when the count is known."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.file, self.shape = path.open("wb"), shape
        self._header(0)

    def append(self, picture: np.ndarray[Any, Any]) -> None:
        self.file.write(np.ascontiguousarray(picture).tobytes())

    def close(self, count: int) -> None:
        self.file.seek(0)
        self._header(count)
        self.file.close()

    def _header(self, count: int) -> None:
        # numpy leaves room for a growing first axis, so both headers have one length
        shape = (count, *self.shape)
        np.lib.format.write_array_header_1_0(self.file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _check_left(count: int, skipped: dict[str, str]) -> None:
    if count:
        return
    commonest = "; ".join(f"{n} x {reason}" for reason, n in Counter(skipped.values()).most_common(3))
    mend = "; take a lower --max-res, or progan prepare --upscale" if "smaller than" in commonest else ""
    raise UserError(f"no picture is left of {len(skipped)}: {commonest}{mend}.")


def _describe(
    folder: Path, count: int, channels: int, resolutions: list[int], fingerprint: str, skipped: dict[str, str]
) -> None:
    manifest = {
        "version": VERSION,
        "progan": __version__,
        "count": count,
        "channels": channels,
        "resolutions": resolutions,
        "fingerprint": fingerprint,
        "skipped": len(skipped),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    with (folder / "skipped.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("picture", "reason"), *skipped.items()])
