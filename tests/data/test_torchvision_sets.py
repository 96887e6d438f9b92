"""Sets by name: they are torchvision's pictures and classes, and nothing is fetched, written or run unasked."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import subprocess
import sys
import types
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from progan.data.source import Source, Unreadable
from progan.data.torchvision_sets import NAMES, is_known, torchvision_source
from progan.errors import UserError

SaveMat = Callable[[Path, dict[str, Any]], None]
MADE = sorted(NAMES.keys() - {"lsun"})


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """There is no network; the list of the addresses that were tried."""
    tried: list[str] = []

    def urlopen(request: urllib.request.Request) -> Any:
        tried.append(request.full_url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return tried


@pytest.fixture
def save_mat(monkeypatch: pytest.MonkeyPatch) -> SaveMat:
    """Writes MATLAB files, where scipy is missing in a form of our own that only the stand-in for scipy.io reads."""
    try:
        from scipy.io import savemat
    except ModuleNotFoundError:
        stand_in: Any = types.ModuleType("scipy.io")
        stand_in.loadmat = lambda path, squeeze_me=False: dict(np.load(path))
        package: Any = types.ModuleType("scipy")
        package.io = stand_in
        monkeypatch.setitem(sys.modules, "scipy", package)
        monkeypatch.setitem(sys.modules, "scipy.io", stand_in)
        return save_arrays
    return lambda path, arrays: savemat(path, arrays)


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


@pytest.fixture
def any_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes files that are not the published ones."""
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda path, md5: True)


# Small sets in torchvision's own layout


def noise(seed: str, *shape: int) -> Any:
    """uint8, another for each seed."""
    return np.random.default_rng(list(seed.encode())).integers(0, 256, shape, dtype=np.uint8)


def picture(root: Path, name: str) -> None:
    """One with a grain of its own, so that no two files are alike."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(name, 6, 5, 3)).save(path, "PNG")


def text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def make_cifar10(root: Path, save_mat: SaveMat) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        batch = {"data": noise(name, 2, 3072), "labels": [number, 9 - number]}
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {"label_names": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))


def make_cifar100(root: Path, save_mat: SaveMat) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        batch = {"data": noise(name, 2, 3072), "fine_labels": [99, 3], "coarse_labels": [1, 2]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"fine{n}" for n in range(100)]}))


def idx(values: Any) -> bytes:
    """LeCun's format."""
    shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + shape + values.tobytes()


def idx_files(seed: str) -> dict[str, bytes]:
    files = {}
    for part, count in (("train", 4), ("t10k", 3)):
        files[f"{part}-images-idx3-ubyte"] = idx(noise(seed + part, count, 28, 28))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(9, 9 - count, -1, dtype=np.uint8))
    return files


def make_mnist(root: Path, save_mat: SaveMat, folder: str = "MNIST") -> None:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, content in idx_files(folder).items():
        (raw / name).write_bytes(content)


def make_fashion_mnist(root: Path, save_mat: SaveMat) -> None:
    make_mnist(root, save_mat, "FashionMNIST")


def make_kmnist(root: Path, save_mat: SaveMat) -> None:
    make_mnist(root, save_mat, "KMNIST")


def make_svhn(root: Path, save_mat: SaveMat) -> None:
    for part in ("train", "test", "extra"):
        save_mat(root / f"{part}_32x32.mat", {"X": noise(part, 32, 32, 3, 4), "y": np.uint8([[1], [10], [9], [2]])})


def make_stl10(root: Path, save_mat: SaveMat) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part in ("train", "test", "unlabeled"):
        noise(part, 2, 3, 96, 96).tofile(folder / f"{part}_X.bin")
    np.uint8([10, 1]).tofile(folder / "train_y.bin")
    np.uint8([2, 3]).tofile(folder / "test_y.bin")


def make_celeba(root: Path, save_mat: SaveMat) -> None:
    names = [f"{number:06d}.jpg" for number in range(1, 7)]
    for name in names:
        picture(root, f"celeba/img_align_celeba/{name}")
    text(root / "celeba/list_eval_partition.txt", [f"{name} {part}" for name, part in zip(names, (0, 2, 0, 1, 2, 1))])
    text(root / "celeba/identity_CelebA.txt", [f"{name} 7" for name in names])
    for table, fields in (("list_bbox", 4), ("list_landmarks_align", 10), ("list_attr", 40)):
        rows = [f"{name}  {' -1' * fields}" for name in names]
        text(root / f"celeba/{table}_celeba.txt", ["6", " ".join(f"f{n}" for n in range(fields)), *rows])


def make_flowers102(root: Path, save_mat: SaveMat) -> None:
    for number in range(1, 7):
        picture(root, f"flowers-102/jpg/image_{number:05d}.jpg")
    save_mat(root / "flowers-102/imagelabels.mat", {"labels": np.uint8([102, 1, 2, 77, 5, 3])})
    splits = {"trnid": np.uint16([5, 1]), "valid": np.uint16([2, 3]), "tstid": np.uint16([6, 4])}
    save_mat(root / "flowers-102/setid.mat", splits)


def make_food101(root: Path, save_mat: SaveMat) -> None:
    parts = {"train": {"pizza": ["pizza/2", "pizza/1"], "apple_pie": ["apple_pie/9"]}}
    parts["test"] = {"apple_pie": ["apple_pie/3"], "pizza": ["pizza/8"]}
    for part, classes in parts.items():
        text(root / f"food-101/meta/{part}.json", [json.dumps(classes)])
        for names in classes.values():
            for name in names:
                picture(root, f"food-101/images/{name}.jpg")


def make_dtd(root: Path, save_mat: SaveMat) -> None:
    for number, part in enumerate(("train", "val", "test")):
        names = [f"dotted/dotted_{number}.jpg", f"banded/banded_{number}.jpg"]
        text(root / f"dtd/dtd/labels/{part}1.txt", names)
        for name in names:
            picture(root, f"dtd/dtd/images/{name}")


def make_fgvc_aircraft(root: Path, save_mat: SaveMat) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    text(data / "variants.txt", ["707-320", "DH-82", "Spitfire"])
    for number, part in enumerate(("train", "val", "test")):
        text(data / f"images_variant_{part}.txt", [f"01{number} Spitfire", f"02{number} 707-320"])
        picture(data, f"images/01{number}.jpg")
        picture(data, f"images/02{number}.jpg")
    text(data / "images_variant_trainval.txt", ["011 Spitfire", "020 707-320"])


def make_oxford_iiit_pet(root: Path, save_mat: SaveMat) -> None:
    for part, number in (("trainval", 1), ("test", 2)):
        breeds = [f"yorkshire_terrier_{number} 2 2 1", f"Abyssinian_{number} 1 1 1"]
        text(root / f"oxford-iiit-pet/annotations/{part}.txt", breeds)
        for breed in breeds:
            picture(root, f"oxford-iiit-pet/images/{breed.split()[0]}.jpg")


def make_eurosat(root: Path, save_mat: SaveMat) -> None:
    for name in ("River/River_1", "Forest/Forest_2", "Forest/Forest_1"):
        picture(root, f"eurosat/2750/{name}.jpg")


def make_caltech101(root: Path, save_mat: SaveMat) -> None:
    for name in ("BACKGROUND_Google/image_0001", "bonsai/image_0001", "ant/image_0002", "ant/image_0001"):
        picture(root, f"caltech101/101_ObjectCategories/{name}.jpg")


def make_imagenette(root: Path, save_mat: SaveMat) -> None:
    for part in ("train", "val"):
        for name in ("n03028079/a", "n01440764/b", "n01440764/a"):
            picture(root, f"imagenette2/{part}/{name}.JPEG")


def make(name: str, root: Path, save_mat: SaveMat) -> None:
    globals()[f"make_{name.replace('-', '_')}"](root, save_mat)


# The pictures and classes


def item(source: Source, number: int) -> Any:
    """A picture as RGB, [H, W, 3], through a `read` that went to another process."""
    raw: Any = pickle.loads(pickle.dumps(source.read))(source.names[number])
    image = Image.open(io.BytesIO(raw)) if isinstance(raw, bytes) else Image.fromarray(raw.transpose(1, 2, 0).squeeze())
    return np.asarray(image.convert("RGB"))


def assert_same_items(source: Source, dataset: Any) -> None:
    assert len(source.names) == len(set(source.names)) == len(dataset) > 1
    for number in range(len(dataset)):
        image, label = dataset[number]
        np.testing.assert_array_equal(item(source, number), np.asarray(image.convert("RGB")))
        assert source.labels is None or source.labels.values[number] == label


TRAINED: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "cifar10": (datasets.CIFAR10, {"train": True}),
    "cifar10:test": (datasets.CIFAR10, {"train": False}),
    "cifar100": (datasets.CIFAR100, {"train": True}),
    "mnist": (datasets.MNIST, {"train": True}),
    "mnist:test": (datasets.MNIST, {"train": False}),
    "fashion-mnist": (datasets.FashionMNIST, {"train": True}),
    "kmnist": (datasets.KMNIST, {"train": True}),
    "svhn": (datasets.SVHN, {"split": "train"}),
    "svhn:extra": (datasets.SVHN, {"split": "extra"}),
    "stl10": (datasets.STL10, {"split": "train"}),
    "stl10:test": (datasets.STL10, {"split": "test"}),
    "stl10:train+unlabeled": (datasets.STL10, {"split": "train+unlabeled"}),
    "celeba": (datasets.CelebA, {"split": "all"}),
    "celeba:test": (datasets.CelebA, {"split": "test"}),
    "flowers102": (datasets.Flowers102, {"split": "train"}),
    "food101": (datasets.Food101, {"split": "train"}),
    "dtd:val": (datasets.DTD, {"split": "val"}),
    "fgvc-aircraft": (datasets.FGVCAircraft, {"split": "trainval"}),
    "fgvc-aircraft:train": (datasets.FGVCAircraft, {"split": "train"}),
    "oxford-iiit-pet": (datasets.OxfordIIITPet, {"split": "trainval"}),
    "eurosat": (datasets.EuroSAT, {}),
    "caltech101": (datasets.Caltech101, {}),
    "imagenette:val": (datasets.Imagenette, {"split": "val"}),
}


@pytest.mark.usefixtures("any_sum")
@pytest.mark.parametrize("asked_for", TRAINED)
def test_a_source_has_torchvisions_items_in_torchvisions_order(
    asked_for: str, tmp_path: Path, save_mat: SaveMat
) -> None:
    make(asked_for.partition(":")[0], tmp_path, save_mat)
    kind, arguments = TRAINED[asked_for]
    assert_same_items(torchvision_source(asked_for, tmp_path, False), kind(str(tmp_path), **arguments))


LABELS: dict[str, tuple[list[int], int, str]] = {  # the values, how many classes, the name of the first picture's
    "cifar10": ([0, 9, 1, 8, 2, 7, 3, 6, 4, 5], 10, "airplane"),
    "cifar10:test": ([5, 4], 10, "dog"),
    "cifar10:all": ([0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 5, 4], 10, "airplane"),
    "cifar100": ([99, 3], 100, "fine99"),
    "mnist": ([9, 8, 7, 6], 10, "9 - nine"),
    "mnist:all": ([9, 8, 7, 6, 9, 8, 7], 10, "9 - nine"),
    "fashion-mnist": ([9, 8, 7, 6], 10, "Ankle boot"),
    "kmnist:test": ([9, 8, 7], 10, "wo"),
    "svhn": ([1, 0, 9, 2], 10, "1"),
    "stl10": ([9, 0], 10, "truck"),
    "stl10:test": ([1, 2], 10, "bird"),
    "flowers102": ([4, 101], 102, "english marigold"),
    "flowers102:all": ([4, 101, 0, 1, 2, 76], 102, "english marigold"),
    "food101": ([1, 1, 0], 2, "pizza"),
    "food101:all": ([1, 1, 0, 0, 1], 2, "pizza"),
    "dtd": ([1, 0], 2, "dotted"),
    "dtd:all": ([1, 0, 1, 0, 1, 0], 2, "dotted"),
    "fgvc-aircraft": ([2, 0], 3, "Spitfire"),
    "oxford-iiit-pet": ([1, 0], 2, "Yorkshire Terrier"),
    "eurosat": ([0, 0, 1], 2, "Forest"),
    "caltech101": ([0, 0, 1], 2, "ant"),
    "imagenette": ([0, 0, 1], 2, "tench"),
}


@pytest.mark.usefixtures("any_sum")
@pytest.mark.parametrize("asked_for", LABELS)
def test_classes_are_numbers_with_names(asked_for: str, tmp_path: Path, save_mat: SaveMat) -> None:
    make(asked_for.partition(":")[0], tmp_path, save_mat)
    source = torchvision_source(asked_for, tmp_path, False)
    values, count, first = LABELS[asked_for]
    assert source.labels
    assert source.labels.values.tolist() == values
    assert source.labels.values.dtype == np.int64
    assert len(source.names) == len(values)
    assert len(source.labels.names) == count
    assert source.labels.names[values[0]] == first


@pytest.mark.usefixtures("any_sum")
@pytest.mark.parametrize("asked_for", ["celeba", "celeba:valid", "stl10:unlabeled", "stl10:train+unlabeled"])
def test_what_has_no_single_class_has_no_labels(asked_for: str, tmp_path: Path, save_mat: SaveMat) -> None:
    make(asked_for.partition(":")[0], tmp_path, save_mat)
    assert torchvision_source(asked_for, tmp_path, False).labels is None


@pytest.mark.usefixtures("any_sum")
def test_all_is_the_splits_one_after_the_other(tmp_path: Path, save_mat: SaveMat) -> None:
    for name in ("cifar10", "dtd"):
        make(name, tmp_path, save_mat)
        whole = torchvision_source(f"{name}:all", tmp_path, False)
        parts = [torchvision_source(f"{name}:{split}", tmp_path, False) for split in NAMES[name] if split != "all"]
        pictures = [item(part, number) for part in parts for number in range(len(part.names))]
        assert len(pictures) == len(whole.names)
        for number, expected in enumerate(pictures):
            np.testing.assert_array_equal(item(whole, number), expected)


@pytest.mark.usefixtures("any_sum")
def test_arrays_are_read_here_and_files_elsewhere(tmp_path: Path, save_mat: SaveMat) -> None:
    known = {"cifar10": (False, 32), "mnist": (False, None), "stl10": (False, None), "food101": (True, None)}
    for name, (parallel, top) in known.items():
        make(name, tmp_path, save_mat)
        source = torchvision_source(name, tmp_path, False)
        assert (source.parallel, source.top) == (parallel, top)
        assert source.names[0] == ("food-101/images/pizza/2.jpg" if parallel else "000000")


@pytest.mark.usefixtures("any_sum")
def test_a_relative_root_is_the_same_from_another_folder(
    tmp_path: Path, save_mat: SaveMat, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_eurosat(tmp_path / "below", save_mat)
    monkeypatch.chdir(tmp_path)
    source = torchvision_source("eurosat", Path("below"), False)
    monkeypatch.chdir(tmp_path / "below/eurosat")
    assert source.names[0] == "eurosat/2750/Forest/Forest_1.jpg"
    assert item(source, 0).shape == (6, 5, 3)


def test_a_picture_file_that_is_gone_is_an_oserror(tmp_path: Path, save_mat: SaveMat) -> None:
    make_eurosat(tmp_path, save_mat)
    source = torchvision_source("eurosat", tmp_path, False)
    (tmp_path / source.names[0]).unlink()
    with pytest.raises(OSError):
        source.read(source.names[0])


# Names and splits


@pytest.mark.parametrize(
    "typed", [*NAMES, "MNIST", "CIFAR10", "FashionMNIST", "fashion_mnist", "CelebA:valid", "lsun:x"]
)
def test_a_set_is_known_in_any_spelling(typed: str) -> None:
    assert is_known(typed)


@pytest.mark.parametrize("typed", ["", ":train", "faces", "faces:100", "mnist.zip", "./mnist", "data/mnist", "cifar"])
def test_other_texts_are_not(typed: str) -> None:
    assert not is_known(typed)


@pytest.mark.usefixtures("any_sum")
def test_the_spelling_changes_nothing(tmp_path: Path, save_mat: SaveMat) -> None:
    make_fashion_mnist(tmp_path, save_mat)
    states = {torchvision_source(typed, tmp_path, False).state for typed in ("fashion-mnist", "FashionMNIST:train")}
    assert len(states) == 1


@pytest.mark.parametrize("typed", ["mnist:valid", "mnist:", "mnist:Train"])
def test_an_unknown_split_answers_with_the_list(typed: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{typed}: mnist has no split '.*', only train, test, all"):
        torchvision_source(typed, tmp_path, False)


def run_elsewhere(code: str, given: bytes = b"") -> bytes:
    """What a new process prints."""
    return subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, check=True).stdout


def test_knowing_the_names_imports_nothing_heavy() -> None:
    code = (
        "import sys; from progan.data.torchvision_sets import *; assert is_known('mnist') and not is_known('faces')\n"
    )
    code += "print({'torch', 'torchvision', 'lmdb', 'scipy'} & sys.modules.keys())"
    assert run_elsewhere(code).split() == [b"set()"]


READ = "import pickle, sys; read, name = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(read(name))\n"


def test_a_worker_reads_files_without_torch(tmp_path: Path, save_mat: SaveMat) -> None:
    make_eurosat(tmp_path, save_mat)
    source = torchvision_source("eurosat", tmp_path, False)
    raw = run_elsewhere(READ + "assert 'torch' not in sys.modules", pickle.dumps((source.read, source.names[1])))
    assert raw == (tmp_path / "eurosat/2750/Forest/Forest_2.jpg").read_bytes()


# What is not there, or not whole


@pytest.mark.parametrize("name", [*MADE, "lsun:bedroom_train"])
def test_absent_files_are_not_fetched_unasked(name: str, tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        torchvision_source(name, tmp_path, False)
    said = str(caught.value)
    assert said.startswith(name)
    assert str(tmp_path) in said
    assert "--root FOLDER that holds" in said
    assert "\n" not in said
    assert asked == []
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_holds_no_lsun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lsun:cat is not in .*, which holds no database: unzip"):
        torchvision_source("lsun:cat", tmp_path, False)


def test_the_sentence_for_absent_files(tmp_path: Path) -> None:
    mend = "`progan prepare` fetches it with --download, or takes it from a --root FOLDER that holds MNIST"
    with pytest.raises(UserError) as caught:
        torchvision_source("mnist", tmp_path / "none", False)
    assert str(caught.value) == f"mnist cannot be read from {tmp_path / 'none'} (there are no files): {mend}."


def test_a_set_that_is_half_there(tmp_path: Path, save_mat: SaveMat, asked: list[str]) -> None:
    make_mnist(tmp_path, save_mat)
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=r"\(Dataset not found\): `progan prepare` fetches it"):
        torchvision_source("mnist", tmp_path, False)
    assert asked == []


def test_celeba_that_does_not_check_says_how_to_take_the_plain_folder(tmp_path: Path, save_mat: SaveMat) -> None:
    make_celeba(tmp_path, save_mat)
    with pytest.raises(
        UserError, match=r"corrupted\): .* --download, .* `progan prepare IMG_ALIGN_CELEBA_FOLDER DEST --crop"
    ):
        torchvision_source("celeba", tmp_path, False)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_nothing_is_unpickled_that_is_not_the_published_file(tmp_path: Path, save_mat: SaveMat) -> None:
    make_cifar10(tmp_path, save_mat)
    for path in (tmp_path / "cifar-10-batches-py").iterdir():
        path.write_bytes(pickle.dumps(Bomb(tmp_path / "run")))
    with pytest.raises(UserError, match="not found or corrupted"):
        torchvision_source("cifar10", tmp_path, False)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("any_sum")
def test_what_numpy_says_of_old_pickles_is_kept_quiet(tmp_path: Path, save_mat: SaveMat) -> None:
    """The published CIFAR files hold dtypes whose flags are integers; numpy warns, and warnings are errors here."""
    make_cifar10(tmp_path, save_mat)
    for path in (tmp_path / "cifar-10-batches-py").iterdir():
        path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()), 0).replace(b"I00\n", b"I0\n"))
    assert len(torchvision_source("cifar10", tmp_path, False).names) == 10


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train-labels-idx1-ubyte", idx(np.zeros(3, np.uint8)), r"4 pictures, 3 labels; fetch it again"),
        ("train-labels-idx1-ubyte", idx(np.full(4, 10, np.uint8)), r"10 classes, and a label 10; fetch it again"),
        ("train-images-idx3-ubyte", idx_files("MNIST")["train-images-idx3-ubyte"][:-9], r"\(.*\): .* --download"),
        ("train-images-idx3-ubyte", b"junk" * 99, r"\(.*\): .* --download"),
        ("train-images-idx3-ubyte", b"", r"\(.*\): .* --download"),
    ],
)
def test_damaged_files_end_in_a_sentence(
    name: str, content: bytes, said: str, tmp_path: Path, save_mat: SaveMat
) -> None:
    make_mnist(tmp_path, save_mat)
    (tmp_path / "MNIST/raw" / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        torchvision_source("mnist", tmp_path, False)


def test_a_set_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "caltech101/101_ObjectCategories/BACKGROUND_Google").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^caltech101 has no pictures in .*\.$"):
        torchvision_source("caltech101", tmp_path, False)


def test_splits_of_different_classes_are_not_put_together(tmp_path: Path, save_mat: SaveMat) -> None:
    make_imagenette(tmp_path, save_mat)
    picture(tmp_path, "imagenette2/val/n03888257/c.JPEG")
    with pytest.raises(UserError, match=r"imagenette:all is damaged in .*: its splits have different classes"):
        torchvision_source("imagenette:all", tmp_path, False)
    assert torchvision_source("imagenette:val", tmp_path, False).labels


def test_a_missing_package_is_named(tmp_path: Path, save_mat: SaveMat, monkeypatch: pytest.MonkeyPatch) -> None:
    make_svhn(tmp_path, save_mat)
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda path, md5: True)
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "scipy.io", raising=False)
    with pytest.raises(UserError, match="svhn needs the package scipy: pip install scipy"):
        torchvision_source("svhn", tmp_path, False)


def test_a_broken_torchvision_is_not_the_files_fault(
    tmp_path: Path, save_mat: SaveMat, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_mnist(tmp_path, save_mat)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError):
        torchvision_source("mnist", tmp_path, False)


# Fetching


class Answer(io.BytesIO):
    """What urlopen gives."""

    def __init__(self, url: str, content: bytes) -> None:
        super().__init__(content)
        self.url, self.length = url, len(content)


@pytest.fixture
def kmnist_online(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """A server that has a small KMNIST, and torchvision with its sums."""
    files = {f"{name}.gz": gzip.compress(content) for name, content in idx_files("KMNIST").items()}

    def urlopen(request: urllib.request.Request) -> Answer:
        asked.append(request.full_url)
        return Answer(request.full_url, files[request.full_url.rpartition("/")[2]])

    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(datasets.KMNIST, "resources", sums)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("kmnist_online")
def test_a_set_is_fetched_once_and_quietly(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = torchvision_source("kmnist", tmp_path / "new/root", True)
    assert len(asked) >= 4
    asked.clear()
    for download in (True, False):
        again = torchvision_source("kmnist", tmp_path / "new/root", download)
        assert again.state == first.state
        np.testing.assert_array_equal(item(again, 3), item(first, 3))
    assert asked == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("kmnist_online")
def test_a_terminal_sees_the_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    torchvision_source("kmnist", tmp_path, True)
    assert "100" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_a_network_that_fails_is_the_reason(tmp_path: Path, asked: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        torchvision_source("cifar10", tmp_path, True)
    by_hand = (
        f"files put by hand where torchvision expects them, {tmp_path / 'cifar-10-batches-py'}, are taken as they are"
    )
    reason = "<urlopen error no route to host>"
    assert str(caught.value) == f"cifar10 could not be downloaded ({reason}); {by_hand}."
    assert asked


@pytest.mark.parametrize("name", ["mnist", "svhn", "caltech101", "eurosat"])
def test_every_failed_download_is_one_sentence(name: str, tmp_path: Path, save_mat: SaveMat) -> None:
    with pytest.raises(
        UserError, match=r"^\w+ could not be downloaded \(.*no route to host>.*\); files put by hand"
    ) as e:
        torchvision_source(name, tmp_path, True)
    assert "\n" not in str(e.value)


def test_celeba_without_gdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    said = r"'gdown' is required\. You can install it with 'pip install gdown'\); .*celeba, are taken .*--crop celeba`"
    with pytest.raises(UserError, match=said):
        torchvision_source("celeba", tmp_path, True)


def test_celeba_over_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class FileURLRetrievalError(Exception):  # gdown's is no OSError either
        pass

    def download(**arguments: Any) -> None:
        print("Failed to retrieve file url:")
        raise FileURLRetrievalError("Too many users have viewed or downloaded this file recently.")

    gdown: Any = types.ModuleType("gdown")
    gdown.download = download
    monkeypatch.setitem(sys.modules, "gdown", gdown)
    with pytest.raises(UserError, match=r"could not be downloaded \(Too many users .* recently\)"):
        torchvision_source("celeba", tmp_path, True)
    assert capsys.readouterr().out == ""


# The state


def touched(path: Path) -> None:
    """Written again, in another file."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


@pytest.mark.usefixtures("any_sum")
def test_the_state_changes_with_the_sets_files_only(tmp_path: Path, save_mat: SaveMat) -> None:
    files = {
        "mnist": "MNIST/raw/train-images-idx3-ubyte",
        "eurosat": "eurosat/2750/Forest/Forest_1.jpg",
        "svhn": "train_32x32.mat",
    }
    for name in files:
        make(name, tmp_path, save_mat)

    def states() -> dict[str, str]:
        return {name: torchvision_source(name, tmp_path, False).state for name in files}

    for name, file in files.items():
        before = states()
        assert states() == before
        touched(tmp_path / file)
        after = states()
        assert {other for other in files if after[other] != before[other]} == {name}


@pytest.mark.usefixtures("any_sum")
def test_each_split_has_a_state_of_its_own(tmp_path: Path, save_mat: SaveMat) -> None:
    make_svhn(tmp_path, save_mat)  # with as many pictures in each
    states = {torchvision_source(f"svhn:{split}", tmp_path, False).state for split in NAMES["svhn"]}
    assert len(states) == 3


# LSUN


@pytest.fixture
def lsun(tmp_path: Path) -> dict[bytes, bytes]:
    """ROOT/tower_train_lmdb and, as objects lie, ROOT/cat."""
    pytest.importorskip("lmdb", reason="LSUN needs lmdb")
    pictures = {}
    for number, key in enumerate([b"b2", b"a\xff1", b"c3"]):
        file = io.BytesIO()
        Image.fromarray(noise(str(number), 5 + number, 7, 3)).save(file, "WEBP", lossless=True)
        pictures[key] = file.getvalue()
    write_lmdb(tmp_path / "tower_train_lmdb", pictures)
    write_lmdb(tmp_path / "cat", {b"tom": pictures[b"c3"]})
    return pictures


def write_lmdb(folder: Path, content: dict[bytes, bytes]) -> None:
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for key, value in content.items():
            transaction.put(key, value)
    (folder / "lock.mdb").unlink()


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_lsun_is_its_keys_in_order(tmp_path: Path, lsun: dict[bytes, bytes]) -> None:
    source = torchvision_source("lsun:tower_train", tmp_path, False)
    assert [name.encode("latin-1") for name in source.names] == sorted(lsun) == [b"a\xff1", b"b2", b"c3"]
    assert [source.read(name) for name in source.names] == [lsun[key] for key in sorted(lsun)]
    assert (source.labels, source.parallel) == (None, True)
    cat = torchvision_source("LSUN:cat", tmp_path, False)
    assert [cat.read(name) for name in cat.names] == [lsun[b"c3"]]
    assert source.read("b2") == lsun[b"b2"]  # the other is still to be had


def test_lsun_has_torchvisions_items(tmp_path: Path, lsun: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")  # torchvision leaves its pickle here
    code = "import sys, io\nfrom torchvision.datasets import LSUN\n"
    code += "for image, _ in LSUN(sys.argv[1], ['tower_train']): print(image.tobytes().hex())"
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]  # lmdb allows one opening in a process
    theirs = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    source = torchvision_source("lsun:tower_train", tmp_path, False)
    assert [item(source, number).tobytes().hex() for number in range(3)] == theirs


def test_lsun_writes_nothing_and_runs_nothing(
    tmp_path: Path, lsun: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path / "tower_train_lmdb")
    cache = Path("_cache_" + "".join(c for c in folder if c.isascii() and c.isalpha()))
    cache.write_bytes(pickle.dumps(Bomb(tmp_path / "run")))
    before = below(tmp_path)
    source = torchvision_source("lsun:tower_train", tmp_path, False)
    assert source.read(source.names[0])
    assert below(tmp_path) == before


def test_a_worker_reads_lsun_without_torch(tmp_path: Path, lsun: dict[bytes, bytes]) -> None:
    source = torchvision_source("lsun:tower_train", tmp_path, False)
    raw = run_elsewhere(READ + "assert 'torch' not in sys.modules", pickle.dumps((source.read, source.names[0])))
    assert raw == lsun[b"a\xff1"]


def test_lsun_that_was_replaced_is_read_anew(tmp_path: Path, lsun: dict[bytes, bytes]) -> None:
    before = torchvision_source("lsun:cat", tmp_path, False)
    assert before.read("tom")
    (tmp_path / "cat/data.mdb").unlink()
    write_lmdb(tmp_path / "cat", {b"felix": b"1", b"garfield": b"2"})
    after = torchvision_source("lsun:cat", tmp_path, False)
    assert after.names == ["felix", "garfield"]
    assert after.state != before.state
    with pytest.raises(Unreadable, match="not in the database"):
        after.read("tom")


@pytest.mark.parametrize("typed", ["lsun", "lsun:"])
def test_lsun_alone_asks_for_a_category(typed: str, tmp_path: Path, lsun: dict[bytes, bytes]) -> None:
    with pytest.raises(UserError, match=r"wants a category: .*bedroom, bridge.* holds cat, tower_train\.$"):
        torchvision_source(typed, tmp_path, False)


@pytest.mark.parametrize("download", [False, True])
def test_an_lsun_category_that_is_not_there(
    download: bool, tmp_path: Path, lsun: dict[bytes, bytes], asked: list[str]
) -> None:
    said = r"lsun:tower_val is not in .*, which holds cat, tower_train: unzip its database there .* cannot download it"
    with pytest.raises(UserError, match=said):
        torchvision_source("lsun:tower_val", tmp_path, download)
    assert asked == []


@pytest.mark.parametrize("content", [b"", b"junk" * 9999])
def test_a_damaged_lsun_database(content: bytes, tmp_path: Path, lsun: dict[bytes, bytes]) -> None:
    (tmp_path / "cat/data.mdb").write_bytes(content)
    with pytest.raises(UserError, match=r"cat is no LSUN database, or is damaged \(.+\): unzip it again"):
        torchvision_source("lsun:cat", tmp_path, False)


def test_an_empty_lsun_database(tmp_path: Path, lsun: dict[bytes, bytes]) -> None:
    write_lmdb(tmp_path / "dog", {})
    with pytest.raises(UserError, match="lsun:dog has no pictures in"):
        torchvision_source("lsun:dog", tmp_path, False)


def test_lsun_without_lmdb(tmp_path: Path, lsun: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"lsun:cat needs the package lmdb: pip install 'progan\[lsun\]'"):
        torchvision_source("lsun:cat", tmp_path, False)
