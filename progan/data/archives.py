"""Pictures in folders, zips and tars: which of the files are pictures, how one is read, and what class it has.

The same files make the same source, whether they lie in a folder or in an archive of it. Nothing is ever unpacked by
name: a picture is read by its place in the archive.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from progan.data.pictures import SUFFIXES
from progan.data.source import Array, Labels, Source, Unreadable
from progan.errors import UserError
from progan.files import atomic, write_text

LIMIT = 1 << 30  # bytes of one file that is read whole
ROOM = 10**9  # bytes that stay free on a disk that something is unpacked to
MOST_CLASSES = 100_000
LONGEST = 1000  # characters of a name; a tar's may have millions, which no table of names can hold
TABLE = "dataset.json"  # StyleGAN's labels

LARGE = "larger than 1 GiB"
LINK = "a link"
OUTSIDE = "points outside the archive"
TOO_LONG = "its name is too long"
NO_UTF8 = "its name is not the UTF-8 that it claims to be"
CIRCLE = "a link that leads in a circle, or to a folder that is read already"
NOWHERE = "a link that leads nowhere"
FORBIDDEN = "no permission to read it"
CUT_OFF = "cut off: the archive ends in the middle of it"
DAMAGED = "damaged in the archive"
CHANGED = "the archive has changed since it was listed"

UTF8, MISNAMED = 1 << 11, 1 << 15  # flags of a zip's members; the second is one that the format leaves unused

BROKEN = (
    OSError, ValueError, EOFError, ArithmeticError, LookupError, MemoryError, RuntimeError,
    struct.error, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip
"""What the standard library raises for archives that are damaged or made to do damage."""


# ---- what lies in a folder or archive


@dataclass
class _Listing:
    """What was found, file by file. Names are relative and have slashes on every system."""

    files: dict[str, tuple[int, ...]] = field(default_factory=dict)  # pictures and dataset.json, with numbers of theirs
    refused: dict[str, str] = field(default_factory=dict)
    passed_over: set[str] = field(default_factory=set)  # a hidden folder counts once, with all that is in it
    times: dict[str, int] = field(default_factory=dict)  # how often each name of `refused` was there

    def refuse(self, name: str, reason: str) -> None:
        """Note why a file is not tried. Of doubles each is noted: `a.png`, `a.png (2)`, ... Of a name that is too long
        only the beginning is.
        """
        name = name if len(name) <= LONGEST else f"{name[:100]}...{digest([name])[:8]}"
        self.times[name] = self.times.get(name, name in self.files) + 1
        self.refused[name if self.times[name] == 1 else f"{name} ({self.times[name]})"] = reason

    def plain(self, given: str, is_folder: bool) -> str | None:
        """A member's name without needless parts; None for folders, and for what is hidden or points outside, after
        a note.
        """
        name = str(PurePosixPath(given))
        if _outside(given):
            if not is_folder:
                self.add(given, (), OUTSIDE)
        elif _hidden(name):
            self.passed_over.add(_hidden(name))
        elif not is_folder:
            return name
        return None

    def add(self, name: str, numbers: tuple[int, ...], reason: str | None) -> None:
        """Take a file that is not hidden, unless a reason speaks against it."""
        if not _wanted(name) and reason != LINK:  # which may have been one to a folder of pictures
            self.passed_over.add(name)
        elif reason or len(name) > LONGEST:
            self.refuse(name, reason or TOO_LONG)
        elif name in self.files or name in self.times:
            self.refuse(name, "double name")
        else:
            self.files[name] = numbers


def _wanted(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) or name.rpartition("/")[2] == TABLE


def _hidden(name: str) -> str:
    """The path down to its first hidden part; empty where nothing is hidden."""
    if "/." not in f"/{name}" and "__MACOSX" not in name:  # the usual case, for the sake of millions
        return ""
    parts = name.split("/")
    hidden = [part == "__MACOSX" or (part.startswith(".") and part != ".") for part in parts]
    return "/".join(parts[: hidden.index(True) + 1]) if any(hidden) else ""


def _outside(name: str) -> bool:
    """Whether a member's name is absolute, begins with a drive or climbs up, to the eyes of any system."""
    parts = name.replace("\\", "/").split("/")
    return not parts[0] or ".." in parts or re.match(r"[A-Za-z]:[/\\]", name) is not None


@dataclass(frozen=True)
class _Index:
    """Where each file is, small enough to be sent to other processes: sorted names and numbers int64 [N, k]."""

    names: list[str]
    numbers: Array

    def find(self, name: str) -> list[int]:
        """The numbers of a file that is there."""
        found: list[int] = self.numbers[bisect_left(self.names, name)].tolist()
        return found


def _source(path: Path, listing: _Listing, read: Callable[[_Index], Callable[[str], bytes]], *state: int) -> Source:
    """The source of what was found. The first two numbers of each file, and `state`, change with the pictures."""
    everything = sorted(listing.files)
    index = _Index(everything, np.array([listing.files[name] for name in everything], np.int64))
    names = [name for name in everything if name.rpartition("/")[2] != TABLE]
    tables = len(everything) - len(names)
    table = _table(path, names, listing.files, read(index))
    labels, missing = _labels(names, table)
    return Source(
        names=[name for name in names if name not in missing] if missing else names,
        read=read(index),
        state=digest([*state, table and table.digest, *((name, *listing.files[name][:2]) for name in everything)]),
        labels=labels,
        refused=dict(sorted([*listing.refused.items(), *missing.items()])),
        passed_over=len(listing.passed_over) + tables - (table is not None),
        shuffled=table is not None and table.shuffled,
        top=table.top if table else None,
        channels=table.channels if table else None,
    )


def digest(parts: Iterable[object]) -> str:
    """A short hash of values whose repr says all."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(f"{part!r}\n".encode())
    return state.hexdigest()


# ---- folders


def folder_source(path: Path) -> Source:
    """The pictures in a folder and the folders below it, through links too. Raises UserError where it cannot be
    read.
    """
    root = os.path.abspath(path)
    return _source(path, _walk(root), lambda index: partial(_read_file, root))


def _walk(root: str) -> _Listing:
    """Each real folder once: first what lies below the root itself, then what links lead to."""
    listing, seen = _Listing(), set[tuple[int, int]]()
    folders, links = [""], deque[str]()
    while folders or links:
        linked = not folders
        folder = links.popleft() if linked else folders.pop()
        try:
            if _is_new(os.path.join(root, folder), seen) and not (linked and _lies_in(root, folder)):
                _look_into(root, folder, listing, folders, links)
            else:
                listing.refuse(folder, CIRCLE)
        except OSError as error:
            if not folder:
                raise UserError(f"{root} cannot be read: {error.strerror}.") from None
            listing.refuse(folder, _why(error))
    return listing


def _is_new(path: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was not seen before; now it is."""
    status = os.stat(path)
    identity, before = (status.st_dev, status.st_ino), len(seen)
    seen.add(identity)
    return len(seen) > before


def _lies_in(root: str, link: str) -> bool:
    """Whether a link leads to a folder that the root itself lies in."""
    return Path(os.path.realpath(root)).is_relative_to(os.path.realpath(os.path.join(root, link)))


def _look_into(root: str, folder: str, listing: _Listing, folders: list[str], links: deque[str]) -> None:
    inner, linked = list[str](), list[str]()
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            try:
                if _hidden(entry.name):
                    listing.passed_over.add(name)
                elif entry.is_dir():
                    (linked if entry.is_symlink() else inner).append(name)
                elif entry.is_symlink() or _wanted(name):
                    _look_at(entry, name, listing)
                else:
                    listing.passed_over.add(name)
            except OSError as error:
                listing.refuse(name, _why(error))
    folders += sorted(inner, reverse=True)
    links += sorted(linked)


def _look_at(entry: os.DirEntry[str], name: str, listing: _Listing) -> None:
    status, reason = entry.stat(), None
    if not stat.S_ISREG(status.st_mode):
        reason = "no file but a pipe, a socket or a device"
    elif status.st_size > LIMIT:
        reason = LARGE
    elif not os.access(entry.path, os.R_OK):
        reason = FORBIDDEN
    listing.add(name, (status.st_size, status.st_mtime_ns), reason)


def _why(error: OSError) -> str:
    reasons = {errno.ENOENT: NOWHERE, errno.ELOOP: CIRCLE, errno.EACCES: FORBIDDEN}
    return reasons.get(error.errno or 0, error.strerror or str(error))


def _read_file(root: str, name: str) -> bytes:
    with open(os.path.join(root, name), "rb", opener=_without_waiting) as file:
        data = file.read(LIMIT + 1)
    if len(data) > LIMIT:
        raise Unreadable(LARGE)
    return data


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; should it have become a pipe, do not wait until somebody writes. Windows knows no such pipes."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# ---- zips


def zip_source(path: Path) -> Source:
    """The pictures in a zip file. Raises UserError where it cannot be read."""
    file = os.path.abspath(path)
    try:
        stamp = stamp_of(file)
        listing = _list_zip(file)
    except BROKEN as error:
        raise _mistake(path, "zip", error) from None
    return _source(path, listing, lambda index: partial(_read_member, file, stamp, index))


def _list_zip(path: str) -> _Listing:
    """Numbers of a file: its size, CRC, offset in the archive, packed size, method."""
    listing, size = _Listing(), os.stat(path).st_size
    with _Directory(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            given = info.filename.replace("\\", "/")  # some zips made on Windows have backslashes
            name = listing.plain(given, given.endswith("/"))
            if name:
                numbers = (info.file_size, info.CRC, info.header_offset, info.compress_size, info.compress_type)
                listing.add(name, numbers, _refusal(info, size))
    return listing


class _Directory(io.BufferedReader):
    """A zip file whose members can all be listed: for a single name that is no UTF-8 zipfile would give all up."""

    def read(self, size: int | None = -1, /) -> bytes:
        """The directory comes with its bad names marked, all else as it is."""
        data = super().read(size)
        return _marked(data) if data.startswith(b"PK\1\2") else data


def _marked(directory: bytes) -> bytes:
    """A zip's directory, in which no name claims to be UTF-8 that is not. Such a one has the flag MISNAMED instead."""
    marked, start = bytearray(directory), 0
    while marked.startswith(b"PK\1\2", start) and start + 46 <= len(marked):
        (flags,), lengths = struct.unpack_from("<H", marked, start + 8), struct.unpack_from("<3H", marked, start + 28)
        name = marked[start + 46 : start + 46 + lengths[0]]
        if flags & UTF8 and name.decode(errors="ignore").encode() != name:
            struct.pack_into("<H", marked, start + 8, flags & ~UTF8 | MISNAMED)
        start += 46 + sum(lengths)
    return bytes(marked)


def _refusal(info: zipfile.ZipInfo, archive_size: int) -> str | None:
    """Why a member is not even tried."""
    if info.flag_bits & MISNAMED:
        return NO_UTF8
    if stat.S_ISLNK(info.external_attr >> 16):
        return LINK
    if info.flag_bits & 1:
        return "encrypted"
    if info.compress_type not in UNPACKERS:
        return f"packed with method {info.compress_type}, which Python cannot read"
    if max(info.file_size, info.compress_size) > LIMIT:
        return LARGE
    inside = info.header_offset >= 0 and info.header_offset + info.compress_size <= archive_size
    return None if inside else DAMAGED


def _read_member(path: str, stamp: tuple[int, int], index: _Index, name: str) -> bytes:
    """One file of a zip. Never inflates more than its declared size; raises Unreadable, OSError."""
    size, crc, offset, packed_size, method = index.find(name)
    with open(path, "rb") as file:
        packed = _packed(_unchanged(file, stamp), offset, packed_size)
    try:
        data = UNPACKERS[method](packed, size + 1)
    except BROKEN as error:
        raise Unreadable(f"{DAMAGED} ({first_line(error)})") from None
    if len(data) != size or zlib.crc32(data) != crc:
        raise Unreadable(f"{DAMAGED} (size or checksum differs)")
    return data


def _packed(file: BinaryIO, offset: int, size: int) -> bytes:
    """What follows a member's own header, whose name and extra field have lengths of their own."""
    file.seek(offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\3\4"):
        raise Unreadable(DAMAGED)
    file.seek(sum(struct.unpack_from("<2H", header, 26)), os.SEEK_CUR)
    return file.read(size)


def _unlzma(packed: bytes, size: int) -> bytes:
    """A zip's own LZMA header (version, length, 5 bytes of settings) is made into that of a .lzma file."""
    alone = packed[4:9] + b"\xff" * 8 + packed[9:]
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=LIMIT).decompress(alone, size)


UNPACKERS: dict[int, Callable[[bytes, int], bytes]] = {
    zipfile.ZIP_STORED: lambda packed, size: packed[:size],
    zipfile.ZIP_DEFLATED: lambda packed, size: zlib.decompressobj(-15).decompress(packed, size),
    zipfile.ZIP_BZIP2: lambda packed, size: bz2.BZ2Decompressor().decompress(packed, size),
    zipfile.ZIP_LZMA: _unlzma,
}
"""Method -> (packed, n) -> the first n bytes at most. zipfile's own reader bounds neither bzip2 nor LZMA."""


def stamp_of(path: str | Path) -> tuple[int, int]:
    """Size and time of change: equal while a file has most likely not changed. Raises OSError for what is no file,
    such as a pipe, which would be waited for.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no plain file")
    return status.st_size, status.st_mtime_ns


def _unchanged(file: BinaryIO, stamp: tuple[int, int]) -> BinaryIO:
    status = os.fstat(file.fileno())
    if (status.st_size, status.st_mtime_ns) != stamp:
        raise Unreadable(CHANGED)
    return file


def first_line(error: BaseException) -> str:
    """What an error says, at most 200 characters of one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _mistake(path: Path, kind: str, error: BaseException, damage: str = "") -> UserError:
    """What to tell of an archive that cannot be opened."""
    if isinstance(error, PermissionError):
        return UserError(f"{path} cannot be read: {error.strerror}.")
    return UserError(f"{path} is a damaged {kind} file ({damage or first_line(error)}); get or make it again.")


# ---- tars


def is_tar(path: Path) -> bool:
    """Whether a path is a tar file, compressed by gzip, bzip2, xz or not; told by its first bytes, not its name. Raises
    UserError where there is no permission to read them.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with (_opener(path) or open)(path, "rb") as file:
            block = file.read(tarfile.BLOCKSIZE)
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except PermissionError as error:
        raise _mistake(path, "tar", error) from None
    except BROKEN:
        return False
    return True


def tar_source(path: Path, scratch: Path) -> Source:
    """The pictures in a tar file. A compressed one is uncompressed into the folder `scratch`, which the reading needs
    too. Raises UserError where the file cannot be read, or the disk has no room.
    """
    damage = ""
    try:
        stamp = stamp_of(path)
        plain, damage = _uncompressed(path, scratch) if _opener(path) else (path, "")
        file = os.path.abspath(plain)
        listing, plain_stamp = _list_tar(file, path.name, damage), stamp_of(file)
    except UserError:
        raise
    except BROKEN as error:
        raise _mistake(path, "tar", error, damage) from None
    return _source(path, listing, lambda index: partial(_read_span, file, plain_stamp, index), *stamp)


def _list_tar(path: str, shown: str, damage: str) -> _Listing:
    """Numbers of a file: its size, offset in the archive. What follows a damage is lost, which is noted."""
    listing, size = _Listing(), os.stat(path).st_size
    with (
        _Headers(path) as file,
        tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar,
    ):
        try:
            for member in _members(tar):
                _list_member(member, listing, size)
            damage = damage or _ending(file, tar.offset)
        except BROKEN as error:
            damage = damage or first_line(error)
    if damage and CUT_OFF not in listing.refused.values():
        listing.refuse(shown, f"damaged after {len(listing.files)} pictures, and read so far ({damage})")
    return listing


def _list_member(member: tarfile.TarInfo, listing: _Listing, archive_size: int) -> None:
    name = listing.plain(member.name, member.isdir())
    if not name:
        return
    numbers, reason = (member.size, member.offset_data), _objection(member, archive_size)
    if name in listing.files and not reason:  # tar itself takes the last: `tar --update` appends
        listing.refuse(name, "replaced by a later member of the same name")
        listing.files[name] = numbers
    else:
        listing.add(name, numbers, reason)


def _objection(member: tarfile.TarInfo, archive_size: int) -> str | None:
    """Why a member is not even tried."""
    if member.islnk() or member.issym():
        return LINK
    if member.issparse() or not member.isreg():
        return "no plain file"
    if member.size > LIMIT:
        return LARGE
    return CUT_OFF if member.offset_data + member.size > archive_size else None


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """tarfile's own iteration, but it forgets what it has seen and goes forwards only: a million members do not fill
    the memory, nor does a negative size turn in circles.
    """
    end = -1
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if tar.offset <= end or member.size < 0:
            raise tarfile.ReadError("a member of negative size")
        end = tar.offset
        yield member


def _ending(file: BinaryIO, offset: int) -> str:
    """What is wrong with the place where the members end: tarfile stops at a damaged header without a word."""
    file.seek(offset)
    return "no header where one should be" if file.read(tarfile.BLOCKSIZE).strip(b"\0") else ""


class _Headers(io.FileIO):
    """A tar file of which only headers are read, however large they claim to be."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most 256 KiB."""
        if size is None or not 0 <= size <= 1 << 18:
            raise tarfile.ReadError("a header of absurd size")
        return super().read(size) or b""


def _read_span(path: str, stamp: tuple[int, int], index: _Index, name: str) -> bytes:
    size, offset = index.find(name)
    with open(path, "rb") as file:
        _unchanged(file, stamp).seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise Unreadable(CUT_OFF)
    return data


def _opener(path: Path) -> Callable[[Path, str], Any] | None:
    """What opens a compressed file; None for one that is not."""
    with path.open("rb") as file:
        head = file.read(6)
    openers: dict[bytes, Callable[[Path, str], Any]] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ\x00": lzma.open,
    }
    return next((opener for magic, opener in openers.items() if head.startswith(magic)), None)


def _uncompressed(path: Path, scratch: Path) -> tuple[Path, str]:
    """A compressed file's content as a file in scratch, made once, and what is wrong with its end, or nothing."""
    opener = _opener(path)
    assert opener
    key = digest([os.path.abspath(path), *stamp_of(path)])
    plain, note = scratch / f"{key}.tar", scratch / f"{key}.txt"
    if not (plain.exists() and note.exists()):
        with opener(path, "rb") as packed:
            write_text(note, unpack(packed.read1, plain, path))
    return plain, note.read_text(encoding="utf-8")


def unpack(read1: Callable[[int], bytes], target: Path, shown: Path) -> str:
    """Write what a compressed file holds, whole or up to the place where it is damaged; returns the damage, or nothing.

    read1: gives some next bytes of it, so many at most. Raises UserError where the disk would be filled, or cannot be
    written; then there is no target.
    """
    with atomic(target) as temporary, temporary.open("wb") as file:
        while True:
            try:
                chunk = read1(1 << 16)  # not `read`: that loses what came before a damage
            except BROKEN as error:
                return first_line(error)
            if not chunk:
                return ""
            if shutil.disk_usage(target.parent).free < ROOM + len(chunk):
                raise UserError(
                    f"{shown} holds more than there is room for in {target.parent}; free some of that disk."
                )
            file.write(chunk)


# ---- labels


@dataclass(frozen=True)
class _Table:
    """A dataset.json as StyleGAN2 and 3 have it. Names in it are relative to its own folder. What only our own writer
    notes of all pictures is None elsewhere.
    """

    shown: str
    digest: str  # of its content
    folder: str  # "" or "train/"
    labels: dict[str, Any] | None  # {name: class or vector}; None = the pictures have no labels
    names: list[str] | None
    shuffled: bool
    channels: int | None
    top: int | None


def _labels(names: list[str], table: _Table | None) -> tuple[Labels | None, dict[str, str]]:
    """Labels by table, else by folders; and {name: reason} of pictures that a table does not have."""
    if table is None:
        return _folder_labels(names), {}
    if table.labels is None:
        return None, {}
    keys = {name: name.removeprefix(table.folder) for name in names}
    found = [table.labels[key] for key in keys.values() if key in table.labels]
    missing = {name: f"no label in {TABLE}" for name, key in keys.items() if key not in table.labels}
    return _table_labels(found, table) if found else None, missing


def _folder_labels(names: list[str]) -> Labels | None:
    """The first folder below the one that all pictures share is a picture's class, where each has one and there are
    two classes at least.
    """
    depth = _shared_depth(names)
    parts = [name.split("/") for name in names]
    classes = sorted({part[depth] for part in parts})
    if len(classes) < 2 or any(len(part) == depth + 1 for part in parts):
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    return Labels(np.array([numbers[part[depth]] for part in parts], np.int64), tuple(classes))


def _shared_depth(names: list[str]) -> int:
    """How many folders all pictures have in common."""
    folders = [name.split("/")[:-1] for name in names]
    pairs = zip(min(folders), max(folders)) if folders else ()
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _table(path: Path, names: list[str], files: Iterable[str], read: Callable[[str], bytes]) -> _Table | None:
    """The uppermost dataset.json in the folders that all pictures share."""
    shared = names[0].split("/")[: _shared_depth(names)] if names else []
    folders = ["".join(f"{part}/" for part in shared[:depth]) for depth in range(len(shared) + 1)]
    for folder in folders:
        if folder + TABLE in files:
            return _parsed(path, folder, read)
    return None


def _parsed(path: Path, folder: str, read: Callable[[str], bytes]) -> _Table | None:
    """None for a table of another program's, which has no `labels`."""
    shown = str(path / folder / TABLE)
    try:
        content = read(folder + TABLE)
        table = json.loads(content)
    except (OSError, ValueError, RecursionError, Unreadable) as error:
        raise UserError(f"{shown} cannot be read ({first_line(error)}); mend it, or take it away.") from None
    if not isinstance(table, dict) or "labels" not in table:
        return None
    labels, names = table["labels"], table.get("names")
    if not _are_entries(labels) or not _are_names(names):
        raise UserError(
            f'{shown} is malformed: let "labels" be null or [[picture, label], ...], and "names" [name, ...].'
        )
    by_name = {str(PurePosixPath(name)): label for name, label in labels or ()}
    shuffled, channels, top = table.get("shuffled") is True, table.get("channels"), table.get("resolution")
    channels = channels if type(channels) is int and channels in (1, 3) else None
    top = top if type(top) is int and top >= 4 and top.bit_count() == 1 else None
    return _Table(shown, digest([content]), folder, by_name or None, names, shuffled, channels, top)


def _are_entries(labels: Any) -> bool:
    if not isinstance(labels, list):
        return labels is None
    return all(isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) for entry in labels)


def _are_names(names: Any) -> bool:
    """Whether classes are named by texts, each once, or not at all."""
    if not isinstance(names, list):
        return names is None
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _table_labels(found: list[Any], table: _Table) -> Labels:
    """Numbers are classes, lists of numbers are vectors; true and false are neither."""
    if all(type(label) is int for label in found):
        return class_labels(found, table.names or None, table.shown)
    lengths = {len(label) if isinstance(label, list) else 0 for label in found}
    if len(lengths) != 1 or 0 in lengths or not all(type(n) in (int, float) for label in found for n in label):
        raise UserError(f"{table.shown} mixes kinds of labels: let all be whole numbers, or all lists of one length.")
    if not all(abs(n) < 3e38 for label in found for n in label):
        raise UserError(f"{table.shown} has labels that are no finite float32 numbers; mend them.")
    return Labels(np.array(found, np.float32))


def class_labels(numbers: Any, names: list[str] | None, shown: str) -> Labels:
    """Whole numbers [N] as classes. names: of all classes, else "0", "1", ... are theirs. Raises UserError where a
    number is negative, absurd, or has no name.
    """
    least, most = int(min(numbers)), int(max(numbers))
    count = MOST_CLASSES if names is None else len(names)
    if least < 0 or most >= count:
        wrong = least if least < 0 else most
        raise UserError(f"{shown} has a class {wrong}; classes are numbers from 0 to {count - 1:,}.")
    return Labels(np.array(numbers, np.int64), tuple(map(str, range(most + 1))) if names is None else tuple(names))
