"""What a progressive training does when: a pure function of `cur_nimg`, the number of real images shown so far.

Train first, then fade (Karras et al. 2018, appendix A.1): the start resolution is trained alone, then every further
resolution is faded in and trained. Resolution, batch, rates and ticks of the new resolution hold from the first
image of its fade. Nothing is remembered between two calls, so a resumed run cannot disagree with an uninterrupted
one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

Table = float | Mapping[str | int, float]
"""A knob that may depend on the resolution: a number, or `{base: 4, 4: 128, 8: 128}` (base = wherever no entry
stands).
"""

OFFICIAL_BATCH: Table = {"base": 4, "4": 128, "8": 128, "16": 128, "32": 64, "64": 32, "128": 16, "256": 8, "512": 4}
OFFICIAL_LR: Table = {"base": 0.001, "1024": 0.0015}
OFFICIAL_TICK_KIMG: Table = {
    "base": 160, "4": 160, "8": 140, "16": 120, "32": 100, "64": 80, "128": 60, "256": 40, "512": 20, "1024": 10,
}  # fmt: skip


def by_resolution(table: Table, resolution: int) -> float:
    """The value of a knob at a resolution. Raises ValueError where a table has neither this resolution nor `base`."""
    if not isinstance(table, Mapping):
        return table
    for key in (resolution, str(resolution), "base"):
        if key in table:
            return table[key]
    raise ValueError(f"the table {dict(table)} has no entry for {resolution} and no `base`")


def stage_of(resolution: int) -> int:
    """4 -> 0, 8 -> 1, ... 1024 -> 8. Raises ValueError unless the resolution is a power of two in 4..1024."""
    if resolution not in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"the resolution {resolution} is not a power of two between 4 and 1024")
    return int(math.log2(resolution)) - 2


@dataclass(frozen=True)
class Phase:
    """One stretch of a training: a resolution that is stable (alpha 1) or fading in (alpha 0 -> 1)."""

    index: int
    stage: int
    resolution: int  # pixels
    fading: bool
    start_nimg: int
    end_nimg: int
    batch: int  # images, over all devices
    lr_G: float
    lr_D: float
    tick_nimg: int

    @property
    def nimg(self) -> int:
        """Length in images."""
        return self.end_nimg - self.start_nimg

    @property
    def ticks(self) -> int:
        """Ticks that end within the phase; the end of the phase always is one."""
        return math.ceil(self.nimg / self.tick_nimg)

    def ticks_by(self, cur_nimg: int) -> int:
        """Ticks that have ended by cur_nimg, which lies in the phase or, for the last one, beyond it."""
        if cur_nimg < self.end_nimg:
            return (cur_nimg - self.start_nimg) // self.tick_nimg
        return self.ticks + (cur_nimg - self.end_nimg) // self.tick_nimg

    def alpha(self, cur_nimg: int) -> float:
        """Weight of the new resolution, 0..1."""
        if not self.fading:
            return 1.0
        return min((cur_nimg - self.start_nimg) / self.nimg, 1.0)


@dataclass(frozen=True)
class SchedulePoint:
    """All that a training step needs to know of time."""

    phase: int
    stage: int
    resolution: int
    alpha: float
    fading: bool
    batch: int
    lr_G: float
    lr_D: float
    tick_kimg: float
    tick: int  # status intervals that have ended by now


@dataclass(frozen=True)
class Schedule:
    """The growth plan. `schedule.at(cur_nimg)` is the only question a training asks of it.

    max_res, start_res: pixels, powers of two in 4..1024. stable_kimg, fade_kimg: thousand images, by resolution.
    final_kimg: length of the stable phase at max_res. batch: images. lr_G, lr_D: the optimizers' rates. tick_kimg:
    status interval. decay_from: share of the whole, 0..1, from which on both rates fall in a straight line, to 0 at the
    end; None: they do not. Defaults: the official v2 preset for one GPU. Raises ValueError for what cannot be a
    schedule.
    """

    max_res: int = 1024
    start_res: int = 4
    stable_kimg: Table = 600.0
    fade_kimg: Table = 600.0
    final_kimg: float = 2400.0
    batch: Table = field(default_factory=lambda: OFFICIAL_BATCH)
    lr_G: Table = field(default_factory=lambda: OFFICIAL_LR)
    lr_D: Table = field(default_factory=lambda: OFFICIAL_LR)
    tick_kimg: Table = field(default_factory=lambda: OFFICIAL_TICK_KIMG)
    decay_from: float | None = None

    def __post_init__(self) -> None:
        if self.decay_from is not None and not 0 <= self.decay_from < 1:
            raise ValueError(f"rates cannot fall from {self.decay_from} of the schedule to its end")
        if stage_of(self.start_res) > stage_of(self.max_res):
            raise ValueError(f"the start resolution {self.start_res} is above the final one, {self.max_res}")
        for phase in self.phases:
            _check(phase)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Every phase of non-zero length, and the first in any case, in order of time."""
        phases: list[Phase] = []
        start = 0
        for stage in range(stage_of(self.start_res), stage_of(self.max_res) + 1):
            resolution = 4 << stage
            for fading in (True, False):
                nimg = _images(self._kimg(resolution, fading), f"a phase at {resolution}x{resolution}")
                if nimg or not (fading or phases):
                    phases.append(self._phase(len(phases), stage, fading, start, start + nimg))
                start += nimg
        return tuple(phases)

    def _kimg(self, resolution: int, fading: bool) -> float:
        if fading:
            return 0.0 if resolution == self.start_res else by_resolution(self.fade_kimg, resolution)
        return self.final_kimg if resolution == self.max_res else by_resolution(self.stable_kimg, resolution)

    def _phase(self, index: int, stage: int, fading: bool, start: int, end: int) -> Phase:
        resolution = 4 << stage
        batch, tick_kimg = by_resolution(self.batch, resolution), by_resolution(self.tick_kimg, resolution)
        if not math.isfinite(batch) or batch != int(batch):
            raise ValueError(f"the batch of {batch} images at {resolution}x{resolution} is not a whole number")
        lr_G, lr_D = by_resolution(self.lr_G, resolution), by_resolution(self.lr_D, resolution)
        tick_nimg = _images(tick_kimg, f"the tick at {resolution}x{resolution}")
        return Phase(index, stage, resolution, fading, start, end, int(batch), lr_G, lr_D, tick_nimg)

    @property
    def total_nimg(self) -> int:
        """Images of the whole schedule."""
        return self.phases[-1].end_nimg

    def decay(self, cur_nimg: int) -> float:
        """What is left of the rates at a time, 0..1."""
        if self.decay_from is None:
            return 1.0
        done = cur_nimg / self.total_nimg if self.total_nimg else 1.0
        return min(1.0, max(0.0, (1 - done) / (1 - self.decay_from)))

    def phase_at(self, cur_nimg: int) -> Phase:
        """The phase that the step starting at `cur_nimg` belongs to. A fade begins after its first image, not with
        it.
        """
        return next(
            p for p in reversed(self.phases) if p.start_nimg < cur_nimg + (0 if p.fading else 1) or p.index == 0
        )

    def at(self, cur_nimg: int) -> SchedulePoint:
        """Where a training stands that has shown `cur_nimg` real images. Past the end of the schedule: its last
        state.
        """
        p = self.phase_at(cur_nimg)
        tick = sum(q.ticks for q in self.phases[: p.index]) + p.ticks_by(cur_nimg)
        decay = self.decay(cur_nimg)
        return SchedulePoint(
            p.index,
            p.stage,
            p.resolution,
            p.alpha(cur_nimg),
            p.fading,
            p.batch,
            p.lr_G * decay,
            p.lr_D * decay,
            p.tick_nimg / 1000,
            tick,
        )


def _images(kimg: float, what: str) -> int:
    """Thousand images -> images. Raises ValueError for what is no number of images."""
    if not math.isfinite(1000 * kimg):
        raise ValueError(f"{what} is {kimg} kimg long")
    return round(1000 * kimg)


def _check(phase: Phase) -> None:
    where = f"at {phase.resolution}x{phase.resolution}"
    if phase.batch < 1:
        raise ValueError(f"the batch of {phase.batch} images {where} is below 1")
    if phase.nimg < 0:
        raise ValueError(f"a phase {where} has a negative length")
    if phase.tick_nimg < 1:
        raise ValueError(f"the tick {where} is shorter than one image")
    if not (phase.lr_G >= 0 and phase.lr_D >= 0):
        raise ValueError(f"a learning rate {where} is negative")
