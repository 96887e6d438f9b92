"""Where pictures come from: a folder or a zip file, searched recursively."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from progan.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".tga", ".avif")
UNDERSTOOD = "a pyramid made by `progan prepare`, a folder of pictures, a .zip of pictures, `faces` or `faces:COUNT`"


@dataclass(frozen=True)
class Source:
    """Pictures by name, in a fixed order; `open(name)` gives the file. `state` changes whenever the pictures may
    have.
    """

    names: list[str]
    open: Callable[[str], BinaryIO]
    state: str


def open_source(path: Path) -> Source:
    """The pictures in a folder or zip file. Raises UserError where there are none, or the path is something else."""
    if not path.exists():
        raise UserError(f"{path} does not exist; data is {UNDERSTOOD}.")
    if (path / "pyramid.json").is_file():
        raise UserError(f"{path} is a pyramid already; progan train --data takes it as it is.")
    if (path / "config.toml").is_file() and (path / "checkpoints").is_dir():
        raise UserError(f"{path} is the directory of a run; data is {UNDERSTOOD}.")
    if path.is_dir():
        source = _folder(path)
    elif zipfile.is_zipfile(path):
        source = _zip(path)
    else:
        raise UserError(f"{path} is neither a folder nor a zip file; data is {UNDERSTOOD}.")
    if not source.names:
        raise UserError(f"{path} holds no pictures ({', '.join(SUFFIXES)}).")
    return source


def is_picture(name: str) -> bool:
    """Whether a path below the source names a picture: a known suffix and no hidden part."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return name.lower().endswith(SUFFIXES) and not hidden


def _folder(path: Path) -> Source:
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    names = sorted(name for name in files if is_picture(name))
    stats = {name: files[name].stat() for name in names}
    return Source(
        names, lambda name: files[name].open("rb"), repr([(n, s.st_size, s.st_mtime_ns) for n, s in stats.items()])
    )


def _zip(path: Path) -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is a damaged zip file ({error}).") from None
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    names = sorted(name for name in infos if is_picture(name))
    state = repr([(name, infos[name].file_size, infos[name].CRC) for name in names])
    return Source(names, lambda name: io.BytesIO(archive.read(name)), state)
