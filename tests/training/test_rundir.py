"""The directory of a run: found again, never emptied, compared knob by knob."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from progan import config as config_module
from progan.errors import UserError
from progan.training import rundir
from progan.version import __version__

CPU = torch.device("cpu")


def test_the_same_request_names_the_same_run() -> None:
    config = config_module.load("quickstart", ["data.source=photos/cats.zip"])
    assert rundir.default_run(config, "quickstart") == Path("runs/quickstart-cats-32px")
    assert rundir.default_run(config, "dir/mine.toml") == Path("runs/mine-cats-32px")
    assert rundir.default_run(config_module.load(), None) == Path("runs/default-faces-1024px")


def test_fresh_takes_the_first_free_name(tmp_path: Path) -> None:
    assert rundir.fresh_run(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    assert rundir.fresh_run(tmp_path / "run") == tmp_path / "run"
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "file").touch()
    assert rundir.fresh_run(tmp_path / "run") == tmp_path / "run-3"


def test_entering_writes_what_a_repetition_needs(tmp_path: Path) -> None:
    config = config_module.load("quickstart")
    rundir.enter(tmp_path / "run", config, CPU)
    assert config_module.parse((tmp_path / "run" / "config.toml").read_text()) == config
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"device", "python", "packages", "git_commit", "command", "started"} <= environment.keys()
    assert environment["packages"]["torch"] == version("torch")
    assert environment["progan"] == __version__


def test_other_knobs_are_refused_and_free_ones_taken_over(tmp_path: Path) -> None:
    rundir.enter(tmp_path, config_module.load("quickstart"), CPU)
    free = config_module.load("quickstart", ["logging.keep=9", "training.micro_batch=8"])
    rundir.check(tmp_path, free)
    rundir.enter(tmp_path, free, CPU)
    assert config_module.parse((tmp_path / "config.toml").read_text()) == free
    with pytest.raises(UserError, match=r"networks\.fmap_max was \d+, is now 7"):
        rundir.check(tmp_path, config_module.load("quickstart", ["networks.fmap_max=7"]))
    assert config_module.parse((tmp_path / "config.toml").read_text()) == free


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("precious")
    with pytest.raises(UserError, match="is no run directory"):
        rundir.check(tmp_path, config_module.load())
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_the_commit_is_that_of_the_checkout_or_none(tmp_path: Path) -> None:
    assert rundir.git_commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    assert rundir.git_commit(tmp_path) is None
