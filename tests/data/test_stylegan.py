"""Laws of StyleGAN zips: NVlabs' readers see the pictures and the labels to the bit, and equal data is an equal file.

The reader here follows the rules of NVlabs' training/dataset.py and shares no line with the code.
"""

import io
import json
import os
import time
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from progan.data.archives import zip_source
from progan.data.source import Labels
from progan.data.stylegan import write_zip


def pictures(count, resolution=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, resolution, resolution), np.uint8)


def write(path, pixels, labels=None):
    write_zip(path, pixels, labels, lambda done, total: None)
    return path


def read(path):
    """(pixels [N, C, R, R], labels [N, L] float32) as StyleGAN2-ADA reads them."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if os.path.splitext(name)[1].lower() == ".png")
        assert set(archive.namelist()) == {*names, "dataset.json"}
        found = [np.array(Image.open(io.BytesIO(archive.read(name)))) for name in names]
        pixels = np.stack([p[None] if p.ndim == 2 else p.transpose(2, 0, 1) for p in found])
        labels = json.loads(archive.read("dataset.json"))["labels"]
    if labels is None:
        return pixels, np.zeros((len(names), 0), np.float32)
    by_name = dict(labels)
    values = np.array([by_name[name] for name in names])
    values = values.astype({1: np.int64, 2: np.float32}[values.ndim])
    return pixels, values if values.ndim == 2 else np.eye(values.max() + 1, dtype=np.float32)[values]


def about(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.sampled_from([1, 3]), st.sampled_from([4, 8, 64]), st.integers(0, 99))
def test_nvlabs_reader_sees_the_pixels(tmp_path_factory, count, channels, resolution, seed):
    pixels = pictures(count, resolution, channels, seed)
    path = write(tmp_path_factory.mktemp("zip") / "data.zip", pixels)
    found, labels = read(path)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels)
    assert labels.shape == (count, 0)
    assert about(path) == {
        "labels": None,
        "names": [],
        "shuffled": True,
        "channels": channels,
        "resolution": resolution,
    }
    source = zip_source(path)
    assert (source.channels, source.top, source.shuffled) == (channels, resolution, True)


def test_nvlabs_reader_sees_classes(tmp_path):
    labels = Labels(np.array([2, 0, 1, 2]), ("hat", "Brötchen", "shoe"))
    path = write(tmp_path / "data.zip", pictures(4), labels)
    assert np.array_equal(read(path)[1], np.eye(3, dtype=np.float32)[[2, 0, 1, 2]])
    assert about(path)["names"] == ["hat", "Brötchen", "shoe"]


def test_names_that_are_no_utf8_come_back(tmp_path):
    names = ("hat", os.fsdecode(b"caf\xe9"), "é\n\u2028\U0001f600")
    path = write(tmp_path / "data.zip", pictures(3), Labels(np.arange(3), names))
    assert zip_source(path).labels.names == names


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=4))
def test_nvlabs_reader_sees_vectors_to_the_last_bit(tmp_path_factory, rows):
    values = np.array(rows, np.float32)
    path = write(tmp_path_factory.mktemp("zip") / "data.zip", pictures(len(rows), 4), Labels(values))
    assert read(path)[1].tobytes() == values.tobytes()
    assert about(path)["names"] == []


def test_numbers_that_json_has_not_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "data.zip", pictures(1), Labels(np.array([[np.nan]], np.float32)))


def test_the_text_of_the_labels(tmp_path):
    path = write(tmp_path / "data.zip", pictures(2), Labels(np.array([6, 0]), tuple("abcdefg")))
    with zipfile.ZipFile(path) as archive:
        text = archive.read("dataset.json").decode()
    names = '"names": ["a", "b", "c", "d", "e", "f", "g"]'
    labels = '"labels": [["00000/img00000000.png", 6], ["00000/img00000001.png", 0]]'
    assert text == f'{{{labels}, {names}, "shuffled": true, "channels": 3, "resolution": 8}}'


def test_a_thousand_pictures_a_folder(tmp_path):
    pixels = pictures(1002, 4, 1)
    path = write(tmp_path / "data.zip", pixels, Labels(np.arange(1002) % 7, tuple("abcdefg")))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert names[:2] == ["00000/img00000000.png", "00000/img00000001.png"]
    assert names[999:] == ["00000/img00000999.png", "00001/img00001000.png", "00001/img00001001.png", "dataset.json"]
    found, labels = read(path)
    assert np.array_equal(found, pixels)
    assert np.array_equal(labels.argmax(1), np.arange(1002) % 7)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_nothing_is_compressed(tmp_path, channels, mode):
    path = write(tmp_path / "data.zip", np.zeros((2, channels, 64, 64), np.uint8))
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
        data = archive.read("00000/img00000001.png")
    picture = Image.open(io.BytesIO(data))
    assert (picture.mode, picture.size, picture.info) == (mode, (64, 64), {})
    assert channels * 64 * 64 < len(data) < channels * 64 * 64 + 64 + 100  # a filter byte a row, and headers


def test_equal_data_is_an_equal_file(tmp_path, monkeypatch):
    pixels, labels = pictures(3), Labels(np.array([0, 1, 0]), ("a", "b"))
    first = write(tmp_path / "a.zip", pixels, labels)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(time, "localtime", lambda *moment: (2033, 5, 18, 3, 33, 20, 0, 0, 0))
    monkeypatch.setattr("sys.platform", "win32")
    second = write(tmp_path / "b.zip", np.asfortranarray(pixels), labels)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o644}


def test_pictures_are_read_one_by_one_and_counted(tmp_path):
    class Streamed:
        """Five pictures, of which no two are asked for together."""

        shape = (5, 3, 4, 4)

        def __len__(self):
            return 5

        def __iter__(self):
            for number in range(5):
                assert seen == [(done, 5) for done in range(1, number + 1)]
                yield pictures(1, 4, seed=number)[0]

    seen = []
    write_zip(tmp_path / "data.zip", Streamed(), None, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    assert np.array_equal(read(tmp_path / "data.zip")[0][3], pictures(1, 4, seed=3)[0])


def test_files_beyond_the_limit_of_a_plain_zip(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)  # as if 1000 bytes were the 2 GiB that need zip64
    pixels, values = pictures(60), np.arange(60) % 3
    path = write(tmp_path / "data.zip", pixels, Labels(values, ("a", "b", "c")))
    monkeypatch.undo()
    assert path.stat().st_size > 60 * 192
    found, labels = read(path)
    assert np.array_equal(found, pixels)
    assert np.array_equal(labels.argmax(1), values)


@pytest.mark.slow
def test_more_pictures_than_a_plain_zip_can_count(tmp_path):
    pixels = np.broadcast_to(
        np.arange(66_000, dtype=np.uint16).astype(np.uint8)[:, None, None, None], (66_000, 1, 4, 4)
    )
    path = write(tmp_path / "data.zip", pixels, Labels(np.arange(66_000) % 10, tuple("0123456789")))
    found, labels = read(path)
    assert np.array_equal(found, pixels)
    assert np.array_equal(labels.argmax(1), np.arange(66_000) % 10)
