"""The growth plan as a table, for `progan schedule` and the head of every training."""

from __future__ import annotations

import math
from typing import Any

import torch

from progan import losses
from progan.config import Config, couples_images, discriminator_arguments, generator_arguments, schedule_of
from progan.devices import usable_bytes
from progan.errors import RunFailed, UserError
from progan.nn import progressive
from progan.nn.families import Discriminator, Generator, make_discriminator, make_generator
from progan.nn.ops import largest_group
from progan.schedule import Phase, stage_of
from progan.training.engine import KERNELS, is_standard
from progan.training.preflight import fitting, held_bytes, is_out_of_memory, saved_bytes
from progan.training.state import Moving, TrainState, new_state
from progan.training.steps import CriticLoss, clip_weights

Row = dict[str, Any]
TOO_LARGE = "the networks do not fit into memory; use smaller networks.fmap_base or fmap_max."


def micro_batches(config: Config, free: float) -> list[int]:
    """Images of one forward pass by phase: as configured, or for `auto` as many as `free` bytes hold. All of them where
    the networks couple them; raises UserError where less is configured then.
    """
    wanted, phases = config.training.micro_batch, schedule_of(config).phases
    if couples_images(config):
        return [_uncut(phase.batch, wanted) for phase in phases]
    groups = [mbstd_group(config, phase) for phase in phases]
    if wanted != "auto":
        return [max(group, min(wanted, phase.batch) // group * group) for phase, group in zip(phases, groups)]
    G, D = on_meta(config)
    cost = {stage: image_bytes(config, G, D, stage) for stage in {phase.stage for phase in phases}}
    return [fitting(phase.batch, group, cost[phase.stage], free) for phase, group in zip(phases, groups)]


def _uncut(batch: int, wanted: int | str) -> int:
    if isinstance(wanted, int) and wanted < batch:
        raise UserError(
            f"training.micro_batch {wanted} would cut a batch of {batch} images, and batch norm or minibatch "
            "discrimination look at all of them at once; leave it out, or make growth.batch smaller."
        )
    return batch


def image_bytes(config: Config, G: Generator, D: Discriminator, stage: int) -> float:
    """Memory that an image of a D step costs, by the engine that takes it. G, D: on device meta."""
    loss = critic_loss(config, stage)
    written_out = config.training.engine != "readable" and is_standard(G, D, loss)
    if written_out and isinstance(G, progressive.Generator) and isinstance(D, progressive.Discriminator):
        return held_bytes(G, D, stage, KERNELS[config.training.precision])
    return saved_bytes(G, D, stage, loss)


def critic_loss(config: Config, stage: int) -> CriticLoss:
    """The losses at a stage."""
    knobs = config.loss
    return CriticLoss(
        weight=knobs.wgan_lambda,
        target=knobs.wgan_target,
        epsilon=knobs.wgan_epsilon,
        scale=losses.norm_scale(knobs.gp_norm, stage_of(config.growth.max_res) - stage),
        kind=knobs.kind,
        penalty=knobs.penalty,
        gamma=knobs.r1_gamma,
        iterate=config.networks.spectral_iterate,
    )


def mbstd_group(config: Config, phase: Phase) -> int:
    """Images of a minibatch-stddev group in a phase."""
    return largest_group(phase.batch, config.networks.mbstd_group)


def on_meta(config: Config) -> tuple[Generator, Discriminator]:
    """The networks of a configuration without data: shapes to reason about. Raises UserError where such there
    cannot be.
    """
    try:
        with torch.device("meta"):
            G = make_generator(**generator_arguments(config))
            return G, make_discriminator(**discriminator_arguments(config))
    except ValueError as error:
        raise UserError(f"networks: {error}.") from None


def first_state(config: Config, device: torch.device) -> TrainState:
    """The state before the first image. Raises RunFailed where memory does not hold it."""
    arguments = generator_arguments(config), discriminator_arguments(config)
    try:
        state = new_state(*arguments, config.training.seed, device, moving(config))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise RunFailed(TOO_LARGE) from None
        raise
    if config.loss.clip:
        clip_weights(state.D, config.loss.clip)
    return state


def moving(config: Config) -> Moving:
    """The optimizer's knobs."""
    t = config.training
    return Moving(t.optimizer, t.adam_beta1, t.adam_beta2, t.adam_epsilon, t.rmsprop_alpha, t.rmsprop_epsilon)


def plan_rows(config: Config, device: torch.device) -> list[Row]:
    """One row a phase: everything that the schedule says of it, its micro-batch for the device's memory."""
    G, D = on_meta(config)
    micro, schedule = micro_batches(config, usable_bytes(device)), schedule_of(config)
    rows = [_row(config, phase, micro[phase.index], G, D) for phase in schedule.phases]
    for row, phase in zip(rows, schedule.phases):
        row["decay"] = [schedule.decay(phase.start_nimg), schedule.decay(phase.end_nimg)]
    return rows


def _row(config: Config, phase: Phase, micro: int, G: Generator, D: Discriminator) -> Row:
    parameters = {name: sum(p.numel() for p in net.stage_parameters(phase.stage)) for name, net in (("G", G), ("D", D))}
    return {
        "phase": "fade" if phase.fading else "stable",
        "start_kimg": phase.start_nimg / 1000,
        "end_kimg": phase.end_nimg / 1000,
        "resolution": phase.resolution,
        "alpha": [0.0, 1.0] if phase.fading else [1.0, 1.0],
        "batch": phase.batch,
        "micro_batch": micro,
        "mbstd_group": mbstd_group(config, phase),
        "lr_G": phase.lr_G,
        "lr_D": phase.lr_D,
        "iterations": math.ceil(phase.nimg / (phase.batch * config.training.d_repeats)),
        "parameters_G": parameters["G"],
        "parameters_D": parameters["D"],
    }


HEADS = (
    "phase",
    "kimg",
    "resolution",
    "alpha",
    "batch",
    "micro",
    "group",
    "lr G",
    "lr D",
    "iterations",
    "params G",
    "params D",
)


def describe_plan(config: Config, device: torch.device) -> list[str]:
    """The plan as a table's lines."""
    return plan_table(plan_rows(config, device))


def plan_table(rows: list[Row]) -> list[str]:
    """The rows as lines of aligned columns."""
    cells = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADS))]
    return ["  ".join(text.rjust(width) for text, width in zip(line, widths)) for line in cells]


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row["phase"],
        f"{row['start_kimg']:g} - {row['end_kimg']:g}",
        f"{row['resolution']}x{row['resolution']}",
        "0 -> 1" if row["phase"] == "fade" else "1",
        str(row["batch"]),
        str(row["micro_batch"]),
        str(row["mbstd_group"]),
        _rate(row["lr_G"], row["decay"]),
        _rate(row["lr_D"], row["decay"]),
        f"{row['iterations']:,}",
        f"{row['parameters_G']:,}",
        f"{row['parameters_D']:,}",
    )


def _rate(rate: float, decay: list[float]) -> str:
    """`0.001`, or `0.0002 -> 0` where it falls."""
    first, last = (f"{rate * share:g}" for share in decay)
    return first if first == last else f"{first} -> {last}"
