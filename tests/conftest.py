"""What all tests share: a device to choose, few threads, one seed."""

from __future__ import annotations

import io
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from progan import config as config_module
from progan.config import Config
from progan.console import Console
from progan.data.pictures import Recipe
from progan.data.prepare import prepare


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device for the tests that can run on any: cpu, cuda, mps")


@pytest.fixture(autouse=True)
def _short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training measures its pace for two seconds before it begins; here two iterations will do."""
    monkeypatch.setattr("progan.training.measure.ENOUGH_SEC", 0.01)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_configure() -> None:
    torch.set_num_threads(1)  # two would wait for each other on a busy machine
    settings.register_profile("suite", database=None, deadline=None, derandomize=True)  # each run like every other
    settings.load_profile("suite")


TINY = (
    "growth.max_res=16",
    "growth.stable_kimg=0.16",
    "growth.fade_kimg=0.16",
    "growth.final_kimg=0.16",
    "growth.batch=8",
    "networks.latent_size=8",
    "networks.fmap_base=64",
    "networks.fmap_max=8",
    "training.ema_beta=0.9",
    "logging.tick_kimg=0.08",
    "logging.snapshot_ticks=0",
    "logging.checkpoint_ticks=0",
    "metrics.names=",
)
"""A whole training in 100 iterations: 4x4, fade, 8x8, fade, 16x16, each 20 steps of 8 images."""


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pyramid of 50 portraits up to 16x16."""
    folder = tmp_path_factory.mktemp("data") / "faces16"
    prepare("faces:50", folder, Recipe(16))
    return folder


@pytest.fixture
def tiny(tiny_data: Path) -> Callable[..., Config]:
    """tiny("section.key=value", ...): the tiny training's configuration, changed."""

    def make(*overrides: str) -> Config:
        return config_module.load(None, [*TINY, f"data.source={tiny_data}", *overrides])

    return make


@pytest.fixture
def quiet() -> Console:
    """A console that nobody sees; `quiet.stream.getvalue()` is what it printed."""
    return Console(io.StringIO())


@pytest.fixture
def no_hanging() -> Iterator[None]:
    """A test that hangs fails."""

    def hang(*_: object) -> None:
        raise AssertionError("it hangs")

    previous = signal.signal(signal.SIGALRM, hang)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


TIMES = itertools.count(10**18, 10**6)


def aged(path: Path) -> Path:
    """Give a file a time that no other has: the system's clock may stand still between two writes."""
    time = next(TIMES)
    os.utime(path, ns=(time, time))
    return path
