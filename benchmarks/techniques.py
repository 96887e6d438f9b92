"""Every technique's preset at reduced size: does it train, is it finite, does it resume exactly (`check`); and a few of
them against each other, on the same pictures, with the same number of images and width (`compare`).

    python benchmarks/techniques.py check --data signs.zip --out check.json
    python benchmarks/techniques.py compare --kimg 30 --runs runs/techniques --out compare.json

Prints a table in Markdown; --out keeps it as JSON with the machine, the versions and the command.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import io
import json
import math
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from progan.config import Config, grows, load, preset_names
from progan.console import Console
from progan.devices import describe
from progan.exchange.snapshots import find_snapshot, load_snapshot
from progan.images import grid, to_pixels
from progan.latents import latents_from_seeds
from progan.metrics.evaluate import Tools
from progan.metrics.probe import held_out_faces
from progan.metrics.reconstruction import Search, reconstruction_error
from progan.metrics.runs import of_run
from progan.training import checkpoint, loop
from progan.training.runlog import save_png

OWN = ("default", "quickstart", "lsun-256", "paper-celebahq", "paper-cifar10", "v2-8gpu")  # ProGAN's own presets
CHECKED = [name for name in preset_names() if name not in OWN]
BATCH, STEPS, SIZE = 8, 200, 32

NARROW = ("networks.fmap_base=512",)  # 64 maps up to 16x16, 32 at 32x32, as in the quickstart

SYSTEMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "progan": ("default", ("training.lr=0.003", *NARROW)),
    "progan-attention": ("progan-attention", ("training.lr=0.003", "networks.attention=16", *NARROW)),
    "progan-hinge-r1": ("progan-hinge-r1", ("training.lr=0.003", *NARROW)),
    "progan-sn": ("progan-sn", NARROW),
    "dcgan": ("dcgan", ("networks.fmap_base=1024",)),
    "sndcgan": ("sndcgan", ("networks.fmap_base=2048",)),
    "wngan": ("wngan", ("networks.fmap_base=1024",)),
    "sagan-blog": ("sagan-blog", ("networks.fmap_base=1024", "networks.attention=16")),
}
"""Name -> preset, and what 32x32 pictures want otherwise."""


def small(preset: str, data: str, kimg: float, width: int, *knobs: str) -> Config:
    """A preset at 32x32, `kimg` thousand images in batches of BATCH; networks that grow spend a tenth on each phase."""
    config = load(preset)
    size = [f"growth.max_res={SIZE}", f"growth.batch={BATCH}", f"data.source={data}", f"networks.fmap_max={width}"]
    flat = not grows(config) or preset == "table1-a"
    phases = [f"growth.final_kimg={kimg if flat else 0.4 * kimg}"]
    if not flat:
        phases += [f"growth.stable_kimg={kimg / 10}", f"growth.fade_kimg={kimg / 10}", "growth.start_res=4"]
    start = [f"growth.start_res={SIZE}"] if preset == "table1-a" else []
    attention = ["networks.attention=16"] if config.networks.attention else []
    return load(preset, [*size, *phases, *start, *attention, *knobs])


# ---- does each of them train?


def check(data: str, scratch: Path) -> list[dict[str, Any]]:
    """A row a preset."""
    rows = []
    for name in CHECKED:
        row = checked(name, data, scratch / name)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        shutil.rmtree(scratch / name)
    return rows


def checked(name: str, data: str, folder: Path) -> dict[str, Any]:
    """STEPS D steps in one go, and with a stop in the middle: the end must be the same to the bit."""
    kimg = STEPS * BATCH / 1000
    quiet = (
        f"logging.tick_kimg={kimg / 8}",
        "logging.snapshot_ticks=0",
        "logging.checkpoint_ticks=0",
        "metrics.names=",
    )
    config, start = small(name, data, kimg, 16, *quiet), time.perf_counter()
    trained(config, folder / "whole")
    seconds = time.perf_counter() - start
    trained(config, folder / "parts", 0.55 * kimg)  # in a fade, where there are any
    trained(config, folder / "parts")
    ends = [newest(folder / run) for run in ("whole", "parts")]
    stats = [json.loads(line) for line in (folder / "whole" / "stats.jsonl").read_text().splitlines()]
    losses = [stats[-1]["Loss/D"], stats[-1]["Loss/G"]]
    return {
        "preset": name, "d_steps": STEPS, "finite": all(x is not None and math.isfinite(x) for x in losses),
        "loss_D": losses[0], "loss_G": losses[1], "resume_exact": same(*ends), "seconds": round(seconds, 1),
    }  # fmt: skip


def trained(config: Config, folder: Path, stop_kimg: float | None = None) -> None:
    """Train without a word."""
    loop.train(config, folder, torch.device("cpu"), stop_kimg, Console(io.StringIO()))


def newest(run: Path) -> dict[str, Any]:
    """The state of a run's newest checkpoint."""
    content = checkpoint.newest(run / "checkpoints", print, lambda content: "")
    assert content is not None
    return dict(content["state"])


def same(a: Any, b: Any) -> bool:
    """Whether two packed states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# ---- which of them is better?


def compare(data: str, kimg: float, runs: Path, seeds: int) -> list[dict[str, Any]]:
    """A row a system and seed; a run that is there already goes on, or is only measured."""
    rows = []
    for seed in range(seeds):
        for name, (preset, knobs) in SYSTEMS.items():
            own = (*knobs, "training.ema_kimg=1", "data.mirror=true", f"training.seed={1000 + seed}")
            logs = (f"logging.tick_kimg={kimg / 30}", "logging.snapshot_ticks=10", "metrics.names=")
            latents = ("networks.latent_size=64",)
            config, folder = small(preset, data, kimg, 64, *own, *logs, *latents), runs / f"{name}-{seed}"
            trained(config, folder)
            rows.append({"system": name, "seed": seed, **judged(folder)})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def judged(folder: Path) -> dict[str, Any]:
    """SWD and factors with their floors, reconstruction of pictures that were not learnt, images/s at the end."""
    tools = Tools(torch.device("cpu"), Console(io.StringIO()))
    values: dict[str, float] = {}
    for result in of_run(folder, None, ["swd", "ms_ssim", "faces"], 4096, 1.0, False, tools):
        values |= result.values
    snapshot = load_snapshot(find_snapshot(folder))
    pictures = list(held_out_faces(SIZE, 32))
    search = Search(steps=100, restarts=1, lr=0.1, fall=0.05, start="normal")
    draw = functools.partial(snapshot.G, stage=snapshot.stage, alpha=snapshot.alpha)
    found = reconstruction_error(draw, pictures, snapshot.G.latent_size, search, normalised=snapshot.G.latent_norm)
    z = latents_from_seeds(range(32), snapshot.G.latent_size)
    save_png(folder / "seeds.png", grid(to_pixels(snapshot.G(z, snapshot.stage, snapshot.alpha)), 8), {})
    last = json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
    kept = ("swd", "swd_floor", "swd_32", "swd_16", "ms_ssim", "ms_ssim_floor", "modes", "modes_floor", "tv", "clarity")
    return {
        **{key: values[key] for key in kept}, "reconstruction": found["reconstruction"],
        "reconstruction_error": found["reconstruction_error"], "images_per_sec": last["Timing/images_per_sec"],
    }  # fmt: skip


# ---- words


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""

    def cell(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([cell(row[key]) for key in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "compare"])
    parser.add_argument("--data", default="faces:10000", help="what `progan prepare` takes")
    parser.add_argument("--kimg", type=float, default=30.0, help="of each run of `compare`")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each system in `compare`")
    parser.add_argument("--runs", type=Path, default=Path("runs/techniques"), help="directories of `compare`")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="a .json file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        rows = (
            check(given.data, Path(scratch))
            if given.what == "check"
            else compare(given.data, given.kimg, given.runs, given.seeds)
        )
    print(table(rows))
    if given.out:
        about = {
            "date": datetime.date.today().isoformat(), "device": describe(torch.device("cpu")),
            "processor": platform.processor(), "torch": torch.__version__, "command": " ".join(sys.argv[1:]),
        }  # fmt: skip
        given.out.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
