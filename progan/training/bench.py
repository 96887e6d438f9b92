"""How fast does this machine train a configuration, and in how much memory? The stages are measured, the cheapest
first, while there is time; the model of `pace` predicts the rest.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import psutil
import torch
from torch import Tensor

from progan.config import Config, couples_images, grows, schedule_of
from progan.console import duration
from progan.devices import describe, keep_freed_memory, usable_bytes
from progan.errors import RunFailed
from progan.schedule import Phase
from progan.training import plan
from progan.training.engine import Engine, uncompiled
from progan.training.measure import Measured, Trial, iteration, measure
from progan.training.pace import pace_of
from progan.training.preflight import HEADROOM, halvings
from progan.training.state import new_state

BUDGET_SEC = 90.0
COMPILING_SEC = 600.0  # a budget from which on there is time to compile every stage


@dataclass(frozen=True)
class Row:
    """A stage of the schedule, its fade included."""

    resolution: int
    batch: int  # images
    micro_batch: int  # images of a forward pass
    nimg: int  # real images that the schedule shows
    sec_per_img: float
    images: int  # of a batch were tried to measure it; 0: predicted
    memory: float  # bytes
    memory_measured: bool
    fits: bool  # into the memory of this machine

    @property
    def hours(self) -> float:
        """What the schedule spends here."""
        return self.nimg * self.sec_per_img / 3600

    @property
    def how(self) -> str:
        """Where sec_per_img comes from."""
        if self.images:
            return "measured" if self.images == self.batch else f"measured on {self.images} images"
        return "predicted" if self.fits else "predicted; may not fit into memory"


def bench(
    config: Config,
    device: torch.device,
    engine: Engine,
    budget_sec: float = BUDGET_SEC,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """One row a stage of the schedule, measured while budget_sec last, evenly shared by the stages still to come. Of a
    batch that takes longer than its share some groups are measured. Below COMPILING_SEC nothing is compiled. Raises
    RunFailed where not even 4x4 fits.
    """
    deadline = time.perf_counter() + budget_sec
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    engine = engine if budget_sec >= COMPILING_SEC else uncompiled(engine)
    ground = Ground(config, device, engine)
    ground.probe()
    stages, found = ground.stages(), list[Measured | None]()
    for phases in stages:
        left_sec = deadline - time.perf_counter()
        say(f"measuring {phases[-1].resolution}x{phases[-1].resolution}, {duration(max(0.0, left_sec))} left")
        found.append(ground.measure_stage(phases, left_sec / (len(stages) - len(found)), left_sec))
    return [ground.row(phases, measured) for phases, measured in zip(stages, found)]


class Ground:
    """The networks that are measured, and the pace that is known by now."""

    def __init__(self, config: Config, device: torch.device, engine: Engine) -> None:
        self.config, self.device, self.engine = config, device, engine
        self.d_repeats = config.training.d_repeats
        self.program = program_bytes(device)
        self.meta = plan.on_meta(config)
        self.image_bytes = cache(partial(plan.image_bytes, config, *self.meta))  # by stage
        self.micro = plan.micro_batches(config, usable_bytes(device))
        self.first = 0 if grows(config) else schedule_of(config).phases[0].stage
        self.pace = pace_of(*self.meta, self.d_repeats, range(self.first, len(self.meta[0].resolutions)))
        self.warm_up_sec = 0.0  # of the newest measurement
        self.state = plan.first_state(config, device)

    def stages(self) -> list[list[Phase]]:
        """The phases of each stage, in order of time: at most a fade and a stable one."""
        phases = schedule_of(self.config).phases
        return [[p for p in phases if p.stage == stage] for stage in sorted({p.stage for p in phases})]

    # ---- time

    def probe(self) -> None:
        """A first idea of the pace: some groups at 4x4, wherever the schedule starts, since nothing is cheaper; or at
        the one resolution that the networks have.
        """
        first = schedule_of(self.config).phases[0]
        group = plan.mbstd_group(self.config, first)
        images = min(4 * group, first.batch)
        found = self._measure(self._trial(self.first, False, images, group, images), 0.0)
        if found is None:
            raise RunFailed(plan.TOO_LARGE)
        self.pace.measured(self.first, self._batch_sec(found, first.batch) / (first.batch * self.d_repeats))

    def measure_stage(self, phases: list[Phase], share_sec: float, left_sec: float) -> Measured | None:
        """Measure the last phase of a stage in about share_sec, and its fade where some of that remains; None where
        time or memory do not suffice. The pace of the stage is the mean of its images.
        """
        start, (*fades, phase) = time.perf_counter(), phases
        trial = self._affordable(phase, share_sec, left_sec)
        found = self._measure(trial, share_sec, self._expected_sec(trial)) if trial else None
        if found is None:
            return None
        batch_sec = self._batch_sec(found, phase.batch)
        share_sec -= time.perf_counter() - start
        fade = self._fade(found, share_sec) if fades else found
        times = [batch_sec * fade.seconds / found.seconds for _ in fades] + [batch_sec]
        mean_sec = statistics.fmean(times, [max(1, p.nimg) for p in phases])
        self.pace.measured(phase.stage, mean_sec / (phase.batch * self.d_repeats))
        return replace(found, peak=max(found.peak or 0, fade.peak or 0) or None)

    def _fade(self, stable: Measured, share_sec: float) -> Measured:
        """The fade of a stage, measured where there is time; it is taken to be like the stable phase otherwise."""
        if 2 * stable.seconds + stable.warm_up_sec > share_sec:
            return stable
        return self._measure(replace(stable.trial, fading=True), share_sec) or stable

    def _affordable(self, phase: Phase, share_sec: float, left_sec: float) -> Trial | None:
        """The largest part of a batch that can be measured in share_sec, or one group where an iteration of it will
        surely end within left_sec. None where there is none, or where memory does not hold it.
        """
        group, micro = plan.mbstd_group(self.config, phase), self.micro[phase.index]
        counts = halvings(phase.batch, group)
        parts = [self._trial(phase.stage, phase.fading, n, group, min(n, micro)) for n in counts]
        parts = [part for part in parts if self.reckoned_bytes(part.stage, part.micro_batch) <= room(self.device)]
        for part in parts:
            if 2 * self._expected_sec(part) + self.warm_up_sec <= share_sec:
                return part
        sure = [part for part in parts[-1:] if 1.5 * self._expected_sec(part) + self.warm_up_sec <= left_sec]
        return sure[0] if sure else None

    def _trial(self, stage: int, fading: bool, images: int, group: int, micro: int) -> Trial:
        loss, whole = plan.critic_loss(self.config, stage), couples_images(self.config)
        return Trial(stage, fading, images, group, micro, loss, whole)

    def _measure(self, trial: Trial, share_sec: float, expected_sec: float = 0.0) -> Measured | None:
        found = measure(self.state, trial, self.engine, self.d_repeats, share_sec, expected_sec)
        self.warm_up_sec = found.warm_up_sec if found else self.warm_up_sec
        return found

    def _expected_sec(self, trial: Trial) -> float:
        """Seconds of an iteration, as far as is known."""
        return self.pace.sec_per_img(trial.stage) * trial.images * self.d_repeats

    def _batch_sec(self, found: Measured, batch: int) -> float:
        """Seconds of an iteration of the whole batch. Weights cost the same for any batch: where several groups were
        measured, one group shows how much.
        """
        trial, missing = found.trial, batch - found.trial.images
        if missing == 0:
            return found.seconds
        if trial.images < 4 * trial.group:
            return found.seconds * batch / trial.images
        small = self._measure(replace(trial, images=trial.group, micro_batch=min(trial.group, trial.micro_batch)), 0.0)
        images_sec = max(found.seconds - small.seconds if small else 0.0, found.seconds / 4)  # noise is no limit
        return found.seconds + images_sec / (trial.images - trial.group) * missing

    # ---- memory

    def reckoned_bytes(self, stage: int, micro_batch: int) -> float:
        """Memory of the program, of weights and the average, of what moves them, and of a step's images."""
        G, D = self.meta
        weights = 2 * n_bytes(G.parameters()) + n_bytes(D.parameters())
        moved = n_bytes(G.stage_parameters(stage)) + n_bytes(D.stage_parameters(stage))
        moving = 4 * moved  # gradient, Adam's two moments, the scaled weight of a step
        return self.program + weights + moving + HEADROOM * micro_batch * self.image_bytes(stage)

    def _memory(self, stage: int, micro_batch: int, found: Measured | None) -> float:
        """Bytes that a stage needs: its peak, and what more images would add to it."""
        if found is None or found.peak is None:
            return self.reckoned_bytes(stage, micro_batch)
        return found.peak + HEADROOM * (micro_batch - found.trial.micro_batch) * self.image_bytes(stage)

    def row(self, phases: list[Phase], found: Measured | None) -> Row:
        """What is known of a stage in the end."""
        phase, micro_batch = phases[-1], self.micro[phases[-1].index]
        if found and found.trial.micro_batch < min(found.trial.images, micro_batch):
            micro_batch = found.trial.micro_batch  # what was planned does not fit
        memory = self._memory(phase.stage, micro_batch, found)
        return Row(
            resolution=phase.resolution,
            batch=phase.batch,
            micro_batch=micro_batch,
            nimg=sum(p.nimg for p in phases),
            sec_per_img=self.pace.sec_per_img(phase.stage),
            images=found.trial.images if found else 0,
            memory=memory,
            memory_measured=found is not None and found.peak is not None and found.trial.micro_batch == micro_batch,
            fits=memory <= usable_bytes(self.device),
        )


def program_bytes(device: torch.device) -> int:
    """Memory of the program and of the libraries that a first step loads, where that is the device's; else 0."""
    if device.type != "cpu":
        return 0
    tiny = {"max_res": 4, "fmap_max": 4}
    iteration(new_state(tiny | {"latent_size": 4}, tiny, 0, device), Trial(0, False, 4, 4, 4), Engine("readable"), 1)()
    return resident_bytes()


def room(device: torch.device) -> float:
    """Bytes that a trial may use: on a CPU what is free at the moment, or ours; an accelerator refuses by itself."""
    return resident_bytes() + int(psutil.virtual_memory().available) if device.type == "cpu" else math.inf


def resident_bytes() -> int:
    """Memory of this process at the moment."""
    return int(psutil.Process().memory_info().rss)


def n_bytes(tensors: Iterable[Tensor]) -> int:
    """Memory of tensors."""
    return sum(tensor.nbytes for tensor in tensors)


# ---- for people, and for programs


HEADS = ("resolution", "batch", "micro", "img/s", "GB", "hours")


def bench_lines(rows: list[Row], device: torch.device) -> list[str]:
    """The rows as a table's lines, the time of the whole schedule, and what the columns are."""
    cells = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADS))]
    table = ["  ".join(text.rjust(width) for text, width in zip(line, widths)) for line in cells]
    hours, known = sum(row.hours for row in rows), sum(row.hours for row in rows if row.images)
    whose = "of the whole process" if device.type == "cpu" else "on the device"
    return [
        *(f"{line}  {how}".rstrip() for line, how in zip(table, ["", *(row.how for row in rows)])),
        f"The whole schedule takes about {duration(3600 * hours)} on {describe(device)}; {known / (hours or 1):.0%} of "
        f"that is measured.",
        f"GB: memory {whose}, ~ where it is reckoned. hours: a stage with its fade.",
    ]


def _cells(row: Row) -> tuple[str, ...]:
    speed = 1 / row.sec_per_img
    return (
        f"{row.resolution}x{row.resolution}",
        str(row.batch),
        str(row.micro_batch),
        f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}",
        f"{'' if row.memory_measured else '~'}{row.memory / 1e9:.2f}",
        f"{row.hours:,.2f}",
    )


def bench_json(rows: list[Row], device: torch.device) -> dict[str, Any]:
    """The same for programs."""
    stages = [asdict(row) | {"images_per_sec": 1 / row.sec_per_img, "hours": row.hours, "how": row.how} for row in rows]
    return {"device": describe(device), "hours": sum(row.hours for row in rows), "stages": stages}
