"""Metrics of runs and of folders: measured, shown, and kept beside the run."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from progan.console import Console
from progan.devices import keep_freed_memory
from progan.errors import UserError
from progan.exchange.snapshots import Snapshot, find_snapshot, load_snapshot, snapshots
from progan.files import atomic
from progan.images import enlarge, grid, png
from progan.metrics.cases import Case, case_of, folders_case, ground_of
from progan.metrics.evaluate import METRICS, About, Tools, result_of, usual
from progan.metrics.results import FILE, Result, add_result, board_tag, lines, read_results


class Board:
    """Where a run's results are kept: metrics.jsonl, and TensorBoard. Without a run, nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.known = {result.key: result for result in read_results(folder / FILE)} if folder else {}

    def add(self, result: Result, sheet: Tensor | None) -> None:
        """Keep a new result, and the pictures [n, C, H, W] that were made beside it."""
        if self.folder is None:
            return
        add_result(self.folder / FILE, result)
        with SummaryWriter(str(self.folder)) as writer:
            for name, value in result.values.items():
                writer.add_scalar(board_tag(name), value, result.nimg)
            if sheet is not None:
                pixels = enlarge(grid(sheet, 8), max(1, 64 // sheet.shape[-1]))
                writer.add_image(board_tag(result.metric), pixels, result.nimg)
                with atomic(self.folder / f"{result.metric}-{round(result.nimg / 1000):06d}.png") as temporary:
                    temporary.write_bytes(png(pixels, {"metric": result.metric, "snapshot": str(result.file)}))


def of_run(
    run: Path | None,
    data: str | None,
    names: list[str] | None,
    images: int | None,
    psi: float,
    every: bool,
    tools: Tools,
) -> Iterator[Result]:
    """Results about a snapshot, or about each one of its run, as they come. Those of a run are kept in its directory,
    and what is kept there is not measured again. names: None = those that need no weights.
    """
    if tools.device.type == "cpu":
        keep_freed_memory()
    newest = find_snapshot(run)
    folder = run_of(newest)
    if every and folder is None:
        raise UserError(f"--all-snapshots: {newest} does not lie in a run's directory.")
    board = Board(folder)
    for snapshot, content in distinct(snapshots(folder) if every and folder else [newest], tools.device):
        case = snapshot_case(snapshot, data, images, psi, tools)
        about = About(snapshot.cur_nimg, snapshot.path.name, content)
        tools.console.line(f"{snapshot.path}: {snapshot.cur_nimg / 1000:g} kimg, {outline(case)}")
        for name in names or usual(case):
            try:
                result, new = result_of(name, case, tools, board.known, about)
            except UserError as error:
                if not every:
                    raise
                tools.console.line(f"Not measured: {error}")  # a probe cannot read 4x4, and later ones are to come
                continue
            if new:
                board.add(result, tools.sheets.pop(result.metric, None))
            show(result, new, tools.console)
            yield result


def of_folders(fakes: str, reals: str, names: list[str] | None, images: int | None, tools: Tools) -> Iterator[Result]:
    """Results about two sets of pictures, as they come. They are kept nowhere."""
    if tools.device.type == "cpu":
        keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="progan-") as scratch:
        case = folders_case(fakes, reals, images, tools.seed, Path(scratch), tools.console)
        tools.console.line(f"{fakes} against {reals}: {outline(case)}")
        for name in names or usual(case):
            result, new = result_of(name, case, tools, {}, About())
            show(result, new, tools.console)
            yield result


def snapshot_case(snapshot: Snapshot, data: str | None, images: int | None, psi: float, tools: Tools) -> Case:
    """A snapshot's pictures beside the reals. Fakes are drawn only when a metric looks at them."""
    ground = ground_of(snapshot, data, tools.console)
    place = snapshot.stage, snapshot.alpha, psi
    return case_of(snapshot.G, *place, ground, ground.images(images), tools.seed, tools.console)


def run_of(snapshot: Path) -> Path | None:
    """The run's directory that a snapshot lies in, if it does."""
    folder = snapshot.parent.parent
    return folder if snapshot.parent.name == "snapshots" and (folder / "config.toml").is_file() else None


def distinct(paths: Iterable[Path], device: torch.device) -> Iterator[tuple[Snapshot, str]]:
    """Snapshots and their hashes, each generator once: `final` has a twin with a number."""
    seen: set[str] = set()
    for path in paths:
        snapshot = load_snapshot(path, device)
        content = hash_of(snapshot)
        if content not in seen:
            yield snapshot, content
        seen.add(content)


def hash_of(snapshot: Snapshot) -> str:
    """A hash of all that decides a generator's pictures. (Equal files it would not tell: metadata is in any order.)"""
    state = hashlib.blake2b(f"{snapshot.stage} {snapshot.alpha} {snapshot.cur_nimg}".encode(), digest_size=16)
    for key, tensor in sorted(snapshot.G.state_dict().items()):
        state.update(key.encode() + tensor.cpu().numpy().tobytes())
    return state.hexdigest()


def outline(case: Case) -> str:
    """`32x32, 5,000 fakes, 5,000 reals, floor from 5,000 others`"""
    (reals, fakes), r = case.counts, case.resolution
    floor = f"floor from {reals:,} others" if case.others else f"no floor: that takes {2 * reals:,} reals"
    return f"{r}x{r}, {fakes:,} fakes, {reals:,} reals, {floor}"


def show(result: Result, new: bool, console: Console) -> None:
    """A result for people."""
    when = f"{result.sec:.1f} s" if new else "measured before"
    console.line(f"{result.metric}: {METRICS[result.metric].meaning}  ({when})")
    for line in lines(result):
        console.line(line)
