"""Pictures decoded by other processes, in order, whatever the pictures do to their decoder.

A worker that crashes, or needs more than PICTURE_SEC for one picture, costs that picture and nothing else.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from progan.data.pictures import Recipe, outcome
from progan.data.source import Array, Levels, Raw
from progan.errors import UserError

PICTURE_SEC = 60.0
CRASHED = f"crashed its decoder, or kept it for more than {PICTURE_SEC:.0f} s"
CHUNK_BYTES = 8_000_000

Read = Callable[[str], Raw]


@dataclass(frozen=True)
class Chunk:
    """What became of some names: pictures uint8 [n, C, R, R] at every resolution from the top down (nothing where none
    was readable), and the others' reasons.
    """

    stacked: tuple[Array, ...]
    skipped: dict[str, str]


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only, and it knows of taskset and containers
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chunks(read: Read, names: Sequence[str], recipe: Recipe, workers: int) -> Iterator[Chunk]:
    """Deal with names in their order, so many processes at a time; 0 = in this one, without its protection."""
    size = max(1, min(64, CHUNK_BYTES // (4 * recipe.channels * recipe.max_res**2 // 3)))
    pieces = [names[start : start + size] for start in range(0, len(names), size)]
    if workers == 0:
        return (_joined(piece, [outcome(read, name, recipe) for name in piece]) for piece in pieces)
    return _by_workers(read, pieces, recipe, workers)


def _by_workers(read: Read, pieces: list[Sequence[str]], recipe: Recipe, workers: int) -> Iterator[Chunk]:
    """At most two pieces a worker are under way, so that memory stays bounded whatever is slow."""
    with Pool(read, recipe, workers) as pool, Pool(read, recipe, 1) as infirmary:
        under_way: deque[tuple[Sequence[str], Future[Chunk]]] = deque()
        for piece in pieces:
            under_way.append((piece, pool.submit(piece)))
            if len(under_way) > 2 * workers:
                yield _received(*under_way.popleft(), infirmary)
        while under_way:
            yield _received(*under_way.popleft(), infirmary)


def _received(names: Sequence[str], future: Future[Chunk], infirmary: Pool) -> Chunk:
    """A piece that a worker has done; where that has died, its names one by one."""
    try:
        return future.result()
    except BrokenProcessPool:
        infirmary.check()
        return _together([_alone(name, infirmary) for name in names])


def _alone(name: str, infirmary: Pool) -> Chunk:
    try:
        return infirmary.submit([name]).result()
    except BrokenProcessPool:
        return Chunk((), {name: CRASHED})


def _together(parts: Sequence[Chunk]) -> Chunk:
    levels = zip(*(part.stacked for part in parts if part.stacked))
    stacked = tuple(np.concatenate(level) for level in levels)
    return Chunk(stacked, {name: reason for part in parts for name, reason in part.skipped.items()})


class Pool:
    """Processes that are started when they are needed, and again when one of them has died."""

    def __init__(self, read: Read, recipe: Recipe, workers: int) -> None:
        self.read, self.recipe, self.workers = read, recipe, workers
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self.executor:
            self.executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, names: Sequence[str]) -> Future[Chunk]:
        """Have names dealt with. The future raises BrokenProcessPool where a worker died meanwhile."""
        self.executor = self.executor or self._executor()
        with _unrelated_children():
            try:
                return self.executor.submit(_deal_with, names)
            except BrokenProcessPool:
                self.executor.shutdown()
                self.executor = self._executor()
                return self.executor.submit(_deal_with, names)

    def check(self) -> None:
        """Raises UserError where processes do not even begin: then no picture is to blame."""
        try:
            self.submit([]).result()
        except BrokenProcessPool:
            raise UserError("worker processes do not start here; progan prepare --workers 0 does without.") from None

    def _executor(self) -> ProcessPoolExecutor:
        # Not forked: a fork would inherit torch's threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.workers, context, _begin, (self.read, self.recipe, PICTURE_SEC))


@contextlib.contextmanager
def _unrelated_children() -> Iterator[None]:
    """Processes that start now neither run the caller's script again (which may lack the guard that multiprocessing
    wants, or come from stdin), nor hear of Ctrl-C, which is the parent's business.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    if sys.platform != "win32":
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- inside a worker

_work: tuple[Read, Recipe, float, TextIO]


def _begin(read: Read, recipe: Recipe, picture_sec: float) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    nowhere = open(os.devnull, "w")  # noqa: SIM115  (as long as the process lives)
    os.dup2(nowhere.fileno(), 2)  # where libtiff complains of every odd file
    _work = read, recipe, picture_sec, nowhere


def _die_with_parent() -> None:
    """A parent that is killed cannot tell its workers, which would wait for it forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _deal_with(names: Sequence[str]) -> Chunk:
    read, recipe, picture_sec, nowhere = _work
    outcomes = []
    for name in names:
        faulthandler.dump_traceback_later(picture_sec, exit=True, file=nowhere)
        outcomes.append(outcome(read, name, recipe))
        faulthandler.cancel_dump_traceback_later()
    return _joined(names, outcomes)


def _joined(names: Sequence[str], outcomes: Sequence[Levels | str]) -> Chunk:
    skipped = {name: result for name, result in zip(names, outcomes) if isinstance(result, str)}
    levels = zip(*(result for result in outcomes if not isinstance(result, str)))
    return Chunk(tuple(np.stack(level) for level in levels), skipped)
