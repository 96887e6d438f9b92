"""Laws of the plan: one row a phase, saying what the schedule says, in columns that line up."""

import math

import pytest
import torch

from progan.config import Config, load, schedule_of
from progan.training import plan
from progan.training.plan import HEADS, describe_plan, mbstd_group, micro_batches, on_meta, plan_rows, plan_table

CPU = torch.device("cpu")
SMALL = [
    "growth.max_res=16", "networks.fmap_base=128", "networks.fmap_max=16", "growth.stable_kimg=1", "growth.fade_kimg=2",
    "growth.final_kimg=3", "growth.batch={base = 16, 8 = 15, 16 = 14}", "training.lr={base = 0.1, 16 = 0.2}",
]  # fmt: skip


def _config(*more: str) -> Config:
    return load(None, [*SMALL, *more])


def test_a_row_a_phase_says_what_the_schedule_says():
    config = _config()
    rows, phases = plan_rows(config, CPU), schedule_of(config).phases
    assert len(rows) == len(phases) == 5
    for row, phase in zip(rows, phases):
        assert row["phase"] == ("fade" if phase.fading else "stable")
        assert (row["start_kimg"], row["end_kimg"]) == (phase.start_nimg / 1000, phase.end_nimg / 1000)
        assert (row["resolution"], row["batch"]) == (phase.resolution, phase.batch)
        assert (row["lr_G"], row["lr_D"]) == (phase.lr_G, phase.lr_D)
        assert row["alpha"] == ([0.0, 1.0] if phase.fading else [1.0, 1.0])
    assert [r["mbstd_group"] for r in rows] == [4, 3, 3, 2, 2]
    assert [r["iterations"] for r in rows] == [63, 134, 67, 143, 215]  # 1000 / 16, 2000 / 15, ... rounded up


def test_more_d_steps_an_iteration_are_fewer_iterations():
    assert plan_rows(_config("training.d_repeats=5"), CPU)[0]["iterations"] == math.ceil(1000 / 80)


def test_parameters_grow_by_stage_to_the_whole():
    config = _config()
    rows = plan_rows(config, CPU)
    for name, net in zip(("parameters_G", "parameters_D"), on_meta(config)):
        counts = [row[name] for row in rows]
        assert counts[0] < counts[1] == counts[2] < counts[3] == counts[4]
        assert counts[4] == sum(p.numel() for p in net.parameters())


def test_the_official_plan_has_the_papers_parameters():
    row = plan_rows(load(None, ["training.micro_batch=4"]), CPU)[-1]
    assert (row["parameters_G"], row["parameters_D"]) == (23_079_115, 23_087_249)


# --- micro-batches ---


@pytest.mark.parametrize(
    ("wanted", "sizes"),
    [
        (16, [16, 15, 15, 14, 14]),
        (99, [16, 15, 15, 14, 14]),
        (8, [8, 6, 6, 8, 8]),
        (4, [4, 3, 3, 4, 4]),
        (1, [4, 3, 3, 2, 2]),
    ],
)
def test_a_configured_micro_batch_is_rounded_down_to_whole_groups(wanted, sizes):
    assert micro_batches(_config(f"training.micro_batch={wanted}"), 1e15) == sizes


def test_an_automatic_micro_batch_is_what_memory_holds():
    assert micro_batches(_config(), 1e15) == [16, 15, 15, 14, 14]
    assert micro_batches(_config(), 0) == [4, 3, 3, 2, 2]
    for engine in ("auto", "readable"):
        config = _config(f"training.engine={engine}")
        cost = plan.image_bytes(config, *on_meta(config), 2)
        between = micro_batches(config, 8 * cost * 1.31)
        assert between[3] == between[4] == 6
        assert between[0] == 16  # 4x4 costs less


def test_what_an_image_costs_depends_on_who_takes_the_step():
    texts = ("engine=readable", "engine=auto", "precision=bfloat16")
    readable, explicit, half = (plan.image_bytes(c, *on_meta(c), 2) for c in (_config(f"training.{t}") for t in texts))
    assert readable > explicit > half > 0


def test_groups_are_those_of_the_configuration():
    phase = schedule_of(_config()).phases[-1]
    assert [mbstd_group(_config(f"networks.mbstd_group={n}"), phase) for n in (0, 1, 4, 7, 16)] == [1, 1, 2, 7, 14]


# --- for people ---


def test_the_table_has_aligned_columns_and_a_line_a_phase():
    lines = describe_plan(_config(), CPU)
    assert len(lines) == 6
    assert len({len(line) for line in lines}) == 1
    assert all(head in lines[0] for head in HEADS)
    assert lines == plan_table(plan_rows(_config(), CPU))
    assert lines[2].split()[0] == "fade"
    for text in ("1 - 3", "8x8", "0 -> 1", "15", "0.1", "134"):
        assert text in lines[2]
    assert "6 - 9" in lines[5]
    assert "0.2" in lines[5]
