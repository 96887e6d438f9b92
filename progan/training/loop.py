"""The training loop: `cur_nimg` goes in, the schedule says where we are, the networks are told, and nobody remembers
anything else. To go on with a run, start it again."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from progan import config as config_module
from progan import losses, seeds
from progan.config import Config
from progan.console import Console, bar
from progan.data.prepare import open_data
from progan.data.pyramid import Pyramid, batch_indices
from progan.devices import describe, usable_bytes
from progan.errors import RunFailed
from progan.images import fade_reals, mirror, to_images
from progan.latents import sample_latents
from progan.schedule import Schedule, SchedulePoint, stage_of
from progan.training import checkpoint, plan, preflight, rundir
from progan.training.pace import Pace, work_per_image
from progan.training.runlog import RunLog
from progan.training.state import TrainState, new_state
from progan.training.steps import (
    CriticLoss,
    Part,
    Stats,
    Where,
    average_beta,
    d_step,
    g_step,
    split,
    update_average,
)
from progan.training.ticks import Ticks

SLOW_SEC = 6 * 3600  # an estimate beyond this, on a CPU, is worth a word


@dataclass(frozen=True)
class Job:
    """What a run is about: configuration, data, device, and images of a forward pass by phase (halved before the first
    step where they do not fit)."""

    config: Config
    schedule: Schedule
    data: Pyramid
    count: int  # pictures in use
    device: torch.device
    micro_batch: list[int]


def train(config: Config, folder: Path, device: torch.device, stop_kimg: float | None, console: Console) -> int:
    """Train until the end of the schedule, or until stop_kimg thousand images; go on where the run in `folder` stands.

    Returns the exit code: 0 done, 128 + signal number when stopped by Ctrl-C or SIGTERM (everything is saved then).
    Raises UserError before anything is written where the request cannot be met; RunFailed where the run cannot go on.
    """
    rundir.check(folder, config)
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
    ticks = Ticks(folder, job.config, log, state, job.data, job.count, pace_of(job, state), end_nimg)
    with Stop() as stop:
        ticks.first_pictures()
        check(job, ticks.pace, log)
        log.line(f"Takes about {ticks.left()}; Ctrl-C saves, and the same command goes on.")
        if job.device.type == "cpu" and sum(ticks.remaining().values()) > SLOW_SEC:
            log.line("There is no accelerator here; progan train --config quickstart shows growth in minutes.")
        run(job, state, ticks, stop, end_nimg)
    return _end(folder, ticks, stop, end_nimg)


def run(job: Job, state: TrainState, ticks: Ticks, stop: Stop, end_nimg: int) -> None:
    """The loop."""
    ticks.begin()
    while state.cur_nimg < end_nimg and not stop.signal:
        point, start = job.schedule.at(state.cur_nimg), state.cur_nimg
        stats, data_wait_sec = iteration(job, state, point)
        if job.schedule.at(state.cur_nimg).phase != point.phase:
            state.reset_optimizers()
        ticks.iteration_done(point, stats, state.cur_nimg - start, data_wait_sec)


def iteration(job: Job, state: TrainState, point: SchedulePoint) -> tuple[Stats, float]:
    """d_repeats D steps on new images, each followed by the average of G, then one G step. -> statistics, seconds
    waited.
    """
    training = job.config.training
    state.set_rates(point.lr_G, point.lr_D)
    where, stats, waited = where_of(job, point), {}, 0.0
    for _ in range(training.d_repeats):
        start = time.perf_counter()
        parts = d_parts(job, state.cur_nimg, point, where)
        waited += time.perf_counter() - start
        stats = d_step(state.G, state.D, state.opt_D, parts, where, critic_loss(job, point))
        beta = average_beta(training.ema_beta, training.ema_kimg, point.batch)
        update_average(state.G_ema, state.G, beta, point.stage)
        state.cur_nimg += point.batch
    stats |= g_step(state.G, state.D, state.opt_G, g_parts(job, state.cur_nimg, point, where), where)
    return stats, waited


def where_of(job: Job, point: SchedulePoint) -> Where:
    """What the steps need to know of the schedule. While fading alpha is a tensor: a number would recompile a graph."""
    alpha = torch.tensor(point.alpha, device=job.device) if point.fading else 1.0
    group = plan.mbstd_group(job.config, job.schedule.phases[point.phase])
    return Where(point.stage, alpha, point.batch, group)


def critic_loss(job: Job, point: SchedulePoint) -> CriticLoss:
    """D's loss at a point of the schedule."""
    knobs, top = job.config.loss, stage_of(job.config.growth.max_res)
    scale = losses.norm_scale(knobs.gp_norm, top - point.stage)
    return CriticLoss(knobs.wgan_lambda, knobs.wgan_target, knobs.wgan_epsilon, scale)


def d_parts(job: Job, cur_nimg: int, point: SchedulePoint, where: Where) -> list[Part]:
    """The input of the D step at cur_nimg: a pure function of the seed."""
    seed, n = job.config.training.seed, point.batch
    indices = batch_indices(seed, cur_nimg, n, job.count)
    latents = sample_latents(n, job.config.networks.latent_size, seeds.generator(seed, "latents_D", cur_nimg))
    mix = torch.rand(n, generator=seeds.generator(seed, "mix", cur_nimg))
    flips = torch.rand(n, generator=seeds.generator(seed, "mirror", cur_nimg)) < (0.5 if job.config.data.mirror else 0)

    def part(samples: Tensor) -> Part:
        pixels = job.data.batch(indices[samples], point.resolution).to(job.device)
        images = fade_reals(mirror(to_images(pixels), flips[samples].to(job.device)), where.alpha)
        return Part(images, latents[samples].to(job.device), mix[samples].to(job.device))

    return [part(samples) for samples in split(n, where.group, job.micro_batch[point.phase])]


def g_parts(job: Job, cur_nimg: int, point: SchedulePoint, where: Where) -> list[Tensor]:
    """The latents of the G step at cur_nimg: a pure function of the seed."""
    generator = seeds.generator(job.config.training.seed, "latents_G", cur_nimg)
    latents = sample_latents(point.batch, job.config.networks.latent_size, generator).to(job.device)
    return [latents[samples] for samples in split(point.batch, where.group, job.micro_batch[point.phase])]


def open_job(config: Config, device: torch.device, console: Console) -> Job:
    """Data, schedule and micro-batches for a configuration. Raises UserError where the data does not fit."""
    growth, channels = config.growth, config.networks.channels

    def progress(done: int, total: int) -> None:
        console.live(bar(done, total))

    data = open_data(config.data.source, growth.max_res, channels, console.line, progress)
    schedule = config_module.schedule_of(config)
    micro = plan.micro_batches(config, usable_bytes(device))
    count = min(data.count, config.data.max_images or data.count)
    return Job(config, schedule, data, count, device, micro)


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
    state = _new_state(job)
    if content is not None:
        state.unpack(content["state"])
    return state


def announce(job: Job, state: TrainState, folder: Path, log: RunLog) -> None:
    """Say what begins, with the whole plan, or where the run goes on."""
    if state.cur_nimg:
        log.line(f"{folder}: goes on at {state.cur_nimg / 1000:.3f} kimg, on {describe(job.device)}")
        return
    log.line(f"{folder}: {job.count:,} pictures of {job.config.data.source}, on {describe(job.device)}")
    for line in plan.describe_plan(job.config, job.device):
        log.line(line)


def _new_state(job: Job) -> TrainState:
    arguments = config_module.generator_arguments(job.config), config_module.discriminator_arguments(job.config)
    try:
        return new_state(*arguments, job.config.training.seed, job.device)
    except RuntimeError as error:
        if preflight.is_out_of_memory(error):
            raise RunFailed(
                "the networks do not fit into memory; use smaller networks.fmap_base or fmap_max."
            ) from None
        raise


def pace_of(job: Job, state: TrainState) -> Pace:
    """The model of speed, before anything is measured."""
    stages = range(len(state.G.resolutions))
    macs = ([state.G.macs(s) for s in stages], [state.D.macs(s) for s in stages])
    return Pace(work_per_image(*macs, job.config.training.d_repeats))


def check(job: Job, pace: Pace, log: RunLog) -> None:
    """Take a trial step at the final and at the first resolution, on networks that are then dropped, and time it.

    Halves the micro-batches that do not fit into memory. Raises RunFailed where even the smallest does not.
    """
    state, top, first = _new_state(job), job.schedule.phases[-1], job.schedule.phases[0]
    for phase in (top, first) if top.stage != first.stage else (top,):
        planned = job.micro_batch[phase.index]
        sec, fits = preflight.trial(state, phase, job.config.networks.mbstd_group, planned)
        pace.measured(phase.stage, sec / phase.batch)
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
