"""Laws of .npy and .npz: pictures come out as they went in, whatever the layout; what is none is a user's mistake."""

import io
import os
import pickle
import random
import shutil
import struct
import warnings
import zipfile
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progan.data.arrays import array_source
from progan.data.source import Source, Unreadable
from progan.errors import UserError
from tests.conftest import aged

PIXELS = np.random.default_rng(1).integers(0, 256, (5, 3, 8, 8), np.uint8)  # [N, C, H, W]
pytestmark = pytest.mark.usefixtures("no_hanging")
LAST = PIXELS.transpose(0, 2, 3, 1)


def _npy(tmp_path: Path, array: np.ndarray, beside: np.ndarray | None = None) -> Source:
    np.save(tmp_path / "x.npy", array)
    if beside is not None:
        np.save(tmp_path / "x-labels.npy", beside)
        aged(tmp_path / "x-labels.npy")
    return array_source(aged(tmp_path / "x.npy"), tmp_path / "scratch")


def _npz(tmp_path: Path, *arrays: np.ndarray, packed: bool = True, **named: np.ndarray) -> Source:
    (np.savez_compressed if packed else np.savez)(tmp_path / "x.npz", *arrays, **named)
    return array_source(aged(tmp_path / "x.npz"), tmp_path / "scratch")


def _all(source: Source) -> np.ndarray:
    pictures = [source.read(name) for name in source.names]
    assert all(type(picture) is np.ndarray and picture.flags.c_contiguous for picture in pictures)
    assert all(picture.flags.owndata and picture.flags.writeable for picture in pictures)
    return np.stack(pictures)


# ---- pictures


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_pictures_come_out_as_they_went_in(kind: str, fortran: bool, last: bool, channels: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (7, channels, 5, 6), np.uint8)
    array = pixels.transpose(0, 2, 3, 1) if last else pixels
    array = np.asfortranarray(array) if fortran else np.ascontiguousarray(array)
    source = _npy(tmp_path, array) if kind == "npy" else _npz(tmp_path, images=array)
    assert (_all(source) == pixels).all()
    assert source.names == [f"{n:06d}" for n in range(7)]
    assert (source.labels, source.refused, source.passed_over, source.shuffled) == (None, {}, 0, False)
    assert source.channels == {1: 1, 3: 3, 4: None}[channels]


def test_grey_pictures_need_no_axis_for_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (7, 5, 3), np.uint8)
    source = _npy(tmp_path, pixels)
    assert (_all(source) == pixels[:, None]).all()
    assert source.channels == 1


LAYOUTS = {
    (3, 4, 4): "CHW", (1, 4, 4): "CHW", (3, 1, 1): "CHW", (4, 3, 3): "CHW",  # the other way they were no squares
    (4, 4, 3): "HWC", (3, 3, 4): "HWC", (1, 1, 3): "HWC", (4, 4, 1): "HWC",
    (3, 3, 3): "HWC", (1, 1, 1): "HWC", (4, 4, 4): "HWC", (3, 9, 3): "HWC", (3, 9, 4): "HWC", (1, 9, 3): "HWC",
    (3, 9, 7): "CHW", (7, 9, 3): "HWC", (2, 9, 3): "HWC", (3, 9, 2): "CHW", (5, 3, 1): "HWC",
}  # fmt: skip


@pytest.mark.parametrize("shape", LAYOUTS)
def test_which_axis_is_the_channels(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(3).integers(0, 256, (2, *shape), np.uint8)
    expected = array.transpose(0, 3, 1, 2) if LAYOUTS[shape] == "HWC" else array
    found = _all(_npy(tmp_path, array))
    assert found.shape == expected.shape
    assert (found == expected).all()


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3, st.sampled_from([1, 3, 4])),
    fortran=st.booleans(),
    number=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=30)
def test_every_array_with_channels_last_but_not_first(tmp_path_factory, shape, fortran, number) -> None:
    if shape[1] in (1, 3, 4):
        shape = (shape[0], 5, *shape[2:])
    array = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
    source = _npy(tmp_path_factory.mktemp("x"), np.asfortranarray(array) if fortran else array)
    assert (_all(source) == array.transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_any_order_and_another_process(kind: str, tmp_path: Path) -> None:
    source = _npy(tmp_path, LAST) if kind == "npy" else _npz(tmp_path, images=LAST)
    names = ["000004", "000000", "000004", "000002"]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        there = list(pool.map(source.read, names))
    assert (np.stack(there) == PIXELS[[4, 0, 4, 2]]).all()
    assert len(pickle.dumps(source.read)) < 1000


def test_a_file_is_not_kept_open(tmp_path: Path) -> None:
    source = _npy(tmp_path, PIXELS)
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    pictures = [source.read(name) for name in source.names]
    assert len(pictures) == 5
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)
        assert "x.npy" not in Path("/proc/self/maps").read_text()


def test_a_file_that_changes_is_not_read_any_more(tmp_path: Path) -> None:
    source = _npy(tmp_path, PIXELS)
    os.utime(tmp_path / "x.npy", ns=(1, 1))
    with pytest.raises(Unreadable, match="changed"):
        source.read("000000")
    (tmp_path / "x.npy").unlink()
    with pytest.raises(OSError):
        source.read("000000")


@pytest.mark.parametrize(
    ("height", "width", "top", "parallel"),
    [(8, 8, 8, False), (4, 4, 4, False), (64, 64, 64, False), (128, 128, 128, True), (8, 16, None, False)]
    + [(2, 2, None, False), (100, 100, None, True), (8, 65, None, True), (1, 1, None, False)],
)
def test_the_top_is_known_where_pictures_are_squares_of_a_power_of_two(height, width, top, parallel, tmp_path) -> None:
    source = _npy(tmp_path, np.zeros((2, height, width), np.uint8))
    assert (source.top, source.parallel) == (top, parallel)
    assert _npy(tmp_path, np.zeros((2, 3, max(height, 5), max(width, 5)), np.uint8)).parallel == parallel


def test_numpys_other_versions(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, PIXELS, version=(2, 0))
    assert (_all(array_source(tmp_path / "x.npy", tmp_path)) == PIXELS).all()
    old = b"{'descr': '|u1', 'fortran_order': False, 'shape': (5L, 3L, 8L, 8L), }".ljust(117) + b"\n"
    (tmp_path / "y.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(old)) + old + PIXELS.tobytes())
    assert (_all(array_source(tmp_path / "y.npy", tmp_path)) == PIXELS).all()  # Python 2 wrote such
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez(tmp_path / "z.npz", images=LAST, odd=np.zeros(5, [("é" * 40_000, int)]), é=np.zeros(1, [("é", int)]))
    assert (_all(array_source(tmp_path / "z.npz", tmp_path)) == PIXELS).all()


def test_a_header_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x0f" + bytes(100_000_000))
    with pytest.raises(UserError, match="convert"):
        array_source(tmp_path / "x.npz", tmp_path)


# ---- state, scratch


def test_the_state_changes_with_the_files(tmp_path: Path) -> None:
    states = [_npy(tmp_path, PIXELS).state, _npy(tmp_path, PIXELS[:4]).state]
    states += [_npy(tmp_path, PIXELS[:4], np.arange(4)).state, _npy(tmp_path, PIXELS[:4], np.zeros((4, 2))).state]
    states += [_npz(tmp_path, PIXELS).state, _npz(tmp_path, PIXELS[:4]).state]
    assert array_source(tmp_path / "x.npz", tmp_path / "elsewhere").state == states[-1]
    for value in (1, 2):
        np.save(tmp_path / "x-labels.npy", np.full(4, value))
        aged(tmp_path / "x-labels.npy")
        states.append(array_source(tmp_path / "x.npy", tmp_path).state)
    assert len(set(states)) == 8


def test_only_an_npz_is_copied_and_only_into_the_scratch(tmp_path: Path) -> None:
    _npy(tmp_path, PIXELS)
    assert not (tmp_path / "scratch").exists()
    _npz(tmp_path, PIXELS, np.arange(5), other=np.zeros(1000))
    assert sorted(os.listdir(tmp_path)) == ["scratch", "x.npy", "x.npz"]
    assert len(os.listdir(tmp_path / "scratch")) == 1


def test_a_copy_is_used_again_as_long_as_the_file_is_the_same(tmp_path: Path) -> None:
    _npz(tmp_path, PIXELS)
    copy = next((tmp_path / "scratch").iterdir())
    copy.write_bytes(copy.read_bytes()[:-1] + b"\7")
    source = array_source(tmp_path / "x.npz", tmp_path / "scratch")
    assert _all(source)[-1, -1, -1, -1] == 7
    os.utime(tmp_path / "x.npz", ns=(1, 1))
    assert (_all(array_source(tmp_path / "x.npz", tmp_path / "scratch")) == PIXELS).all()


def test_a_bomb_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    left = iter(range(1_002_000_000, 0, -60_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(next(left)))
    with pytest.raises(UserError, match=r"x\.npz holds more than there is room for"):
        _npz(tmp_path, np.zeros((10, 3, 1024, 1024), np.uint8))
    assert os.listdir(tmp_path / "scratch") == []


# ---- the keys of an .npz


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("key", ["images", "x", "data", "arr_0", "x_train", "train_images"])
def test_pictures_have_many_names(key: str, packed: bool, tmp_path: Path) -> None:
    other = {"zebra": np.zeros((5, 8, 8, 3)), "ape": np.zeros((5, 2, 2, 3), np.uint8)}
    assert (_all(_npz(tmp_path, packed=packed, **other, **{key: LAST})) == PIXELS).all()


def test_the_first_of_the_names_is_taken_that_fits(tmp_path: Path) -> None:
    assert (_all(_npz(tmp_path, arr_0=LAST[:2], x=LAST, data=LAST[:1])) == PIXELS).all()
    assert (_all(_npz(tmp_path, images=np.zeros(3), data=LAST, zebra=LAST[:2])) == PIXELS).all()
    assert (_all(_npz(tmp_path, images=np.zeros(3), data=LAST[..., 0], zebra=LAST)) == PIXELS[:, :1]).all()
    assert (_all(_npz(tmp_path, arr_0=LAST, images=np.zeros(3), data=np.zeros((5, 3072), np.uint8))) == PIXELS).all()


def test_the_only_array_of_four_axes_needs_no_name(tmp_path: Path) -> None:
    assert (
        _all(_npz(tmp_path, zebra=LAST, ape=np.zeros((5, 9), np.uint8), data=np.zeros((5, 8, 8, 3)))) == PIXELS
    ).all()
    with pytest.raises(UserError, match=r"holds ape: uint8 \[5, 8, 8, 3\], zebra: uint8 \[5, 8, 8, 3\]"):
        _npz(tmp_path, ape=LAST, zebra=LAST)


# ---- labels


def _labelled(tmp_path: Path, labels: np.ndarray, key: str = "labels") -> Source:
    return _npz(tmp_path, **{"images": LAST, key: labels})


@pytest.mark.parametrize("key", ["labels", "y", "y_train", "train_labels", "arr_1"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, ">i2", np.uint64])
def test_whole_numbers_are_classes(dtype, key: str, tmp_path: Path) -> None:
    for labels in (np.array([3, 0, 1, 1, 0], dtype), np.array([[3], [0], [1], [1], [0]], dtype)):
        source = _labelled(tmp_path, labels, key)
        assert source.labels.values.dtype == np.int64
        assert source.labels.values.tolist() == [3, 0, 1, 1, 0]
        assert source.labels.names == ("0", "1", "2", "3")


def test_truths_and_texts_are_classes(tmp_path: Path) -> None:
    source = _labelled(tmp_path, np.array([True, False, True, True, False]))
    assert (source.labels.values.tolist(), source.labels.names) == ([1, 0, 1, 1, 0], ("0", "1"))
    source = _labelled(tmp_path, np.array(["dog", "cat", "dog", "ape", "é"]))
    assert (source.labels.values.tolist(), source.labels.names) == ([2, 1, 2, 0, 3], ("ape", "cat", "dog", "é"))
    assert source.labels.values.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.bool_])
def test_one_hot_vectors_are_classes(dtype, tmp_path: Path) -> None:
    source = _labelled(tmp_path, np.eye(4, dtype=dtype)[[0, 2, 2, 1, 0]])
    assert (source.labels.values.tolist(), source.labels.names) == ([0, 2, 2, 1, 0], ("0", "1", "2", "3"))
    assert source.labels.values.dtype == np.int64


@pytest.mark.parametrize("row", [[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [2.0, -1.0], [-0.25, 1.25], [1.0, 1e-9]], ids=str)
def test_other_vectors_stay(row: list[float], tmp_path: Path) -> None:
    vectors = np.array([[1, 0], row, [0, 1], [0, 1], [1, 0]])
    labels = _labelled(tmp_path, vectors).labels
    assert (labels.values.dtype, labels.names) == (np.float32, ())
    assert (labels.values == vectors.astype(np.float32)).all()


def test_labels_beside_an_npy(tmp_path: Path) -> None:
    assert _npy(tmp_path, PIXELS, np.array([1, 0, 1, 0, 0])).labels.values.tolist() == [1, 0, 1, 0, 0]
    assert _npy(tmp_path, PIXELS, np.eye(5, dtype=np.float32)).labels.names == tuple("01234")
    (tmp_path / "x-labels.npy").unlink()
    (tmp_path / "x-labels.npy").mkdir()
    assert array_source(tmp_path / "x.npy", tmp_path).labels is None


def test_absurd_labels_beside_an_npy_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", PIXELS)
    absurd = b"{'descr': '<f8', 'fortran_order': False, 'shape': (5, 1099511627776), }".ljust(117) + b"\n"
    (tmp_path / "x-labels.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(absurd)) + absurd)
    with pytest.raises(UserError, match="do not fit the 5 pictures"):
        array_source(tmp_path / "x.npy", tmp_path)


UNFIT = [
    np.zeros(4, int),
    np.zeros((4, 2)),
    np.zeros((5, 2, 2)),
    np.zeros(5),
    np.array(1),
    np.array([b"a"] * 5),
    np.zeros((5, 0)),
]


@pytest.mark.parametrize("labels", UNFIT, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_what_does_not_fit_is_a_users_mistake_unless_it_may_be_anything(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fit its 5 pictures"):
        _labelled(tmp_path, labels)
    assert _labelled(tmp_path, labels, "arr_1").labels is None
    with pytest.raises(UserError) as error:
        _npy(tmp_path, PIXELS, labels)
    beside, shape = f"{tmp_path / 'x-labels.npy'} holds {labels.dtype} ", list(labels.shape)
    assert str(error.value).startswith(f"{beside}{shape}, which do not fit the 5 pictures of {tmp_path / 'x.npy'};")


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 2, -1, 0]), np.array([0, 1, 10**9, 1, 0]), np.array([2**64 - 1, 0, 0, 0, 0], np.uint64),
        np.array([[0.5, np.nan]] * 5), np.array([[0.5, np.inf]] * 5), np.array([[0.5, 1e300]] * 5),
    ],
    ids=["negative", "absurd", "absurdest", "nan", "infinite", "too large"],
)  # fmt: skip
def test_impossible_labels_are_a_users_mistake(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.npz \(labels\) has"):
        _labelled(tmp_path, labels)
    with pytest.raises(UserError, match=r"x-labels\.npy has"):
        _npy(tmp_path, PIXELS, labels)


# ---- mistakes

WRONG = {
    "floats": (np.zeros((5, 3, 8, 8), np.float32), "float32.*convert it to uint8, 0 to 255"),
    "16 bits": (np.zeros((5, 3, 8, 8), np.uint16), "convert it to uint8"),
    "signed": (np.zeros((5, 3, 8, 8), np.int8), "convert it to uint8"),
    "a table": (np.zeros((5, 3072), np.uint8), r"\[5, 3072\].*\[N, H, W, C\]"),
    "one axis": (np.zeros(5, np.uint8), r"\[N, H, W, C\]"),
    "no axis": (np.zeros((), np.uint8), r"\[N, H, W, C\]"),
    "five axes": (np.zeros((2, 2, 3, 8, 8), np.uint8), r"\[N, H, W, C\]"),
    "two channels": (np.zeros((5, 2, 8, 8), np.uint8), "C is 1, 3 or 4"),
    "no pictures": (np.zeros((0, 3, 8, 8), np.uint8), r"\[0, 3, 8, 8\]"),
    "no pixels": (np.zeros((5, 3, 0, 8), np.uint8), r"\[5, 3, 0, 8\]"),
    "records": (np.zeros(5, [("a", np.uint8), ("b", np.uint8)]), "convert it to uint8"),
    "objects": (np.array([{}, {}]), "object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_are_no_pictures_is_a_users_mistake(case: str, tmp_path: Path) -> None:
    array, message = WRONG[case]
    with pytest.raises(UserError, match=message) as error:
        _npy(tmp_path, array)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=message) as error:
        _npz(tmp_path, images=array)
    assert str(error.value).startswith(f"{tmp_path / 'x.npz'}")
    assert not (tmp_path / "scratch").exists()


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    evil = np.array([Evil()] * 5)
    for make in (
        lambda: _npy(tmp_path, evil),
        lambda: _npz(tmp_path, images=evil),
        lambda: _npz(tmp_path, images=LAST, labels=evil),
        lambda: _npy(tmp_path, PIXELS, evil),
    ):
        with pytest.raises(UserError):
            make()
    (tmp_path / "x.npy").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError):
        array_source(tmp_path / "x.npy", tmp_path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"PK\5\6", b"PK\5\6" + bytes(18)])
def test_damaged_files_are_a_users_mistake(data: bytes, tmp_path: Path) -> None:
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            array_source(tmp_path / name, tmp_path)


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo, os.mkdir], ids=["nothing", "pipe", "folder"])
def test_what_is_no_file_is_a_users_mistake(make, tmp_path: Path) -> None:
    make(tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"x\.npy"):
        array_source(tmp_path / "x.npy", tmp_path)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x-labels.npy"])
def test_what_may_not_be_read_is_no_damaged_file(name: str, tmp_path: Path, monkeypatch) -> None:
    def refuse(path, *arguments):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, *arguments)

    _npy(tmp_path, PIXELS, np.arange(5))
    _npz(tmp_path, PIXELS)
    usual = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError) as error:
        array_source(tmp_path / name.replace("-labels", ""), tmp_path)
    assert str(error.value) == f"{tmp_path / name} cannot be read: Permission denied."


def test_a_cut_off_file_is_a_users_mistake(tmp_path: Path) -> None:
    _npy(tmp_path, PIXELS)
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"x\.npy"):
        array_source(tmp_path / "x.npy", tmp_path)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", data[:-1])
    with pytest.raises(UserError, match=r"x\.npz"):
        array_source(tmp_path / "x.npz", tmp_path / "scratch")


def test_a_damaged_member_leaves_no_copy(tmp_path: Path) -> None:
    for packed in (False, True):
        _npz(tmp_path, np.tile(PIXELS, (50, 1, 1, 1)), packed=packed)
        shutil.rmtree(tmp_path / "scratch")
        data = bytearray((tmp_path / "x.npz").read_bytes())
        data[len(data) // 3] ^= 255
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            array_source(tmp_path / "x.npz", tmp_path / "scratch")
        assert list(tmp_path.glob("scratch/*")) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_numpy_does_not_use_is_refused(method: int, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, PIXELS)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("images.npy", buffer.getvalue())
    with pytest.raises(UserError, match=r"numpy\.savez"):
        array_source(tmp_path / "x.npz", tmp_path / "scratch")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_no_mutant_of_a_file_does_harm(kind: str, tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    if kind == "npy":
        _npy(box, PIXELS)
    else:
        _npz(box, images=LAST, labels=np.arange(5))
    path, dice, read = box / f"x.{kind}", random.Random(kind), 0
    original = path.read_bytes()
    for _ in range(300):
        mutant = bytearray(original)
        for _ in range(dice.choice([1, 1, 2, 5])):
            place = dice.randrange(128 if dice.random() < 0.7 else len(mutant))
            mutant[place] = dice.choice([*b"0123456789(),-+'{}<>|u ", 0, 255, dice.randrange(256)])
        path.write_bytes(mutant[: len(mutant) if dice.random() < 0.9 else dice.randrange(len(mutant))])
        shutil.rmtree(box / "scratch", ignore_errors=True)
        read += _harmless(path, box / "scratch")
        assert set(os.listdir(box)) <= {path.name, "scratch"}
    assert os.listdir(tmp_path) == ["box"]
    assert 100 < read < 1500


def _harmless(path: Path, scratch: Path) -> int:
    """Open and read all of a mutant; returns how many pictures can be read. Only the promised errors are let pass."""
    try:
        source = array_source(path, scratch)
    except UserError:
        return 0
    return sum(source.read(name).dtype == np.uint8 for name in source.names[:5])
