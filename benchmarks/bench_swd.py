"""How fast is the sliced Wasserstein distance? python benchmarks/bench_swd.py --images 16384 --res 128

progan   progan.metrics.swd: two passes over each set, projections counted in bins
plain    the same measure the plain way: numpy and scipy.ndimage in float32, every descriptor kept, np.sort

Each runs in a process of its own, in turns, on the same two sets of made-up pictures, which lie in files. Seconds are
without starting Python; memory is the most that the process ever held, Python and libraries included. The plain way
holds all descriptors of both sets: 10 GB of them and 3 to 4 more at 16384 pictures of 128x128. Where that is too much,
--method-images 2048 --scale runs it on fewer pictures and scales its time (sorting takes n log n: that flatters it).

The two agree in what they compute but not in what they draw, so their figures differ as those of two seeds do.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from progan.devices import describe, keep_freed_memory
from progan.metrics.swd import sliced_wasserstein, swd_levels

Array = np.ndarray[Any, np.dtype[np.float32]]
Row = dict[str, Any]
BATCH, PATCHES, SIZE, REPEATS, DIRECTIONS = 32, 128, 7, 4, 128


# ---- pictures


def write_pictures(path: Path, count: int, resolution: int, seed: int) -> None:
    """Smooth shapes with some texture, uint8 [count, 3, R, R], one after the other."""
    generator = torch.Generator().manual_seed(seed)
    with path.open("wb") as file:
        for start in range(0, count, 256):
            n, images = min(256, count - start), torch.full((1,), 128.0)
            for side, strength in ((4, 40.0), (resolution // 4, 15.0), (resolution, 5.0)):
                noise = torch.randn(n, 3, side, side, generator=generator)
                images = images + strength * F.interpolate(noise, size=(resolution, resolution), mode="bilinear")
            file.write(images.round().clamp(0, 255).to(torch.uint8).numpy().data)


class OnDisk:
    """The first `count` pictures of a file in batches of 256, as often as wanted."""

    def __init__(self, path: Path, count: int, resolution: int, batch: int = 256) -> None:
        self.path, self.count, self.shape, self.batch = path, count, (3, resolution, resolution), batch

    def __iter__(self) -> Iterator[torch.Tensor]:
        with self.path.open("rb") as file:
            for start in range(0, self.count, self.batch):
                n = min(self.batch, self.count - start)
                pixels = np.fromfile(file, np.uint8, n * int(np.prod(self.shape)))
                yield torch.from_numpy(pixels).view(n, *self.shape)


# ---- the plain way


def kernel() -> Array:
    """[1, 1, 5, 5], of sum 1."""
    line = np.array([1, 4, 6, 4, 1], np.float32) / 16
    return np.outer(line, line)[None, None]


def smooth(images: Array, gain: float) -> Array:
    try:
        from scipy.ndimage import convolve
    except ImportError:
        sys.exit("The plain way needs scipy: pip install scipy")
    blurred: Array = convolve(images, gain * kernel(), mode="mirror")
    return blurred


def plain_pyramid(images: Array, levels: int) -> list[Array]:
    pyramid = []
    for _ in range(levels - 1):
        coarse = smooth(images, 1)[:, :, ::2, ::2]
        spread = np.zeros_like(images)
        spread[:, :, ::2, ::2] = coarse
        pyramid.append(images - smooth(spread, 4))
        images = coarse
    return [*pyramid, images]


def plain_descriptors(images: Array, random: np.random.Generator) -> Array:
    """[n, 3, S, S] -> [n * PATCHES, 3, SIZE, SIZE]."""
    n, channels, side, _ = images.shape
    corner = random.integers(0, side - SIZE + 1, (2, n * PATCHES, 1, 1, 1))
    picture = np.repeat(np.arange(n), PATCHES)[:, None, None, None]
    channel, row, column = np.ogrid[:channels, :SIZE, :SIZE]
    return images[picture, channel, corner[0] + row, corner[1] + column]


def normalise(values: Array) -> Array:
    values -= values.mean((0, 2, 3), keepdims=True)
    values /= values.std((0, 2, 3), keepdims=True)
    return values.reshape(len(values), -1)


def plain_set(pictures: OnDisk, seed: int) -> list[Array]:
    """Normalised descriptors of a set, level by level."""
    resolution, random = pictures.shape[1], np.random.default_rng(seed)
    levels = swd_levels(resolution)
    rows = pictures.count * PATCHES
    kept: list[Array] = [np.empty((rows, 3, SIZE, SIZE), np.float32) for _ in levels]
    start = 0
    for pixels in pictures:
        end = start + len(pixels) * PATCHES
        for values, images in zip(kept, plain_pyramid(pixels.numpy().astype(np.float32), len(levels))):
            values[start:end] = plain_descriptors(images, random)
        start = end
    return [normalise(values) for values in kept]


def plain_distance(a: Array, b: Array, random: np.random.Generator) -> float:
    found = []
    for _ in range(REPEATS):
        directions = random.standard_normal((a.shape[1], DIRECTIONS)).astype(np.float32)
        directions /= np.linalg.norm(directions, axis=0)
        found.append(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)).mean())
    return 1000 * float(np.mean(found))


def plain(reals: OnDisk, fakes: OnDisk) -> dict[str, float]:
    random = np.random.default_rng(2)
    sets = plain_set(reals, 0), plain_set(fakes, 1)
    found = {f"swd_{s}": plain_distance(a, b, random) for s, a, b in zip(swd_levels(reals.shape[1]), *sets)}
    return {"swd": statistics.fmean(found.values()), **found}


# ---- what is measured


def progan(reals: OnDisk, fakes: OnDisk) -> dict[str, float]:
    keep_freed_memory()  # as training and evaluation do
    return sliced_wasserstein(reals, fakes)


CONTESTANTS = {"progan": (progan, 256), "plain": (plain, BATCH)}


def inside(options: argparse.Namespace) -> Row:
    """What a process of its own finds."""
    torch.set_num_threads(options.threads)
    function, batch = CONTESTANTS[options.inside]
    reals, fakes = (OnDisk(Path(options.folder, name), options.images, options.res, batch) for name in ("a", "b"))
    start, cpu = time.perf_counter(), time.process_time()
    values = function(reals, fakes)
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"sec": elapsed, "cpu_sec": cpu, "peak_gb": peak_bytes() / 1e9, "values": values}


def peak_bytes() -> int:
    """The most memory that this process has held; ru_maxrss may be that of the process that started it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def alone(options: argparse.Namespace, name: str, count: int, folder: str) -> Row:
    """`inside`, in a process of its own."""
    given = ["--inside", name, "--folder", folder, "--images", f"{count}", "--res", f"{options.res}"]
    threads = {f"{library}_NUM_THREADS": f"{options.threads}" for library in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, __file__, *given, "--threads", f"{options.threads}"]
    done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed, see above.")
    row: Row = {"method": name, "images": count, **json.loads(done.stdout)}
    return row


def measured(options: argparse.Namespace) -> list[Row]:
    """One row a contestant: medians of the rounds, in which they take turns."""
    counts = {"progan": options.images, "plain": options.method_images or options.images}
    found: dict[str, list[Row]] = {name: [] for name in counts}
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate(("a", "b")):
            write_pictures(Path(folder, name), max(counts.values()), options.res, seed)
        for _ in range(options.rounds):
            for name, count in counts.items():
                found[name].append(alone(options, name, count, folder))
    medians = ("sec", "cpu_sec", "peak_gb")
    return [rows[0] | {key: statistics.median(row[key] for row in rows) for key in medians} for rows in found.values()]


def compared(ours: Row, plain: Row, scale: bool) -> float | None:
    """How many times as fast ours is; None where they did not do the same work and times are not to be scaled."""
    if ours["images"] != plain["images"] and not scale:
        return None
    ratio: float = plain["sec"] / plain["images"] / (ours["sec"] / ours["images"])
    return ratio


# ---- what is said


def table(rows: list[Row]) -> str:
    heads = ["method", "images", "s", "CPU s", "peak GB", *rows[0]["values"]]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in rows:
        figures = [f"{row['sec']:.1f}", f"{row['cpu_sec']:.1f}", f"{row['peak_gb']:.2f}"]
        values = [f"{value:.3f}" for value in row["values"].values()]
        lines.append(f"| {' | '.join([row['method'], str(row['images']), *figures, *values])} |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16384, help="in each of the two sets")
    parser.add_argument("--res", type=int, default=128)
    parser.add_argument("--method-images", type=int, help="for the plain way; as many unless told")
    parser.add_argument("--scale", action="store_true", help="scale its time to --images")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--inside", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def command_line() -> str:
    """What was called, without where things lie."""
    return " ".join(Path(part).name if "/" in part else part for part in sys.argv)


def main() -> None:
    options = parsed()
    if options.inside:
        print(json.dumps(inside(options)))
        return
    torch.set_num_threads(options.threads)
    rows = measured(options)
    times = compared(*rows, options.scale)
    result = {
        "date": datetime.date.today().isoformat(), "command": command_line(), "device": describe(torch.device("cpu")),
        "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__,
        "numpy": np.__version__, "resolution": options.res, "times_as_fast": times, "scaled": options.scale,
        "rows": rows,
    }  # fmt: skip
    print(table(rows))
    if times:
        print(f"{times:.1f} times as fast{' (scaled)' * options.scale}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
