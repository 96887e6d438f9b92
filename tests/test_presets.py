"""The presets beside ProGAN's own: each builds, says where its numbers come from, and differs as the papers do."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from progan.config import (
    diff,
    discriminator_arguments,
    doubts,
    flatten,
    generator_arguments,
    load,
    preset_folder,
    preset_names,
    schedule_of,
)
from progan.nn.families import make_discriminator, make_generator

TABLE_1 = [f"table1-{row}" for row in ("a", "b", "c", "d", "e-star", "e", "f", "g", "h")]
OTHERS = [
    "dcgan", "wgan", "wgan-gp", "wgan-gp-ttur", "sndcgan", "sngan", "sagan", "sagan-blog", "wngan", "progan-sn",
    "progan-attention", "progan-hinge-r1",
]  # fmt: skip
TECHNIQUES = OTHERS + TABLE_1


def test_every_technique_has_its_preset() -> None:
    assert set(TECHNIQUES) <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_how_to_run_it_and_where_its_numbers_come_from(name: str) -> None:
    head = (preset_folder() / f"{name}.toml").read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for word in ("command", "hardware", "result", "source"):
        assert re.search(rf"^# {word}\s+\S", head, re.MULTILINE), word
    assert f"--config {name}" in head


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_changes_what_it_writes_and_builds(name: str) -> None:
    config = load(name)
    with torch.device("meta"):
        G, D = make_generator(**generator_arguments(config)), make_discriminator(**discriminator_arguments(config))
    top, batch = config.growth.max_res, schedule_of(config).phases[-1].batch
    G, D = G.eval(), D.eval()
    images = G(torch.zeros(batch, config.networks.latent_size, device="meta"))
    assert images.shape == (batch, 3, top, top)
    assert D(images).shape == (batch,)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_preset_shrinks(name: str) -> None:
    flags = {"growth.max_res": 32} | ({"growth.start_res": 32} if name == "table1-a" else {})
    config = load(name, ["networks.fmap_max=8", "networks.attention=0"], flags)
    assert config.growth.max_res == 32
    assert schedule_of(config).phases[-1].resolution == 32


@pytest.mark.parametrize("name", OTHERS)
def test_no_preset_is_doubtful(name: str) -> None:
    assert doubts(load(name)) == []


def test_the_ablation_changes_what_the_paper_changes_and_nothing_else() -> None:
    """Karras et al. 2018, table 1: each row names what it changes; (a) to (d) also what comes with it."""
    steps = {
        ("a", "b"): {"growth.start_res", "growth.final_kimg"},
        ("b", "c"): {"growth.batch", "training.ema_beta"},
        ("c", "d"): {
            "networks.latent_size", "networks.latent_norm", "networks.g_norm", "networks.d_norm",
            "networks.g_activation", "networks.output", "loss.wgan_epsilon", "training.adam_beta2",
            "training.d_repeats", "training.ema_beta",
        },
        ("d", "e-star"): {"networks.minibatch_discrimination"},
        ("d", "e"): {"networks.mbstd_group"},
        ("e", "f"): {"networks.g_weights", "networks.d_weights", "training.lr"},
        ("f", "g"): {"networks.g_norm"},
        ("g", "h"): {"networks.fmap_base", "growth.final_kimg"},
    }  # fmt: skip
    for (before, after), changed in steps.items():
        assert set(diff(load(f"table1-{before}"), load(f"table1-{after}"))) == changed, (before, after)


def test_the_ablation_ends_at_the_papers_settings() -> None:
    """Row (h) has the defaults' networks and loss, but for what Theano's code has otherwise."""
    kept = {"networks.mbstd_group", "networks.d_pool"}
    differing = set(diff(load(None), load("table1-h")))
    assert {key for key in differing if key.startswith(("networks.", "loss."))} == kept


def test_no_growth_and_the_same_number_of_images() -> None:
    totals = {name: schedule_of(load(name)).total_nimg for name in preset_names() if name.startswith("table1")}
    assert {total for name, total in totals.items() if name != "table1-h"} == {10_000_000}
    assert len(schedule_of(load("table1-a")).phases) == 1
    assert len(schedule_of(load("table1-b")).phases) == 11


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("growth.start_res", "1024"), ("networks.g_norm", "none"), ("networks.g_weights", "plain"),
        ("networks.d_weights", "plain"), ("networks.mbstd_group", "0"), ("networks.latent_norm", "false"),
        ("loss.wgan_epsilon", "0"), ("training.ema_beta", "0"), ("loss.penalty", "none"),
    ],
)  # fmt: skip
def test_each_technique_of_progan_is_one_switch(key: str, value: str) -> None:
    assert set(diff(load(None), load(None, [f"{key}={value}"]))) == {key}
    assert key in flatten(load(None))


def test_the_two_time_scales_are_two_rates() -> None:
    point = schedule_of(load("sagan")).at(0)
    assert (point.lr_G, point.lr_D) == (pytest.approx(1e-4), pytest.approx(4e-4))


@pytest.mark.slow
@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_preset_trains_and_resumes_exactly(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the script that makes docs/results/techniques.md, in fewer steps."""
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(preset_folder().parent / "benchmarks"))
    script = importlib.import_module("techniques")
    monkeypatch.setattr(script, "STEPS", 20)
    row = script.checked(name, "faces:64", tmp_path / name)
    assert row["finite"]
    assert row["resume_exact"]
