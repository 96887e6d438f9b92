"""Laws of folders, zips and tars: the same files make the same source, and no file can make it hang, crash or write
where it must not.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from progan.data import archives
from progan.data.archives import folder_source, is_tar, tar_source, zip_source
from progan.data.source import Source, Unreadable
from progan.errors import UserError
from tests.conftest import aged

REAL = Path(__file__).parents[2].parent / "shared" / "data"
PACKED = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
KINDS = ["folder", "zip", "tar", *PACKED]
pytestmark = pytest.mark.usefixtures("no_hanging")
Files = dict[str, bytes]

as_a_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


@pytest.fixture(scope="module")
def another_process():
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


def _folder(path: Path, files: Files) -> Path:
    path.mkdir(exist_ok=True)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
        aged(path / name)
    return path


def _zip(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return aged(path)


def _tar_bytes(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _member(name: str, **changes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(member, key, value)
    return member


def _tar(path: Path, files: Files) -> Path:
    data = _tar_bytes([(_member(name), content) for name, content in files.items()])
    path.write_bytes(PACKED.get(path.name.partition(".")[2], bytes)(data))
    return aged(path)


def _source(kind: str, files: Files, tmp_path: Path) -> Source:
    if kind == "folder":
        return folder_source(_folder(tmp_path / "folder", files))
    if kind == "zip":
        return zip_source(_zip(tmp_path / "data.zip", files))
    return tar_source(_tar(tmp_path / f"data.{kind}", files), tmp_path / "scratch")


def _of_zip(tmp_path: Path, files: Files, **changes) -> Source:
    return zip_source(_zip(tmp_path / "data.zip", files, **changes))


def _of_tar(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Source:
    (tmp_path / "data.tar").write_bytes(_tar_bytes(members))
    return tar_source(tmp_path / "data.tar", tmp_path / "scratch")


def _contents(source: Source) -> Files:
    return {name: source.read(name) for name in source.names}


def _classes(source: Source) -> dict[str, str] | None:
    """{picture: name of its class}"""
    if source.labels is None:
        return None
    assert source.labels.values.dtype == np.int64
    assert source.labels.values.shape == (len(source.names),)
    return {name: source.labels.names[n] for name, n in zip(source.names, source.labels.values)}


# ---- the same files make the same source

PICTURES = {
    "b/2.PNG": b"two",
    "b/deep/er/1.jpeg": b"one",
    "a/10.tif": b"ten",
    "a/9.png": b"",
    "a/with\nnewline \\ é.png": b"odd",
    "a/" + "long" * 60 + ".png": bytes(range(256)) * 30,
}
OTHERS = {
    "readme.txt": b"x",
    "b/nested.zip": b"PK",
    "b/Thumbs.db": b"x",
    ".hidden.png": b"x",
    "b/.hidden/1.png": b"x",
    "b/.hidden/2/2.png": b"x",
    "__MACOSX/a/._9.png": b"x",
    "a/png": b"x",
}
PASSED_OVER = 7  # of .hidden's two one


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_make_the_same_source(kind: str, tmp_path: Path) -> None:
    pictures = {name.replace("\\", "-"): data for name, data in PICTURES.items()}  # in zips it is a slash
    source = _source(kind, OTHERS | pictures, tmp_path)
    assert source.names == sorted(pictures)
    assert _contents(source) == pictures
    assert _classes(source) == {name: name[0] for name in source.names}
    assert (source.passed_over, source.refused, source.shuffled) == (PASSED_OVER, {}, False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_is_the_same_in_any_order_and_in_another_process(
    kind: str, tmp_path: Path, another_process: ProcessPoolExecutor
) -> None:
    source = _source(kind, {f"{n}.png": b"%d" % n * n for n in range(40)}, tmp_path)
    names = random.Random(1).sample(source.names, 40)
    there = list(another_process.map(source.read, names))
    assert there == [source.read(name) for name in names] == [b"%d" % int(n[:-4]) * int(n[:-4]) for n in names]


def test_reading_needs_no_torch() -> None:
    code = "import sys, progan.data.archives, progan.data.arrays; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.xz"])
def test_names_that_are_no_utf8(kind: str, tmp_path: Path) -> None:
    name = os.fsdecode(b"k\xe4tze/\xff\xfe.png")
    source = _source(kind, {name: b"cat", "dog/1.png": b"dog", "dog/back\\slash.png": b"slash"}, tmp_path)
    assert source.names == ["dog/1.png", "dog/back\\slash.png", name]
    assert source.read(name) == b"cat"
    assert source.labels.names == ("dog", os.fsdecode(b"k\xe4tze"))
    assert pickle.loads(pickle.dumps(source)).read(name) == b"cat"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_makes_an_empty_source(kind: str, tmp_path: Path) -> None:
    source = _source(kind, {"a.txt": b"x"}, tmp_path)
    assert (source.names, source.labels, source.passed_over) == ([], None, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_are_too_long_are_refused_shortened(kind: str, tmp_path: Path) -> None:
    fitting, long, other = (f"{'d' * 90}/" * 10 + "x" * length + ".png" for length in (86, 87, 88))
    assert (len(fitting), len(long)) == (1000, 1001)
    source = _source(kind, {"a.png": b"a", fitting: b"b", long: b"c", other: b"d"}, tmp_path)
    assert _contents(source) == {"a.png": b"a", fitting: b"b"}
    assert list(source.refused.values()) == ["its name is too long"] * 2
    assert all(name.startswith(long[:100] + "...") and len(name) < 130 for name in source.refused)
    assert not any(name.endswith("(2)") for name in source.refused)  # they are no doubles


def test_names_of_any_length_are_refused_by_names_that_a_table_can_hold(tmp_path: Path) -> None:
    names = ["x" * 140_000 + ".png", "../" + "x" * 140_000 + ".png"]
    source = _of_tar(tmp_path, [(_member(name), b"x") for name in [names[0], *names, "a.png"]])
    assert source.names == ["a.png"]
    assert len(source.refused) == 3
    assert max(map(len, source.refused)) < 130


# ---- state


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_of_the_pictures(kind: str, tmp_path: Path) -> None:
    files = {"a.png": b"aaaa", "b.png": b"bbbb", "x.txt": b"x"}
    changes = [{"a.png": b"cccc"}, {"a.png": b"aaaaa"}, {"c.png": b"x"}, {"dataset.json": b'{"labels": null}'}]
    states = {_source(kind, files, _folder(tmp_path / "0", {})).state}
    for number, change in enumerate(changes, 1):
        states.add(_source(kind, files | change, _folder(tmp_path / str(number), {})).state)
    states.add(_source(kind, {"b.png": b"bbbb"}, _folder(tmp_path / "less", {})).state)
    assert len(states) == 6
    assert {len(state) for state in states} == {32}


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_the_same_as_long_as_nothing_changes(kind: str, tmp_path: Path) -> None:
    files = {"a.png": b"aaaa", "dataset.json": b'{"labels": null}'}
    first = _source(kind, files, tmp_path)
    again = {
        "folder": lambda: folder_source(tmp_path / "folder"),
        "zip": lambda: zip_source(tmp_path / "data.zip"),
    }.get(kind, lambda: tar_source(tmp_path / f"data.{kind}", tmp_path / "elsewhere"))()
    assert again.state == first.state


def _states_after(make, tmp_path: Path, *changes) -> set[str]:
    """States of a folder of two pictures and a table after changes to it, with the times of all files the same."""
    states = set()
    for change in (lambda folder: None, *changes):
        folder = make(tmp_path / f"{len(states)}")
        change(folder)
        for file in folder.iterdir():
            os.utime(file, ns=(1, 1))
        states.add(folder_source(folder).state)
    return states


def test_the_state_is_of_the_names_and_of_the_tables_content_whatever_the_times(tmp_path: Path) -> None:
    def make(path: Path) -> Path:
        return _folder(
            path, {"a.png": b"a", "b.png": b"b", "dataset.json": b'{"labels": [["a.png", 1], ["b.png", 0]]}'}
        )

    def renamed(folder: Path) -> None:
        (folder / "b.png").rename(folder / "c.png")

    def labelled(folder: Path) -> None:
        table = (folder / "dataset.json").read_text()
        (folder / "dataset.json").write_text(table.replace("1", "2"))

    assert len(_states_after(make, tmp_path, renamed, labelled)) == 3


def test_the_state_of_a_zip_is_of_the_contents_and_of_a_folder_of_the_times(tmp_path: Path) -> None:
    zipped = [_source("zip", {"a.png": b"a"}, _folder(tmp_path / name, {})).state for name in "xy"]
    assert zipped[0] == zipped[1]
    before = _source("folder", {"a.png": b"a"}, tmp_path).state
    (tmp_path / "folder" / "b.txt").write_bytes(b"b")
    assert folder_source(tmp_path / "folder").state == before
    os.utime(tmp_path / "folder" / "a.png", ns=(1, 1))
    assert folder_source(tmp_path / "folder").state != before


# ---- classes

LABELLED = {
    "two classes": ("a/1.png b/1.png", "ab"),
    "a common folder": ("train/a/1.png train/b/1.png", "ab"),
    "two common folders": ("x/train/a/1.png x/train/b/1.png", "ab"),
    "the first folder counts": ("a/x/1.png a/y/2.png b/x/3.png", "aab"),
    "sorted as texts": ("10/1.png 9/1.png B/1.png a/1.png", ["10", "9", "B", "a"]),
    "one class only": ("a/1.png a/2.png", None),
    "one folder in another": ("a/b/1.png a/b/2.png", None),
    "one picture at the root": ("0.png a/1.png b/1.png", None),
    "one at the common root": ("t/0.png t/a/1.png t/b/1.png", None),
    "no folders": ("1.png 2.png", None),
    "one picture": ("a/1.png", None),
    "alike, not common": ("train1/1.png train2/1.png", ["train1", "train2"]),
}


@pytest.mark.parametrize("case", LABELLED)
def test_folders_are_classes_where_every_picture_has_one(case: str, tmp_path: Path) -> None:
    names, expected = LABELLED[case]
    source = _source("zip", dict.fromkeys(names.split(), b""), tmp_path)
    assert _classes(source) == (expected and dict(zip(source.names, expected)))
    if expected:
        assert source.labels.names == tuple(sorted(set(expected)))


def test_other_files_make_no_classes(tmp_path: Path) -> None:
    source = _source("zip", dict.fromkeys(["a/1.png", "b/1.png", "c/1.txt", ".d/1.png", "readme.txt"], b""), tmp_path)
    assert source.labels.names == ("a", "b")


# ---- dataset.json

NVLABS = {"00000/img00000000.png": b"0", "00000/img00000001.png": b"1", "00001/img00001000.png": b"2"}


def _nvlabs(tmp_path: Path, table: object, kind: str = "zip", pictures: Files = NVLABS) -> Source:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return _source(kind, pictures | {"dataset.json": text}, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_stylegan_classes_go_by_name(kind: str, tmp_path: Path) -> None:
    labels = [[name, number] for name, number in zip(reversed(NVLABS), [2, 0, 3])]
    source = _nvlabs(tmp_path, {"labels": labels}, kind)
    assert source.labels.names == ("0", "1", "2", "3")
    assert _classes(source) == {name: str(number) for name, number in labels}
    assert (source.passed_over, source.shuffled) == (0, False)


def test_stylegan_vectors_are_float32_bit_by_bit(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    source = _nvlabs(tmp_path, {"labels": [[n, v.tolist()] for n, v in zip(NVLABS, vectors)], "names": []})
    assert source.labels.values.dtype == np.float32
    assert (source.labels.values == vectors).all()
    assert source.labels.names == ()


@pytest.mark.parametrize("labels", [None, []])
def test_null_labels_are_none_even_where_there_are_folders(labels: list | None, tmp_path: Path) -> None:
    source = _nvlabs(tmp_path, {"labels": labels, "names": [], "shuffled": True})
    assert (source.labels, source.names, source.shuffled) == (None, sorted(NVLABS), True)


def test_our_own_writers_names_and_order(tmp_path: Path) -> None:
    table = {"labels": [[name, 1] for name in NVLABS], "names": ["cat", "dog"], "shuffled": True}
    source = _nvlabs(tmp_path, table)
    assert source.labels.names == ("cat", "dog")
    assert source.labels.values.tolist() == [1, 1, 1]
    assert source.shuffled
    assert not _nvlabs(tmp_path, table | {"shuffled": "no"}).shuffled


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "resolution"), [(1, 4), (3, 1024)])
def test_our_own_writers_channels_and_resolution(channels: int, resolution: int, kind: str, tmp_path: Path) -> None:
    table = {"labels": None, "channels": channels, "resolution": resolution}
    source = _nvlabs(tmp_path, table, kind)
    assert (source.channels, source.top) == (channels, resolution)


def test_wrong_channels_and_resolutions_are_passed_over(tmp_path: Path) -> None:
    for wrong in (0, 2, -1, True, False, 1.0, 3.0, 12, "1", None, [4], {}):
        source = _nvlabs(tmp_path, {"labels": None, "channels": wrong, "resolution": wrong})
        assert (source.channels, source.top) == (None, None), wrong
    source = _nvlabs(tmp_path, {"labels": None})
    assert (source.channels, source.top) == (None, None)
    source = _nvlabs(tmp_path, {"labels": None, "channels": 4, "resolution": 64})
    assert (source.channels, source.top) == (None, 64)


def test_pictures_without_an_entry_are_refused_and_entries_without_a_picture_ignored(tmp_path: Path) -> None:
    labels = [["00000/img00000001.png", 1], ["00001/img00001000.png", 0], ["gone.png", 77]]
    source = _nvlabs(tmp_path, {"labels": labels})
    assert source.refused == {"00000/img00000000.png": "no label in dataset.json"}
    assert source.labels.values.tolist() == [1, 0]
    assert source.labels.names == ("0", "1")
    assert _contents(source) == {name: NVLABS[name] for name, _ in labels[:2]}


def test_a_table_lies_at_the_root_or_in_the_common_folder(tmp_path: Path) -> None:
    inner = {
        "set/a/1.png": b"",
        "set/a/2.png": b"",
        "set/dataset.json": b'{"labels": [["a/1.png", 5], ["a/2.png", 4]]}',
    }
    assert _source("zip", inner, tmp_path).labels.values.tolist() == [5, 4]
    outer = inner | {"dataset.json": b'{"labels": [["set/a/1.png", 1], ["./set/a/2.png", 0]]}'}
    source = _source("zip", outer, tmp_path)
    assert (source.labels.values.tolist(), source.passed_over) == ([1, 0], 1)
    elsewhere = {"a/1.png": b"", "b/1.png": b"", "b/dataset.json": b"nonsense"}
    assert _source("zip", elsewhere, tmp_path).labels.names == ("a", "b")


def test_another_programs_table_is_passed_over(tmp_path: Path) -> None:
    for table in ({"images": []}, [], 5):
        source = _nvlabs(tmp_path, table)
        assert (source.labels.names, source.passed_over) == (("00000", "00001"), 1)


def _all(*labels: object) -> dict[str, object]:
    return {"labels": [[name, label] for name, label in zip(NVLABS, labels)]}


MALFORMED = {
    "no json": b"{labels",
    "no text": b"\xff\xfe\xff",
    "empty": b"",
    "deep": b"[" * 100_000,
    "a long number": b'{"labels": ' + b"9" * 5000 + b"}",
    "labels no list": {"labels": 5},
    "labels a table": {"labels": {"a.png": 1}},
    "entry no pair": {"labels": [["a.png"]]},
    "entry's name no text": {"labels": [[1, 1]]},
    "mixed": _all(1, [1.0], 1),
    "mixed lengths": _all([1, 2], [1, 2], [1, 2, 3]),
    "empty vectors": _all([], [], []),
    "texts": _all("cat", "dog", "cat"),
    "texts in vectors": _all(["1"], ["1"], ["1"]),
    "truth": _all(True, False, True),
    "truth in vectors": _all([True], [False], [True]),
    "half a class": _all(0.5, 1, 1),
    "negative": _all(-1, 0, 1),
    "absurd class": _all(10**9, 0, 1),
    "absurdest class": _all(10**40, 0, 1),
    "not a number": b'{"labels": [["00000/img00000000.png", [NaN]]]}',
    "infinite": _all([1e39], [1.0], [1.0]),
    "huge": _all([10**400], [1], [1]),
    "too few names": _all(0, 1, 2) | {"names": ["a", "b"]},
    "double names": _all(0, 1, 1) | {"names": ["a", "a"]},
    "names no texts": _all(0, 1, 1) | {"names": [1, 2]},
    "names a text": _all(0, 1, 1) | {"names": "ab"},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_tables_are_a_users_mistake(case: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.zip.dataset\.json") as error:
        _nvlabs(tmp_path, MALFORMED[case])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


# ---- folders


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    outside = _folder(tmp_path / "outside", {"x/1.png": b"1", "2.png": b"2"})
    folder = _folder(tmp_path / "folder", {"a.png": b"a"})
    (folder / "file.png").symlink_to(outside / "2.png")
    (folder / "linked").symlink_to(outside)
    assert _contents(folder_source(folder)) == {
        "a.png": b"a", "file.png": b"2", "linked/2.png": b"2", "linked/x/1.png": b"1",
    }  # fmt: skip
    (tmp_path / "itself").symlink_to(folder)
    assert folder_source(tmp_path / "itself").names == folder_source(folder).names


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "a", "a/b", "b_itself", "../folder/a"])
def test_links_in_circles_are_refused(target: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", {"a/b/1.png": b"1", "z/2.png": b"2"})
    (folder / "b_itself").symlink_to(target)
    source = folder_source(folder)
    assert source.names == ["a/b/1.png", "z/2.png"]
    assert list(source.refused) == ["b_itself"]
    assert "circle" in source.refused["b_itself"]


def test_a_real_folder_is_never_lost_to_a_link(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", {"z/real/1.png": b"1"})
    (folder / "a_link").symlink_to("z")
    (folder / "z" / "up").symlink_to("..")
    source = folder_source(folder)
    assert source.names == ["z/real/1.png"]
    assert sorted(source.refused) == ["a_link", "z/up"]


def test_of_two_links_to_one_folder_the_first_counts(tmp_path: Path) -> None:
    outside = _folder(tmp_path / "outside", {"1.png": b"1"})
    folder = _folder(tmp_path / "folder", {f"{letter}/x.txt": b"x" for letter in "fbdaec"})
    for inner in folder.iterdir():
        (inner / "link").symlink_to(outside)
    source = folder_source(folder)
    assert source.names == ["a/link/1.png"]
    assert list(source.refused) == [f"{letter}/link" for letter in "bcdef"]


def test_circles_among_linked_folders_end(tmp_path: Path) -> None:
    outside = _folder(tmp_path / "outside", {"x/1.png": b"1", "y/2.png": b"2"})
    (outside / "x" / "back").symlink_to(outside)
    (outside / "y" / "over").symlink_to(outside / "x")
    folder = _folder(tmp_path / "folder", {})
    (folder / "one").symlink_to(outside)
    (folder / "two").symlink_to(outside)
    source = folder_source(folder)
    assert source.names == ["one/x/1.png", "one/y/2.png"]
    assert sorted(source.refused) == ["one/x/back", "one/y/over", "two"]


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", {"a.png": b"a"})
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "nowhere.png").symlink_to("gone")
    (folder / "nowhere").symlink_to("gone")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(folder / "socket.png"))
    source = folder_source(folder)
    assert source.names == ["a.png"]
    words = {"pipe": "pipe", "socket": "socket", "device": "device", "nowhere": "nowhere", "loop": "circle"}
    assert sorted(source.refused) == sorted([*(f"{word}.png" for word in words), "nowhere"])
    assert all(word in source.refused[f"{name}.png"] for name, word in words.items())
    assert source.passed_over == 1


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    source = _source("folder", {"a.png": b"a"}, tmp_path)
    (tmp_path / "folder" / "a.png").unlink()
    with pytest.raises(OSError):
        source.read("a.png")
    os.mkfifo(tmp_path / "folder" / "a.png")
    assert source.read("a.png") == b""


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", {"a.png": b"a"})
    with (folder / "large.png").open("wb") as file:
        file.truncate((1 << 30) + 1)
    source = folder_source(folder)
    assert (source.names, source.refused) == (["a.png"], {"large.png": "larger than 1 GiB"})


def test_a_file_that_grows_is_not_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _source("folder", {"a.png": b"a" * 100}, tmp_path)
    monkeypatch.setattr(archives, "LIMIT", 99)
    with pytest.raises(Unreadable, match="larger"):
        source.read("a.png")


@as_a_user
def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", {"a.png": b"a", "b.png": b"b", "c/1.png": b"1"})
    (folder / "b.png").chmod(0)
    (folder / "c").chmod(0)
    refused = dict(folder_source(folder).refused)
    folder.chmod(0)
    with pytest.raises(UserError, match=r"folder cannot be read: Permission denied\.$"):
        folder_source(folder)
    folder.chmod(0o700)
    for kind, opened in (("zip", zip_source), ("tar", lambda path: tar_source(path, tmp_path))):
        _source(kind, {"a.png": b"a"}, tmp_path)
        (tmp_path / f"data.{kind}").chmod(0)
        with pytest.raises(UserError, match=rf"data\.{kind} cannot be read: Permission denied\.$"):
            opened(tmp_path / f"data.{kind}")
        with pytest.raises(UserError, match=rf"data\.{kind} cannot be read: Permission denied\.$"):
            is_tar(tmp_path / f"data.{kind}")
    (folder / "c").chmod(0o700)
    assert refused == dict.fromkeys(["b.png", "c"], "no permission to read it")


@pytest.mark.parametrize("opened", [is_tar, zip_source, lambda path: tar_source(path, path.parent)])
def test_an_archive_that_may_not_be_read_is_no_damaged_one(opened, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = _zip(tmp_path / "x.zip", {"a.png": b"a"})
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(archives, "_list_zip", refuse)
    with pytest.raises(UserError, match=r"x\.zip cannot be read: Permission denied\.$"):
        opened(path)


def test_deep_folders_are_walked_and_too_deep_ones_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "folder", {"a.png": b"a", "/".join(["d"] * 300) + "/1.png": b"1"})
    there = os.getcwd()
    try:
        os.chdir(folder)
        for _ in range(30):
            os.mkdir("n" * 200)
            os.chdir("n" * 200)
    finally:
        os.chdir(there)
    source = folder_source(folder)
    assert len(source.names) == 2
    assert [reason.lower() for reason in source.refused.values()] == ["file name too long"]
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_read_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone cannot be read"):
        folder_source(tmp_path / "gone")


def test_listing_opens_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _folder(tmp_path / "folder", {f"{n}.png": b"" for n in range(5)})
    monkeypatch.setattr(archives.os, "open", lambda *_: pytest.fail("a file is opened"))
    assert len(folder_source(folder).names) == 5


# ---- zips


def _entry(data: bytearray, name: str) -> int:
    """Where a member's entry of the central directory begins."""
    start = data.find(b"PK\1\2")
    while data[start + 46 : start + 46 + len(name)] != name.encode():
        start = data.find(b"PK\1\2", start + 1)
        assert start >= 0
    return start


def _patched(path: Path, name: str, offset: int, form: str, value: int) -> Path:
    """Change a member's entry of the central directory."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, _entry(data, name) + offset, value)
    path.write_bytes(data)
    return path


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
def test_every_way_of_packing_gives_the_bytes_back(method: int, tmp_path: Path) -> None:
    files = {"empty.png": b"", "noise.png": random.Random(1).randbytes(300_000), "zeros.png": bytes(3_000_000)}
    assert _contents(_of_zip(tmp_path, files, method=method)) == files


def test_zips_behind_other_bytes_and_written_in_a_stream(tmp_path: Path) -> None:
    class OneWay(io.RawIOBase):  # then sizes follow the data, and the members' own headers have none
        def writable(self):
            return True

        def write(self, data):
            parts.append(bytes(data))
            return len(data)

    parts: list[bytes] = []
    with zipfile.ZipFile(OneWay(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"a" * 1000)
        archive.writestr("b.png", b"b" * 1000)
    (tmp_path / "x.zip").write_bytes(b"#! a self-extracting program\n" * 9 + b"".join(parts))
    assert _contents(zip_source(tmp_path / "x.zip")) == {"a.png": b"a" * 1000, "b.png": b"b" * 1000}


@pytest.mark.parametrize(
    "name", ["/a.png", "../a.png", "x/../../a.png", "x/../a.png", "C:/a.png", "c:\\a.png", "..\\a.png", "\\\\s\\a.png"]
)
def test_members_that_point_outside_are_refused(name: str, tmp_path: Path) -> None:
    for source in (
        _of_zip(tmp_path, {name: b"x", "b.png": b"b"}),
        _of_tar(tmp_path, [(_member(name), b"x"), (_member("b.png"), b"b")]),
    ):
        assert source.names == ["b.png"]
        assert list(source.refused.values()) == ["points outside the archive"]


def test_a_colon_makes_no_drive(tmp_path: Path) -> None:
    names = ["a: 1.png", "b:2.png", "cd:/3.png"]
    for source in (
        _of_zip(tmp_path, dict.fromkeys(names, b"x")),
        _of_tar(tmp_path, [(_member(name), b"x") for name in names]),
    ):
        assert (source.names, source.refused) == (names, {})


def test_other_files_that_point_outside_are_passed_over(tmp_path: Path) -> None:
    source = _of_zip(tmp_path, {"../a.txt": b"x", "/tmp/": b"", "b.png": b"b"})
    assert (source.names, source.refused, source.passed_over) == (["b.png"], {}, 1)


def test_backslashes_of_zips_made_on_windows_are_slashes(tmp_path: Path) -> None:
    source = _of_zip(tmp_path, {"a\\1.png": b"1", "b\\2.png": b"2", "c\\": b""})
    assert _contents(source) == {"a/1.png": b"1", "b/2.png": b"2"}
    assert (source.labels.names, source.passed_over) == (("a", "b"), 0)


def test_needless_parts_of_names_are_dropped(tmp_path: Path) -> None:
    for source in (
        _of_zip(tmp_path, {"./": b"", "./a/1.png": b"1", "b//./2.png": b"2"}),
        _of_tar(
            tmp_path,
            [(_member("./", type=tarfile.DIRTYPE), b""), (_member("./a/1.png"), b"1"), (_member("b//./2.png"), b"2")],
        ),
    ):
        assert _contents(source) == {"a/1.png": b"1", "b/2.png": b"2"}
        assert (source.passed_over, source.refused) == (0, {})


def _misnamed(tmp_path: Path, name: str, raw: bytes, files: Files) -> Source:
    """Of a zip in which a name, in UTF-8 by its flag, is overwritten by other bytes."""
    path = _zip(tmp_path / "x.zip", files)
    path.write_bytes(path.read_bytes().replace(name.encode(), raw))
    return zip_source(path)


@pytest.mark.parametrize("raw", [b"\xff\xe9.png", b"\xed\xa0.png", b"a\xc3.png"])
def test_a_zips_name_that_is_no_utf8_loses_no_other_picture(raw: bytes, tmp_path: Path) -> None:
    files = {"b.png": b"b", "é.png": b"bad", "\ufffd.png": b"odd", "ü.png": b"u", "ä.txt": b"t", "é.txt": b"t"}
    source = _misnamed(tmp_path, "é.png", raw, files)
    assert _contents(source) == {"b.png": b"b", "\ufffd.png": b"odd", "ü.png": b"u"}
    assert list(source.refused.values()) == ["its name is not the UTF-8 that it claims to be"]
    assert source.passed_over == 2
    assert _misnamed(tmp_path, "é.txt", b"\xff\xff.txt", files).refused == {}


def test_a_zips_bad_name_is_found_behind_extra_fields_and_comments(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("a.png")
        info.extra, info.comment = struct.pack("<2H4s", 0x7777, 4, b"PK\1\2"), b"comment"
        archive.writestr(info, b"a")
        archive.writestr("é.png", b"bad")
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace("é.png".encode(), b"\xff\xff.png"))
    source = zip_source(tmp_path / "x.zip")
    assert (source.names, len(source.refused)) == (["a.png"], 1)


def test_zips_from_before_utf8_are_read(tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", {"ab.png": b"x"})
    path.write_bytes(path.read_bytes().replace(b"ab.png", "éü.png".encode("cp437")))
    assert _contents(zip_source(path)) == {"éü.png": b"x"}


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = _patched(_zip(tmp_path / "x.zip", {"a.png": b"a", "b.png": b"b"}), "a.png", 8, "<H", 1)
    source = zip_source(path)
    assert (source.names, source.refused) == (["b.png"], {"a.png": "encrypted"})


def test_unknown_methods_are_refused(tmp_path: Path) -> None:
    path = _patched(_zip(tmp_path / "x.zip", {"a.png": b"a", "b.png": b"b"}), "a.png", 10, "<H", 9)
    source = zip_source(path)
    assert source.names == ["b.png"]
    assert "method 9" in source.refused["a.png"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_first_of_double_names_is_kept_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in [("a.png", b"1"), ("./a.png", b"2"), ("a.png", b"3"), ("b.png", b"b")]:
            archive.writestr(name, data)
    source = zip_source(tmp_path / "x.zip")
    assert _contents(source) == {"a.png": b"1", "b.png": b"b"}
    assert source.refused == {"a.png (2)": "double name", "a.png (3)": "double name"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_very_many_doubles_take_no_time(tmp_path: Path) -> None:
    data = _tar_bytes([(_member("a.png"), b"")] * 10_000)
    (tmp_path / "x.tar").write_bytes(data)
    source = tar_source(tmp_path / "x.tar", tmp_path)
    assert (source.names, len(source.refused)) == (["a.png"], 9_999)


def test_links_in_zips_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.png", "folder", ".hidden"):
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, b"/etc/passwd")
    source = zip_source(tmp_path / "x.zip")
    assert (source.names, source.refused) == ([], {"a.png": "a link", "folder": "a link"})


@pytest.mark.parametrize("field", [20, 24], ids=["packed size", "size"])
def test_members_that_declare_more_than_a_gibibyte_are_refused(field: int, tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", {"a.png": b"a" * 5000, "b.png": b"b"})
    source = zip_source(_patched(path, "a.png", field, "<L", (1 << 30) + 1))
    assert (source.names, source.refused) == (["b.png"], {"a.png": "larger than 1 GiB"})


@pytest.mark.parametrize("method", METHODS)
def test_no_member_inflates_to_more_than_it_declares(method: int, tmp_path: Path) -> None:
    bomb = bytes(40_000_000)
    path = _zip(tmp_path / "x.zip", {"a.png": bomb if method else bomb[:1000]}, method)
    source = zip_source(_patched(path, "a.png", 24, "<L", 100))
    given: list[int] = []
    unpack = archives.UNPACKERS[method]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(archives.UNPACKERS, method, lambda *a: given.append(len(data := unpack(*a))) or data)
        with pytest.raises(Unreadable, match="damaged"):
            source.read("a.png")
    assert given == [101]


@pytest.mark.parametrize("size", [0, 999, 1001, 2000])
def test_a_member_that_declares_a_wrong_size_is_damaged(size: int, tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", {"a.png": b"a" * 1000})
    with pytest.raises(Unreadable, match="damaged"):
        zip_source(_patched(path, "a.png", 24, "<L", size)).read("a.png")


def test_members_outside_of_the_file_are_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", {"a.png": b"a" * 5000, "b.png": b"b"})
    source = zip_source(_patched(path, "a.png", 42, "<L", 10_000_000))
    assert source.names == ["b.png"]
    assert "damaged" in source.refused["a.png"]


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_picture_is_unreadable_and_the_others_are_not(method: int, tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(5000)
    path = _zip(tmp_path / "x.zip", {"a.png": noise, "b.png": b"b"}, method)
    data = bytearray(path.read_bytes())
    for place in (50, 2000):  # the beginning and the middle of the packed bytes
        damaged = bytearray(data)
        damaged[place] ^= 255
        path.write_bytes(damaged)
        source = zip_source(path)
        with pytest.raises(Unreadable, match="damaged"):
            source.read("a.png")
        assert source.read("b.png") == b"b"


def test_a_lost_header_is_a_damage(tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", {"a.png": b"a"})
    path.write_bytes(b"XX" + path.read_bytes()[2:])
    with pytest.raises(Unreadable, match="damaged"):
        zip_source(path).read("a.png")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_changes_is_not_read_any_more(kind: str, tmp_path: Path) -> None:
    source = _source(kind, {"a.png": b"a", "b.png": b"b"}, tmp_path)
    path = tmp_path / f"data.{kind}"
    data = path.read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    with pytest.raises(Unreadable, match="changed"):
        source.read("a.png")
    path.unlink()
    with pytest.raises(OSError):
        source.read("a.png")


@pytest.mark.parametrize("data", [b"", b"PK\5\6", b"PK" * 500], ids=range(3))
def test_a_damaged_zip_is_a_users_mistake(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip is a damaged zip"):
        zip_source(tmp_path / "x.zip")


def test_a_zip_without_its_end_is_a_users_mistake(tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", PICTURES)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged"):
        zip_source(path)


@pytest.mark.parametrize("make", [lambda path: None, os.mkfifo, os.mkdir], ids=["nothing", "pipe", "folder"])
def test_archives_that_are_not_there_are_a_users_mistake(make, tmp_path: Path) -> None:
    make(tmp_path / "x.zip")
    make(tmp_path / "x.tar")
    for opened in (lambda: zip_source(tmp_path / "x.zip"), lambda: tar_source(tmp_path / "x.tar", tmp_path)):
        with pytest.raises(UserError, match=r"x\.\w+ is a damaged"):
            opened()


# ---- tars


def test_only_a_compressed_tar_is_copied_and_only_into_the_scratch(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    _source("tar", PICTURES, tmp_path)
    assert not scratch.exists()
    _source("tar.gz", PICTURES, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["data.tar", "data.tar.gz", "scratch"]
    assert sorted(path.suffix for path in scratch.iterdir()) == [".tar", ".txt"]


def test_a_copy_is_used_again_as_long_as_the_archive_is_the_same(tmp_path: Path, monkeypatch) -> None:
    first = _source("tar.gz", {"a.png": b"a"}, tmp_path)
    calls: list[Path] = []
    unpack = archives.unpack
    monkeypatch.setattr(archives, "unpack", lambda *a: calls.append(a[1]) or unpack(*a))
    again = tar_source(tmp_path / "data.tar.gz", tmp_path / "scratch")
    assert (calls, again.state, again.read("a.png")) == ([], first.state, b"a")
    os.utime(tmp_path / "data.tar.gz", ns=(1, 1))
    assert tar_source(tmp_path / "data.tar.gz", tmp_path / "scratch").state != first.state
    assert len(calls) == 1
    _source("tar.gz", {"a.png": b"b"}, tmp_path)
    assert len(calls) == 2


def test_a_copy_whose_record_is_missing_is_made_again(tmp_path: Path) -> None:
    data = gzip.compress(_tar_bytes([(_member("a.png"), random.Random(1).randbytes(90_000))]))
    (tmp_path / "x.tgz").write_bytes(data[: len(data) // 2])
    first = tar_source(tmp_path / "x.tgz", tmp_path / "scratch")
    next((tmp_path / "scratch").glob("*.txt")).unlink()
    assert tar_source(tmp_path / "x.tgz", tmp_path / "scratch").refused == first.refused
    assert len(list((tmp_path / "scratch").glob("*.txt"))) == 1


def test_a_bomb_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(_tar_bytes([(_member("a.png"), bytes(50_000_000))])))
    left = iter(range(1_002_000_000, 0, -60_000))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(next(left)))
    with pytest.raises(UserError, match=r"x\.tar\.gz holds more than there is room for"):
        tar_source(tmp_path / "x.tar.gz", tmp_path / "scratch")
    assert 1_000_000_000 - 2 * 60_000 < next(left) < 1_000_100_000
    assert list((tmp_path / "scratch").iterdir()) == []


def test_links_devices_and_sparse_files_in_tars_are_refused(tmp_path: Path) -> None:
    kinds = {
        "link.png": tarfile.SYMTYPE, "hard.png": tarfile.LNKTYPE, "pipe.png": tarfile.FIFOTYPE,
        "device.png": tarfile.CHRTYPE, "folder": tarfile.SYMTYPE, "sparse.png": tarfile.GNUTYPE_SPARSE,
    }  # fmt: skip
    members = [(_member(name, type=kind, linkname="a.png"), b"") for name, kind in kinds.items()]
    source = _of_tar(tmp_path, [(_member("a.png"), b"a"), *members, (_member("pipe", type=tarfile.FIFOTYPE), b"")])
    assert _contents(source) == {"a.png": b"a"}
    links, others = ["link.png", "hard.png", "folder"], ["pipe.png", "device.png", "sparse.png"]
    assert source.refused == dict.fromkeys(links, "a link") | dict.fromkeys(others, "no plain file")
    assert source.passed_over == 1


def test_sparse_files_by_pax_are_refused(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.png", "GNU.sparse.realsize": "9"}
    source = _of_tar(tmp_path, [(_member("x", pax_headers=headers), b"1\n0\n1\n".ljust(512, b"\0") + b"x")])
    assert source.refused == {"a.png": "no plain file"}


def test_large_members_of_tars_are_refused(tmp_path: Path) -> None:
    large = _member("large.png")
    large.size = (1 << 30) + 1
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(large.tobuf())
        file.seek((1 << 30) + 512, os.SEEK_CUR)
        file.write(_tar_bytes([(_member("a.png"), b"a")]))
    source = tar_source(tmp_path / "x.tar", tmp_path)
    assert (_contents(source), source.refused) == ({"a.png": b"a"}, {"large.png": "larger than 1 GiB"})


def test_the_last_of_double_names_is_kept_in_a_tar(tmp_path: Path) -> None:
    source = _of_tar(tmp_path, [(_member("a.png"), b"1"), (_member("./a.png"), b"2"), (_member("a.png"), b"3")])
    assert _contents(source) == {"a.png": b"3"}
    assert list(source.refused) == ["a.png (2)", "a.png (3)"]


CUTS = [1, 100, 511, 512, 513, 1000, 1535, 1536, 1537, 2048, 2500, 3000, 3583]


@pytest.mark.parametrize("cut", CUTS)
def test_the_pictures_before_a_cut_are_used(cut: int, tmp_path: Path) -> None:
    files = {"a.png": b"a" * 700, "b.png": b"b" * 400, "c.png": b"c" * 600}  # headers at 0, 1536, 2560
    (tmp_path / "x.tar").write_bytes(_tar_bytes([(_member(name), data) for name, data in files.items()])[:cut])
    if cut < 512:
        with pytest.raises(UserError, match="damaged tar"):
            tar_source(tmp_path / "x.tar", tmp_path)
        return
    source = tar_source(tmp_path / "x.tar", tmp_path)
    ends = {"a.png": 1212, "b.png": 2448, "c.png": 3672}
    assert _contents(source) == {name: files[name] for name, end in ends.items() if end <= cut}
    half = [name for name, end in ends.items() if end - len(files[name]) <= cut < end]
    if half:
        assert source.refused == {half[0]: archives.CUT_OFF}
    else:
        assert list(source.refused.values()) == [archives.CUT_OFF] * len(half) or "x.tar" in source.refused


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_the_pictures_before_a_cut_of_a_compressed_tar_are_used(kind: str, share: float, tmp_path: Path) -> None:
    files = {f"{n:03d}.png": random.Random(n).randbytes(20_000) for n in range(100)}
    path = _tar(tmp_path / f"x.{kind}", files)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    if (kind, share) == ("tar.bz2", 0.2):  # not even its first block, of 900 kB
        with pytest.raises(UserError, match="ended before"):
            tar_source(path, tmp_path / "scratch")
        return
    for _ in range(2):  # made, and used again
        source = tar_source(path, tmp_path / "scratch")
        assert _contents(source) == {name: files[name] for name in source.names}
        assert list(source.names) == list(files)[: len(source.names)]
        assert 0 <= share * 100 - len(source.names) <= (46 if kind == "tar.bz2" else 4)
        assert len(source.refused) == 1


def test_a_compressed_tar_with_a_wrong_checksum_says_so(tmp_path: Path) -> None:
    path = _tar(tmp_path / "x.tar.gz", PICTURES)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    source = tar_source(path, tmp_path / "scratch")
    assert _contents(source) == PICTURES
    assert list(source.refused) == ["x.tar.gz"]
    assert "CRC" in source.refused["x.tar.gz"]


def test_a_damaged_header_amid_a_tar_is_noted(tmp_path: Path) -> None:
    data = bytearray(_tar_bytes([(_member(f"{n}.png"), b"x") for n in range(5)]))
    data[3 * 1024 + 10] ^= 255
    (tmp_path / "x.tar").write_bytes(data)
    source = tar_source(tmp_path / "x.tar", tmp_path)
    assert source.names == ["0.png", "1.png", "2.png"]
    assert "after 3 pictures" in source.refused["x.tar"]


def test_a_negative_size_makes_no_circle(tmp_path: Path) -> None:
    first, second = _member("a.png"), _member("b.png")
    first.size, second.size = 5, -1024
    data = first.tobuf() + b"12345".ljust(512, b"\0") + second.tobuf(tarfile.GNU_FORMAT) + bytes(2048)
    (tmp_path / "x.tar").write_bytes(data)
    source = tar_source(tmp_path / "x.tar", tmp_path)
    assert _contents(source) == {"a.png": b"12345"}
    assert list(source.refused) == ["x.tar"]


def test_members_of_a_tar_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    following = tarfile.TarFile.next
    monkeypatch.setattr(tarfile.TarFile, "next", lambda tar: kept.append(len(tar.members)) or following(tar))
    _source("tar", {f"{n}.png": b"" for n in range(50)}, tmp_path)
    assert len(kept) > 50
    assert max(kept) <= 1


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("size", [1 << 40, 1 << 20, -512])
def test_headers_of_absurd_size_are_not_read(kind: bytes, size: int, tmp_path: Path) -> None:
    header = _member("x", type=kind)
    header.size = size
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(_member("a.png").tobuf() + header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 31)
    source = tar_source(tmp_path / "x.tar", tmp_path)
    assert source.names == ["a.png"]
    assert "absurd" in source.refused["x.tar"]


def test_a_chain_of_headers_ends(tmp_path: Path) -> None:
    header = _member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME)
    header.size = 5
    link = header.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(_member("a.png").tobuf() + link * 5000)
    assert tar_source(tmp_path / "x.tar", tmp_path).names == ["a.png"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read(form: int, tmp_path: Path) -> None:
    files = {"d/" * 40 + "x" * 60 + ".png": b"1" * 600, "y" * 90 + ".png": b"2", "z.png": b""}
    if form != tarfile.USTAR_FORMAT:
        files["é" * 100 + ".png"] = b"4"
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        for name, data in files.items():
            archive.addfile(_member(name, size=len(data)), io.BytesIO(data))
    assert _contents(tar_source(tmp_path / "x.tar", tmp_path)) == files


def test_what_a_tar_is(tmp_path: Path) -> None:
    for kind in ["tar", *PACKED]:
        assert is_tar(_tar(tmp_path / f"x.{kind}", PICTURES)), kind
    (tmp_path / "misnamed.png").write_bytes((tmp_path / "x.tar.xz").read_bytes())
    assert is_tar(tmp_path / "misnamed.png")
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        archive.add(_folder(tmp_path / "folder", PICTURES), "folder")
    assert is_tar(tmp_path / "made.tgz")


def test_what_no_tar_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 9, 9), np.uint8))
    _zip(tmp_path / "a.zip", PICTURES)
    os.mkfifo(tmp_path / "pipe.tar")
    others = {
        "empty.tar": b"",
        "zeros.tar": bytes(10_240),
        "short.tar": b"x" * 100,
        "half.tar": _member("a").tobuf()[:511],
        "noise.tar": random.Random(1).randbytes(9999),
        "cut.tar.gz": b"\x1f\x8b",
        "text.tar.gz": gzip.compress(b"text" * 1000),
        "bad.tar.xz": b"\xfd7zXZ\x00" + b"x" * 99,
        "bad.tar.bz2": b"BZh9" + b"x" * 99,
        "a.png": b"\x89PNG\r\n\x1a\n" + bytes(999),
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.tar").mkdir()
    assert [path.name for path in tmp_path.iterdir() if is_tar(path)] == []
    assert not is_tar(tmp_path / "gone.tar")


# ---- fuzz

READING = (Unreadable, OSError)


def _mutant(data: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, one piece cut out, doubled, or the end cut off; mostly where the archive's own bytes are."""
    mutant = bytearray(data)
    hot = [place for magic in (b"PK", b"ustar") for place in _places(data, magic)] or [0]
    for _ in range(dice.choice([1, 1, 3, 20])):
        base = dice.choice(hot) - (257 if b"ustar" in data else 0)
        place = (base + dice.randrange(200) if dice.random() < 0.8 else dice.randrange(len(data))) % len(mutant)
        mutant[place] = dice.choice([0, 255, 0x80, 0x7F, ord("0"), dice.randrange(256)])
    start, length = dice.randrange(len(mutant)), dice.randrange(1, 600)
    cut = dice.random()
    if cut < 0.1:
        del mutant[start : start + length]
    elif cut < 0.2:
        mutant[start:start] = mutant[start : start + length]
    elif cut < 0.3:
        del mutant[start:]
    return bytes(mutant)


def _places(data: bytes, magic: bytes) -> list[int]:
    return [place for place in range(len(data)) if data.startswith(magic, place)]


def _checksummed(data: bytes) -> bytes:
    """Give every header of a tar its checksum, so that what else is wrong with it is looked at."""
    mutant = bytearray(data)
    for start in range(0, len(mutant) - 511, 512):
        if mutant[start + 257 : start + 262] == b"ustar":
            mutant[start + 148 : start + 156] = b" " * 8
            mutant[start + 148 : start + 156] = b"%06o\0 " % sum(mutant[start : start + 512])
    return bytes(mutant)


def _try(open_source, path: Path) -> int:
    """Open and read all of a mutant; returns how many pictures can be read. Only the promised errors are let pass."""
    try:
        source = open_source(path)
    except UserError as error:
        if "\n" in str(error):
            pytest.fail(f"more than one line: {error}")
        return 0
    assert len(set(source.names)) == len(source.names)
    assert not set(source.names) & set(source.refused)
    count = 0
    for name in source.names:
        try:
            assert isinstance(source.read(name), bytes)
            count += 1
        except READING:
            pass
    return count


FUZZED = {
    "a/1.png": b"one" * 100, "a/2.png": b"", "b/" + "long" * 40 + ".png": b"3" * 700, "b/é.png": bytes(1000),
    "dataset.json": b'{"labels": null}', ".x": b"x", "readme": b"r",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["zip", "tar", "checksummed.tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_no_mutant_of_an_archive_does_harm(kind: str, tmp_path: Path) -> None:
    box = _folder(tmp_path / "box", {})
    path = box / f"x.{kind}"
    original = (_zip if kind == "zip" else _tar)(path, FUZZED).read_bytes()
    scratch = box / "scratch"
    dice, read = random.Random(kind), 0
    for _ in range(60 if kind in PACKED else 150):
        mutant = _mutant(original, dice)
        path.write_bytes(_checksummed(mutant) if kind.startswith("checksummed") else mutant)
        is_tar(path)
        read += _try(zip_source if kind == "zip" else lambda p: tar_source(p, scratch), path)
        shutil.rmtree(scratch, ignore_errors=True)
        assert os.listdir(box) == [path.name]
    assert os.listdir(tmp_path) == ["box"]
    assert (-1 if kind in PACKED else 30) < read < 590  # neither too wild nor too tame


# ---- real data


@pytest.mark.skipif(not (REAL / "mnist.zip").exists(), reason="the real data sets are not here")
def test_real_sets() -> None:
    mnist = zip_source(REAL / "mnist.zip")
    assert (len(mnist.names), mnist.labels.names) == (20_000, tuple("0123456789"))
    assert all(name.split("/")[1] == str(n) for name, n in zip(mnist.names, mnist.labels.values))
    signs = zip_source(REAL / "signdigits.zip")
    assert (len(signs.names), signs.passed_over, signs.labels.names) == (2062, 1, tuple("0123456789"))
