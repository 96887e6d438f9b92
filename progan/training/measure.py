"""What an iteration costs, measured: its time and its memory."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from progan import seeds
from progan.latents import sample_latents
from progan.nn.families import Generator
from progan.training.engine import Engine
from progan.training.preflight import halvings, is_out_of_memory
from progan.training.state import TrainState
from progan.training.steps import CriticLoss, Part, Where, d_step, g_step, split, update_average

ENOUGH_SEC = 1.0  # of measuring one thing


@dataclass(frozen=True)
class Trial:
    """An iteration to be measured: where it is; images of its batch, of a minibatch-stddev group, of a forward pass;
    its loss; whether the forward pass must not become smaller.
    """

    stage: int
    fading: bool
    images: int
    group: int
    micro_batch: int
    loss: CriticLoss = field(default_factory=CriticLoss)
    whole: bool = False


@dataclass(frozen=True)
class Measured:
    """What an iteration took. The micro-batch of the trial is the one that fits."""

    trial: Trial
    seconds: float
    warm_up_sec: float  # that the first iteration took beyond that
    peak: int | None  # bytes; None where the system does not say


def measure(
    state: TrainState, trial: Trial, engine: Engine, d_repeats: int, share_sec: float, expected_sec: float
) -> Measured | None:
    """Time iterations for about share_sec, at most ENOUGH_SEC, on a state whose rates are 0: nothing is learnt.

    The micro-batch is halved while the accelerator's memory does not suffice; None where not even one group fits, or
    not the whole of it where that must be.
    """
    device = next(state.G.parameters()).device
    for micro_batch in halvings(trial.micro_batch, trial.micro_batch if trial.whole else trial.group):
        candidate = replace(trial, micro_batch=micro_batch)
        try:
            tells = reset_peak(device)
            seconds, warm_up_sec = timed(iteration(state, candidate, engine, d_repeats), share_sec, expected_sec)
            return Measured(candidate, seconds, warm_up_sec, peak_bytes(device) if tells else None)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            state.opt_D.zero_grad()
            state.opt_G.zero_grad()
    return None


def iteration(state: TrainState, trial: Trial, engine: Engine, d_repeats: int) -> Callable[[], float]:
    """A function that takes one iteration as training does (D steps, each with the average, then G) and returns its
    seconds. Its inputs are noise, and there already.
    """
    device = next(state.G.parameters()).device
    where = Where(trial.stage, torch.tensor(0.5, device=device) if trial.fading else 1.0, trial.images, trial.group)
    parts = noise(state.G, trial, device)
    latents = [part.latents for part in parts]

    def run() -> float:
        start = time.perf_counter()
        for _ in range(d_repeats):
            d_step(state.G, state.D, state.opt_D, parts, where, trial.loss, engine.d_gradients)
            update_average(state.G_ema, state.G, 0.999, trial.stage)
        g_step(state.G, state.D, state.opt_G, latents, where, engine.g_gradients, trial.loss)
        synchronize(device)
        return time.perf_counter() - start

    return run


def noise(G: Generator, trial: Trial, device: torch.device) -> list[Part]:
    """A batch of noise, in parts; the same one each time."""
    generator = seeds.generator(0, "bench", trial.stage)
    shape = (trial.images, G.channels, 4 << trial.stage, 4 << trial.stage)
    reals = torch.randn(shape, generator=generator)
    latents = sample_latents(trial.images, G.latent_size, generator)
    mix = torch.rand(trial.images, generator=generator)
    samples = split(trial.images, trial.group, trial.micro_batch)
    return [Part(*(tensor[n].to(device) for tensor in (reals, latents, mix))) for n in samples]


def timed(run: Callable[[], float], share_sec: float, expected_sec: float) -> tuple[float, float]:
    """(seconds of run, seconds that its first time took beyond that).

    The first time is slower, for what is allocated, chosen or compiled in it: the median of the others counts. Where
    there is no time for several, it is the faster of two, since other programs only ever slow one down; or the first
    alone, where it took about as long as expected.
    """
    times = [run()]
    if 2 * times[0] > share_sec and times[0] <= 2 * expected_sec:
        return times[0], 0.0
    while len(times) < 2 or (sum(times[1:]) < ENOUGH_SEC and sum(times) + times[-1] <= share_sec):
        times.append(run())
    seconds = min(times) if len(times) == 2 else statistics.median(times[1:])
    return seconds, max(0.0, times[0] - seconds)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def reset_peak(device: torch.device) -> bool:
    """From here on `peak_bytes` counts. False where it cannot: only CUDA, and Linux for a CPU, can tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return device.type == "cpu"


def peak_bytes(device: torch.device) -> int:
    """The most memory since `reset_peak`: allocated on the device, or resident of this whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "the system writes its status otherwise"
    return int(found[1]) * 1024
