"""Data sets by name, through torchvision's own classes: cifar10, mnist, celeba:test, lsun:bedroom_train and their like.

torch and torchvision are imported only where a set is opened: `read` works without them, but for LSUN's lmdb.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from progan.data.source import Array, Labels, Raw, Source, Unreadable
from progan.errors import UserError

Arguments = Mapping[str, Any]
Splits = Mapping[str, tuple[Arguments, ...]]
"""What torchvision's class is called with for a split, once for each of its parts. The first split is the default."""


@dataclass(frozen=True)
class TorchvisionSet:
    """Where torchvision has a set's pictures and labels. `kind`, of torchvision.datasets, is its class; the other
    three functions take an object of that class.
    """

    kind: Callable[[Any], Any]
    files: str  # a glob below the root that finds its files
    splits: Splits
    pictures: Callable[[Any], Any]  # pixels uint8 [N, C, H, W], or the paths of N picture files
    labels: Callable[[Any], Any] | None  # class numbers [N], where there are; -1 for none
    classes: Callable[[Any], Sequence[str]]
    hint: str = ""


def _splits(*names: str) -> Splits:
    return {name: ({"split": name},) for name in names}


def _splits_and_all(*names: str) -> Splits:
    """The splits that make up a set, and the set."""
    return {**_splits(*names), "all": tuple({"split": name} for name in names)}


TRAIN_OR_TEST: Splits = {
    "train": ({"train": True},),
    "test": ({"train": False},),
    "all": ({"train": True}, {"train": False}),
}
WHOLE: Splits = {"all": ({},)}
DIGITS = tuple("0123456789")
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def _cifar(kind: Callable[[Any], Any], folder: str) -> TorchvisionSet:
    # The files are pickles, but torchvision unpickles none before its MD5 is that of the published file.
    return TorchvisionSet(
        kind,
        f"{folder}/*",
        TRAIN_OR_TEST,
        pictures=lambda data: data.data.transpose(0, 3, 1, 2),  # from [N, 32, 32, 3]
        labels=lambda data: data.targets,
        classes=lambda data: data.classes,
    )


def _mnist(kind: Callable[[Any], Any], folder: str) -> TorchvisionSet:
    return TorchvisionSet(
        kind,
        f"{folder}/*/*",
        TRAIN_OR_TEST,
        pictures=lambda data: data.data.numpy()[:, None],  # from [N, 28, 28]
        labels=lambda data: data.targets,
        classes=lambda data: data.classes,
    )


def _by_file(kind: Callable[[Any], Any], folder: str, splits: Splits) -> TorchvisionSet:
    return TorchvisionSet(
        kind,
        f"{folder}/**/*",
        splits,
        pictures=lambda data: data._image_files,
        labels=lambda data: data._labels,
        classes=lambda data: data.classes,
    )


SETS: Mapping[str, TorchvisionSet] = {
    "cifar10": _cifar(lambda datasets: datasets.CIFAR10, "cifar-10-batches-py"),
    "cifar100": _cifar(lambda datasets: datasets.CIFAR100, "cifar-100-python"),
    "mnist": _mnist(lambda datasets: datasets.MNIST, "MNIST"),
    "fashion-mnist": _mnist(lambda datasets: datasets.FashionMNIST, "FashionMNIST"),
    "kmnist": _mnist(lambda datasets: datasets.KMNIST, "KMNIST"),
    "svhn": TorchvisionSet(
        lambda datasets: datasets.SVHN,
        "*_32x32.mat",
        _splits("train", "test", "extra"),
        pictures=lambda data: data.data,
        labels=lambda data: data.labels,
        classes=lambda data: DIGITS,
    ),
    "stl10": TorchvisionSet(
        lambda datasets: datasets.STL10,
        "stl10_binary/*",
        _splits("train", "test", "unlabeled", "train+unlabeled"),
        pictures=lambda data: data.data,
        labels=lambda data: data.labels,
        classes=lambda data: STL10,
    ),
    "celeba": TorchvisionSet(
        lambda datasets: datasets.CelebA,
        "celeba/**/*",
        _splits("all", "train", "valid", "test"),  # all 202,599 is what papers train on
        pictures=lambda data: [Path(data.root, data.base_folder, "img_align_celeba", name) for name in data.filename],
        labels=None,
        classes=lambda data: (),
        hint="`progan prepare IMG_ALIGN_CELEBA_FOLDER DEST --crop celeba` takes the plain folder of pictures",
    ),
    "flowers102": _by_file(
        lambda datasets: datasets.Flowers102, "flowers-102", _splits_and_all("train", "val", "test")
    ),
    "food101": _by_file(lambda datasets: datasets.Food101, "food-101", _splits_and_all("train", "test")),
    "dtd": _by_file(lambda datasets: datasets.DTD, "dtd", _splits_and_all("train", "val", "test")),
    "fgvc-aircraft": _by_file(
        lambda datasets: datasets.FGVCAircraft,
        "fgvc-aircraft-2013b",
        {**_splits_and_all("trainval", "test"), **_splits("train", "val")},
    ),
    "oxford-iiit-pet": TorchvisionSet(
        lambda datasets: datasets.OxfordIIITPet,
        "oxford-iiit-pet/**/*",
        _splits_and_all("trainval", "test"),
        pictures=lambda data: data._images,
        labels=lambda data: data._labels,
        classes=lambda data: data.classes,
    ),
    "eurosat": TorchvisionSet(
        lambda datasets: datasets.EuroSAT,
        "eurosat/**/*",
        WHOLE,
        pictures=lambda data: [path for path, _ in data.samples],
        labels=lambda data: data.targets,
        classes=lambda data: data.classes,
    ),
    "caltech101": TorchvisionSet(
        lambda datasets: datasets.Caltech101,
        "caltech101/**/*",
        WHOLE,
        pictures=lambda data: [
            Path(data.root, "101_ObjectCategories", data.categories[label], f"image_{number:04d}.jpg")
            for number, label in zip(data.index, data.y)
        ],
        labels=lambda data: data.y,
        classes=lambda data: data.categories,
    ),
    "imagenette": TorchvisionSet(
        lambda datasets: datasets.Imagenette,
        "imagenette2/**/*",
        _splits_and_all("train", "val"),
        pictures=lambda data: [path for path, _ in data._samples],
        labels=lambda data: [label for _, label in data._samples],
        classes=lambda data: [names[0] for names in data.classes],
    ),
}
"""The sets whose items are one picture and at most one class. EMNIST is left out: torchvision gives it transposed."""

LSUN_SCENES = (
    "bedroom", "bridge", "church_outdoor", "classroom", "conference_room",
    "dining_room", "kitchen", "living_room", "restaurant", "tower",
)  # fmt: skip

NAMES: Mapping[str, tuple[str, ...]] = {
    **{name: tuple(known.splits) for name, known in SETS.items()},
    "lsun": tuple(f"{scene}_{part}" for scene in LSUN_SCENES for part in ("train", "val")),
}
"""The sets and their splits; the first is what the bare name means, but for `lsun`, which always wants one."""


def is_known(text: str) -> bool:
    """Whether a user's text begins with the name of one of these sets, in any spelling: MNIST, FashionMNIST, cifar10:x.
    Imports nothing.
    """
    return _plain(text.partition(":")[0]) in _SPELT


def torchvision_source(text: str, root: Path, download: bool) -> Source:
    """The pictures of NAME or NAME:SPLIT, whose files lie below the root as torchvision lays them out. Names are
    numbers for what lies in memory, else paths below the root, or LSUN's keys.

    download: have torchvision fetch the files that are missing. Raises UserError where there is no such split, the
    files are not there or not whole, cannot be fetched, or a package is missing that reads them.
    """
    given, _, split = text.partition(":")
    name, root = _SPELT[_plain(given)], root.expanduser().absolute()
    if name == "lsun":
        return _lsun(text, split, root)
    known = SETS[name]
    split = split if ":" in text else next(iter(known.splits))
    if split not in known.splits:
        raise UserError(f"{text}: {name} has no split {split!r}, only {', '.join(known.splits)}.")
    if not download and not any(root.glob(known.files)):  # quick, and torchvision's own look may make folders
        raise UserError(_absent(text, known, root, "there are no files"))
    parts = [_opened(text, known, arguments, root, download) for arguments in known.splits[split]]
    return _source(text, f"{name}:{split}", known, parts, root)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


_SPELT = {_plain(name): name for name in NAMES}


def _opened(text: str, known: TorchvisionSet, arguments: Arguments, root: Path, download: bool) -> Any:
    """An object of torchvision's class."""
    from torchvision import datasets  # not below: a broken torchvision is not the files' fault

    try:
        with _quiet():
            return known.kind(datasets)(str(root), download=download, **arguments)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"{text} needs the package {package}: pip install {package}.") from None
    except Exception as error:  # RuntimeError, URLError, AssertionError, KeyError, gdown's own: all are about the files
        complaint = _unfetched if download else _absent
        raise UserError(complaint(text, known, root, _reason(error))) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torchvision prints nothing but progress, and that on a terminal only; what it warns of (old pickles of numpy, old
    ways of tarfile) a user cannot mend.
    """
    stream = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    """What torchvision says, in one line, without its advice for programmers."""
    said = " ".join(str(error).partition("You can use ")[0].split()).rstrip(".: ")
    return said[:300] or type(error).__name__


def _absent(text: str, known: TorchvisionSet, root: Path, reason: str) -> str:
    mend = f"`progan prepare` fetches it with --download, or takes it from a --root FOLDER that holds {_place(known)}"
    return f"{text} cannot be read from {root} ({reason}): {mend}{_hint(known)}."


def _unfetched(text: str, known: TorchvisionSet, root: Path, reason: str) -> str:
    mend = f"files put by hand where torchvision expects them, {root / _place(known)}, are taken as they are"
    return f"{text} could not be downloaded ({reason}); {mend}{_hint(known)}."


def _place(known: TorchvisionSet) -> str:
    return known.files.partition("/")[0]


def _hint(known: TorchvisionSet) -> str:
    return known.hint and f"; {known.hint}"


def _source(text: str, name: str, known: TorchvisionSet, parts: list[Any], root: Path) -> Source:
    """The parts, one after the other."""
    pictures, labels = [known.pictures(part) for part in parts], _labels(text, known, parts, root)
    if isinstance(pictures[0], np.ndarray):
        pixels = pictures[0] if len(pictures) == 1 else np.concatenate(pictures)
        names, read = [f"{number:06d}" for number in range(len(pixels))], partial(_row, pixels)
        top, parallel, channels = _top(pixels), False, pixels.shape[1]  # there is nothing to decode
    else:
        names = [Path(path).relative_to(root).as_posix() for paths in pictures for path in paths]
        read, top, parallel, channels = partial(_file, str(root)), None, True, None
    _check(text, root, len(names), labels)
    state = _state(name, len(names), root, known.files)
    return Source(names, read, state, labels, parallel=parallel, top=top, channels=channels)


def _labels(text: str, known: TorchvisionSet, parts: list[Any], root: Path) -> Labels | None:
    if known.labels is None:
        return None
    values = np.concatenate([np.asarray(known.labels(part), dtype=np.int64) for part in parts])
    names = [tuple(known.classes(part)) for part in parts]
    if len(set(names)) > 1:
        raise UserError(f"{text} is damaged in {root}: its splits have different classes; fetch it again.")
    return None if (values < 0).any() else Labels(values, names[0])


def _check(text: str, root: Path, count: int, labels: Labels | None) -> None:
    """torchvision takes most files as they are. Raises UserError where they do not fit together."""
    if count == 0:
        raise UserError(f"{text} has no pictures in {root}.")
    if labels and len(labels.values) != count:
        raise UserError(f"{text} is damaged in {root}: {count} pictures, {len(labels.values)} labels; fetch it again.")
    if labels and labels.values.max() >= len(labels.names):
        has = f"{len(labels.names)} classes, and a label {labels.values.max()}"
        raise UserError(f"{text} is damaged in {root}: {has}; fetch it again.")


def _top(pixels: Array) -> int | None:
    height, width = pixels.shape[2:]
    return height if height == width and height.bit_count() == 1 else None


def _row(pixels: Array, name: str) -> Raw:
    return np.ascontiguousarray(pixels[int(name)])


def _file(root: str, name: str) -> Raw:
    return Path(root, name).read_bytes()


def _state(name: str, count: int, root: Path, files: str) -> str:
    """Changes with the sizes and times of a set's files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(root.glob(files)):
        about = path.stat()
        if stat.S_ISREG(about.st_mode):
            digest.update(repr((path.relative_to(root).as_posix(), about.st_size, about.st_mtime_ns)).encode())
    return f"{name} {count} {digest.hexdigest()}"


def _lsun(text: str, category: str, root: Path) -> Source:
    """One category of LSUN; beside torchvision's also the objects (cat, horse ...), whose databases are of the same
    form.

    torchvision's class is not used: it unpickles any file `_cache_...` that lies in the current folder, and writes one
    where there is none. The database is plain: keys, and bytes of picture files.
    """
    folder = _lsun_folder(text, category, root)
    try:
        names = _lsun_keys(str(folder))
    except ModuleNotFoundError:
        raise UserError(f"{text} needs the package lmdb: pip install 'progan[lsun]'.") from None
    except Unreadable as error:
        raise UserError(f"{folder} is no LSUN database, or is damaged ({error}): unzip it again.") from None
    _check(text, root, len(names), None)
    state = _state(f"lsun:{category}", len(names), root, f"{folder.name}/data.mdb")
    return Source(names, partial(_lsun_picture, str(folder)), state)


def _lsun_folder(text: str, category: str, root: Path) -> Path:
    """ROOT/CATEGORY_lmdb as scenes unzip, or ROOT/CATEGORY as objects do."""
    folders = [path.parent for path in sorted(root.glob("*/data.mdb"))]
    for folder in folders:
        if folder.name in (f"{category}_lmdb", category):
            return folder
    found = ", ".join(folder.name.removesuffix("_lmdb") for folder in folders) or "no database"
    if not category:
        scenes = ", ".join(LSUN_SCENES)
        raise UserError(f"{text} wants a category: lsun:CATEGORY_train or _val of {scenes}; {root} holds {found}.")
    mend = "unzip its database there (github.com/fyu/lsun has it; torchvision cannot download it)"
    raise UserError(
        f"{text} is not in {root}, which holds {found}: {mend}, or give `progan prepare` a --root FOLDER that holds it."
    )


@contextlib.contextmanager
def _lsun_transaction(folder: str) -> Iterator[Any]:
    """For reading; writes nothing, not even a lock. Raises Unreadable where the database is damaged."""
    import lmdb

    try:
        with (
            lmdb.open(folder, readonly=True, lock=False, create=False, readahead=False) as environment,
            environment.begin() as transaction,
        ):
            yield transaction
    except lmdb.Error as error:
        raise Unreadable(str(error)) from None


def _lsun_keys(folder: str) -> list[str]:
    """In the database's order. They are the names: 3 million take 300 MB once, and nothing in other processes."""
    with _lsun_transaction(folder) as transaction:
        keys = transaction.cursor().iternext(keys=True, values=False)
        return [key.decode("latin-1") for key in keys]  # any byte has a letter, and the way back is sure


def _lsun_picture(folder: str, name: str) -> Raw:
    """Opens the database each time: that takes less than 0.1 ms, and lmdb refuses one that is still open."""
    with _lsun_transaction(folder) as transaction:
        picture: bytes | None = transaction.get(name.encode("latin-1"))
    if picture is None:
        raise Unreadable("is not in the database any more")
    return picture
