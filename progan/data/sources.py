"""What a user names, opened as the source that it is. A path that exists comes before a name."""

from __future__ import annotations

import difflib
import functools
import zipfile
from pathlib import Path

from progan.data.archives import folder_source, is_tar, tar_source, zip_source
from progan.data.arrays import array_source
from progan.data.pyramid import is_pyramid, pyramid_source
from progan.data.source import Array, Source
from progan.data.tfrecords import is_tfrecords, tfrecords_source
from progan.data.torchvision_sets import NAMES, is_known, torchvision_source
from progan.errors import UserError

UNDERSTOOD = (
    "a pyramid made by `progan prepare`; a folder, .zip or .tar of pictures; a StyleGAN zip or folder; official "
    "TFRecords; a .npy or .npz of uint8 pictures; a torchvision name such as cifar10, mnist, celeba or "
    "lsun:bedroom_train; or `faces`, `faces:COUNT`"
)

FACES_BYTES = 500_000_000  # of the built-in set's top level, unless a count is given: a minute or so of drawing
FACES_AT_ONCE = 64


def open_source(text: str, max_res: int, root: Path, download: bool, scratch: Path) -> Source:
    """The pictures that a text names: a path, a torchvision name, `faces`.

    max_res: at which `faces` are drawn. root: the folder of torchvision's files. scratch: a folder, made when needed,
    for what must be unpacked first. Raises UserError where there are no pictures, or the text is something else.
    """
    try:
        source = _opened(text, max_res, root, download, scratch)
    except OSError as error:
        raise UserError(f"{text} cannot be read: {error.strerror or error}.") from None
    if not source.names and not source.refused:
        others = f"; it has {source.passed_over:,} other files" if source.passed_over else ""
        raise UserError(f"{text} holds no pictures{others}.")
    return source


def is_torchvision(text: str) -> bool:
    """Whether a text names a set of torchvision's, and nothing that lies here."""
    return is_known(text) and not Path(text).exists()


def _opened(text: str, max_res: int, root: Path, download: bool, scratch: Path) -> Source:
    path = Path(text)
    if path.exists():
        return _open_path(path, scratch)
    if is_faces(text):
        return faces_source(faces_count(text, max_res), max_res)
    if is_known(text):
        return torchvision_source(text, root, download)
    near = difflib.get_close_matches(text, [*NAMES, "faces"], 1)
    raise UserError(f"{text} does not exist{f' (did you mean {near[0]}?)' if near else ''}; data is {UNDERSTOOD}.")


def _open_path(path: Path, scratch: Path) -> Source:
    if is_pyramid(path):
        return pyramid_source(path)
    if (path / "config.toml").is_file() and (path / "checkpoints").is_dir():
        raise UserError(f"{path} is the directory of a run; data is {UNDERSTOOD}.")
    if is_tfrecords(path):
        return tfrecords_source(path)
    if path.is_dir():
        return folder_source(path)
    if path.suffix in (".npy", ".npz"):  # an .npz is a zip too
        return array_source(path, scratch)
    if is_tar(path):  # asked first: a tar may end with a zip
        return tar_source(path, scratch)
    if path.is_file() and zipfile.is_zipfile(path):  # a pipe would keep us waiting
        return zip_source(path)
    raise UserError(f"{path} is not understood; data is {UNDERSTOOD}.")


def is_faces(text: str) -> bool:
    """Whether a text names the built-in set."""
    return text == "faces" or text.startswith("faces:")


def faces_source(count: int, resolution: int) -> Source:
    """The first pictures of the built-in set, drawn when they are read."""
    names = [f"{n:06d}" for n in range(count)]
    read = functools.partial(_read_face, resolution)
    return Source(names, read, f"faces/{resolution}", shuffled=True, parallel=False, top=resolution, channels=3)


def _read_face(resolution: int, name: str) -> Array:
    step = max(1, min(FACES_AT_ONCE, FACES_AT_ONCE * 128**2 // resolution**2))
    return _draw_faces(resolution, int(name) // step, step)[int(name) % step]  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1)
def _draw_faces(resolution: int, block: int, step: int) -> Array:
    """So many neighbours in one go: [step, 3, R, R] uint8."""
    import torch

    from progan.data.faces import faces

    pixels, _ = faces(torch.arange(block * step, (block + 1) * step), resolution)
    return pixels.numpy()


def faces_count(text: str, max_res: int) -> int:
    """`faces:5000` -> 5000; `faces` -> 10,000, or fewer where the top level would exceed FACES_BYTES."""
    if not max_res:
        raise UserError(f"{text} can be drawn at any size: say --max-res R, a power of two from 4 to 1024.")
    _, colon, count = text.partition(":")
    if not colon:
        return min(10_000, FACES_BYTES // (3 * max_res**2))
    if not (count.isascii() and count.isdigit()) or int(count) < 1:
        raise UserError(f"{text}: write faces:COUNT with a whole number; data is {UNDERSTOOD}.")
    return int(count)
