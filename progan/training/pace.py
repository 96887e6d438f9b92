"""How long the rest of a schedule takes: measured where the run has been, by arithmetic elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from progan.nn.families import Discriminator, Generator
from progan.schedule import Schedule


class Pace:
    """Seconds that a real image costs at each stage.

    work: multiply-accumulates of an iteration per real image, by stage. Between measured stages the time per operation
    is interpolated (log-log); beyond them it is that of the nearest one.
    """

    def __init__(self, work: Sequence[float] | Mapping[int, float]) -> None:
        self.work = work
        self.seconds: dict[int, float] = {}

    def measured(self, stage: int, sec_per_img: float) -> None:
        """Take a measurement; it replaces an earlier one of the same stage."""
        self.seconds[stage] = sec_per_img

    def sec_per_img(self, stage: int) -> float:
        """Seconds per real image at a stage. Needs at least one measurement."""
        if stage in self.seconds:
            return self.seconds[stage]
        below = max((s for s in self.seconds if s < stage), default=None)
        above = min((s for s in self.seconds if s > stage), default=None)
        if below is None or above is None:
            return self._per_mac(above if below is None else below) * self.work[stage]
        low, here, high = (math.log(self.work[s]) for s in (below, stage, above))
        t = (here - low) / (high - low)
        log_per_mac = (1 - t) * math.log(self._per_mac(below)) + t * math.log(self._per_mac(above))
        return math.exp(log_per_mac) * self.work[stage]

    def _per_mac(self, stage: int | None) -> float:
        assert stage is not None, "nothing has been measured yet"
        return self.seconds[stage] / self.work[stage]

    def remaining(self, schedule: Schedule, cur_nimg: int, end_nimg: int) -> dict[int, float]:
        """{resolution: seconds} of what is left until end_nimg, in order of time."""
        left: dict[int, float] = {}
        for phase in schedule.phases:
            last = phase.index == len(schedule.phases) - 1
            start, end = max(cur_nimg, phase.start_nimg), end_nimg if last else min(end_nimg, phase.end_nimg)
            if end > start:
                left[phase.resolution] = left.get(phase.resolution, 0) + (end - start) * self.sec_per_img(phase.stage)
        return left


def pace_of(G: Generator, D: Discriminator, d_repeats: int, stages: Iterable[int] | None = None) -> Pace:
    """The model for two networks, before anything is measured. stages: those that they have; all by default."""
    stages = list(range(len(G.resolutions)) if stages is None else stages)
    work = work_per_image([G.macs(s) for s in stages], [D.macs(s) for s in stages], d_repeats)
    return Pace(dict(zip(stages, work)))


def work_per_image(G_macs: Sequence[int], D_macs: Sequence[int], d_repeats: int) -> list[float]:
    """Multiply-accumulates an iteration spends per real image, by stage.

    D step: D 3 x real, 3 x fake, 6 x penalty (with its second derivatives), G forward. G step: G 3 x, D 2 x.
    """
    return [12 * d + g + (3 * g + 2 * d) / d_repeats for g, d in zip(G_macs, D_macs)]
