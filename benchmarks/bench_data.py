"""Does training ever wait for its data? python benchmarks/bench_data.py --config quickstart --max-res 64

For each resolution, in turns, medians of several rounds:

loader     images/s that the loader delivers, alone
step       images/s that whole iterations (D, average, G) take, on inputs that are there already
training   both together, as in a run, and which share of the time the iterations waited for inputs
JPEG       images/s of the usual way: open a JPEG of the top size, resize it, make it a tensor, in one process

--memory-limit MB does it once more for data three times as large as a memory that is limited to so much (a memory
cgroup, which needs Linux and the right to make one): read through the file in order, and picture by picture.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from progan import config as config_module
from progan.console import Console
from progan.data.loader import Inputs, Loader, Step, Supply, Take, coming_steps
from progan.data.pyramid import MANIFEST, VERSION, Pyramid, level_name, open_pyramid
from progan.devices import describe, pick_device
from progan.images import to_frame
from progan.schedule import Phase, Schedule, SchedulePoint
from progan.training import loop
from progan.training.state import TrainState, new_state

Row = dict[str, Any]
JPEGS, ENDLESS = 200, 2**62
LONG = ("growth.stable_kimg=100000", "growth.fade_kimg=1000", "growth.final_kimg=100000")  # no phase ends meanwhile


def job_of(options: argparse.Namespace, data: str) -> loop.Job:
    """A run of the configuration, as `progan train` would open it."""
    knobs = [f"data.source={data}", f"growth.max_res={options.max_res}", *LONG, *options.set]
    config = config_module.load(options.config, knobs)
    return loop.open_job(config, pick_device(options.device), Console(io.StringIO()))


def state_of(job: loop.Job) -> TrainState:
    arguments = config_module.generator_arguments(job.config), config_module.discriminator_arguments(job.config)
    return new_state(*arguments, job.config.training.seed, job.device)


def first_nimg(job: loop.Job, phase: Phase) -> int:
    """cur_nimg at which a phase has begun."""
    return sum(before.nimg for before in job.schedule.phases[: phase.index])


# ---- what is measured


def loader_alone(supply: Supply, schedule: Schedule, start_nimg: int, seconds: float) -> float:
    """Images a second."""
    images, start = 0, time.perf_counter()
    with Loader(supply, coming_steps(schedule, start_nimg, ENDLESS, 1)) as loader:
        for step in coming_steps(schedule, start_nimg, ENDLESS, 1):
            images += len(loader.take(step).pixels)
            if time.perf_counter() - start > seconds:
                break
    return images / (time.perf_counter() - start)


def iterations(job: loop.Job, state: TrainState, start_nimg: int, take: Take, seconds: float) -> tuple[float, float]:
    """(images a second, share of the time that was waiting) of training from start_nimg."""
    state.cur_nimg, waited, start = start_nimg, 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        waited += loop.iteration(job, state, still(job, state.cur_nimg), take)[1]
    if job.device.type == "cuda":
        torch.cuda.synchronize(job.device)
    elapsed = time.perf_counter() - start
    return (state.cur_nimg - start_nimg) / elapsed, waited / elapsed


def still(job: loop.Job, cur_nimg: int) -> SchedulePoint:
    """A point of the schedule at which nothing is learnt: hours on one batch would end in numbers that are none."""
    return dataclasses.replace(job.schedule.at(cur_nimg), lr_G=0.0, lr_D=0.0)


def steps_alone(job: loop.Job, state: TrainState, phase: Phase, seconds: float) -> float:
    """Images a second on one batch that is on the device already."""
    start = first_nimg(job, phase)
    inputs = job.supply.now(Step(start, phase.batch, phase.resolution)).to(job.device)

    def take(step: Step) -> Inputs:
        return inputs

    return iterations(job, state, start, take, seconds)[0]


def in_training(job: loop.Job, state: TrainState, phase: Phase, seconds: float) -> tuple[float, float]:
    """(images a second, waiting share) with the loader, from the second iteration on, as in a run's middle."""
    start = first_nimg(job, phase)
    steps = coming_steps(job.schedule, start, ENDLESS, job.config.training.d_repeats)
    with Loader(job.supply, steps) as loader:
        state.cur_nimg = start
        loop.iteration(job, state, job.schedule.at(start), loader.take)
        return iterations(job, state, state.cur_nimg, loader.take, seconds)


def jpegs_alone(folder: Path, resolution: int, seconds: float) -> float:
    """Images a second of decoding and resizing at every step."""
    start = time.perf_counter()
    for images, path in enumerate(itertools.cycle(sorted(folder.iterdir())), 1):
        with Image.open(path) as image:
            small = image.convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)
        torch.from_numpy(np.array(small)).permute(2, 0, 1).float().div_(127.5).sub_(1)
        if time.perf_counter() - start > seconds:
            return images / (time.perf_counter() - start)
    raise AssertionError("there are no pictures")


def write_jpegs(data: Pyramid, folder: Path) -> None:
    """The first pictures of the data at full size, as JPEG files."""
    for n in range(min(JPEGS, data.count)):
        frame = to_frame(data.batch(torch.tensor([n]), data.top)[0])
        Image.fromarray(frame).save(folder / f"{n:04d}.jpg", quality=90)


def stable_phases(job: loop.Job) -> list[Phase]:
    """One phase a resolution, in which nothing fades."""
    return [phase for phase in job.schedule.phases if not phase.fading]


def measured(job: loop.Job, phase: Phase, jpegs: Path, rounds: int, seconds: float) -> Row:
    """One resolution: what is compared runs in turns."""
    state, found = state_of(job), list[tuple[float, ...]]()
    start = first_nimg(job, phase)
    contestants: list[Callable[[], tuple[float, ...]]] = [
        lambda: (loader_alone(job.supply, job.schedule, start, seconds / 2),),
        lambda: (steps_alone(job, state, phase, seconds),),
        lambda: in_training(job, state, phase, seconds),
        lambda: (jpegs_alone(jpegs, phase.resolution, seconds / 2),),
    ]
    steps_alone(job, state, phase, min(1.0, seconds))  # warm
    for _ in range(rounds):
        found.append(tuple(value for contestant in contestants for value in contestant()))
    loader, step, training, wait, jpeg = (statistics.median(column) for column in zip(*found))
    return {
        "resolution": phase.resolution, "batch": phase.batch, "loader": loader, "step": step, "training": training,
        "data_wait": wait, "jpeg": jpeg,
    }  # fmt: skip


# ---- data larger than memory


def large_pyramid(folder: Path, resolution: int, size: int) -> None:
    """A pyramid of noise whose top level has about `size` bytes, none of which is in memory."""
    count, levels = max(64, size // (3 * resolution**2)), [4 << s for s in range(int(math.log2(resolution)) - 1)]
    for r in levels:
        path = folder / level_name(r)
        shape = (count, 3, r, r)
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for start in range(0, count, 1024):
                part = (min(1024, count - start), *shape[1:])
                file.write(np.random.default_rng(start).integers(0, 256, part, dtype=np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
            forget(file.fileno())
    manifest = {
        "version": VERSION, "count": count, "channels": 3, "resolutions": levels, "labels": None, "fingerprint": "",
        "hashes": {},
    }  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(manifest))


def forget(descriptor: int) -> None:
    """Have the system drop a file from its memory."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    """A new memory cgroup. Raises OSError where none can be made."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    parent, knob = (old, "memory.limit_in_bytes") if old.is_dir() else (new, "memory.max")
    group = parent / f"progan-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / knob).write_text(str(limit))
        yield group
    finally:
        group.rmdir()


def with_limit(options: argparse.Namespace) -> list[Row]:
    """The rows of data larger than memory, from a process inside a cgroup."""
    limit = options.memory_limit * 1_000_000
    with tempfile.TemporaryDirectory() as folder, memory_cgroup(limit) as group:
        large_pyramid(Path(folder), options.max_res, 3 * limit)
        command = [sys.executable, __file__, "--inside", folder, *sys.argv[1:]]
        join = f'echo $$ > {group / "cgroup.procs"} && exec "$@"'
        result = subprocess.run(["sh", "-c", join, "sh", *command], capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"the process within the limit failed: {result.stderr.strip()[-300:]}")
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def inside(options: argparse.Namespace) -> list[Row]:
    """Within the limit: the top level in training, read in order and picture by picture, in turns."""
    job, rows = job_of(options, options.inside), list[Row]()
    level = open_pyramid(Path(options.inside)).levels[options.max_res]
    ways = {"in order": job.supply, "picture by picture": dataclasses.replace(job.supply, room=math.inf)}
    assert level.nbytes > job.supply.room, "the limit is not felt"
    phase, state = stable_phases(job)[-1], state_of(job)
    found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for n in range(options.rounds):
        for way, supply in ways.items():
            begin = first_nimg(job, phase) + (1 + n) * phase.batch * 10_000  # pictures that nobody has read
            alone = loader_alone(supply, job.schedule, begin, 2 * options.seconds)
            steps = coming_steps(job.schedule, begin + 5000 * phase.batch, ENDLESS, 1)
            with Loader(supply, steps) as loader:
                training = iterations(job, state, begin + 5000 * phase.batch, loader.take, 2 * options.seconds)
            found[way].append((alone, *training))
    for way, values in found.items():
        loader_speed, speed, wait = (statistics.median(column) for column in zip(*values))
        rows.append({"way": way, "bytes": level.nbytes, "loader": loader_speed, "training": speed, "data_wait": wait})
    return rows


# ---- what is said


def table(rows: list[Row]) -> str:
    heads = ["resolution", "batch", "loader img/s", "step img/s", "training img/s", "data_wait", "JPEG img/s"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---:|' * len(heads)}"]
    for row in rows:
        speeds = [f"{row[key]:,.0f}" for key in ("loader", "step", "training")]
        cells = [f"{row['resolution']}", f"{row['batch']}", *speeds, f"{row['data_wait']:.2%}", f"{row['jpeg']:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="faces:2000", help="what progan train takes")
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--max-res", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    parser.add_argument("--memory-limit", type=int, metavar="MB", help="1500 or more: the program itself needs some")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser.parse_args()


def limited(options: argparse.Namespace) -> list[Row]:
    """`with_limit`, told; nothing where no cgroup can be made."""
    try:
        rows = with_limit(options)
    except OSError as error:
        print(f"Larger than memory: skipped ({error}).")
        return []
    for row in rows:
        speeds = f"loader {row['loader']:,.0f} img/s, training {row['training']:,.0f}, data_wait {row['data_wait']:.2%}"
        print(f"{row['bytes'] / 1e6:,.0f} MB of data in {options.memory_limit:,} MB, {row['way']}: {speeds}")
    return rows


def command_line() -> str:
    """What was called, without where things lie."""
    return " ".join(Path(part).name if "/" in part else part for part in sys.argv)


def main() -> None:
    options = parsed()
    if options.inside:
        print(json.dumps(inside(options)))
        return
    job = job_of(options, options.data)
    with tempfile.TemporaryDirectory() as jpegs:
        write_jpegs(job.data, Path(jpegs))
        rows = [measured(job, phase, Path(jpegs), options.rounds, options.seconds) for phase in stable_phases(job)]
    result = {
        "date": datetime.date.today().isoformat(), "command": command_line(), "device": describe(job.device),
        "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__, "rows": rows,
    }  # fmt: skip
    print(table(rows))
    if options.memory_limit:
        result["larger_than_memory"] = limited(options)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
