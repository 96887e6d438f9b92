"""Prepare damaged pictures in damaged containers, again and again: python tests/fuzz_data.py PICTURES.zip --minutes 30

Each round takes pictures of the zip, damages some, packs them as a folder, zip, tar, .npy or TFRecords, damages the
container now and then, and prepares it. Allowed are a pyramid that is whole, and UserError. Anything else ends the
run: another exception, a round that takes too long, a file outside of the destination. A round is a function of its
number, so that it can be repeated: --first N --rounds 1.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from progan.data.inspect import damaged
from progan.data.pictures import Recipe
from progan.data.prepare import Wish, prepare
from progan.data.tfrecords import write_tfrecords
from progan.errors import UserError

Pictures = dict[str, bytes]
ROUND_SEC = 240.0  # three times PICTURE_SEC, and some


def damage(data: bytes, chance: random.Random) -> bytes:
    """Bytes with a few of them changed, cut out, doubled, or all behind a place gone."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8, 64])):
        place, length = chance.randrange(len(changed) + 1), chance.choice([1, 2, 4, 100])
        kind = chance.randrange(6)
        if kind == 0:
            changed[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            changed[place : place + length] = chance.choice([b"\x00", b"\xff", b"\x7f"]) * length
        elif kind == 2:
            del changed[place : place + length]
        elif kind == 3:
            changed[place:place] = changed[place : place + length]
        elif kind == 4 and chance.random() < 0.3:
            del changed[place:]
        else:
            changed[place : place + 1] = (
                bytes([changed[place] ^ (1 << chance.randrange(8))]) if changed[place:] else b""
            )
    return bytes(changed)


def as_folder(pictures: Pictures, path: Path, chance: random.Random) -> Path:
    for name, data in pictures.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def as_zip(pictures: Pictures, path: Path, chance: random.Random) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", chance.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)
    return _packed(file, path.with_suffix(".zip"), chance)


def as_tar(pictures: Pictures, path: Path, chance: random.Random) -> Path:
    kind = chance.choice(["", "gz", "bz2", "xz"])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{kind}") as archive:
        for name, data in pictures.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return _packed(file, path.with_suffix(".tar"), chance)


def as_array(pictures: Pictures, path: Path, chance: random.Random) -> Path:
    file = io.BytesIO()
    pixels = np.frombuffer(b"".join(pictures.values())[: 20 * 32 * 32 * 3].ljust(3072, b"x"), np.uint8)
    pixels = pixels[: len(pixels) // 3072 * 3072].reshape(-1, 32, 32, 3)
    compressed = chance.random() < 0.5
    np.savez_compressed(file, images=pixels) if compressed else np.save(file, pixels)
    return _packed(file, path.with_suffix(".npz" if compressed else ".npy"), chance)


def as_tfrecords(pictures: Pictures, path: Path, chance: random.Random) -> Path:
    path.mkdir()
    seed = np.frombuffer(b"".join(pictures.values())[:8192].ljust(8192, b"x"), np.uint8)
    levels = {r: np.resize(seed, (5, 3, r, r)) for r in (4, 8, 16, 32)}
    write_tfrecords(path, "set", levels, None, lambda done, total: None)
    for file in sorted(path.iterdir()):
        if chance.random() < 0.3:
            file.write_bytes(damage(file.read_bytes(), chance))
    return path


def _packed(file: io.BytesIO, path: Path, chance: random.Random) -> Path:
    data = file.getvalue()
    path.write_bytes(damage(data, chance) if chance.random() < 0.5 else data)
    return path


CONTAINERS: list[Callable[[Pictures, Path, random.Random], Path]] = [as_folder, as_zip, as_tar, as_array, as_tfrecords]


def play(number: int, seeds: Pictures, workers: int) -> str:
    """One round in a folder of its own -> what came of it. Raises AssertionError, or what must not be raised."""
    chance = random.Random(number)
    names = chance.sample(sorted(seeds), min(len(seeds), 24))
    pictures = {n: damage(seeds[n], chance) if chance.random() < 0.8 else seeds[n] for n in names}
    container = chance.choice(CONTAINERS)
    with tempfile.TemporaryDirectory() as folder:
        source = container(pictures, Path(folder) / "source", chance)
        before = _inside(Path(folder))
        ending = _prepared(source, Path(folder) / "out", chance, workers)
        outside = {path for path in _inside(Path(folder)) ^ before if path != "out" and not path.startswith("out/")}
        assert not outside, outside
    return f"{container.__name__}: {ending}"


def _prepared(source: Path, out: Path, chance: random.Random, workers: int) -> str:
    crop = chance.choice(["centre", "pad", "refuse", "3,1,20"])
    recipe = Recipe(
        chance.choice([4, 16, 32]), chance.choice([1, 3]), crop, upscale=crop == "3,1,20" or chance.random() < 0.5
    )
    start = time.monotonic()
    try:
        pyramid = prepare(str(source), out, recipe, Wish(workers=workers, allow_skips=True))
    except UserError:
        assert not out.exists()
        return "refused"
    assert time.monotonic() - start < ROUND_SEC
    assert pyramid.count > 0
    assert damaged(out, lambda name, done, total: None) == []
    return "prepared"


def _inside(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, metavar="PICTURES.zip")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=10**9)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    with zipfile.ZipFile(options.pictures) as archive:
        seeds = {info.filename: archive.read(info) for info in archive.infolist() if 0 < info.file_size < 300_000}
    end, endings, number = time.monotonic() + 60 * options.minutes, Counter[str](), options.first
    try:
        while number < options.first + options.rounds and time.monotonic() < end:
            endings[play(number, seeds, options.workers)] += 1
            number += 1
    except BaseException:
        print(f"round {number} ended the run", file=sys.stderr)
        raise
    finally:
        print(f"{number - options.first:,} rounds:", ", ".join(f"{n:,} {e}" for e, n in sorted(endings.items())))


if __name__ == "__main__":
    main()
