"""Laws of the loader: it changes when inputs are read and nothing else; it is bounded; it ends; it says what fails."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from progan import seeds
from progan.data import loader as module
from progan.data.loader import (
    Inputs,
    Loader,
    Step,
    Supply,
    coming_steps,
    inputs_of,
    page_cache_room,
    read_in_order,
    steps_at_once,
    windows,
)
from progan.data.order import batch_indices, order_of
from progan.data.pyramid import MANIFEST, VERSION, level_name, open_pyramid
from progan.data.source import Labels
from progan.errors import RunFailed
from progan.latents import sample_latents
from progan.schedule import Schedule

COUNT, CHANNELS, RESOLUTIONS = 50, 3, (4, 8, 16)
SCHEDULE = Schedule(16, stable_kimg=0.08, fade_kimg=0.08, final_kimg=0.08, batch={"base": 8, "4": 16}, tick_kimg=1.0)


def a_pyramid(folder: Path) -> Path:
    """Fifty pictures of noise at 4x4, 8x8 and 16x16."""
    noise = np.random.default_rng(0)
    for r in RESOLUTIONS:
        np.save(folder / level_name(r), noise.integers(0, 256, (COUNT, CHANNELS, r, r), np.uint8))
    about = {"count": COUNT, "channels": CHANNELS, "resolutions": RESOLUTIONS, "labels": None, "hashes": {}}
    (folder / MANIFEST).write_text(json.dumps({"version": VERSION, "fingerprint": "abc"} | about))
    return folder


@pytest.fixture
def supply(tmp_path: Path) -> Supply:
    data = open_pyramid(a_pyramid(tmp_path))
    return Supply(data, order_of(data.count), seed=3, latent_size=5, mirror=True)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def steps_from(cur_nimg: int, end_nimg: int = 400, d_repeats: int = 1) -> list[Step]:
    return list(coming_steps(SCHEDULE, cur_nimg, end_nimg, d_repeats))


def assert_same(a: Inputs, b: Inputs) -> None:
    """Equal to the bit."""
    assert a.step == b.step
    for name in ("pixels", "latents", "mix", "flips", "noise"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        assert x is None or (x.dtype == y.dtype and torch.equal(x, y)), name


# --- what a step sees ---


def test_the_inputs_are_those_of_the_seeds_streams_at_the_position(supply: Supply) -> None:
    """The names of the streams are part of every run: under others it would not go on exactly."""
    got = supply.now(Step(88, 8, 16))
    assert torch.equal(got.pixels, supply.data.batch(batch_indices(3, 88, 8, COUNT), 16))
    assert torch.equal(got.latents, sample_latents(8, 5, seeds.generator(3, "latents_D", 88)))
    assert torch.equal(got.mix, torch.rand(8, generator=seeds.generator(3, "mix", 88)))
    assert got.flips is not None
    assert torch.equal(got.flips, torch.rand(8, generator=seeds.generator(3, "mirror", 88)) < 0.5)
    assert got.noise is None


def test_without_a_mirror_nothing_is_flipped(supply: Supply) -> None:
    assert replace(supply, mirror=False).now(Step(0, 8, 4)).flips is None


def test_noise_is_each_images_own(supply: Supply) -> None:
    """However the images are dealt to steps, and so to processes, an image has the noise of its position."""
    supply = replace(supply, dequantise=True)
    whole = supply.now(Step(40, 24, 8)).noise
    assert whole is not None
    for start, batch in [(40, 8), (48, 16), (43, 1)]:
        part = supply.now(Step(start, batch, 8)).noise
        assert part is not None
        assert torch.equal(part, whole[start - 40 : start - 40 + batch])
    expected = torch.rand(CHANNELS, 8, 8, generator=seeds.generator(3, "dequantise", 43))
    assert torch.equal(whole[3], expected)
    assert len(whole.unique()) > 0.99 * whole.numel()


VARIANTS: dict[str, Callable[[Supply], Supply]] = {
    "plain": lambda supply: replace(supply, mirror=False),
    "mirrored": lambda supply: supply,
    "dequantised": lambda supply: replace(supply, dequantise=True),
    "from disk": lambda supply: replace(supply, room=0.0, dequantise=True),
    "balanced": lambda supply: replace(
        supply, order=order_of(COUNT, Labels(np.arange(COUNT) // 20, ("a", "b", "c")), balance=True)
    ),
    "few, from disk": lambda supply: replace(supply, order=order_of(COUNT, max_images=3), room=0.0),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_that_are_read_at_once_see_what_each_alone_sees(variant: str, supply: Supply) -> None:
    supply = VARIANTS[variant](supply)
    steps = [Step(40 + 8 * n, 8, 8) for n in range(9)]
    for together, step in zip(inputs_of(supply, steps), steps):
        assert_same(together, replace(supply, room=math.inf).now(step))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("start", "d_repeats"), [(0, 1), (0, 3), (176, 2)])
def test_the_loader_gives_what_every_step_would_read_itself(
    variant: str, start: int, d_repeats: int, supply: Supply
) -> None:
    """From the beginning and after going on in mid-fade, across two changes of resolution and one of the batch."""
    supply = VARIANTS[variant](supply)
    steps = steps_from(start, d_repeats=d_repeats)
    assert len({step.resolution for step in steps}) >= 2
    with Loader(supply, iter(steps)) as loader:
        for step in steps:
            assert_same(loader.take(step), supply.now(step))
        with pytest.raises(ValueError, match="is not the next step: None"):
            loader.take(steps[-1])


def test_the_coming_steps_are_those_of_the_loop() -> None:
    """The point of the schedule is looked up once an iteration, and holds for all of its D steps."""
    cur_nimg, expected = 48, []
    while cur_nimg < 301:
        point = SCHEDULE.at(cur_nimg)
        for _ in range(3):
            expected.append(Step(cur_nimg, point.batch, point.resolution))
            cur_nimg += point.batch
    assert steps_from(48, 301, d_repeats=3) == expected
    assert expected[-1].cur_nimg >= 301  # the last iteration is whole
    assert steps_from(400, 400) == []


def test_another_step_than_the_next_is_refused(supply: Supply) -> None:
    steps = steps_from(0)
    for wrong in (steps[1], replace(steps[0], resolution=8), replace(steps[0], batch=8)):
        with Loader(supply, steps) as loader, pytest.raises(ValueError, match=r"Step\(.*\) is not the next step: Step"):
            loader.take(wrong)


def test_inputs_reach_a_device_and_are_cut_by_sample(supply: Supply, device: torch.device) -> None:
    got = replace(supply, dequantise=True).now(Step(0, 8, 4))
    there = got.to(device)
    assert there.pixels.device.type == device.type
    assert there.pixels.dtype == torch.uint8  # a quarter of what floats would be
    part = there.part(torch.tensor([5, 0, 3]))
    for name in ("pixels", "latents", "mix", "flips", "noise"):
        assert torch.equal(getattr(part, name).cpu(), getattr(got, name)[[5, 0, 3]]), name
    assert there.part(torch.arange(8)) is there


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a CUDA device")
def test_pinned_inputs_are_the_same(supply: Supply) -> None:
    steps, pinned = steps_from(0), replace(supply, pin=True, dequantise=True)
    with Loader(pinned, steps) as loader:
        for step in steps:
            got = loader.take(step)
            tensors = (got.pixels, got.latents, got.mix, got.flips, got.noise)
            assert all(t is not None and t.is_pinned() for t in tensors)
            assert_same(
                got.to(torch.device("cuda")).to(torch.device("cpu")), replace(supply, dequantise=True).now(step)
            )


# --- how far ahead ---


def test_windows_are_the_steps_in_order_and_grow_from_one() -> None:
    steps = steps_from(0)
    found = list(windows(steps, lambda step: 4 if step.resolution < 16 else 2))
    assert [step for window in found for step in window] == steps
    assert all(len({step.resolution for step in window}) == 1 for window in found)
    lengths = {r: [len(window) for window in found if window[0].resolution == r] for r in RESOLUTIONS}
    assert lengths == {4: [1, 2, 3], 8: [4, 4, 4, 4, 3], 16: [2] * 9 + [1]}


def test_windows_never_grow_beyond_reason() -> None:
    steps = (Step(8 * n, 8, 4) for n in range(10_000))
    lengths = [len(window) for window in windows(steps, lambda _: 64)]
    assert lengths[:8] == [1, 2, 4, 8, 16, 32, 64, 64]
    assert max(lengths) == 64


def a_level(count: int, resolution: int, room: float, dequantise: bool = False) -> Supply:
    """A supply of a level that is nowhere: only its shape is asked for."""
    from types import SimpleNamespace

    level: Any = np.broadcast_to(np.uint8(0), (count, 3, resolution, resolution))
    data: Any = SimpleNamespace(levels={resolution: level})
    return Supply(data, order_of(1), 0, 1, dequantise=dequantise, room=room)


@pytest.mark.parametrize("dequantise", [False, True])
@pytest.mark.parametrize(("batch", "resolution"), [(128, 4), (8, 32), (64, 64), (16, 128), (8, 256), (4, 1024)])
def test_a_window_is_bounded_by_bytes_and_by_steps(batch: int, resolution: int, dequantise: bool) -> None:
    step, bytes_a_step = Step(0, batch, resolution), batch * 3 * resolution**2 * (5 if dequantise else 1)
    fits = steps_at_once(a_level(10**6, resolution, math.inf, dequantise), step)
    assert 1 <= fits <= 64
    assert fits == 1 or 3 * fits * bytes_a_step <= 64e6  # in use, read, and being read
    large = steps_at_once(a_level(10**6, resolution, 10**6 * 3 * resolution**2 - 1, dequantise), step)
    assert large >= fits if resolution > 4 else large > 0
    assert large == 1 or 3 * large * bytes_a_step <= 512e6


def test_windows_of_a_large_level_leave_half_of_the_room() -> None:
    step = Step(0, 4, 256)
    assert steps_at_once(a_level(10**6, 256, 24e6), step) == int(4e6 / (4 * 3 * 256**2)) == 5
    assert steps_at_once(a_level(10**6, 256, 0), step) == 1


def test_no_more_than_two_windows_wait(supply: Supply, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[Step]] = []
    original = module.inputs_of

    def counted(supply: Supply, steps: list[Step], *more: Any) -> list[Inputs]:
        read.append(steps)
        return original(supply, steps, *more)

    monkeypatch.setattr(module, "inputs_of", counted)
    steps = steps_from(0, 4000)
    with Loader(supply, steps) as loader:
        wait_until(lambda: len(read) == 2)
        time.sleep(0.05)
        assert [len(window) for window in read] == [1, 2]
        loader.take(steps[0])
        wait_until(lambda: len(read) == 3)
        loader.take(steps[1])
        wait_until(lambda: len(read) == 4)
        loader.take(steps[2])
        time.sleep(0.05)
        assert len(read) == 4  # the window of steps 1 and 2 was used up only now


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- what goes wrong ---


def test_an_error_is_raised_at_the_step_that_needs_the_picture(supply: Supply, tmp_path: Path) -> None:
    """The file ends before its last picture; every step before the first that shows it is served."""
    supply = replace(supply, room=0.0, order=order_of(COUNT))
    path, last = tmp_path / level_name(16), 50 + batch_indices(3, 50, 50, COUNT).tolist().index(COUNT - 1)
    steps = [Step(last - 27 + 8 * n, 8, 16) for n in range(6)]
    assert [COUNT - 1 in batch_indices(3, step.cur_nimg, 8, COUNT) for step in steps[:4]] == [False] * 3 + [True]
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with Loader(supply, steps) as loader:
        for step in steps[:3]:
            assert len(loader.take(step).pixels) == 8
        with pytest.raises(RunFailed, match=r"0016x0016\.npy cannot be read any more \(it is shorter than it was\)\."):
            loader.take(steps[3])


def test_a_file_that_is_gone_is_named(supply: Supply, tmp_path: Path) -> None:
    (tmp_path / level_name(4)).unlink()
    steps = steps_from(0)
    with (
        Loader(replace(supply, room=0.0), steps) as loader,
        pytest.raises(RunFailed, match=r"0004x0004\.npy cannot be read any more \(No such file or directory\)\."),
    ):
        loader.take(steps[0])


def test_what_fails_once_is_tried_again(supply: Supply, monkeypatch: pytest.MonkeyPatch) -> None:
    original, failures = module.gather, iter([OSError("the net"), MemoryError()])

    def flaky(*arguments: Any) -> torch.Tensor:
        for error in failures:
            raise error
        return original(*arguments)

    monkeypatch.setattr(module, "gather", flaky)
    steps = steps_from(0)
    with Loader(supply, steps) as loader:
        wait_until(lambda: next(failures, None) is None)
        taken = [loader.take(step) for step in steps]
    for inputs, step in zip(taken, steps):
        assert_same(inputs, supply.now(step))


# --- the end ---


@pytest.mark.parametrize("error", [KeyboardInterrupt, RunFailed, None])
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_the_thread_ends_with_the_loop(error: type[BaseException] | None, taken: int, supply: Supply) -> None:
    def work() -> None:
        steps = steps_from(0)
        with Loader(supply, steps) as loader:
            assert any(thread.name.startswith("progan-loader") for thread in threading.enumerate())
            for step in steps[:taken]:
                loader.take(step)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert not any(thread.name.startswith("progan-loader") for thread in threading.enumerate())


def test_the_end_does_not_wait_for_a_long_reading(supply: Supply, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that take a tenth of a second each, four hundred of them: the thread looks up after each."""
    asked = []

    def slow(_file: io.FileIO, _offsets: object, _size: int) -> None:
        asked.append(1)
        time.sleep(0.1)

    monkeypatch.setattr(module, "_announce", slow)
    monkeypatch.setattr(module, "READ_AHEAD_BYTES", 1)
    steps = [Step(0, 400, 16)]
    with Loader(replace(supply, room=0.0), steps):
        wait_until(lambda: bool(asked))
        start = time.monotonic()
    assert time.monotonic() - start < 2
    assert len(asked) < 20


def test_what_has_not_begun_at_the_end_never_begins(supply: Supply, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, original = [], module.gather

    def slow(*arguments: Any) -> torch.Tensor:
        begun.append(1)
        time.sleep(0.1)
        return original(*arguments)

    monkeypatch.setattr(module, "gather", slow)
    with Loader(supply, steps_from(0)):
        wait_until(lambda: bool(begun))
    assert len(begun) == 1


# --- data larger than memory ---


class Recording(io.FileIO):
    """A file that remembers where it was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[int] = []

    def readinto(self, buffer: Any) -> int:
        self.reads.append(self.tell())
        return super().readinto(buffer)  # type: ignore[return-value]


@pytest.mark.parametrize("numbers", [[7], [3, 3, 3], [49, 0, 17, 0, 17, 5, 49, 48], list(range(50)) * 2])
def test_pictures_read_in_order_are_the_pictures(numbers: list[int], supply: Supply) -> None:
    level, wanted = supply.data.levels[16], np.array(numbers)
    out = np.zeros((len(numbers), *level.shape[1:]), np.uint8)
    read_in_order(level, wanted, out, threading.Event())
    assert np.array_equal(out, level[wanted])


def test_each_picture_is_read_once_from_the_beginning_to_the_end(
    supply: Supply, monkeypatch: pytest.MonkeyPatch
) -> None:
    level, files = supply.data.levels[16], []

    def recording(path: Path, *_: object, **__: object) -> Recording:
        files.append(Recording(path))
        return files[-1]

    monkeypatch.setattr(Path, "open", recording)
    numbers = np.array([40, 3, 40, 12, 3, 3, 0])
    read_in_order(level, numbers, np.zeros((7, *level.shape[1:]), np.uint8), threading.Event())
    (file,) = files
    assert file.closed
    assert file.reads == [level.offset + n * 768 for n in (0, 3, 12, 40)]


def test_each_picture_is_announced_once_before_it_is_read(supply: Supply, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[int] = []
    monkeypatch.setattr(module, "_announce", lambda _file, offsets, _size: announced.append([*offsets]))
    monkeypatch.setattr(module, "READ_AHEAD_BYTES", 3 * 768)
    level = supply.data.levels[16]
    read_in_order(level, np.arange(10), np.zeros((10, *level.shape[1:]), np.uint8), threading.Event())
    numbers = [[(offset - level.offset) // 768 for offset in part] for part in announced]
    assert numbers == [[0, 1, 2, 3, 4, 5], [6, 7, 8], [9], []]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told")
def test_the_system_is_told_in_pieces_that_it_takes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, start, size, advice: told.append((start, size, advice)))
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb", buffering=0) as file:
        module._announce(file, [128, 1_000_128], 300_000)
    pieces = [(0, 131_072), (131_072, 131_072), (262_144, 37_856)]
    assert told == [(at + n, size, os.POSIX_FADV_WILLNEED) for at in (128, 1_000_128) for n, size in pieces]


def test_a_large_level_is_read_from_its_file_and_a_small_one_from_memory(
    supply: Supply, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = module.read_in_order

    def noted(level: Any, *more: Any) -> None:
        read.append(Path(level.filename).name)
        original(level, *more)

    monkeypatch.setattr(module, "read_in_order", noted)
    supply = replace(supply, room=supply.data.levels[8].nbytes)
    for r in RESOLUTIONS:
        supply.now(Step(0, 8, r))
    assert read == [level_name(16)]


def a_cgroup(folder: Path, limit: str, stat: str, name: str = "memory.max") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(limit + "\n")
    (folder / "memory.stat").write_text(stat)


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 1000 bytes to spare."""
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=1000))


@pytest.mark.usefixtures("plenty")
def test_without_a_cgroup_the_machine_counts(tmp_path: Path) -> None:
    assert page_cache_room(tmp_path / "missing", tmp_path) == 800
    (tmp_path / "own").write_text("0::/init.scope\n")
    assert page_cache_room(tmp_path / "own", tmp_path) == 800
    a_cgroup(tmp_path, "max", "anon 5\n")
    assert page_cache_room(tmp_path / "own", tmp_path) == 800


@pytest.mark.usefixtures("plenty")
def test_the_narrowest_cgroup_of_version_2_counts(tmp_path: Path) -> None:
    """What programs hold is not for files; what files hold is. A limit holds for everything below it."""
    (tmp_path / "own").write_text("0::/user/job\n")
    a_cgroup(tmp_path / "user" / "job", "700", "anon 100\nfile 550\n")
    assert page_cache_room(tmp_path / "own", tmp_path) == 480
    a_cgroup(tmp_path / "user", "300", "anon 100\nfile 0\n")
    assert page_cache_room(tmp_path / "own", tmp_path) == 160
    a_cgroup(tmp_path / "other", "1", "anon 0\n")
    assert page_cache_room(tmp_path / "own", tmp_path) == 160
    a_cgroup(tmp_path, "50", "anon 100\n")
    assert page_cache_room(tmp_path / "own", tmp_path) == 0


@pytest.mark.usefixtures("plenty")
def test_a_cgroup_of_version_1_counts(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("7:cpu,cpuacct:/job\n4:memory:/job\n0::/\n")
    a_cgroup(tmp_path / "memory" / "job", "500", "cache 1\ntotal_rss 100\n", "memory.limit_in_bytes")
    assert page_cache_room(tmp_path / "own", tmp_path) == 320
    a_cgroup(tmp_path / "memory", "400", "cache 1\ntotal_rss 100\n", "memory.limit_in_bytes")
    assert page_cache_room(tmp_path / "own", tmp_path) == 240
    # inside a container the path is that of the host, and only the mounted top is there
    (tmp_path / "own").write_text("4:memory:/docker/0123\n")
    assert page_cache_room(tmp_path / "own", tmp_path) == 240


def test_the_room_of_this_machine_is_a_number() -> None:
    assert 0 <= page_cache_room() <= 0.8 * psutil.virtual_memory().total
