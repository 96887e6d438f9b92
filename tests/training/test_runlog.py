"""The log of a run: lines, statistics that can be read back, PNG files that say what they are."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from progan.console import Console
from progan.training.runlog import RunLog, as_floats, save_png


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path, Console(io.StringIO()), 0)


def test_a_line_goes_to_the_screen_and_to_the_file(log: RunLog, tmp_path: Path) -> None:
    log.line("kimg 1")
    log.close()
    assert (tmp_path / "log.txt").read_text() == "kimg 1\n" == log.console.stream.getvalue()  # type: ignore[attr-defined]


def test_statistics_are_one_json_object_a_line(log: RunLog, tmp_path: Path) -> None:
    log.scalars({"Loss/D": 1.5}, 1000)
    log.scalars({"Loss/D": math.nan}, 2000)
    log.close()
    records = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert records == [{"nimg": 1000, "Loss/D": 1.5}, {"nimg": 2000, "Loss/D": None}]


def test_what_lies_beyond_the_checkpoint_is_dropped(log: RunLog, tmp_path: Path) -> None:
    for nimg in (1000, 2000, 3000):
        log.scalars({"x": 1.0}, nimg)
    log.close()
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write('{"nimg": 4000, "x"')  # cut off by kill -9
    RunLog(tmp_path, Console(io.StringIO()), 2000).close()
    assert [json.loads(s)["nimg"] for s in (tmp_path / "stats.jsonl").read_text().splitlines()] == [1000, 2000]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels_and_the_texts(channels: int, tmp_path: Path) -> None:
    pixels = torch.arange(channels * 12, dtype=torch.uint8).reshape(channels, 3, 4)
    save_png(tmp_path / "a.png", pixels, {"kimg": "1.5"})
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["kimg"] == "1.5"
        assert np.array_equal(np.asarray(image).reshape(3, 4, channels), pixels.permute(1, 2, 0).numpy())


def test_sums_become_means() -> None:
    assert as_floats({"a": torch.tensor(6.0), "b": torch.tensor(-3.0)}, 3) == {"a": 2.0, "b": -1.0}
    assert as_floats({}, 1) == {}
