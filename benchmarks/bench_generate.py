"""How fast does G draw? python benchmarks/bench_generate.py --config quickstart

For each resolution, in turns, medians: the readable form, `G(z, stage)`, and the one that `progan generate` and
`progan interpolate` use, `progan.nn.inference.Compact`.

one image  latency of one picture, as in `progan generate`
images/s   of --batch pictures in a call, or as many as `progan interpolate` gives it at this resolution if fewer
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from progan import config as config_module
from progan.devices import describe, pick_device
from progan.nn.families import Generator, make_generator
from progan.nn.inference import Compact
from progan.render.walk import pictures_a_pass

Row = dict[str, Any]
LEAST_ROUNDS, MOST_ROUNDS = 3, 1000


def generator(options: argparse.Namespace) -> Generator:
    """The configuration's G with weights as at the start of a training."""
    knobs = [f"growth.max_res={options.max_res}"] if options.max_res else []
    config = config_module.load(options.config, [*knobs, *options.set])
    G = make_generator(**config_module.generator_arguments(config))
    G.reset_parameters(torch.Generator().manual_seed(0))
    return G.to(pick_device(options.device)).eval().requires_grad_(False)


def medians(calls: list[Callable[[], Tensor]], seconds: float, device: torch.device) -> list[float]:
    """Seconds of each call; they take turns, for `seconds` in all, after one turn that does not count."""
    found: list[list[float]] = []
    start = time.perf_counter()
    while len(found) <= LEAST_ROUNDS or (time.perf_counter() - start < seconds and len(found) <= MOST_ROUNDS):
        found.append([timed(call, device) for call in calls])
    return [statistics.median(column) for column in zip(*found[1:])]


def timed(call: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of one call, until the device has done it."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def difference(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    return float((a - b).norm() / b.norm())


@torch.inference_mode()
def measured(G: Generator, stage: int, batch: int, seconds: float) -> Row:
    """One resolution."""
    fast, resolution = Compact(G, stage), G.resolutions[stage]
    batch = min(batch, pictures_a_pass(resolution))
    z = torch.randn(batch, G.latent_size, generator=torch.Generator().manual_seed(0)).to(fast.device)
    one = z[:1]
    alone = medians([lambda: G(one, stage), lambda: fast(one)], seconds, fast.device)
    many = medians([lambda: G(z, stage), lambda: fast(z)], seconds, fast.device)
    return {
        "resolution": resolution, "batch": batch, "readable_ms": 1000 * alone[0], "compact_ms": 1000 * alone[1],
        "readable": batch / many[0], "compact": batch / many[1], "difference": difference(fast(z), G(z, stage)),
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    heads = ["resolution", "one image: readable ms", "compact ms", "ratio", "batch", "readable img/s", "compact img/s",
             "ratio"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{'---:|' * len(heads)}"]
    for row in rows:
        latency = [f"{row[key]:,.3g}" for key in ("readable_ms", "compact_ms")]
        latency.append(f"{row['readable_ms'] / row['compact_ms']:.2f}")
        speeds = [f"{row[key]:,.3g}" if row[key] < 100 else f"{row[key]:,.0f}" for key in ("readable", "compact")]
        cells = [*latency, f"{row['batch']}", *speeds, f"{row['compact'] / row['readable']:.2f}"]
        lines.append(f"| {row['resolution']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a preset or a file; default: the paper's widths")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--max-res", type=int, help="default: the configuration's")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of a CPU; default: torch's choice")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one comparison")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    return parser.parse_args()


def command_line() -> str:
    """What was called, without where things lie."""
    return " ".join(Path(part).name if "/" in part else part for part in sys.argv)


def main() -> None:
    options = parsed()
    if options.threads:
        torch.set_num_threads(options.threads)
    G = generator(options)
    rows = [measured(G, stage, options.batch, options.seconds) for stage in range(len(G.resolutions))]
    result = {
        "date": datetime.date.today().isoformat(), "command": command_line(),
        "device": describe(next(G.parameters()).device), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "python": platform.python_version(), "torch": torch.__version__, "rows": rows,
    }  # fmt: skip
    print(table(rows))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
