"""Data sets of the official code (Karras et al. 2018), read and written without TensorFlow.

PREFIX-r02.tfrecords   the pictures at 4x4, and so on up to the top: PREFIX-rNN.tfrecords holds 2**NN x 2**NN
PREFIX-rxx.labels      where there are labels: an .npy of float32 [N, L], in the order of the records
PREFIX-names.json      where classes have names: a list of L texts; the official code passes it over

A record is its message's length (uint64), the masked CRC32C of that length, the message, and the masked CRC32C of the
message, all little-endian. The message is a protobuf tf.train.Example of two features: `shape`, int64 [3], and `data`,
the bytes of uint8 [C, R, R].
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import google_crc32c
import numpy as np

from progan.data.source import Array, Labels, Levels, Source, Unreadable
from progan.errors import UserError

NAME = re.compile(r"(?P<prefix>[^.].*)-r(?P<log2>0[2-9]|[1-9][0-9])\.tfrecords", re.DOTALL)
HEAD, FOOT = struct.Struct("<QI"), struct.Struct("<I")  # of a record: length and its checksum; message's checksum
FRAME = HEAD.size + FOOT.size  # bytes of a record beside its message
CHUNK = 64  # pictures between two reports of progress
NO_ARRAY = (ValueError, OverflowError, TypeError, SyntaxError, TokenError)  # what NumPy raises for damaged .npy files


# --- the set ---


def is_tfrecords(path: Path) -> bool:
    """Whether a path is a folder that holds PREFIX-rNN.tfrecords, or one such file. Raises UserError where there is no
    permission to look.
    """
    try:
        return bool(_sets(path)) if path.is_dir() else NAME.fullmatch(path.name) is not None and path.is_file()
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except OSError:  # a path that cannot even be asked about
        return False


def tfrecords_source(path: Path) -> Source:
    """The pictures of a folder that holds one official data set, or of the set that a file belongs to.

    Names are "000000", ...; a picture is read at all levels, top-down, and counts only if it is whole at each. A file
    that is cut off or damaged loses the pictures behind that place; they are named all the same, and unreadable.
    Raises UserError where the set has gaps, holds other things than square pictures of 1 or 3 channels, or where its
    labels do not fit.
    """
    try:
        prefix, files = _chosen(path)
        levels = tuple(_index(files[r], r) for r in sorted(files, reverse=True))
        channels = _channels(levels[0])
        beside = files[4].parent / f"{prefix}-rxx.labels", files[4].parent / f"{prefix}-names.json"
        labels, count = _labels(*beside, max(level.count for level in levels))
        state = repr([(file.name, *_stamp(file)) for file in [*files.values(), *beside] if file.is_file()])
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror or error}.") from None
    names = [str(number).zfill(max(6, len(str(count - 1)))) for number in range(count)]
    read = partial(_read, levels, channels)
    top = levels[0].resolution
    return Source(names, read, state, labels, shuffled=True, parallel=False, top=top, channels=channels)


def _sets(folder: Path) -> dict[str, dict[int, Path]]:
    """The data sets in a folder: {prefix: {resolution: file}}."""
    found: dict[str, dict[int, Path]] = {}
    for match in filter(None, map(NAME.fullmatch, sorted(os.listdir(folder)))):
        if (file := folder / match.string).is_file():
            found.setdefault(match["prefix"], {})[2 ** int(match["log2"])] = file
    return found


def _chosen(path: Path) -> tuple[str, dict[int, Path]]:
    """The set that a path means: its prefix and {resolution: file}, without a gap from 4 up."""
    if not is_tfrecords(path):
        raise UserError(f"{path} is neither a folder with PREFIX-rNN.tfrecords files nor one such file.")
    sets = _sets(path if path.is_dir() else path.parent)
    match = NAME.fullmatch(path.name)
    prefix = match["prefix"] if match and path.is_file() else min(sets)
    if path.is_dir() and len(sets) > 1:
        example, several = max(sets[prefix].values()), ", ".join(sets)
        raise UserError(f"{path} holds several data sets ({several}); name one of the files, such as {example}.")
    wanted = (2**log2 for log2 in range(2, max(sets[prefix]).bit_length()))
    missing = [_file_name(prefix, resolution) for resolution in wanted if resolution not in sets[prefix]]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; a data set has a file for every resolution from 4x4 up.")
    return prefix, sets[prefix]


def _file_name(prefix: str, resolution: int) -> str:
    return f"{prefix}-r{resolution.bit_length() - 1:02d}.tfrecords"


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


# --- reading records ---


@dataclass(frozen=True)
class _Level:
    """Where the records of one file are. `runs`: (number of the first record, its offset, bytes of a message) for each
    stretch of records of one length; the official files are one stretch. `end`: why there are no more.
    """

    file: Path
    resolution: int
    runs: tuple[tuple[int, int, int], ...]
    count: int
    end: str


def _index(file: Path, resolution: int) -> _Level:
    """Hop over the lengths of a file's records, up to its end or to the first that is not whole."""
    runs: list[tuple[int, int, int]] = []
    count, end, size = 0, "the file is cut off", file.stat().st_size
    with file.open("rb") as stream:
        while len(head := stream.read(HEAD.size)) == HEAD.size:
            offset, (length, _) = stream.tell() - HEAD.size, HEAD.unpack(head)
            if head != _head(length):
                end = "the file is damaged"
                break
            if offset + FRAME + length > size:
                break
            if not runs or runs[-1][2] != length:
                runs.append((count, offset, length))
            count += 1
            stream.seek(offset + FRAME + length)
    if not count:
        raise UserError(_refusal(file))
    return _Level(file, resolution, tuple(runs), count, end)


def _refusal(file: Path) -> str:
    """Why a file without one whole record cannot be read."""
    with file.open("rb") as stream:
        start = stream.read(2)
    if start == b"\x1f\x8b":
        return f"{file} is compressed with gzip; unpack it first, for progan reads records where they lie."
    if not start:
        return f"{file} is empty; make the data set again."
    return f"{file} holds no whole record: it is no TFRecord file, or is cut off or damaged at its very start."


def _record(level: _Level, number: int) -> bytes:
    """The message of one record. Raises Unreadable where it is missing or its checksums do not fit."""
    if number >= level.count:
        raise Unreadable(f"missing in {level.file.name} ({level.end})")
    first, offset, length = level.runs[bisect_right(level.runs, number, key=lambda run: run[0]) - 1]
    with level.file.open("rb") as stream:  # anew each time: nothing for threads and forks to share, at 10 us a file
        stream.seek(offset + (number - first) * (FRAME + length))
        frame = stream.read(FRAME + length)
    message = frame[HEAD.size : -FOOT.size]
    if frame[: HEAD.size] != _head(length) or frame[-FOOT.size :] != FOOT.pack(_masked(google_crc32c.value(message))):
        raise Unreadable(f"damaged record in {level.file.name} (checksum)")
    return message


def _head(length: int) -> bytes:
    """What stands before a message of so many bytes."""
    number = struct.pack("<Q", length)
    return number + FOOT.pack(_masked(google_crc32c.value(number)))


def _masked(crc: int) -> int:
    """A CRC32C as records hold it: rotated, and a constant added."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


# --- reading pictures ---


def _read(levels: tuple[_Level, ...], channels: int, name: str) -> Levels:
    return tuple(_pixels(_record(level, int(name)), level, (channels,)) for level in levels)


def _channels(level: _Level) -> int:
    """Channels of a file's first undamaged picture. Raises UserError where that is not what belongs there."""
    for number in range(level.count):
        with contextlib.suppress(Unreadable):
            message = _record(level, number)
            break
    else:
        raise UserError(f"{level.file} holds no undamaged record; fetch or make the data set again.")
    try:
        return len(_pixels(message, level, (1, 3)))
    except Unreadable as error:
        raise UserError(f"{level.file} is no level of an official data set: {error}.") from None


def _pixels(message: bytes, level: _Level, channels: tuple[int, ...]) -> Array:
    """Decode a picture: uint8 [C, R, R] of the level's R, and C one of `channels`. Raises Unreadable."""
    file, r = level.file.name, level.resolution
    try:
        shape, data = _example(message)
    except ValueError:
        raise Unreadable(f"a record of {file} is no picture") from None
    if shape not in [[c, r, r] for c in channels]:
        wanted = " or ".join(f"{c}x{r}x{r}" for c in channels)
        raise Unreadable(f"a record of {file} is {'x'.join(map(str, shape))} where {wanted} belongs")
    if len(data) != math.prod(shape):
        raise Unreadable(f"a record of {file} has not as many bytes as pixels")
    return np.frombuffer(data, np.uint8).reshape(shape).copy()  # writable, and rid of the rest of the record


def _example(message: bytes) -> tuple[list[int], memoryview]:
    """Parse a tf.train.Example -> (the integers of `shape`, the bytes of `data`). Raises ValueError."""
    features: dict[bytes, memoryview] = {}
    for entry in _parts(_whole(memoryview(message), 1), 1):
        features[b"".join(_parts(entry, 1)[-1:])] = _whole(entry, 2)
    if not {b"shape", b"data"} <= features.keys():
        raise ValueError("a feature is missing")
    (data,) = _parts(_whole(features[b"data"], 1), 1)
    return list(_integers(_whole(features[b"shape"], 3))), data


def _integers(message: memoryview) -> Iterator[int]:
    """The values of an Int64List, one by one or packed; unsigned, for no size is negative."""
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            yield value
        position = 0
        while number == 1 and isinstance(value, memoryview) and position < len(value):
            integer, position = _varint(value, position)
            yield integer


def _whole(message: memoryview, number: int) -> memoryview:
    """An embedded message. Where it comes in parts, protobuf takes them one after another."""
    parts = _parts(message, number)
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def _parts(message: memoryview, number: int) -> list[memoryview]:
    """The values of all fields of a number that are texts, bytes or messages."""
    return [value for found, value in _fields(message) if found == number and isinstance(value, memoryview)]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview | None]]:
    """(number, value) of a message's fields: an integer, bytes, or None for a kind that an Example has not. Raises
    ValueError where the message is malformed.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        length, position = _varint(message, position) if kind == 2 else ({1: 8, 5: 4}.get(kind, 0), position)
        if not (kind == 2 or length) or position + length > len(message):
            raise ValueError("not a protobuf message")
        yield number, message[position : position + length] if kind == 2 else None
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """An integer, seven bits a byte, lowest first -> (it, the position behind it). Raises ValueError."""
    value = 0
    for count, byte in enumerate(message[position : position + 10]):
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, position + count + 1
    raise ValueError("not a protobuf message")


# --- reading labels ---


def _labels(file: Path, names: Path, count: int) -> tuple[Labels | None, int]:
    """The labels of a set of so many pictures, and how many pictures there are after all: labels without a picture
    tell of one that is lost.
    """
    values = _label_values(file) if file.is_file() else np.zeros((count, 0), np.float32)
    if len(values) < count:
        raise UserError(f"{file} has labels for {len(values)} of {count} pictures; make the data set again.")
    if not values.shape[1]:
        return None, count
    one_hot = bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())
    if names.is_file() and not one_hot:
        raise UserError(f"{names} names classes, but {file.name} holds no one-hot labels; delete one of the two.")
    if not one_hot:
        return Labels(values), len(values)
    return Labels(values.argmax(1).astype(np.int64), _names(names, values.shape[1])), len(values)


def _label_values(file: Path) -> Array:
    """The table in a labels file, float32 [N, L], all finite."""
    try:
        table = np.lib.format.open_memmap(file, mode="r")  # nothing pickled, and no larger than the file
    except NO_ARRAY as error:
        raise UserError(f"{file} is no array of labels, or is damaged ({error}).") from None
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise UserError(f"{file} holds {table.dtype} {table.shape} where one row of numbers a picture is expected.")
    with np.errstate(over="ignore"):
        values = np.array(table, np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{file} holds labels that are no finite numbers; make the data set again.")
    return values


def _names(file: Path, count: int) -> tuple[str, ...]:
    """The names of classes: those in the file, or where there is none "0", "1", ..."""
    if not file.is_file():
        return _numbers(count)
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        names = None
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not texts or not len(names) == len(set(names)) == count:
        raise UserError(f"{file} must be a list of {count} names, one a class, each once; mend it or delete it.")
    return tuple(names)


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


# --- writing ---


def write_tfrecords(
    folder: Path,
    prefix: str,
    levels: Mapping[int, Array],
    labels: Labels | None,
    progress: Callable[[int, int], None],
) -> None:
    """Write an official data set into an empty folder, in the order given. levels: {R: uint8 [N, C, R, R]} for every
    R from 4 to the top. Classes become one-hot rows. progress(done, total) counts pictures.

    Raises UserError where the prefix cannot begin a file's name.
    """
    if not prefix or prefix.startswith(".") or re.search(r'[/\\:*?"<>|\x00-\x1f]', prefix):
        raise UserError(f"{prefix!r} cannot begin the names of files; use letters, digits, - and _.")
    _write_levels({r: folder / _file_name(prefix, r) for r in sorted(levels)}, levels, progress)
    if labels is not None:
        size = len(labels.names) or labels.values.shape[1]
        _write_label_rows(folder / f"{prefix}-rxx.labels", labels, size)
        if labels.names and labels.names != _numbers(size):
            text = json.dumps(labels.names, indent=1)  # ASCII: a folder's name need not be UTF-8
            (folder / f"{prefix}-names.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def _write_levels(files: Mapping[int, Path], levels: Mapping[int, Array], progress: Callable[[int, int], None]) -> None:
    total = len(next(iter(levels.values())))
    with contextlib.ExitStack() as stack:
        streams = {resolution: stack.enter_context(file.open("wb")) for resolution, file in files.items()}
        for start in range(0, total, CHUNK):
            for resolution, stream in streams.items():
                _write_records(stream, levels[resolution][start : start + CHUNK])
            progress(min(start + CHUNK, total), total)


def _write_records(stream: BinaryIO, pictures: Array) -> None:
    """Write pictures uint8 [n, C, R, R], one record each."""
    before = _before_pixels(pictures.shape[1:])
    head, crc = _head(len(before) + math.prod(pictures.shape[1:])), google_crc32c.value(before)
    for picture in pictures:
        data = picture.tobytes()
        stream.write(b"".join((head, before, data, FOOT.pack(_masked(google_crc32c.extend(crc, data))))))


def _before_pixels(shape: Iterable[int]) -> bytes:
    """The tf.train.Example of a picture of that shape [C, R, R], up to its pixels, which are its end."""
    size, shape_value = math.prod(shape), b"".join(map(_varint_bytes, shape))
    shape_feature = _field(3, _field(1, shape_value))
    data_feature = _field(1, _field(1, b"", size), size)
    entries = _field(1, _field(1, b"shape") + _field(2, shape_feature))
    entries += _field(1, _field(1, b"data") + _field(2, data_feature, size), size)
    return _field(1, entries, size)


def _field(number: int, value: bytes, more: int = 0) -> bytes:
    """A field that holds a text, bytes or a message of which so many bytes more will follow."""
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(value) + more) + value


def _varint_bytes(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint_bytes(rest) if rest else bytes([low])


def _write_label_rows(file: Path, labels: Labels, size: int) -> None:
    """Write what np.save writes of float32 [N, size], a part at a time: one-hot rows can be many."""
    count = len(labels.values)
    about = {"descr": "<f4", "fortran_order": False, "shape": (count, size)}
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, about)
        for start in range(0, count, CHUNK):
            stream.write(_rows(labels[np.arange(start, min(start + CHUNK, count))], size).tobytes())


def _rows(labels: Labels, size: int) -> Array:
    """Labels as vectors, float32 [n, size]: classes one-hot."""
    vectors = labels.values[:, None] == np.arange(size) if labels.names else labels.values
    return np.ascontiguousarray(vectors, "<f4")
