"""`progan bench`: the configuration that train would take, measured within a budget, for people or for programs."""

from __future__ import annotations

import json

import click
import pytest

from progan.commands import bench as bench_command
from progan.commands import main
from progan.commands import train as train_command
from progan.training import bench, measure
from tests.conftest import TINY

KNOBS = [part for knob in TINY for part in ("--set", knob)]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(measure, "ENOUGH_SEC", 0.01)


def test_it_prints_a_line_a_stage_and_the_whole(capsys):
    assert main(["bench", *KNOBS, "--max-res", "8", "--set", "growth.max_res=8", "--budget", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["resolution", "4x4", "8x8"]
    assert lines[1].endswith("measured")
    assert "The whole schedule takes about " in lines[3]
    assert len(lines) == 5


def test_programs_get_json_and_nothing_else(capsys):
    assert main(["bench", *KNOBS, "--json", "--budget", "0.01", "--set", "training.engine=compiled"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [stage["resolution"] for stage in said["stages"]] == [4, 8, 16]
    assert said["stages"][2]["how"] == "predicted", "the budget is kept"
    assert said["hours"] == pytest.approx(sum(stage["hours"] for stage in said["stages"]))


def test_every_option_arrives(monkeypatch, capsys):
    seen = {}

    def spy(config, device, engine, budget_sec, say):
        seen.update(config=config, device=device, engine=engine, budget_sec=budget_sec)
        return [bench.Row(4, 8, 8, 1000, 0.1, 8, 1e9, True, True)]

    monkeypatch.setattr(bench, "bench", spy)
    options = ["--config", "quickstart", "--max-res", "16", "--set", "training.d_repeats=3", "--device", "cpu"]
    assert main(["bench", *options, "--set", "training.engine=readable"]) == 0
    config = seen["config"]
    assert (config.networks.fmap_max, config.growth.max_res, config.training.d_repeats) == (64, 16, 3)
    assert (seen["device"].type, seen["engine"].name, seen["budget_sec"]) == ("cpu", "readable", 90)
    assert main(["bench", *options, "--set", "training.engine=compiled", "--budget", "599"]) == 0
    assert (seen["engine"].name, seen["budget_sec"]) == ("compiled", 599)
    assert "--budget 600 measures" in capsys.readouterr().out
    assert main(["bench", *options, "--set", "training.engine=compiled", "--budget", "600"]) == 0
    assert "uncompiled" not in capsys.readouterr().out


def test_the_options_are_those_of_train():
    ours, theirs = (
        {option.name: option for option in c.params} for c in (bench_command.command, train_command.command)
    )
    for name in ("max_res", "preset", "overrides", "device"):
        a, b = ours[name], theirs[name]
        assert isinstance(a, click.Option)
        assert isinstance(b, click.Option)
        assert (a.opts, a.help, a.metavar, a.default) == (b.opts, b.help, b.metavar, b.default)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "quikstart"], "did you mean `quickstart`?"),
        (["--max-res", "100"], "100 is not a power of two"),
        (["--set", "growth.max_rez=8"], "did you mean `growth.max_res`?"),
        (["--device", "tpu"], "--device tpu: unknown"),
        (["--budget", "0"], "0"),
        (["--budget", "nan"], "nan is no number to count with"),
        (["--set", "training.engine=graphs", "--device", "cpu"], "needs CUDA"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(arguments, sentence, capsys):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.strip().count("\n") == 0
