"""What happens when a tick ends: a status line, statistics, pictures, a snapshot, a checkpoint. Training reads none
of it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from progan import config as config_module
from progan import seeds
from progan.config import Config
from progan.console import duration
from progan.data.order import Order
from progan.data.pyramid import Pyramid
from progan.devices import memory_gb
from progan.errors import RunFailed, UserError
from progan.exchange.snapshots import save_snapshot
from progan.files import atomic
from progan.images import enlarge, grid, to_pixels
from progan.latents import WalkPlan, make_walk, sample_latents
from progan.nn.ops import downscale2d
from progan.render.animation import Frame, encode_gif
from progan.render.growth import growth_frames
from progan.render.walk import pictures_a_pass, walk_frames
from progan.schedule import Schedule, SchedulePoint
from progan.training import checkpoint
from progan.training.engine import Clock
from progan.training.pace import Pace
from progan.training.runlog import RunLog, as_floats, save_png
from progan.training.scoring import Scoring
from progan.training.state import TrainState

GIF_FPS = 10.0
TAGS = {
    "loss_G": "Loss/G",
    "loss_D": "Loss/D",
    "wasserstein": "Loss/wasserstein",
    "gradient_penalty": "Loss/gradient_penalty",
    "r1": "Loss/r1",
    "drift": "Loss/drift",
    "score_real": "Scores/real",
    "score_fake": "Scores/fake",
    "norm_G": "Gradients/norm_G",
    "norm_D": "Gradients/norm_D",
}


@dataclass
class Tally:
    """What has gathered since the last tick. Statistics are sums on the device; nothing waits for them until the
    tick.
    """

    stats: dict[str, Tensor] = field(default_factory=dict)
    iterations: int = 0
    nimg: int = 0
    data_wait_sec: float = 0.0
    start: float = field(default_factory=time.perf_counter)

    def add(self, stats: dict[str, Tensor], nimg: int, data_wait_sec: float) -> None:
        """One more iteration."""
        self.stats = {name: self.stats[name] + value if self.stats else value for name, value in stats.items()}
        self.iterations, self.nimg = self.iterations + 1, self.nimg + nimg
        self.data_wait_sec += data_wait_sec


class Ticks:
    """The reporting of one run. Everything is written below `folder`; the first pictures of the data that are in use
    are shown once a resolution.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        log: RunLog,
        state: TrainState,
        data: Pyramid,
        order: Order,
        pace: Pace,
        end_nimg: int,
        clock: Clock,
        scoring: Scoring,
    ) -> None:
        self.folder, self.config, self.log, self.state = folder, config, log, state
        self.data, self.order, self.pace, self.end_nimg, self.clock = data, order, pace, end_nimg, clock
        self.schedule: Schedule = config_module.schedule_of(config)
        self.columns, rows = grid_shape(config.growth.max_res)
        latent_size = config.networks.latent_size
        self.latents = sample_latents(self.columns * rows, latent_size, seeds.generator(config.training.seed, "fixed"))
        self.scoring, self.training_sec = scoring, 0.0
        self.begin()

    # ---- when

    def first_pictures(self) -> None:
        """Before anything else: what is learnt and what is known, so that something can be seen at once."""
        point = self.schedule.at(self.state.cur_nimg)
        self.show_reals(point.resolution)
        if self.state.cur_nimg == 0:
            self.log.text("config", config_module.dump(self.config))
            self.show_fakes(point)
        self.log.flush()

    def begin(self) -> None:
        """A tick begins now."""
        self.tally, self.compiled_sec = Tally(), self.clock.seconds

    def iteration_done(self, before: SchedulePoint, stats: dict[str, Tensor], nimg: int, data_wait_sec: float) -> None:
        """Count an iteration, and do what is due after it."""
        self.tally.add(stats, nimg, data_wait_sec)
        after = self.schedule.at(self.state.cur_nimg)
        if after.resolution != before.resolution:
            self.show_reals(after.resolution)
        if after.tick == before.tick and self.state.cur_nimg < self.end_nimg:
            self.log.live(self.progress(before))
            return
        self.status(before)
        ends = (self.schedule.phases[before.phase].end_nimg, self.end_nimg)
        boundary = any(self.state.cur_nimg - nimg < end <= self.state.cur_nimg for end in ends)
        if boundary or _due(before.tick, after.tick, self.config.logging.checkpoint_ticks):
            self.checkpoint()
        if boundary or _due(before.tick, after.tick, self.config.logging.snapshot_ticks):
            self.snapshot(before, boundary)
        if boundary or _due(before.tick, after.tick, self.config.metrics.every_ticks):
            self.measure(before)
        self.begin()

    # ---- what

    def status(self, point: SchedulePoint) -> None:
        """The status line and the scalars of the tick that ends."""
        means, compile_sec = self.means(), self.clock.seconds - self.compiled_sec
        elapsed_sec = time.perf_counter() - self.tally.start - compile_sec
        self.pace.measured(point.stage, elapsed_sec / self.tally.nimg)
        self.training_sec += elapsed_sec
        cpu_gb, device_gb = memory_gb(self.device)
        progress = {
            "kimg": self.state.cur_nimg / 1000,
            "resolution": point.resolution,
            "stage": point.stage,
            "alpha": point.alpha,
            "batch": point.batch,
            "lr_G": point.lr_G,
            "lr_D": point.lr_D,
        }
        values = {f"Progress/{name}": float(value) for name, value in progress.items()}
        values |= {TAGS[name]: value for name, value in means.items()}
        values["Timing/sec_per_kimg"] = 1000 * elapsed_sec / self.tally.nimg
        values["Timing/images_per_sec"] = self.tally.nimg / elapsed_sec
        values["Timing/compile_sec"] = compile_sec
        values["Timing/data_wait"] = self.tally.data_wait_sec / elapsed_sec
        values["Resources/cpu_mem_gb"], values["Resources/device_mem_gb"] = cpu_gb, device_gb
        self.log.scalars(values, self.state.cur_nimg)
        self.log.line(
            f"{self.progress(point)}  D {means['loss_D']:+.3f} G {means['loss_G']:+.3f}"
            f" W {means['wasserstein']:+.3f}  {self.tally.nimg / elapsed_sec:.3g} img/s"
            f"  {max(cpu_gb, device_gb):.1f} GB  left {self.left()}"
        )

    def means(self) -> dict[str, float]:
        """Statistics of the tick so far. Raises RunFailed where one is not finite: the networks are spoilt then."""
        means = as_floats(self.tally.stats, self.tally.iterations)
        for name in sorted(means, key=lambda name: name.startswith("loss")):  # the terms before their sum
            if not math.isfinite(means[name]):
                raise RunFailed(f"{name} is not finite.")
        return means

    def progress(self, point: SchedulePoint) -> str:
        """`kimg 12.3/240  16x16  alpha 0.42  batch 16`"""
        kimg, r = f"{self.state.cur_nimg / 1000:.1f}/{self.end_nimg / 1000:g}", point.resolution
        return f"kimg {kimg}  {r}x{r}  alpha {point.alpha:.2f}  batch {point.batch}"

    def remaining(self) -> dict[int, float]:
        """{resolution: seconds} until the end."""
        return self.pace.remaining(self.schedule, self.state.cur_nimg, self.end_nimg)

    def left(self) -> str:
        """Time to the end, and of which resolution how much: `3m 20s (16x16 40s, 32x32 2m 40s)`."""
        left = self.remaining()
        stages = ", ".join(f"{r}x{r} {duration(seconds)}" for r, seconds in left.items())
        return duration(sum(left.values())) + (f" ({stages})" if len(left) > 1 else "")

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.state.G_ema.parameters()).device

    def show_reals(self, resolution: int) -> None:
        """reals-RRRR.png: the first real pictures at a resolution."""
        pictures = self.order.first(len(self.latents))
        sheet = grid(self.data.batch(pictures, resolution), self.columns)
        full = self.at_full_size(sheet, resolution)
        save_png(self.folder / f"reals-{resolution:04d}.png", full, {"resolution": str(resolution)})
        self.log.picture(f"reals/{resolution:04d}x{resolution:04d}", for_board(full), self.state.cur_nimg)

    def show_fakes(self, point: SchedulePoint) -> None:
        """fakes-KKKKKK.png: the fixed latents as the averaged generator sees them now."""
        sheet = grid(self.fakes(point), self.columns)
        kimg = self.state.cur_nimg / 1000
        texts = {
            "resolution": point.resolution,
            "kimg": kimg,
            "alpha": point.alpha,
            "columns": self.columns,
            "rows": len(self.latents) // self.columns,
        }
        full = self.at_full_size(sheet, point.resolution)
        save_png(self.folder / f"fakes-{round(kimg):06d}.png", full, {k: str(v) for k, v in texts.items()})
        self.log.picture(f"samples/{point.resolution:04d}x{point.resolution:04d}", for_board(full), self.state.cur_nimg)

    @torch.no_grad()
    def fakes(self, point: SchedulePoint) -> Tensor:
        """Pixels [N, C, R, R] of the fixed latents, a few at a time."""
        batches = torch.split(self.latents.to(self.device), pictures_a_pass(point.resolution))
        return torch.cat([to_pixels(self.state.G_ema(z, point.stage, point.alpha)).cpu() for z in batches])

    def at_full_size(self, sheet: Tensor, resolution: int) -> Tensor:
        """Enlarge a sheet so that its pictures have the size that the run ends with, at least 64 pixels."""
        return enlarge(sheet, max(64, self.config.growth.max_res) // resolution)

    def snapshot(self, before: SchedulePoint, boundary: bool) -> None:
        """Pictures and a generator for people; at the end of a phase also the growth so far and a walk."""
        point = self.as_trained(before)
        self.show_fakes(point)
        name = f"generator-{round(self.state.cur_nimg / 1000):06d}.safetensors"
        self.export(name, point)
        if boundary:
            self.show_growth()
            self.show_walk(point)
        if self.state.cur_nimg >= self.end_nimg:
            self.export("generator-final.safetensors", point)
            self.log.hyper_parameters(config_module.flatten(self.config), self.results(), self.state.cur_nimg)
        self.log.flush()

    def measure(self, before: SchedulePoint) -> None:
        """How good the averaged generator is now, in numbers."""
        if self.config.metrics.names:
            self.scoring.measure(self.state.G_ema, self.as_trained(before), self.state.cur_nimg, self.log)
            self.log.flush()

    def as_trained(self, before: SchedulePoint) -> SchedulePoint:
        """The point to show: alpha as it is now, at the resolution that the last step trained."""
        now = self.schedule.at(self.state.cur_nimg)
        return now if now.resolution == before.resolution else before

    def results(self) -> dict[str, float]:
        """Numbers that runs are compared by."""
        means = self.means()
        return {"Final/kimg": self.state.cur_nimg / 1000, "Final/wasserstein": means["wasserstein"]}

    def export(self, name: str, point: SchedulePoint) -> None:
        """A generator's file below snapshots/."""
        path = self.folder / "snapshots" / name
        save_snapshot(path, self.state.G_ema, self.config, point.stage, point.alpha, self.state.cur_nimg)

    def show_growth(self) -> None:
        """growth.gif: the fixed latents from the first stage until now, all frames at one size."""
        kimg = self.state.cur_nimg / 1000
        try:
            frames = list(growth_frames(self.folder, size=256, cells=(4, 4), until_kimg=kimg, most=60))
        except UserError as error:
            self.log.line(f"No picture of the growth: {error}")
            return
        self._gif("growth", frames, 5.0)

    def show_walk(self, point: SchedulePoint) -> None:
        """walk.gif: a short loop through the latents as the generator is now."""
        size = self.config.networks.latent_size
        plan = WalkPlan(seeds=range(8), latent_size=size, frames=32, cells=4, fps=GIF_FPS)
        scale = max(1, 128 // point.resolution)
        frames = walk_frames(
            self.state.G_ema, make_walk("slerp", plan), stage=point.stage, alpha=point.alpha, columns=4, scale=scale,
            device=self.device,
        )  # fmt: skip
        self._gif("walk", list(frames), GIF_FPS)

    def _gif(self, name: str, frames: list[Frame], fps: float) -> None:
        gif = encode_gif(frames, fps)
        with atomic(self.folder / f"{name}.gif") as temporary:
            temporary.write_bytes(gif)
        height, width = frames[0].shape[:2]
        self.log.gif(name, gif, (height, width), self.state.cur_nimg)

    def checkpoint(self) -> Path:
        """Save the whole state, and remove what `keep` does not keep. Raises RunFailed as `means` does."""
        if self.tally.iterations:
            self.means()
        folder = self.folder / "checkpoints"
        path = checkpoint.save(folder, self.state.pack(), config_module.dump(self.config), self.data.fingerprint)
        keep, every = self.config.logging.keep, self.config.logging.keep_every
        checkpoint.prune(folder, path, keep, lambda nimg: bool(every) and self.schedule.at(nimg).tick % every == 0)
        return path


def for_board(pixels: Tensor) -> Tensor:
    """Halve a sheet [C, H, W] until it is at most 1600 pixels wide: TensorBoard keeps every one of them."""
    while pixels.shape[-1] > 1600:
        pixels = downscale2d(pixels[None].float())[0].round().to(torch.uint8)
    return pixels


def grid_shape(max_res: int) -> tuple[int, int]:
    """(columns, rows) of the sheets: what fits a 1080p screen at full size, at most 8 x 8, at least 3 x 2."""
    return min(8, max(3, 1920 // max_res)), min(8, max(2, 1080 // max_res))


def _due(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]; never for 0."""
    return bool(every) and before // every != after // every
