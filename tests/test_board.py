"""TensorBoard as a person sees it, in headless Chromium: every resolution has its samples, and the growth moves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from progan import config as config_module
from progan.console import Console
from progan.training import loop
from tests.conftest import TINY

pytest.importorskip("selenium", reason="selenium is not installed (extra `dev`)")
from docs import board_screenshots as shots

pytestmark = pytest.mark.skipif(not shots.available(), reason="no chromium and chromedriver on this machine")


def test_samples_of_each_resolution_and_a_growth_that_moves(tiny_data: Path, tmp_path: Path) -> None:
    knobs = ["growth.stable_kimg=1", "growth.fade_kimg=1", "growth.final_kimg=1", "growth.batch=20"]
    config = config_module.load(None, [*TINY, f"data.source={tiny_data}", *knobs])
    loop.train(config, tmp_path / "run", torch.device("cpu"), None, Console(live_sec=1e9))
    with shots.board(tmp_path) as address, shots.browser() as driver:
        shown = shots.open_images(driver, address)
        tags = {"samples/0004x0004", "samples/0008x0008", "samples/0016x0016", "growth", "walk"}
        assert tags <= set(shown)
        seen = set()
        for _ in range(20):  # the first picture of the growth is shown longest: two in a row may be equal
            seen.add(shown["growth"].screenshot_as_base64)
            time.sleep(0.3)
        assert len(seen) >= 2, "the growth stands still"
        reals = {shown["reals/0016x0016"].screenshot_as_base64 for _ in range(3)}
        assert len(reals) == 1, "and what should stand still does"
