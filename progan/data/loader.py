"""Inputs of D steps, read ahead in the background.

What a step sees is a pure function of the seed and of its cur_nimg (`inputs_of`). The loader only decides when that is
computed, so a run with it and one without are equal to the bit.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from progan import seeds
from progan.data.order import Order
from progan.data.pyramid import Pyramid
from progan.data.source import Array
from progan.errors import RunFailed
from progan.latents import sample_latents
from progan.schedule import Schedule

WINDOWS = 2  # that are read or wait while the training uses a third
WINDOW_STEPS = 64  # more would not make a step cheaper
WINDOW_BYTES = 16 << 20  # of a window, where the data fits into memory
LONG_WINDOW_BYTES = 128 << 20  # where it does not: the more pictures, the straighter the way through the file
READ_AHEAD_BYTES = 8 << 20  # that the system is told of before they are read
PIECE_BYTES = 128 << 10  # that it is told of at once: of more Linux brings the beginning only, as far as it reads ahead


@dataclass(frozen=True)
class Step:
    """A D step to come: how many images had been shown before it, how many it shows, and at which resolution."""

    cur_nimg: int
    batch: int
    resolution: int


@dataclass(frozen=True)
class Inputs:
    """What a D step of N images is given, on the host (pinned where the supply says so). Not to be written to: steps
    share their memory.
    """

    step: Step
    pixels: Tensor  # uint8 [N, C, R, R]
    latents: Tensor  # [N, latent_size]
    mix: Tensor  # [N] in 0..1
    flips: Tensor | None  # bool [N]: which are mirrored; None = none
    noise: Tensor | None  # [N, C, R, R] in [0, 1); None = no dequantisation

    def to(self, device: torch.device) -> Inputs:
        """The same on a device; a CUDA device copies pinned memory while the host goes on."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def part(self, samples: Tensor) -> Inputs:
        """Those of some samples. samples: numbers, on the host."""
        if torch.equal(samples, torch.arange(len(self.mix))):
            return self
        samples = samples.to(self.mix.device, non_blocking=True)
        return self._each(lambda tensor: tensor[samples])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        flips, noise = (None if t is None else change(t) for t in (self.flips, self.noise))
        return Inputs(self.step, change(self.pixels), change(self.latents), change(self.mix), flips, noise)


@dataclass(frozen=True)
class Supply:
    """All that the inputs of a run's D steps are a function of, beside the step; and, last, how they are got."""

    data: Pyramid
    order: Order
    seed: int
    latent_size: int
    mirror: bool = False
    dequantise: bool = False
    pin: bool = False  # into page-locked memory, from which a CUDA device copies while the host goes on
    room: float = math.inf  # bytes that memory can keep: a level that is larger is read through the file, in order

    def now(self, step: Step) -> Inputs:
        """The inputs of a step, without reading ahead."""
        return inputs_of(self, [step])[0]


Take = Callable[[Step], Inputs]
"""`Supply.now` or `Loader.take`: both give the same."""


def coming_steps(schedule: Schedule, cur_nimg: int, end_nimg: int, d_repeats: int) -> Iterator[Step]:
    """The D steps of a training from cur_nimg until end_nimg: d_repeats an iteration."""
    while cur_nimg < end_nimg:
        phase = schedule.phase_at(cur_nimg)
        for _ in range(d_repeats):
            yield Step(cur_nimg, phase.batch, phase.resolution)
            cur_nimg += phase.batch


class Loader:
    """Gives the inputs of a run's D steps one after the other, and reads the next ones in a thread meanwhile.

    At most WINDOWS windows wait, of a few steps each. What goes wrong in the thread is tried again, and raised, by
    the `take` of the step that needs it. To be used as a context: the thread ends with it.
    """

    def __init__(self, supply: Supply, steps: Iterable[Step]) -> None:
        self._supply, self._windows = supply, windows(steps, lambda step: steps_at_once(supply, step))
        self._ready: deque[Inputs | Step] = deque()
        self._ahead: deque[Future[list[Inputs | Step]]] = deque()
        self._stopped = threading.Event()
        self._thread = ThreadPoolExecutor(1, "progan-loader")

    def __enter__(self) -> Loader:
        for _ in range(WINDOWS):
            self._ahead.append(self._thread.submit(self._read))
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.shutdown(cancel_futures=True)
        self._ahead.clear()
        self._ready.clear()

    def take(self, step: Step) -> Inputs:
        """The inputs of the next step, which must be this one. Raises RunFailed where they cannot be read."""
        if not self._ready:
            self._ready.extend(self._ahead.popleft().result())
            self._ahead.append(self._thread.submit(self._read))
        found = self._ready.popleft() if self._ready else None
        if isinstance(found, Step):
            found = self._supply.now(found)
        if found is None or found.step != step:
            raise ValueError(f"{step} is not the next step: {found and found.step}")
        return found

    def _read(self) -> list[Inputs | Step]:
        """The inputs of the next window; its bare steps where they cannot be had."""
        steps = next(self._windows, [])
        try:
            return [*inputs_of(self._supply, steps, self._stopped)] if steps else []
        except Exception:  # nothing is lost: each step is tried again when it is needed, and fails there
            return [*steps]


def windows(steps: Iterable[Step], most: Callable[[Step], int]) -> Iterator[list[Step]]:
    """Steps that are read at once: 1, 2, 4, ... so that the first is there soon, at most `most` of them, all of one
    resolution.
    """
    length = 1
    for _, group in itertools.groupby(steps, lambda step: step.resolution):
        for first in group:
            length = min(length, most(first))
            yield [first, *itertools.islice(group, length - 1)]  # noqa: B031 - both take what is left of the group
            length *= 2


def steps_at_once(supply: Supply, step: Step) -> int:
    """How many steps like this one a window may hold."""
    level = supply.data.levels[step.resolution]
    image = int(level[0].nbytes) * (5 if supply.dequantise else 1)  # float noise is four times as large as its pixels
    if level.nbytes <= supply.room:
        return max(1, min(WINDOW_STEPS, WINDOW_BYTES // (step.batch * image)))
    return max(1, int(min(LONG_WINDOW_BYTES, supply.room / (2 * WINDOWS + 2)) // (step.batch * image)))


# ---- what a step sees


def inputs_of(supply: Supply, steps: list[Step], stopped: threading.Event | None = None) -> list[Inputs]:
    """The inputs of steps that follow each other at one resolution, a pure function. Given up where `stopped` is set.

    Raises RunFailed where the data cannot be read.
    """
    sizes, first = [step.batch for step in steps], steps[0]
    indices = supply.order.indices(supply.seed, first.cur_nimg, sum(sizes))
    pixels = gather(supply, indices, first.resolution, stopped or threading.Event())
    none = [None] * len(steps)
    flips = _flips(supply, steps) if supply.mirror else none
    noise = torch.split(_noise(supply, first.cur_nimg, pixels.shape), sizes) if supply.dequantise else none
    columns = (torch.split(pixels, sizes), _latents(supply, steps), _mix(supply, steps), flips, noise)
    return [Inputs(*values) for values in zip(steps, *columns)]


def gather(supply: Supply, indices: Tensor, resolution: int, stopped: threading.Event) -> Tensor:
    """Pictures by number. indices: [N] -> pixels uint8 [N, C, R, R]."""
    level = supply.data.levels[resolution]
    pixels = torch.empty((len(indices), *level.shape[1:]), dtype=torch.uint8, pin_memory=supply.pin)
    if level.nbytes <= supply.room:
        # Not torch's index_select: it would wake a second team of threads, which disturbs that of the training.
        np.take(level.view(np.ndarray), indices.numpy(), axis=0, out=pixels.numpy(), mode="clip")
    else:
        read_in_order(level, indices.numpy(), pixels.numpy(), stopped)
    return pixels


def _generator(supply: Supply, stream: str, step: Step) -> torch.Generator:
    return seeds.generator(supply.seed, stream, step.cur_nimg)


def _latents(supply: Supply, steps: list[Step]) -> list[Tensor]:
    draws = [sample_latents(s.batch, supply.latent_size, _generator(supply, "latents_D", s)) for s in steps]
    return _handed_over(supply, draws)


def _mix(supply: Supply, steps: list[Step]) -> list[Tensor]:
    return _handed_over(supply, [torch.rand(s.batch, generator=_generator(supply, "mix", s)) for s in steps])


def _flips(supply: Supply, steps: list[Step]) -> list[Tensor]:
    draws = [torch.rand(s.batch, generator=_generator(supply, "mirror", s)) < 0.5 for s in steps]
    return _handed_over(supply, draws)


def _handed_over(supply: Supply, draws: list[Tensor]) -> list[Tensor]:
    """The tensors as they are, or moved to one piece of pinned memory."""
    return [*torch.split(torch.cat(draws).pin_memory(), [len(d) for d in draws])] if supply.pin else draws


def _noise(supply: Supply, cur_nimg: int, shape: torch.Size) -> Tensor:
    """Uniform noise in [0, 1): each image's own, so that it does not matter how a batch is divided."""
    noise = torch.empty(shape, pin_memory=supply.pin)
    for n, image in enumerate(noise):
        torch.rand(image.shape, generator=seeds.generator(supply.seed, "dequantise", cur_nimg + n), out=image)
    return noise


# ---- data larger than memory


def read_in_order(level: np.memmap[Any, Any], numbers: Array, out: Array, stopped: threading.Event) -> None:
    """out[n] <- level[numbers[n]], each picture read once, from the beginning of the file to its end.

    Raises RunFailed where the file is gone, too short, or cannot be read; or where `stopped` is set.
    """
    places = np.argsort(numbers, kind="stable")
    wanted, first = np.unique(numbers[places], return_index=True)
    path = Path(str(level.filename))
    try:
        with path.open("rb", buffering=0) as file:
            _read(file, level, wanted, out, places[first], stopped)
    except OSError as error:
        raise RunFailed(f"{path} cannot be read any more ({error.strerror or error}).") from None
    again = np.delete(places, first)  # of pictures that are wanted twice
    out[again] = out[places[first][np.searchsorted(wanted, numbers[again])]]


def _read(
    file: FileIO, level: np.memmap[Any, Any], wanted: Array, out: Array, places: Array, stopped: threading.Event
) -> None:
    """Read pictures, by ascending number, to their places."""
    size = level[0].nbytes
    ahead = max(1, READ_AHEAD_BYTES // size)  # pictures
    offsets = [level.offset + number * size for number in wanted.tolist()]
    for n, (offset, place) in enumerate(zip(offsets, places.tolist())):
        if n % ahead == 0:
            _announce(file, offsets[n + ahead if n else 0 : n + 2 * ahead], size)
        if stopped.is_set():
            raise RunFailed("The loader was closed.")
        file.seek(offset)
        if file.readinto(memoryview(out[place]).cast("B")) != size:
            raise OSError("it is shorter than it was")


def _announce(file: FileIO, offsets: Iterable[int], size: int) -> None:
    """Tell the system what will be read, where it can be told: a disk answers many questions at once sooner."""
    if sys.platform == "linux":
        for offset in offsets:
            for at in range(0, size, PIECE_BYTES):
                os.posix_fadvise(file.fileno(), offset + at, min(PIECE_BYTES, size - at), os.POSIX_FADV_WILLNEED)


def page_cache_room(cgroups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes of a file that memory can keep beside a training: four fifths of what the machine, or the memory cgroup
    that we are in, has to spare, whichever is less.
    """
    rooms = [float(psutil.virtual_memory().available)]
    try:
        lines = cgroups.read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":  # version 2
            rooms += [_spare(folder, "memory.max", "anon") for folder in _upwards(root, path)]
        elif "memory" in controllers.split(","):
            folders = _upwards(root / "memory", path)
            rooms += [_spare(folder, "memory.limit_in_bytes", "total_rss") for folder in folders]
    return max(0.0, 0.8 * min(rooms))


def _upwards(top: Path, path: str) -> list[Path]:
    """The folder of a cgroup and those above it."""
    folder = top / path.lstrip("/")
    return [f for f in (folder, *folder.parents) if f.is_relative_to(top)]


def _spare(folder: Path, limit: str, used: str) -> float:
    """A cgroup's limit without what its programs hold; infinite where it has none."""
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return float((folder / limit).read_text()) - float(stat[used])
    except (OSError, ValueError, KeyError):  # no such cgroup, "max", another kernel's words
        return math.inf
