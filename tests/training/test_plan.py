"""Laws of the plan: one row a phase, saying what the schedule says, in columns that line up."""

import math

import pytest
import torch

from progan.config import Config, load, schedule_of
from progan.errors import UserError
from progan.training import plan
from progan.training.plan import HEADS, describe_plan, mbstd_group, micro_batches, on_meta, plan_rows, plan_table
from progan.training.state import Moving
from progan.training.steps import CriticLoss

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


COUPLED = ["networks.g_norm=batch", "networks.minibatch_discrimination=5"]


@pytest.mark.parametrize("text", COUPLED)
def test_networks_that_see_a_batch_as_a_whole_get_it_whole(text):
    assert micro_batches(_config(text), 0) == [16, 15, 15, 14, 14]
    assert micro_batches(_config(text, "training.micro_batch=16"), 0) == [16, 15, 15, 14, 14]
    with pytest.raises(UserError, match=r"training.micro_batch 15 would cut a batch of 16 images.*leave it out"):
        micro_batches(_config(text, "training.micro_batch=15"), 1e15)


TECHNIQUES = {
    "spectral": ["networks.d_weights=spectral", "networks.attention=8", "loss.penalty=none", "loss.kind=hinge"],
    "r1": ["loss.kind=logistic", "loss.penalty=r1"],
    "strict": ["networks.g_weights=weightnorm-strict", "networks.d_weights=weightnorm-strict"],
    "dcgan": ["networks.family=dcgan", "networks.d_norm=batch", "loss.penalty=none", "networks.mbstd_group=0"],
    "resnet": ["networks.family=resnet", "networks.d_norm=layer", "networks.g_norm=batch"],
}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_memory_is_reckoned_for_other_techniques(name):
    config = _config(*TECHNIQUES[name])
    cost = plan.image_bytes(config, *on_meta(config), 2)
    assert 1e4 < cost < 1e6
    assert plan_rows(config, CPU)[-1]["micro_batch"] == 14


def test_a_row_of_networks_that_do_not_grow():
    rows = plan_rows(_config(*TECHNIQUES["resnet"]), CPU)
    assert [(row["phase"], row["resolution"], row["iterations"]) for row in rows] == [("stable", 16, 215)]


def test_networks_that_cannot_be_are_the_users_mistake():
    for texts, message in [
        (["networks.family=dcgan", "growth.max_res=8"], r"^networks: the resolution 8 of a network that does not grow"),
        (
            ["networks.family=resnet", "networks.layout=sndcgan"],
            r"^networks: the family `resnet` has no option `layout`",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            on_meta(_config(*texts))


def test_the_loss_takes_its_knobs_from_the_configuration():
    knobs = ["kind=logistic", "penalty=r1", "r1_gamma=3", "wgan_lambda=5", "wgan_target=2", "wgan_epsilon=0.1"]
    config = _config(*(f"loss.{knob}" for knob in knobs), "networks.spectral_iterate=always")
    assert plan.critic_loss(config, 1) == CriticLoss(5, 2, 0.1, 0.5, "logistic", "r1", 3, "always")
    assert plan.critic_loss(Config(), 8) == CriticLoss()


def test_the_first_d_is_clipped_and_moved_by_the_optimizer_that_is_asked_for():
    knobs = ["optimizer=rmsprop", "rmsprop_alpha=0.9", "rmsprop_epsilon=1e-6", "adam_beta1=0.5"]
    config = _config("loss.clip=0.01", "loss.penalty=none", *(f"training.{knob}" for knob in knobs))
    state = plan.first_state(config, CPU)
    layer = state.D.get_submodule("blocks.16x16.conv0")
    assert (layer.weight * layer.scale).abs().max().item() == pytest.approx(0.01)
    assert (state.G.get_submodule("blocks.16x16.conv0").weight).abs().max() > 1
    assert state.moving == Moving("rmsprop", 0.5, 0.99, 1e-8, 0.9, 1e-6)
    assert state.opt_D.param_groups[0]["alpha"] == 0.9


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


def test_rates_that_fall_are_shown_from_where_to_where():
    config = _config("training.decay=linear", "training.decay_from=0.5", "training.d_lr_ratio=2")
    rows = plan_rows(config, CPU)
    assert [row["decay"] for row in rows] == [
        [1, 1],
        [1, 1],
        [1, 1],
        [1, pytest.approx(2 / 3)],
        [pytest.approx(2 / 3), 0],
    ]
    lines = describe_plan(config, CPU)
    assert "0.1  " in lines[1]
    assert "0.2 -> 0.133333" in lines[4]
    assert "0.133333 -> 0" in lines[5]
    assert "0.266667 -> 0" in lines[5]
