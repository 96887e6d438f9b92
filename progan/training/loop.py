"""The training loop: `cur_nimg` goes in, the schedule says where we are, the networks are told, and nobody remembers
anything else. To go on with a run, start it again."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from progan import config as config_module
from progan import losses, seeds
from progan.config import Config
from progan.console import Console, Meter, duration
from progan.data.cache import cache_folder, open_data
from progan.data.loader import Inputs, Loader, Step, Supply, Take, coming_steps, page_cache_room
from progan.data.order import Order, order_of
from progan.data.pyramid import Pyramid
from progan.devices import describe, keep_freed_memory, usable_bytes
from progan.errors import RunFailed
from progan.images import dequantise, fade_reals, mirror, to_images
from progan.latents import sample_latents
from progan.schedule import Schedule, SchedulePoint
from progan.training import checkpoint, plan, rundir
from progan.training.engine import Engine, is_standard, open_engine, uncompiled
from progan.training.measure import Trial, measure
from progan.training.pace import Pace, pace_of
from progan.training.runlog import RunLog
from progan.training.scoring import Scoring
from progan.training.state import TrainState
from progan.training.steps import (
    CriticLoss,
    Part,
    Stats,
    Where,
    average_beta,
    clip_weights,
    d_step,
    g_step,
    split,
    update_average,
)
from progan.training.ticks import Ticks

TRIAL_SEC = 4.0  # a trial iteration that is shorter than half of it is repeated
SLOW_SEC = 6 * 3600  # an estimate beyond this, on a CPU, is worth a word


@dataclass(frozen=True)
class Job:
    """What a run is about: configuration, data, device, and images of a forward pass by phase (halved before the first
    step where they do not fit)."""

    config: Config
    schedule: Schedule
    data: Pyramid
    order: Order
    device: torch.device
    micro_batch: list[int]
    engine: Engine
    scoring: Scoring

    @property
    def count(self) -> int:
        """Pictures in use."""
        return self.order.count

    @cached_property
    def supply(self) -> Supply:
        """What the inputs of D steps are made of."""
        data, training, pin = self.config.data, self.config.training, self.device.type == "cuda"
        latent_size, room = self.config.networks.latent_size, page_cache_room()
        return Supply(self.data, self.order, training.seed, latent_size, data.mirror, data.dequantise, pin, room)


def train(config: Config, folder: Path, device: torch.device, stop_kimg: float | None, console: Console) -> int:
    """Train until the end of the schedule, or until stop_kimg thousand images; go on where the run in `folder` stands.

    Returns the exit code: 0 done, 128 + signal number when stopped by Ctrl-C or SIGTERM (everything is saved then).
    Raises UserError before anything is written where the request cannot be met; RunFailed where the run cannot go on.
    """
    rundir.check(folder, config)
    if device.type == "cpu":
        keep_freed_memory()
    job = open_job(config, device, console)
    with rundir.held(folder):
        state = continue_or_begin(job, folder, console)
        end_nimg = job.schedule.total_nimg if stop_kimg is None else round(stop_kimg * 1000)
        if state.cur_nimg >= end_nimg:
            console.line(f"{folder} has already seen {state.cur_nimg / 1000:g} kimg; --kimg N trains on until N.")
            return 0
        rundir.enter(folder, config, device)
        log = RunLog(folder, console, state.cur_nimg)
        try:
            return _train(job, state, folder, log, end_nimg)
        except RunFailed as error:
            newest = checkpoint.listed(folder / "checkpoints")[-1:]
            where = f"the newest checkpoint is {newest[0]}" if newest else "there is no checkpoint yet"
            text = f"at {state.cur_nimg / 1000:.3f} kimg: {error} The state was not saved; {where}."
            log.note(text)
            raise RunFailed(text) from error
        finally:
            with contextlib.suppress(OSError):  # a full disk has been reported already
                log.close()


def _train(job: Job, state: TrainState, folder: Path, log: RunLog, end_nimg: int) -> int:
    """What `train` does once the run is ours: first pictures, trial step, loop, last words."""
    announce(job, state, folder, log)
    pace = pace_of(state.G, state.D, job.config.training.d_repeats, {phase.stage for phase in job.schedule.phases})
    ticks = Ticks(folder, job.config, log, state, job.data, job.order, pace, end_nimg, job.engine.clock, job.scoring)
    with Stop() as stop:
        ticks.first_pictures()
        check(job, pace, log)
        log.line(f"Takes about {ticks.left()}; Ctrl-C saves, and the same command goes on.")
        if job.device.type == "cpu" and sum(ticks.remaining().values()) > SLOW_SEC:
            log.line("There is no accelerator here; progan train --config quickstart shows growth in minutes.")
        run(job, state, ticks, stop, end_nimg)
    return _end(folder, ticks, stop, end_nimg)


def run(job: Job, state: TrainState, ticks: Ticks, stop: Stop, end_nimg: int) -> None:
    """The loop."""
    steps = coming_steps(job.schedule, state.cur_nimg, end_nimg, job.config.training.d_repeats)
    with Loader(job.supply, steps) as loader:
        ticks.begin()
        while state.cur_nimg < end_nimg and not stop.signal:
            point, start = job.schedule.at(state.cur_nimg), state.cur_nimg
            stats, data_wait_sec = iteration(job, state, point, loader.take)
            if job.config.training.reset_optimizers and job.schedule.at(state.cur_nimg).phase != point.phase:
                state.reset_optimizers()
            ticks.iteration_done(point, stats, state.cur_nimg - start, data_wait_sec)


def iteration(job: Job, state: TrainState, point: SchedulePoint, take: Take | None = None) -> tuple[Stats, float]:
    """d_repeats D steps on new images, each followed by the average of G, then one G step. -> statistics, seconds
    waited for inputs. take: where the inputs come from, if they have been read ahead.
    """
    training, take = job.config.training, take or job.supply.now
    state.set_rates(point.lr_G, point.lr_D)
    where, stats, waited = where_of(job, point), {}, 0.0
    for _ in range(training.d_repeats):
        start = time.perf_counter()
        inputs = take(Step(state.cur_nimg, point.batch, point.resolution))
        waited += time.perf_counter() - start
        parts = d_parts(job, inputs, point, where)
        loss = critic_loss(job, point, state.cur_nimg)
        stats = d_step(state.G, state.D, state.opt_D, parts, where, loss, job.engine.d_gradients)
        if job.config.loss.clip:
            clip_weights(state.D, job.config.loss.clip)
        beta = average_beta(training.ema_beta, training.ema_kimg, point.batch)
        update_average(state.G_ema, state.G, beta, point.stage)
        state.cur_nimg += point.batch
    latents = g_parts(job, state.cur_nimg, point, where)
    stats |= g_step(state.G, state.D, state.opt_G, latents, where, job.engine.g_gradients, critic_loss(job, point))
    return stats, waited


def where_of(job: Job, point: SchedulePoint) -> Where:
    """What the steps need to know of the schedule. While fading alpha is a tensor: a number would recompile a graph."""
    alpha = torch.full((), point.alpha, device=job.device) if point.fading else 1.0
    group = plan.mbstd_group(job.config, job.schedule.phases[point.phase])
    return Where(point.stage, alpha, point.batch, group)


def critic_loss(job: Job, point: SchedulePoint, cur_nimg: int = 0) -> CriticLoss:
    """The losses at a point of the schedule. Within a phase the images shown count D's steps, and so say whether a lazy
    penalty is due.
    """
    loss, interval = plan.critic_loss(job.config, point.stage), job.config.loss.r1_interval
    if loss.penalty != "r1":
        return loss
    return replace(loss, gamma=losses.r1_weight(loss.gamma, interval, cur_nimg // point.batch))


def d_parts(job: Job, inputs: Inputs, point: SchedulePoint, where: Where) -> list[Part]:
    """A D step's inputs on the device, cut into parts: uint8 crosses the bus, images are made of it there."""
    inputs = inputs.to(job.device)
    return [
        Part(reals(part, where.alpha), part.latents, part.mix)
        for part in map(inputs.part, split(point.batch, where.group, job.micro_batch[point.phase]))
    ]


def reals(inputs: Inputs, alpha: float | Tensor) -> Tensor:
    """The real images that D is shown: pixels as images, mirrored, of the sharpness that G can have by now."""
    images = to_images(inputs.pixels) if inputs.noise is None else dequantise(inputs.pixels, inputs.noise)
    return fade_reals(images if inputs.flips is None else mirror(images, inputs.flips), alpha)


def g_parts(job: Job, cur_nimg: int, point: SchedulePoint, where: Where) -> list[Tensor]:
    """The latents of the G step at cur_nimg: a pure function of the seed."""
    generator = seeds.generator(job.config.training.seed, "latents_G", cur_nimg)
    latents = sample_latents(point.batch, job.config.networks.latent_size, generator)
    samples = split(point.batch, where.group, job.micro_batch[point.phase])
    return [latents[numbers].to(job.device, non_blocking=True) for numbers in samples]


def open_job(config: Config, device: torch.device, console: Console) -> Job:
    """Data, schedule and micro-batches for a configuration. Raises UserError where the data does not fit."""
    growth, channels = config.growth, config.networks.channels
    standard = is_standard(*plan.on_meta(config), plan.critic_loss(config, 0))  # before anything is read or written
    micro = plan.micro_batches(config, usable_bytes(device))
    engine = open_engine(
        config.training.engine, config.training.precision, device, console.line, cache_folder() / "compiled", standard
    )
    data = open_data(config.data.source, growth.max_res, channels, console.line, Meter(console))
    schedule = config_module.schedule_of(config)
    order = order_of(data.count, data.labels, config.data.max_images, config.data.labels, config.data.balance)
    scoring = Scoring(config, data, order, device, console)
    return Job(config, schedule, data, order, device, micro, engine, scoring)


def continue_or_begin(job: Job, folder: Path, console: Console) -> TrainState:
    """The state of the newest checkpoint that can be read and is this run's, or that before the first image."""

    def unfit(content: dict[str, Any]) -> str:
        differing = config_module.binding_diff(config_module.parse(content["config"]), job.config)
        if differing:
            return f"it belongs to a run with other settings: {', '.join(differing)}"
        if content["data"] != job.data.fingerprint:
            return f"it was trained on other data than {job.config.data.source}"
        return ""

    content = checkpoint.newest(folder / "checkpoints", console.line, unfit)
    state = plan.first_state(job.config, job.device)
    if content is not None:
        state.unpack(content["state"])
    return state


def announce(job: Job, state: TrainState, folder: Path, log: RunLog) -> None:
    """Say what begins, with the whole plan, or where the run goes on."""
    if state.cur_nimg:
        log.line(f"{folder}: goes on at {state.cur_nimg / 1000:.3f} kimg, on {describe(job.device)}")
        return
    log.line(f"{folder}: {pictures_in_use(job)}, on {describe(job.device)}")
    for line in plan.describe_plan(job.config, job.device):
        log.line(line)
    for doubt in config_module.doubts(job.config):
        log.line(f"Note: {doubt}")


def pictures_in_use(job: Job) -> str:
    """`3,781 pictures of clothes.zip`, `1,024 of the 3,781 pictures of clothes.zip (only dress, shoes)`."""
    data, count = job.config.data, f"{job.count:,}"
    count += f" of the {job.data.count:,}" if job.count < job.data.count else ""
    remarks = [f"only {', '.join(data.labels)}"] * bool(data.labels) + ["each class equally often"] * data.balance
    return f"{count} pictures of {data.source}" + (f" ({'; '.join(remarks)})" if remarks else "")


def check(job: Job, pace: Pace, log: RunLog) -> None:
    """Take a trial step at the final and at the first resolution, on networks that are then dropped, and time it.

    Halves the micro-batches that do not fit into memory. Raises RunFailed where even the smallest does not.
    """
    state, top, first = plan.first_state(job.config, job.device), job.schedule.phases[-1], job.schedule.phases[0]
    whole = config_module.couples_images(job.config)
    for phase in (top, first) if top.stage != first.stage else (top,):
        planned, group = job.micro_batch[phase.index], plan.mbstd_group(job.config, phase)
        loss = plan.critic_loss(job.config, phase.stage)
        trial = Trial(phase.stage, phase.fading, phase.batch, group, planned, loss, whole)
        found = measure(state, trial, uncompiled(job.engine), job.config.training.d_repeats, TRIAL_SEC, math.inf)
        if found is None:
            smaller = "growth.batch" if whole else "networks.mbstd_group"
            raise RunFailed(
                f"{planned if whole else group} images of {phase.resolution}x{phase.resolution} do not fit into the "
                f"memory of {job.device}; use a lower --max-res, fewer feature maps (networks.fmap_max), or a smaller "
                f"{smaller}."
            )
        pace.measured(phase.stage, found.seconds / (phase.batch * job.config.training.d_repeats))
        fits = found.trial.micro_batch
        if fits < planned:
            log.line(f"{planned} images of {phase.resolution}x{phase.resolution} do not fit: {fits} a forward pass.")
            _halve(job, planned / fits)
    if job.device.type == "cuda":
        del state
        torch.cuda.reset_peak_memory_stats(job.device)


def _halve(job: Job, factor: float) -> None:
    """Divide every micro-batch by a factor, in whole groups."""
    for index, phase in enumerate(job.schedule.phases):
        group = plan.mbstd_group(job.config, phase)
        job.micro_batch[index] = max(group, int(job.micro_batch[index] / factor) // group * group)


def _end(folder: Path, ticks: Ticks, stop: Stop, end_nimg: int) -> int:
    """Last words, after a checkpoint where the run was stopped."""
    if ticks.scoring.total_sec:
        share = ticks.scoring.total_sec / (ticks.training_sec or math.inf)
        ticks.log.line(f"Metrics took {duration(ticks.scoring.total_sec)}, {share:.1%} of the time of training.")
    if ticks.state.cur_nimg >= end_nimg:
        ticks.log.line(f"Done. Pictures and generators are in {folder}; a walk: progan interpolate {folder}")
        return 0
    path = ticks.checkpoint()
    ticks.log.line(f"Stopped and saved {path}; the same command goes on from here (--out {folder}, without --fresh).")
    return 128 + stop.signal


class Stop:
    """Turns the first Ctrl-C or SIGTERM into a wish that the loop looks at; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
