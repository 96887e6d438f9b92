"""The benchmarks run, and say what they promise."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def _run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_loader_is_compared_with_the_step(tmp_path, tiny_data):
    out = tmp_path / "x.json"
    short = ("--max-res", "8", "--rounds", "1", "--seconds", "0.1", "--out", str(out))
    text = _run("bench_data.py", "--data", str(tiny_data), *short)
    rows = json.loads(out.read_text())["rows"]
    assert [row["resolution"] for row in rows] == [4, 8]
    assert all(row[key] > 0 for row in rows for key in ("loader", "step", "training", "jpeg"))
    assert all(0 <= row["data_wait"] < 1 for row in rows)
    assert text.splitlines()[0].startswith("| resolution |")
    assert len(text.splitlines()) == 4


def test_preparing_is_counted_and_timed(tmp_path):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for n in range(3):
            Image.new("RGB", (9, 9), (n, n, n)).save(tmp_path / f"{n}.png")
            archive.write(tmp_path / f"{n}.png", f"{n}.png")
        archive.writestr("x.png", b"")
    head, _, row = _run("bench_prepare.py", f"{tmp_path / 'p.zip'}:8:--crop pad", "--workers", "0,1").splitlines()
    assert head == "| source | in | out | skipped | 0 workers | 1 worker |"
    assert row.startswith("| p.zip to 8x8 `--crop pad` | 4 | 3 | 1 empty file | ")
