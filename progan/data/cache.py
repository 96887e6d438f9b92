"""What `--data` means: a pyramid as it is, and anything else prepared once and kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from progan.data.pictures import Recipe
from progan.data.prepare import Wish, resolved, title_of, write
from progan.data.pyramid import VERSION, Pyramid, is_pyramid, open_pyramid
from progan.data.source import Progress
from progan.data.sources import open_source
from progan.data.writer import workshop
from progan.errors import UserError
from progan.files import lock, remove_leftovers, write_text

Say = Callable[[str], None]


def open_data(source: str, max_res: int, channels: int, say: Say, progress: Progress) -> Pyramid:
    """The pyramid that `--data` means; what is none yet is prepared once into the cache.

    Raises UserError where the source is not understood or does not reach max_res or has other channels.
    """
    pyramid = (
        open_pyramid(Path(source)) if is_pyramid(Path(source)) else _cached(source, max_res, channels, say, progress)
    )
    if pyramid.top < max_res:
        raise UserError(
            f"{source} reaches {pyramid.top}x{pyramid.top} only; use --max-res {pyramid.top}, or prepare it for "
            f"{max_res}."
        )
    if pyramid.channels != channels:
        raise UserError(f"{source} has {pyramid.channels} channels: use --set networks.channels={pyramid.channels}.")
    return pyramid


def cache_folder() -> Path:
    """Where prepared data is kept: $PROGAN_CACHE, else progan below $XDG_CACHE_HOME, else ~/.cache/progan."""
    if "PROGAN_CACHE" in os.environ:
        return Path(os.environ["PROGAN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "progan"


def torchvision_root() -> Path:
    """Where torchvision's files are looked for unless --root says otherwise."""
    return cache_folder() / "torchvision"


def _cached(text: str, max_res: int, channels: int, say: Say, progress: Progress) -> Pyramid:
    """Prepare a source as `progan prepare` would, unless that has been done; one process at a time does."""
    cache, path = cache_folder(), Path(text)
    place = str(path.resolve()) if path.exists() else text
    own = cache / f".{_digest(place)}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache {cache} cannot be made: {error.strerror}; PROGAN_CACHE names another place."
        ) from None
    with lock(own.with_suffix(".lock"), "", _waiting(say, text)):
        note, scratch = own.with_suffix(".note"), own.with_suffix(".scratch")
        folder = _noted(note, path, max_res, channels)
        if folder is None:
            remove_leftovers(scratch)
            try:
                folder = _prepared(text, place, max_res, channels, scratch, say, progress)
                if scratch.exists():  # to look into it means to unpack it: not at every start
                    write_text(note, json.dumps([_stamp(path, max_res, channels), folder.name]))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return open_pyramid(folder)


def _prepared(text: str, place: str, max_res: int, channels: int, scratch: Path, say: Say, progress: Progress) -> Path:
    """The folder of a source's pyramid, made now if there is none."""
    source = open_source(text, max_res, torchvision_root(), False, scratch)
    recipe = resolved(Recipe(max_res, channels), source, text)
    key = _digest(f"{VERSION}/{channels}/{place}/{source.state}/{len(source.names)}")
    folder = cache_folder() / f"{Path(text.partition(':')[0]).stem}-{max_res}px-{key}"
    if not folder.exists():
        say(f"Preparing {text}, {len(source.names):,} pictures, for {max_res}x{max_res}, once, into {folder}")
        with workshop(folder) as part:
            write(source, title_of(text), folder, part, recipe, Wish(), progress)
        _say_skipped(folder, say)
    return folder


def _stamp(path: Path, max_res: int, channels: int) -> list[int]:
    """What changes whenever a file may have."""
    return [path.stat().st_size, path.stat().st_mtime_ns, max_res, channels, VERSION]


def _noted(note: Path, path: Path, max_res: int, channels: int) -> Path | None:
    """The folder that was made of a file, if the file is still as it was."""
    with contextlib.suppress(OSError, ValueError):
        stamp, name = json.loads(note.read_text(encoding="utf-8"))
        if stamp == _stamp(path, max_res, channels) and (note.parent / name).is_dir():
            return note.parent / str(name)
    return None


def _waiting(say: Say, text: str) -> Callable[[], None]:
    """Say once that another process is at it, and wait a little."""
    said: list[bool] = []

    def wait() -> None:
        if not said:
            said.append(True)
            say(f"Another process is preparing {text}; waiting for it.")
        time.sleep(0.5)

    return wait


def _say_skipped(folder: Path, say: Say) -> None:
    skipped = open_pyramid(folder).about["skipped"]
    if skipped:
        say(f"Left out {skipped:,} of them: {folder / 'skipped.csv'} says why")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=5).hexdigest()
