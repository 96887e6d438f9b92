"""Laws of naming a source: each thing is opened as what it is, and what is none gets one sentence."""

import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from progan.data.pictures import Recipe
from progan.data.prepare import Wish, prepare
from progan.data.pyramid import open_pyramid
from progan.data.sources import faces_count, faces_source, open_source
from progan.data.stylegan import write_zip
from progan.data.tfrecords import write_tfrecords
from progan.errors import UserError

R = 8


def _open(text, tmp_path, max_res=R):
    return open_source(str(text), max_res, tmp_path / "root", False, tmp_path / "scratch")


@pytest.fixture
def pictures(tmp_path):
    for n in range(4):
        folder = tmp_path / "pictures" / "ab"[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (R, R), (n, n, n)).save(folder / f"{n}.png")
    return tmp_path / "pictures"


def _tar(pictures, path, mode):
    with tarfile.open(path, mode) as tar:
        tar.add(pictures, "in")
    return path


def _zip(pictures, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in pictures.rglob("*.png"):
            archive.write(file, file.relative_to(pictures))
    return path


def _pyramid(pictures, path):
    prepare(str(pictures), path, Recipe(R), Wish(workers=0))
    return path


def _stylegan(pictures, path):
    pyramid = open_pyramid(_pyramid(pictures, path.with_name("p")))
    write_zip(path, pyramid.levels[R], pyramid.labels, lambda done, total: None)
    return path


def _records(pictures, path):
    pyramid = open_pyramid(_pyramid(pictures, path.with_name("p")))
    path.mkdir()
    write_tfrecords(path, "x", pyramid.levels, pyramid.labels, lambda done, total: None)
    return path


def _arrays(pictures, path):
    labels = np.array([0, 1, 0, 1])
    np.savez(path, images=np.zeros((4, R, R, 3), np.uint8), labels=labels)
    return path


KINDS = {
    "folder": lambda p, t: p,
    "zip": lambda p, t: _zip(p, t / "p.zip"),
    "zip without suffix": lambda p, t: _zip(p, t / "photos"),
    "tar": lambda p, t: _tar(p, t / "p.tar", "w"),
    "tar.gz": lambda p, t: _tar(p, t / "p.tgz", "w:gz"),
    "pyramid": lambda p, t: _pyramid(p, t / "q"),
    "stylegan": lambda p, t: _stylegan(p, t / "s.zip"),
    "tfrecords": lambda p, t: _records(p, t / "t"),
    "npz": lambda p, t: _arrays(p, t / "a.npz"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_opened_as_what_it_is(kind, pictures, tmp_path):
    path = KINDS[kind](pictures, tmp_path)
    source = _open(path, tmp_path)
    assert len(source.names) == 4
    assert np.bincount(source.labels.values).tolist() == [2, 2]
    assert source.shuffled == (kind in ("pyramid", "stylegan", "tfrecords"))
    out = prepare(str(path), tmp_path / "out", Recipe(R), Wish(workers=0))
    assert out.count == 4
    assert sorted(out.levels[R][:, 0, 0, 0].tolist()) == ([0, 0, 0, 0] if kind == "npz" else [0, 1, 2, 3])


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: p / "missing", "missing does not exist; data is a pyramid"),
    (lambda p: "cifar1O", r"cifar1O does not exist \(did you mean cifar10\?\)"),
    (lambda p: (p / "empty").mkdir() or p / "empty", r"empty holds no pictures\."),
    (lambda p: (p / "x.txt").write_text("x") and p / "x.txt", "x.txt is not understood; data is a pyramid"),
    (lambda p: (p / "x.zip").write_bytes(b"PK\x03\x04") and p / "x.zip", "x.zip"),
    (lambda p: (p / "x.npy").write_bytes(b"junk") and p / "x.npy", "x.npy"),
    (lambda p: (p / "x.tar").write_bytes(b"") or p / "x.tar", "x.tar is not understood"),
], ids=["missing", "misspelt", "empty", "text", "zip", "npy", "tar"])  # fmt: skip
def test_what_is_no_source_is_refused(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        _open(make(tmp_path), tmp_path)


def test_a_folder_of_other_files_says_that_it_has_them(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"docs holds no pictures; it has 1 other files"):
        _open(tmp_path / "docs", tmp_path)


def test_a_run_is_no_data(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").write_text("")
    with pytest.raises(UserError, match="run is the directory of a run; data is"):
        _open(tmp_path / "run", tmp_path)


def test_a_path_wins_over_a_name(pictures, tmp_path, monkeypatch):
    pictures.rename(tmp_path / "mnist")
    monkeypatch.chdir(tmp_path)
    assert len(_open("mnist", tmp_path).names) == 4

    pictures = tmp_path / "mnist"
    pictures.rename(tmp_path / "faces")
    assert len(_open("faces", tmp_path).names) == 4


def test_a_name_that_no_disk_can_hold_is_said(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read: File name too long"):
        _open("x" * 5000, tmp_path)


def test_a_named_set_keeps_its_own_channels(tmp_path):
    assert _open("faces:3", tmp_path).channels == 3
    raw = tmp_path / "root" / "MNIST" / "raw"  # as torchvision lays it out
    raw.mkdir(parents=True)
    for name, head, body in (
        ("images-idx3", (2051, 2, 28, 28), bytes(2 * 28 * 28)),
        ("labels-idx1", (2049, 2), b"\1\2"),
    ):
        for part in ("train", "t10k"):
            (raw / f"{part}-{name}-ubyte").write_bytes(np.array(head, ">i4").tobytes() + body)
    assert _open("mnist", tmp_path).channels == 1


def test_faces_need_a_size(tmp_path):
    for text in ("faces", "faces:20"):
        with pytest.raises(UserError, match=rf"{text} can be drawn at any size: say --max-res R"):
            _open(text, tmp_path, 0)


def test_what_may_not_be_read_is_said(pictures, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("progan.data.sources.is_pyramid", refuse)
    with pytest.raises(UserError, match=r"pictures cannot be read: Permission denied\."):
        _open(pictures, tmp_path)


def test_faces_are_counted():
    assert faces_count("faces:5000", 64) == 5000
    assert faces_count("faces", 32) == 10_000
    assert faces_count("faces", 1024) == 158
    for text in ("faces:", "faces:x", "faces:0", "faces:-1"):
        with pytest.raises(UserError, match=rf"{text}: write faces:COUNT"):
            faces_count(text, 64)


def test_faces_are_the_same_in_any_order_and_number():
    whole = faces_source(70, R)
    few = faces_source(3, R)
    assert np.array_equal(whole.read("000002"), few.read("000002"))
    late = whole.read("000069")
    assert np.array_equal(faces_source(70, R).read("000069"), late)
    assert not np.array_equal(whole.read("000002"), late)
    assert (late.shape, late.dtype) == ((3, R, R), np.uint8)
