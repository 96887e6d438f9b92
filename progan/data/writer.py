"""A pyramid that is being written: a hidden folder beside its destination, from which an interrupted preparation goes
on, and which is renamed into place when it is whole.

.NAME.part/draft.json    of what, and how far: written only after everything that it counts is on the disk
.NAME.part/scratch/      what a source had to unpack
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
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from progan.data.pyramid import LABELS, MANIFEST, SKIPPED, VERSION, fingerprint, hash_file, level_name
from progan.data.source import Array, Labels
from progan.errors import UserError
from progan.files import flush, lock, replacing
from progan.version import __version__

SAVE_SEC = 5.0  # between two records of how far it is
DRAFT, SCRATCH = "draft.json", "scratch"
LIST_HEAD = b"picture,reason\r\n"


@contextlib.contextmanager
def draft_folder(destination: Path) -> Iterator[Path]:
    """The folder, ours alone, in which a destination is prepared; what was recorded in it stays, to go on from.

    Raises UserError where the destination exists, the disk refuses, or another process is preparing it.
    """
    folder = destination.with_name(f".{destination.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder.with_suffix(".lock"), f"{destination} is being prepared by another process; wait for it."):
            try:
                if os.path.lexists(destination):
                    raise UserError(f"{destination} exists already; choose another destination or remove it yourself.")
                folder.mkdir(exist_ok=True)
                yield folder
            finally:
                if not (folder / DRAFT).exists():
                    shutil.rmtree(folder, ignore_errors=True)
                folder.with_suffix(".lock").unlink(missing_ok=True)
    except OSError as error:
        kept = f"; what is done stays in {folder}, and the same command goes on from there" if folder.exists() else ""
        raise UserError(f"{destination} cannot be written: {error.strerror or error}{kept}.") from None


class Draft:
    """The pyramid in a draft's folder. `done` counts the names that are dealt with, `count` the pictures among them,
    `skipped` has the others' reasons.

    key: what is prepared and how; a draft of another key is started over.
    """

    def __init__(self, folder: Path, key: str, channels: int, resolutions: Sequence[int]) -> None:
        self.folder, self.key, self.channels, self.resolutions = folder, key, channels, tuple(resolutions)
        state = self._recorded() or self._afresh()
        self.done, self.count = state["done"], state["count"]
        self.levels = {r: self._level(r) for r in resolutions}
        self.list = _open_behind(folder / SKIPPED, LIST_HEAD, state["listed_bytes"])
        self.skipped = _listed(folder / SKIPPED)
        self.saved_at = time.monotonic()

    def _recorded(self) -> dict[str, Any] | None:
        """How far the draft is; None where it is of another key, or there is none."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads((self.folder / DRAFT).read_text(encoding="utf-8"))
            sizes = [self._path(r).stat().st_size for r in self.resolutions]
            if state["key"] == self.key and all(size >= least for size, least in zip(sizes, state["sizes"])):
                return state  # type: ignore[no-any-return]
        return None

    def _afresh(self) -> dict[str, Any]:
        """Empty the folder, but for what a source has unpacked."""
        for path in self.folder.iterdir():
            if path.is_file():
                path.unlink()
        return {"done": 0, "count": 0, "listed_bytes": 0}

    def _path(self, resolution: int) -> Path:
        return self.folder / level_name(resolution)

    def _head(self, resolution: int) -> bytes:
        return _header((self.count, self.channels, resolution, resolution))

    def _level(self, resolution: int) -> BinaryIO:
        return _open_behind(self._path(resolution), self._head(resolution), self.count * self.channels * resolution**2)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, UserError):
            with contextlib.suppress(OSError, ValueError):  # what the disk refuses now was refused before
                self.save()
        with contextlib.suppress(OSError):
            self._close()

    def add(self, stacked: Sequence[Array], skipped: Mapping[str, str]) -> None:
        """Deal with some names: pictures uint8 [n, C, R, R] at every resolution from the top down, and the others."""
        for resolution, pictures in zip(reversed(self.resolutions), stacked):
            self.levels[resolution].write(np.ascontiguousarray(pictures).data)
        self.list.write(_rows(skipped))
        self.count += len(stacked[0]) if stacked else 0
        self.done += (len(stacked[0]) if stacked else 0) + len(skipped)
        self.skipped |= skipped
        if time.monotonic() - self.saved_at > SAVE_SEC:
            self.save()

    def refuse(self, skipped: Mapping[str, str]) -> None:
        """List what the source itself refused; it has no turn."""
        new = {name: reason for name, reason in skipped.items() if name not in self.skipped}
        self.list.write(_rows(new))
        self.skipped |= new

    def save(self) -> None:
        """Record how far it is, once everything up to here is on the disk. Raises OSError."""
        files = (*self.levels.values(), self.list)
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        sizes = [file.tell() for file in files]
        listed = sizes[-1] - len(LIST_HEAD)
        state = {"key": self.key, "done": self.done, "count": self.count, "listed_bytes": listed, "sizes": sizes}
        with replacing(self.folder / DRAFT) as temporary:
            temporary.write_text(json.dumps(state), encoding="utf-8")
        self.saved_at = time.monotonic()

    def give_up(self, reason: str) -> NoReturn:
        """This will never be a pyramid: nothing of it stays. Raises UserError with the reason."""
        self._close()
        (self.folder / DRAFT).unlink(missing_ok=True)
        raise UserError(reason)

    def finish(self, destination: Path, labels: Labels | None, about: Mapping[str, Any]) -> None:
        """Complete the pyramid and rename it into place."""
        for resolution, file in self.levels.items():
            file.seek(0)
            file.write(self._head(resolution))
        self._close()
        names = [level_name(r) for r in self.resolutions]
        if labels is not None:
            np.save(self.folder / LABELS, labels.values)
            names.append(LABELS)
        manifest = json.dumps(self._manifest(names, labels, about), indent=2) + "\n"
        (self.folder / MANIFEST).write_text(manifest, encoding="utf-8")
        for name in (*names, SKIPPED, MANIFEST):
            flush(self.folder / name)
        shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        self.folder.rename(destination)
        (destination / DRAFT).unlink(missing_ok=True)
        flush(destination.parent)

    def _manifest(self, names: Sequence[str], labels: Labels | None, about: Mapping[str, Any]) -> dict[str, Any]:
        hashes = {name: hash_file(self.folder / name) for name in names}
        return {
            "version": VERSION,
            "progan": __version__,
            **about,
            "count": self.count,
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
