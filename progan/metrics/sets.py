"""Sets of pictures to be measured: what may be iterated several times and gives the same uint8 batches each time."""

from __future__ import annotations

import functools
import hashlib
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Protocol

import torch
from torch import Tensor

from progan import seeds
from progan.data.pictures import READING_FAULTS, Recipe, extent, pixels
from progan.data.pyramid import Pyramid
from progan.data.source import Progress, Raw, Source
from progan.errors import UserError
from progan.images import mirror, to_pixels
from progan.latents import sample_latents

Pictures = Iterable[Tensor]
"""Batches uint8 [n, C, R, R]."""


class Painter(Protocol):
    """A generator up to a stage, as `exchange.snapshots.painter` makes it of one."""

    latent_size: int
    device: torch.device

    def __call__(self, z: Tensor, *, alpha: float = 1.0, psi: float = 1.0) -> Tensor:
        """z: [N, latent_size] -> images [N, C, R, R]."""


BATCH = 64  # pictures; also the block that a draw of random numbers serves
IN_MEMORY = 256 << 20  # bytes of a set that are kept in memory; beyond, in a temporary file


@dataclass(frozen=True, eq=False)
class Fakes:
    """A generator's pictures of `count` latents. Picture n is the same in a larger set: latents are drawn in blocks."""

    G: Painter
    count: int
    alpha: float = 1.0
    psi: float = 1.0
    seed: int = 0

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.count, BATCH):
            z = sample_latents(BATCH, self.G.latent_size, seeds.generator(self.seed, "metrics latents", start))
            z = z[: self.count - start].to(self.G.device)
            yield to_pixels(self.G(z, alpha=self.alpha, psi=self.psi)).cpu()


@dataclass(frozen=True, eq=False)
class Reals:
    """Some of a pyramid's pictures at a resolution. flips: bool [N], which are turned left to right; None: none."""

    data: Pyramid
    chosen: Tensor  # [N] numbers of pictures
    flips: Tensor | None
    resolution: int

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.chosen), BATCH):
            batch = self.data.batch(self.chosen[start : start + BATCH], self.resolution)
            yield batch if self.flips is None else mirror(batch, self.flips[start : start + BATCH])


def real_sets(
    data: Pyramid, in_use: Tensor, count: int, resolution: int, mirrored: bool, seed: int
) -> tuple[Reals, Reals | None]:
    """`count` pictures drawn from those in use, and as many others for the noise floor; None where there are too few.

    in_use: [M] numbers, M >= count. mirrored: half of them turned left to right, as training shows them.
    """
    order = in_use[torch.randperm(len(in_use), generator=seeds.generator(seed, "metrics reals"))]
    flips = torch.rand(len(in_use), generator=seeds.generator(seed, "metrics flips")) < 0.5

    def part(start: int) -> Reals:
        span = slice(start, start + count)
        return Reals(data, order[span], flips[span] if mirrored else None, resolution)

    return part(0), part(count) if 2 * count <= len(in_use) else None


@dataclass(frozen=True, eq=False)
class Files:
    """Pictures of a source as they are, by name. All must have one square size. extent: (channels, R, R)."""

    source: Source
    text: str  # as the user named it
    extent: tuple[int, int, int]
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)

    def part(self, start: int, end: int) -> Files:
        """Some of them, by their places."""
        return replace(self, names=self.names[start:end])

    def shuffled(self, generator: torch.Generator) -> Files:
        """The same in another order."""
        return replace(self, names=tuple(self.names[n] for n in torch.randperm(self.count, generator=generator)))

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.count, BATCH):
            yield torch.stack([self.picture(name) for name in self.names[start : start + BATCH]])

    def picture(self, name: str) -> Tensor:
        """uint8 [C, R, R]. Raises UserError where it cannot be read, or has another form than the first."""
        channels, height, width = self.extent
        raw, found = _read(self.source, name, self.text, height)
        if found[1:] != (height, width):
            raise UserError(
                f"{self.text}: {name} is {found[2]}x{found[1]} pixels, the first picture {width}x{height}; all must "
                "have one size (progan prepare makes them so)."
            )
        if found[0] > channels:
            raise UserError(f"{self.text}: {name} is in colour, the first picture grey; all must be alike.")
        return torch.from_numpy(pixels(raw, Recipe(height, channels)))


def files_of(source: Source, text: str, resolution: int = 0) -> Files:
    """A source's pictures as they are. resolution: which level of a pyramid; 0 = its top.

    Raises UserError where one cannot be read, or the first is not square.
    """
    if source.refused:
        name, reason = next(iter(source.refused.items()))
        raise UserError(f"{text}: {name} cannot be read ({reason}).")
    _, (channels, height, width) = _read(source, source.names[0], text, resolution)
    if height != width:
        raise UserError(f"{text}: pictures are {width}x{height}; metrics take square ones (progan prepare makes them).")
    return Files(source, text, (channels, height, width), tuple(source.names))


def _read(source: Source, name: str, text: str, resolution: int) -> tuple[Raw, tuple[int, int, int]]:
    """A picture and its extent; of ready levels the one of that resolution, if there is one."""
    try:
        raw = source.read(name)
        if isinstance(raw, tuple):
            raw = next((level for level in raw if level.shape[-1] == resolution), raw[0])
        return raw, extent(raw)
    except READING_FAULTS as error:
        raise UserError(f"{text}: {name} cannot be read ({error}).") from None


def content_of(pictures: Pictures) -> str:
    """A hash of all pixels of a set in their order."""
    state = hashlib.blake2b(digest_size=16)
    for batch in pictures:
        state.update(batch.numpy().tobytes())
    return state.hexdigest()


class Kept:
    """The same set, drawn when it is first looked at, and then kept. extent: (C, R, R)."""

    def __init__(self, pictures: Pictures, count: int, extent: tuple[int, int, int], progress: Progress) -> None:
        self.pictures, self.count, self.extent, self.progress = pictures, count, extent, progress

    @functools.cached_property
    def held(self) -> Pictures:
        """In memory, or in a temporary file where it is large. Where the disk has no room the set stays what it is, and
        is drawn anew each time.
        """
        size, drawn = self.count * math.prod(self.extent), Watched(self.pictures, self.count, lambda: self.progress)
        if size <= IN_MEMORY:
            return list(drawn)
        if size > shutil.disk_usage(tempfile.gettempdir()).free // 2:
            return drawn
        file = tempfile.TemporaryFile(prefix="progan-")  # noqa: SIM115 (closed with the set)
        for batch in drawn:
            file.write(batch.numpy().tobytes())
        return Spilled(file, self.extent)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.held


@dataclass(frozen=True, eq=False)
class Spilled:
    """A set in a file: pictures [C, R, R], one after the other."""

    file: IO[bytes]
    extent: tuple[int, int, int]

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)

    def __iter__(self) -> Iterator[Tensor]:
        step, start = BATCH * math.prod(self.extent), 0
        while True:
            self.file.seek(start)  # several may be reading
            content = bytearray(self.file.read(step))
            if not content:
                return
            start += len(content)
            yield torch.frombuffer(content, dtype=torch.uint8).reshape(-1, *self.extent)


@dataclass(frozen=True, eq=False)
class Watched:
    """The same set, telling how many of its pictures have gone by."""

    pictures: Pictures
    count: int
    progress: Callable[[], Progress]  # a new one each time

    def __iter__(self) -> Iterator[Tensor]:
        done, progress = 0, self.progress()
        for batch in self.pictures:
            yield batch
            done += len(batch)
            progress(done, self.count)


@dataclass(frozen=True, eq=False)
class First:
    """The first `count` pictures of a set."""

    pictures: Pictures
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        left = self.count
        for batch in self.pictures:
            yield batch[:left]
            left -= len(batch[:left])
            if not left:
                return


def picked(pictures: Pictures, numbers: Tensor) -> Tensor:
    """Some of a set's pictures, by their places. numbers: [n] int64 -> uint8 [n, C, R, R]."""
    found: dict[int, Tensor] = {}
    start = 0
    places = set(numbers.tolist())
    for batch in pictures:
        found |= {start + n: picture for n, picture in enumerate(batch) if start + n in places}
        start += len(batch)
    return torch.stack([found[number] for number in numbers.tolist()])
