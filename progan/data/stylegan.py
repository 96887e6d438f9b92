"""Data sets of StyleGAN2-ADA and StyleGAN3 (NVlabs), written: one zip file of PNGs and their labels.

00000/img00000000.png   a thousand pictures a folder, RGB or grey; nothing in the file is compressed
dataset.json            {"labels": [["00000/img00000000.png", 6], ...] or null, "names": [...], "shuffled": true,
                         "channels": 3, "resolution": 64}

A label is a class or a list of numbers. `names` (of the classes, else empty), `shuffled` (the order is random already,
keep it), `channels` and `resolution` (of all pictures) are progan's own; NVlabs' readers look at `labels` alone.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from progan.data.source import Array, Labels

FOLDER = 1000  # pictures
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip file can name; equal data shall make equal files


def write_zip(path: Path, pixels: Array, labels: Labels | None, progress: Callable[[int, int], None]) -> None:
    """Write a data set for NVlabs' train.py, in the order given. pixels: uint8 [N, C, R, R], C 1 or 3; read one by
    one. Numbers of vectors are written to the last bit. progress(done, total) counts pictures.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, picture in enumerate(pixels):
            archive.writestr(_member(_name(number)), _png(picture))
            progress(number + 1, len(pixels))
        _write_table(archive, labels, pixels.shape[1:])


def _name(number: int) -> str:
    return f"{number // FOLDER:05d}/img{number:08d}.png"


def _member(name: str) -> zipfile.ZipInfo:
    """An entry that says nothing of the machine or the hour it was made on."""
    member = zipfile.ZipInfo(name, EPOCH)
    member.create_system = 3  # Unix, everywhere
    member.external_attr = 0o644 << 16
    return member


def _png(picture: Array) -> bytes:
    """An uncompressed PNG file of uint8 [C, R, R]."""
    frame = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(file, "PNG", compress_level=0)
    return file.getvalue()


def _write_table(archive: zipfile.ZipFile, labels: Labels | None, shape: tuple[int, ...]) -> None:
    """Write dataset.json label by label: as one text the vectors of a large set would fill the memory. shape: C, R, R
    of a picture.
    """
    with archive.open(_member("dataset.json"), "w", force_zip64=True) as file:
        file.write(b'{"labels": ')
        file.write(b"null" if labels is None else b"[")
        for number, label in enumerate(() if labels is None else labels.values):
            pair = json.dumps([_name(number), label.tolist()], allow_nan=False)  # a double holds a float32 exactly
            file.write(f"{', ' if number else ''}{pair}".encode())
        names = [] if labels is None else labels.names
        rest = {"names": names, "shuffled": True, "channels": shape[0], "resolution": shape[1]}
        file.write(b"" if labels is None else b"]")
        file.write(f", {json.dumps(rest)[1:]}".encode())
