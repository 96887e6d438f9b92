"""Metrics while training: at the end of each phase, beside the time of training, and never in its way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from progan.config import Config
from progan.console import Console
from progan.errors import UserError
from progan.metrics import evaluate
from progan.metrics.results import read_results
from progan.training import loop

CPU = torch.device("cpu")
Tiny = Callable[..., Config]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "cache"))


def test_every_phase_ends_with_a_measurement(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    loop.train(tiny("metrics.names=swd", "metrics.images=10"), tmp_path / "run", CPU, None, quiet)
    found = read_results(tmp_path / "run" / "metrics.jsonl")
    assert [(result.nimg, result.protocol["resolution"]) for result in found] == [
        (160, 4), (320, 8), (480, 8), (640, 16), (800, 16),
    ]  # fmt: skip
    assert all({"swd", "swd_floor"} <= result.values.keys() for result in found)
    assert found[-1].file is None
    assert (found[-1].protocol["fakes"], found[-1].protocol["mirror"]) == (10, True)
    text = (tmp_path / "run" / "log.txt").read_text()
    assert text.count("(floor ") == 5
    assert "% of the time of training" in text


def test_more_often_where_that_is_wanted(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    config = tiny("metrics.names=ms_ssim", "metrics.images=4", "metrics.every_ticks=1")
    loop.train(config, tmp_path / "run", CPU, 0.32, quiet)
    assert [result.nimg for result in read_results(tmp_path / "run" / "metrics.jsonl")] == [80, 160, 240, 320]


def test_no_names_no_measurement(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    loop.train(tiny(), tmp_path / "run", CPU, 0.16, quiet)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_metrics_change_no_weight(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    for name, knob in (("with", "metrics.names=swd,ms_ssim"), ("without", "metrics.names=")):
        loop.train(tiny(knob, "metrics.images=6", "metrics.every_ticks=1"), tmp_path / name, CPU, 0.24, quiet)
    states = [
        torch.load(next((tmp_path / name / "checkpoints").glob("*.pt")), weights_only=True)["state"]
        for name in ("with", "without")
    ]
    for key, tensor in states[0]["G"].items():
        assert torch.equal(tensor, states[1]["G"][key])


def test_a_run_that_goes_on_measures_what_lies_ahead_once(tiny: Tiny, tmp_path: Path, quiet: Console) -> None:
    config = tiny("metrics.names=ms_ssim", "metrics.images=4", "metrics.every_ticks=1")
    loop.train(config, tmp_path / "run", CPU, 0.32, quiet)
    newest = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
    newest.unlink()  # as if it had been killed before: the one before it is at 0.16
    loop.train(config, tmp_path / "run", CPU, 0.32, quiet)
    assert [result.nimg for result in read_results(tmp_path / "run" / "metrics.jsonl")] == [80, 160, 240, 320]


def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(UserError, match="no metric `fud`"):
        loop.train(tiny("metrics.names=fud"), tmp_path / "run", CPU, None, quiet)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_fails_ends_no_training(
    tiny: Tiny, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(case: object, tools: object) -> dict[str, float]:
        raise ValueError("it is too dark")

    monkeypatch.setitem(evaluate.METRICS, "strict", evaluate.Metric("", refuse))
    assert loop.train(tiny("metrics.names=strict"), tmp_path / "run", CPU, 0.16, quiet) == 0
    assert "Not measured: strict: it is too dark." in (tmp_path / "run" / "log.txt").read_text()


def test_measuring_is_no_time_of_training(
    tiny: Tiny, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(case: object, tools: object) -> dict[str, float]:
        time.sleep(2.0)
        return {"slow": 1.0}

    monkeypatch.setitem(evaluate.METRICS, "slow", evaluate.Metric("", slow, floor=False))
    loop.train(tiny("metrics.names=slow", "metrics.every_ticks=1"), tmp_path / "run", CPU, 0.16, quiet)
    ticks = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert len(ticks) == 2
    assert all(tick["Timing/sec_per_kimg"] * 0.08 < 2.0 for tick in ticks)
