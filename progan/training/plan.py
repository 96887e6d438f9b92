"""The growth plan as a table, for `progan schedule` and the head of every training."""

from __future__ import annotations

import math
from typing import Any

import torch

from progan.config import Config, discriminator_arguments, generator_arguments, schedule_of
from progan.devices import usable_bytes
from progan.errors import RunFailed
from progan.nn.ops import largest_group
from progan.nn.progressive import Discriminator, Generator
from progan.schedule import Phase
from progan.training.engine import KERNELS
from progan.training.preflight import fitting, held_bytes, is_out_of_memory, saved_bytes
from progan.training.state import TrainState, new_state

Row = dict[str, Any]
TOO_LARGE = "the networks do not fit into memory; use smaller networks.fmap_base or fmap_max."


def micro_batches(config: Config, free: float) -> list[int]:
    """Images of one forward pass by phase: as configured, or for `auto` as many as `free` bytes hold."""
    wanted, phases = config.training.micro_batch, schedule_of(config).phases
    groups = [mbstd_group(config, phase) for phase in phases]
    if wanted != "auto":
        return [max(group, min(wanted, phase.batch) // group * group) for phase, group in zip(phases, groups)]
    G, D = on_meta(config)
    cost = {stage: image_bytes(config, G, D, stage) for stage in {phase.stage for phase in phases}}
    return [fitting(phase.batch, group, cost[phase.stage], free) for phase, group in zip(phases, groups)]


def image_bytes(config: Config, G: Generator, D: Discriminator, stage: int) -> float:
    """Memory that an image of a D step costs, by the engine that takes it. G, D: on device meta."""
    if config.training.engine == "readable":
        return saved_bytes(G, D, stage)
    return held_bytes(G, D, stage, KERNELS[config.training.precision])


def mbstd_group(config: Config, phase: Phase) -> int:
    """Images of a minibatch-stddev group in a phase."""
    return largest_group(phase.batch, config.networks.mbstd_group)


def on_meta(config: Config) -> tuple[Generator, Discriminator]:
    """The networks of a configuration without data: shapes to reason about."""
    with torch.device("meta"):
        return Generator(**generator_arguments(config)), Discriminator(**discriminator_arguments(config))


def first_state(config: Config, device: torch.device) -> TrainState:
    """The state before the first image. Raises RunFailed where memory does not hold it."""
    arguments = generator_arguments(config), discriminator_arguments(config)
    try:
        return new_state(*arguments, config.training.seed, device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise RunFailed(TOO_LARGE) from None
        raise


def plan_rows(config: Config, device: torch.device) -> list[Row]:
    """One row a phase: everything that the schedule says of it, its micro-batch for the device's memory."""
    G, D = on_meta(config)
    micro = micro_batches(config, usable_bytes(device))
    return [_row(config, phase, micro[phase.index], G, D) for phase in schedule_of(config).phases]


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
        f"{row['lr_G']:g}",
        f"{row['lr_D']:g}",
        f"{row['iterations']:,}",
        f"{row['parameters_G']:,}",
        f"{row['parameters_D']:,}",
    )
