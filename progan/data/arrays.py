"""Pictures in numpy arrays: .npy and .npz files of uint8, with labels where the file has some.

[N, H, W, C], [N, C, H, W] or [N, H, W]; C is 1, 3 or 4 (with alpha). Where both ends of a picture's shape could be its
channels, they are the one that leaves squares; where that does not tell either, the last.

An .npz holds its pictures under `images`, `x`, `data`, `arr_0`, `x_train` or `train_images`, or they are its only uint8
array of four axes; its labels under `labels`, `y`, `y_train`, `train_labels` or `arr_1`. Those of X.npy lie beside it
in X-labels.npy, as the first ProGAN code had it.
"""

from __future__ import annotations

import math
import os
import tokenize
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from progan.data.archives import BROKEN, CHANGED, LIMIT, class_labels, digest, first_line, stamp_of, unpack
from progan.data.source import Array, Labels, Source, Unreadable
from progan.errors import UserError

PICTURES = ("images", "x", "data", "arr_0", "x_train", "train_images")
LABELS = ("labels", "y", "y_train", "train_labels", "arr_1")
CHANNELS = (1, 3, 4)
ALONE = 64  # pixels: up to this side a picture is dealt with sooner than it is sent to another process

LONGEST = 10_000  # bytes of a header; numpy takes no longer one for safe either

HEADERS = {(1, 0): (np.lib.format.read_array_header_1_0, 2), (2, 0): (np.lib.format.read_array_header_2_0, 4)}
"""Version -> (what reads the header, how many bytes tell its length)."""


@dataclass(frozen=True)
class _Head:
    """What a .npy file says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class _Place:
    """Where an array lies: in a file, after `offset` bytes, in order C or F."""

    file: str
    stamp: tuple[int, int]
    offset: int
    shape: tuple[int, ...]
    order: str
    layout: str  # of one picture: HW, HWC or CHW


def array_source(path: Path, scratch: Path) -> Source:
    """The pictures of a .npy or .npz file, named 000000, 000001, ... An .npz's are copied into the folder `scratch`,
    which the reading needs too. Raises UserError where the file has no such pictures, or is damaged.
    """
    with _understood(path):
        stamp = stamp_of(path)
        place, labels, state = _npy(path) if _is_npy(path) else _npz(path, scratch)
    height, width = (place.shape[1 + place.layout.index(axis)] for axis in "HW")
    channels = place.shape[1 + place.layout.index("C")] if "C" in place.layout else 1
    return Source(
        names=[f"{number:06d}" for number in range(place.shape[0])],
        read=partial(_read, place),
        state=digest([*stamp, *state]),
        labels=labels,
        parallel=max(height, width) > ALONE,
        top=width if width == height and width >= 4 and width.bit_count() == 1 else None,
        channels=channels if channels != 4 else None,
    )


def _read(place: _Place, name: str) -> Array:
    """One picture, uint8 [C, H, W]. Maps the file anew each time: a mapping that is kept would keep a removed file's
    disk space too.
    """
    if stamp_of(place.file) != place.stamp:
        raise Unreadable(CHANGED)
    pictures: Any = np.memmap(place.file, np.uint8, "r", place.offset, place.shape, place.order)  # type: ignore[call-overload]
    picture = pictures[int(name)]
    if place.layout == "HWC":
        picture = picture.transpose(2, 0, 1)
    return np.array(picture[None] if place.layout == "HW" else picture, order="C")


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Make UserErrors of all that numpy raises for damaged files. Headers written by Python 2 make it warn; they are
    fine.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (*BROKEN, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise UserError(f"{path} holds no array that can be read ({first_line(error)}); save it as uint8.") from None


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == np.lib.format.MAGIC_PREFIX


def _npy(path: Path) -> tuple[_Place, Labels | None, tuple[int, ...]]:
    """Where the array lies, its labels, and what the state depends on beside the file itself."""
    with path.open("rb") as file:
        layout = _layout(_head(file), str(path))
    place, beside = _place(path, layout), path.with_name(f"{path.stem}-labels.npy")
    if not beside.is_file():
        return place, None, ()
    with _understood(beside), beside.open("rb") as file:
        labels = _labels(file, place.shape[0], str(beside))
        if labels is None:
            file.seek(0)
            raise _unfit(f"{beside} holds {_head(file)}", f"the {place.shape[0]} pictures of {path}")
    return place, labels, stamp_of(beside)


def _npz(path: Path, scratch: Path) -> tuple[_Place, Labels | None, tuple[int, ...]]:
    """As _npy; the array of pictures is copied to scratch, once."""
    with zipfile.ZipFile(path) as archive:
        heads = _heads(archive, path)
        key = _chosen(heads, path)
        layout = _layout(heads[key], f"{path} ({key})")
        file = scratch / f"{digest([os.path.abspath(path), *stamp_of(path)])}.npy"
        if not file.exists():
            _copy(archive, key, file, path)
        place = _place(file, layout)
        labels = _npz_labels(archive, heads, place.shape[0], path)
    return place, labels, ()


def _heads(archive: zipfile.ZipFile, path: Path) -> dict[str, _Head]:
    """What an .npz holds: {key: head}."""
    heads = {}
    for info in archive.infolist():
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are unpacked without bounds
            raise UserError(f"{path} is packed in a way that numpy does not use; save it with numpy.savez.")
        if info.filename.endswith(".npy"):
            with archive.open(info) as file:
                heads[info.filename.removesuffix(".npy")] = _head(file)
    return heads


def _head(file: IO[bytes]) -> _Head:
    reader, digits = HEADERS.get(np.lib.format.read_magic(file), (None, 0))
    start = file.tell()
    if reader is None or int.from_bytes(file.read(digits), "little") > LONGEST:
        return _Head((), np.dtype(object))  # only odd tables have headers so long, or in UTF-8
    file.seek(start)
    shape, _, dtype = reader(file)
    return _Head(shape, dtype)


def _chosen(heads: dict[str, _Head], path: Path) -> str:
    """The key of the pictures."""
    fitting = [key for key, head in heads.items() if head.dtype == np.uint8 and len(head.shape) in (3, 4)]
    of_four_axes = [key for key in fitting if len(heads[key].shape) == 4]
    named = [key for key in PICTURES if key in fitting] or [key for key in PICTURES if key in heads]
    if named and (named[0] in fitting or len(of_four_axes) != 1):
        return named[0]
    if len(of_four_axes) == 1:
        return of_four_axes[0]
    found = ", ".join(f"{key}: {head}" for key, head in heads.items()) or "nothing"
    raise UserError(f"{path} has no pictures under {', '.join(PICTURES)}, and holds {found}; save them as `images`.")


def _layout(head: _Head, shown: str) -> str:
    """HW, HWC or CHW. Raises UserError for what are no pictures."""
    if head.dtype != np.uint8:
        raise UserError(f"{shown} holds {head}; convert it to uint8, 0 to 255.")
    shape = head.shape[1:]
    if 0 in head.shape or len(shape) not in (2, 3) or (len(shape) == 3 and not {shape[0], shape[2]} & {*CHANNELS}):
        raise UserError(
            f"{shown} holds {head}; pictures are [N, H, W, C], [N, C, H, W] or [N, H, W], and C is 1, 3 or 4."
        )
    if len(shape) == 2:
        return "HW"
    if shape[0] in CHANNELS and shape[2] in CHANNELS:
        return "CHW" if shape[1] == shape[2] and shape[0] != shape[1] else "HWC"
    return "HWC" if shape[2] in CHANNELS else "CHW"


def _place(file: Path, layout: str) -> _Place:
    """Raises what numpy raises where the file is cut off."""
    path = os.path.abspath(file)
    array = np.lib.format.open_memmap(path, mode="r")
    order = "C" if array.flags.c_contiguous else "F"
    return _Place(path, stamp_of(path), array.offset, array.shape, order, layout)


def _copy(archive: zipfile.ZipFile, key: str, target: Path, path: Path) -> None:
    with archive.open(f"{key}.npy") as member:
        damage = unpack(member.read1, target, path)  # type: ignore[attr-defined]
    if damage:
        target.unlink()
        raise UserError(f"{path} is damaged ({damage}); get or make it again.")


def _npz_labels(archive: zipfile.ZipFile, heads: dict[str, _Head], count: int, path: Path) -> Labels | None:
    """The labels; arr_1, which may be anything, only where it fits. Raises UserError where others do not."""
    key = next((key for key in LABELS if key in heads), None)
    if key is None:
        return None
    with archive.open(f"{key}.npy") as file:
        labels = _labels(file, count, f"{path} ({key})")
    if labels is None and key != "arr_1":
        raise _unfit(f"{path} holds {key} {heads[key]}", f"its {count} pictures")
    return labels


def _unfit(finding: str, pictures: str) -> UserError:
    return UserError(f"{finding}, which do not fit {pictures}; let them be whole numbers [N] or vectors [N, L].")


def _labels(file: IO[bytes], count: int, shown: str) -> Labels | None:
    """Labels from a .npy file; None where they do not fit the pictures. Raises UserError for impossible values."""
    head = _head(file)
    size = head.dtype.itemsize * math.prod(head.shape)
    if len(head.shape) not in (1, 2) or head.shape[0] != count or head.dtype.kind not in "biufU" or size > LIMIT:
        return None
    file.seek(0)
    values: Array = np.lib.format.read_array(file, allow_pickle=False)
    if values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind != "f":
        values = values[:, 0]
    if values.ndim == 2:
        return _vectors(values, shown) if values.dtype.kind != "U" and values.size else None
    return _classes(values, shown) if values.dtype.kind != "f" else None


def _classes(values: Array, shown: str) -> Labels:
    """Whole numbers [N], or the names of the classes [N], which are numbered in their order."""
    if values.dtype.kind == "U":
        names, numbers = np.unique(values, return_inverse=True)
        return Labels(numbers.astype(np.int64), tuple(names.tolist()))
    return class_labels(values.astype(int if values.dtype.kind == "b" else values.dtype).tolist(), None, shown)


def _vectors(values: Array, shown: str) -> Labels:
    """[N, L]. Where each row is all zeros but for a single one they are classes."""
    if ((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all():
        return class_labels(values.argmax(1).tolist(), [str(number) for number in range(values.shape[1])], shown)
    vectors = values.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise UserError(f"{shown} has labels that are no finite float32 numbers; mend them.")
    return Labels(vectors)
