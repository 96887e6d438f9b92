"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from progan.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it into place, else remove it.

    Raises UserError where the disk refuses (full, read-only, no permission); a previous file of that name is then
    intact.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be written: {reason}; nothing that was there before has changed.") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`atomic` for callers who treat the disk's refusal, an OSError, themselves."""
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_new(path: Path) -> None:
    """Raises UserError where something has this name already, were it a link that leads nowhere."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists already; choose another destination or remove it yourself.")


def write_new(path: Path, content: bytes, mend: str) -> None:
    """Write a new file whole, or none. A file that holds these very bytes stays; UserError, with the mend, where it
    holds others, so that nothing is ever lost.
    """
    if not path.exists():
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    elif path.read_bytes() != content:
        raise UserError(f"{path}: another picture has this name; {mend}.")


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or none."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success flush its files and rename it into place, else remove it.
    `path` must not exist.
    """
    temporary = _beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            flush(file)
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A name beside a path that no other process picks, not even one of another machine with the same disk."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `atomic` that a killed process left in a folder that is ours alone now."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(path: Path, message: str, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a file that only one process can hold; the system lets go of it when that process ends, however it ends.

    Where another one holds it: raises UserError with the message, or calls `wait` until it is free.
    """
    while True:
        with path.open("a") as file:
            if _locked(file) and _is_there(path, file):
                yield
                return
        if wait is None:
            raise UserError(message)
        wait()


def _locked(file: IO[str]) -> bool:
    """Try to lock an open file."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_there(path: Path, file: IO[str]) -> bool:
    """Whether an open file is still the one of this path: its last holder may have removed it."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def flush(path: Path) -> None:
    """Have the kernel put a file, or a folder's list of names, on the disk."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
