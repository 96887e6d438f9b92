"""Pyramids that are being written: in a hidden folder beside their destination, from which an interrupted preparation
goes on. The one that is finished is renamed into place.

.NAME.part/KEY/         a draft; KEY says of what and how
.NAME.part/KEY.json     how far it is: written only after everything that it counts is on the disk
.NAME.part/scratch/     what a source had to unpack
.NAME.lock              held by the process that is at it
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from progan.data.pyramid import LABELS, MANIFEST, SKIPPED, VERSION, fingerprint, hash_file, level_name
from progan.data.source import Array, Labels
from progan.errors import UserError
from progan.files import check_new, flush, lock, remove_leftovers, replacing
from progan.version import __version__

SAVE_SEC = 5.0  # between two records of how far it is
SCRATCH = "scratch"
LIST_HEAD = b"picture,reason\r\n"


@contextlib.contextmanager
def workshop(destination: Path) -> Iterator[Path]:
    """The folder, ours alone, in which a destination is prepared. Drafts that are recorded in it stay, to go on from.

    Raises UserError where the destination exists, the disk refuses, or another process is preparing it.
    """
    if destination.name in ("", ".."):
        raise UserError(f"{destination} is no name for something new; choose another destination.")
    folder = destination.with_name(f".{destination.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(destination):
            check_new(destination)
            folder.mkdir(exist_ok=True)
            remove_leftovers(folder / SCRATCH)
            try:
                yield folder
            finally:
                if not any(folder.glob("*.json")):
                    shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
        kept = f"; what is done stays in {folder}, and the same command goes on from there" if folder.exists() else ""
        raise UserError(f"{destination} cannot be written ({what}){kept}.") from None


@contextlib.contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """No other process prepares it meanwhile."""
    path = destination.with_name(f".{destination.name}.lock")
    with lock(path, f"{destination} is being prepared by another process; wait for it."):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()


@dataclass(frozen=True)
class Extent:
    """How far a draft is: names that are dealt with, pictures among them, and bytes of the list of the others."""

    done: int = 0
    count: int = 0
    listed: int = 0


class Draft:
    """A pyramid in a workshop. `at` says how far it is, `skipped` has the reasons of what was left out.

    key: what is prepared and how. A draft of this key goes on where it was recorded last.
    """

    def __init__(self, workshop: Path, key: str, channels: int, resolutions: Sequence[int]) -> None:
        self.workshop, self.folder, self.record = workshop, workshop / key, workshop / f"{key}.json"
        self.channels, self.resolutions = channels, tuple(resolutions)
        self.folder.mkdir(exist_ok=True)
        remove_leftovers(workshop)
        self.at = self._recorded()
        self.levels = {r: self._level(r) for r in resolutions}
        self.list = _open_behind(self.folder / SKIPPED, LIST_HEAD, self.at.listed)
        self.skipped = _listed(self.folder / SKIPPED)
        self.saved_at = time.monotonic()

    def _recorded(self) -> Extent:
        """How far the draft is: at its start where there is no record, or less on the disk than it says."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            at = Extent(**json.loads(self.record.read_text(encoding="utf-8")))
            if all(self._path(r).stat().st_size >= self._bytes(r, at) for r in self.resolutions):
                return at
        return Extent()

    def _bytes(self, resolution: int, at: Extent) -> int:
        return len(self._head(resolution, at)) + at.count * self.channels * resolution**2

    def _path(self, resolution: int) -> Path:
        return self.folder / level_name(resolution)

    def _head(self, resolution: int, at: Extent) -> bytes:
        return _header((at.count, self.channels, resolution, resolution))

    def _level(self, resolution: int) -> BinaryIO:
        behind = self.at.count * self.channels * resolution**2
        return _open_behind(self._path(resolution), self._head(resolution, self.at), behind)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.at.done and not self.list.closed:
            with contextlib.suppress(OSError, ValueError):  # what the disk refuses now was refused before
                self.save()
        with contextlib.suppress(OSError):
            self._close()

    def add(self, stacked: Sequence[Array], skipped: Mapping[str, str]) -> None:
        """Deal with some names: pictures uint8 [n, C, R, R] at every resolution from the top down, and the others."""
        for resolution, pictures in zip(reversed(self.resolutions), stacked):
            self.levels[resolution].write(np.ascontiguousarray(pictures).data)
        rows, new = _rows(skipped), len(stacked[0]) if stacked else 0
        self.list.write(rows)
        self.skipped |= skipped
        # In one assignment, and last: an interruption before it leaves bytes that nobody counts.
        self.at = Extent(self.at.done + new + len(skipped), self.at.count + new, self.at.listed + len(rows))
        if time.monotonic() - self.saved_at > SAVE_SEC:
            self.save()

    def refuse(self, skipped: Mapping[str, str]) -> None:
        """List what the source itself refused; it has no turn."""
        new = {name: reason for name, reason in skipped.items() if name not in self.skipped}
        rows = _rows(new)
        self.list.write(rows)
        self.skipped |= new
        self.at = replace(self.at, listed=self.at.listed + len(rows))

    def save(self) -> None:
        """Record how far it is, once everything up to here is on the disk. Raises OSError."""
        for file in (*self.levels.values(), self.list):
            file.flush()
            os.fsync(file.fileno())
        with replacing(self.record) as temporary:
            temporary.write_text(json.dumps(asdict(self.at)), encoding="utf-8")
        self.saved_at = time.monotonic()

    def drop(self) -> None:
        """This will never be a pyramid: nothing of it stays."""
        self._close()
        self.record.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self, destination: Path, labels: Labels | None, about: Mapping[str, Any]) -> None:
        """Complete the pyramid, rename it into place, and clear the workshop."""
        for resolution, file in self.levels.items():
            file.seek(0)
            file.write(self._head(resolution, self.at))
        self._close()
        names = [level_name(r) for r in self.resolutions]
        if labels is not None:
            np.save(self.folder / LABELS, labels.values)
            names.append(LABELS)
        manifest = json.dumps(self._manifest(names, labels, about), indent=2) + "\n"
        (self.folder / MANIFEST).write_text(manifest, encoding="utf-8")
        for name in (*names, SKIPPED, MANIFEST):
            flush(self.folder / name)
        self.folder.rename(destination)
        flush(destination.parent)
        shutil.rmtree(self.workshop, ignore_errors=True)  # with other drafts: there is nothing left to go on to

    def _manifest(self, names: Sequence[str], labels: Labels | None, about: Mapping[str, Any]) -> dict[str, Any]:
        hashes = {name: hash_file(self.folder / name) for name in names}
        return {
            "version": VERSION,
            "progan": __version__,
            **about,
            "count": self.at.count,
            "channels": self.channels,
            "resolutions": list(self.resolutions),
            "labels": None if labels is None else {"names": list(labels.names), "size": _size(labels)},
            "skipped": len(self.skipped),
            "fingerprint": fingerprint(hashes, self.resolutions[-1]),
            "hashes": hashes,
        }

    def _close(self) -> None:
        for file in (*self.levels.values(), self.list):
            file.close()


def _size(labels: Labels) -> int:
    return len(labels.names) or labels.values.shape[1]


def _open_behind(path: Path, head: bytes, behind: int) -> BinaryIO:
    """A file open for writing after its head and so many bytes; what lies further on is cut off."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.write(head)
    file.truncate(len(head) + behind)
    file.seek(0, os.SEEK_END)
    return file


def _header(shape: tuple[int, ...]) -> bytes:
    """Of a .npy file; numpy leaves room for a growing first axis, so that every count gives one length."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _rows(skipped: Mapping[str, str]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(skipped.items())
    return buffer.getvalue().encode("utf-8", errors="surrogateescape")


def _listed(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return dict(row for row in list(csv.reader(file))[1:])
