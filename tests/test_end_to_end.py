"""The promise that matters most: kill a run at any moment, start it again, and nothing can tell."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from progan.training import checkpoint
from tests.conftest import TINY
from tests.training.test_loop import assert_same, final_state

LONGER = (
    "growth.stable_kimg=0.4",
    "growth.fade_kimg=0.4",
    "growth.final_kimg=0.4",
    "logging.tick_kimg=0.1",
    "logging.checkpoint_ticks=1",
)
TOTAL = 2000
FADES = ((400, 800), (1200, 1600))


def start(folder: Path, data: Path) -> subprocess.Popen[bytes]:
    """`progan train` in a process of its own."""
    knobs = [part for knob in (*TINY, *LONGER, f"data.source={data}") for part in ("--set", knob)]
    command = [sys.executable, "-m", "progan", "train", "--out", str(folder), "--device", "cpu", *knobs]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_beyond(folder: Path, data: Path, nimg: int) -> int:
    """Start the run, kill -9 it some random milliseconds after it has logged nimg images. -> the last it had logged."""
    process = start(folder, data)
    try:
        deadline = time.monotonic() + 120
        while shown(folder) < nimg:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(random.random() * 0.05)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    return shown(folder)


def shown(folder: Path) -> int:
    """Images shown according to the last whole line of stats.jsonl."""
    path = folder / "stats.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return int(json.loads(whole[-1])["nimg"]) if whole else 0


def finish(folder: Path, data: Path) -> None:
    process = start(folder, data)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_a_killed_run_ends_bitwise_as_one_that_was_left_alone(tiny_data: Path, tmp_path: Path) -> None:
    finish(tmp_path / "alone", tiny_data)
    run, middle_of_a_fade = tmp_path / "killed", FADES[0][0] + 100
    kills = [middle_of_a_fade, random.randrange(900, TOTAL - 300)]
    for nimg in kills:
        assert nimg <= kill_beyond(run, tiny_data, nimg) < TOTAL
        newest = checkpoint.load(checkpoint.listed(run / "checkpoints")[-1])
        assert newest["state"]["cur_nimg"] < TOTAL
    finish(run, tiny_data)
    assert_same(final_state(run), final_state(tmp_path / "alone"))
    numbers = [json.loads(line)["nimg"] for line in (run / "stats.jsonl").read_text().splitlines()]
    assert numbers == sorted(set(numbers)), "nothing is logged twice"
