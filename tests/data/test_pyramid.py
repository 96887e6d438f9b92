"""Laws of the pyramid: every level is what it says, damage is noticed, and each epoch shows every picture once."""

import json

import numpy as np
import pytest
import torch

from progan.data.pyramid import MANIFEST, fingerprint, hash_file, level_name, open_pyramid, pyramid_source
from progan.errors import UserError

COUNT, RESOLUTIONS = 5, (4, 8, 16)


@pytest.fixture
def folder(tmp_path):
    """A pyramid of five pictures with one channel, written by hand; pixel value = 10 * picture + level."""
    for level, r in enumerate(RESOLUTIONS):
        pixels = np.broadcast_to(10 * np.arange(COUNT)[:, None, None, None] + level, (COUNT, 1, r, r))
        np.save(tmp_path / level_name(r), pixels.astype(np.uint8))
    manifest = {
        "version": 2,
        "count": COUNT,
        "channels": 1,
        "resolutions": list(RESOLUTIONS),
        "labels": None,
        "fingerprint": "abc",
        "hashes": {},
    }
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


# --- reading ---


def test_a_batch_is_the_named_pictures_at_a_resolution(folder):
    pyramid = open_pyramid(folder)
    assert (pyramid.count, pyramid.channels, pyramid.resolutions) == (COUNT, 1, RESOLUTIONS)
    assert pyramid.fingerprint == "abc"
    got = pyramid.batch(torch.tensor([3, 0, 3]), 8)
    assert (got.dtype, tuple(got.shape)) == (torch.uint8, (3, 1, 8, 8))
    assert got[:, 0, 0, 0].tolist() == [31, 1, 31]
    assert pyramid.batch(torch.tensor([4]), 16).unique().tolist() == [42]


def test_a_batch_is_a_copy(folder):
    pyramid = open_pyramid(folder)
    pyramid.batch(torch.tensor([0]), 4).fill_(99)
    assert pyramid.batch(torch.tensor([0]), 4).unique().tolist() == [0]


def test_level_names():
    assert [level_name(r) for r in (4, 1024)] == ["0004x0004.npy", "1024x1024.npy"]


# --- damage ---


def test_a_folder_without_a_manifest_is_none(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"is no pyramid: pyramid.json cannot be read"):
            open_pyramid(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"version": 2}', '{"version": 2, "count": 5}'])
def test_a_damaged_manifest_is_a_users_mistake(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(UserError):
        open_pyramid(folder)


@pytest.mark.parametrize("version", [0, 1, 3, None])
def test_another_format_is_named(folder, version):
    manifest = json.loads((folder / MANIFEST).read_text()) | {"version": version}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"has the pyramid format {version}; this progan reads 2"):
        open_pyramid(folder)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6, 0.999])
def test_a_truncated_level_is_named(folder, share):
    path = folder / level_name(16)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"0016x0016.npy is missing or damaged .*; prepare the data again"):
        open_pyramid(folder)


def test_a_missing_level_is_named(folder):
    (folder / level_name(8)).unlink()
    with pytest.raises(UserError, match=r"0008x0008.npy is missing or damaged"):
        open_pyramid(folder)


@pytest.mark.parametrize(
    "level", [np.zeros((4, 1, 8, 8), np.uint8), np.zeros((5, 3, 8, 8), np.uint8), np.zeros((5, 1, 8, 8), np.float32)]
)
def test_a_level_of_another_shape_or_type_is_named(folder, level):
    np.save(folder / level_name(8), level)
    with pytest.raises(UserError, match=r"0008x0008.npy holds .* where uint8 \(5, 1, 8, 8\) is expected"):
        open_pyramid(folder)


# --- labels and hashes ---


def _with_labels(folder, values, names):
    np.save(folder / "labels.npy", values)
    about = {"names": names, "size": len(names) or values.shape[1]}
    manifest = json.loads((folder / MANIFEST).read_text()) | {"labels": about}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return open_pyramid(folder)


def test_classes_and_vectors_are_read_as_they_were_written(folder):
    classes = _with_labels(folder, np.array([0, 1, 1, 0, 2]), ["a", "b", "c"]).labels
    assert (classes.values.tolist(), classes.names) == ([0, 1, 1, 0, 2], ("a", "b", "c"))
    vectors = _with_labels(folder, np.eye(5, 7, dtype=np.float32), []).labels
    assert (vectors.values.shape, vectors.names) == ((5, 7), ())


@pytest.mark.parametrize(
    ("values", "names"),
    [(np.zeros(4, np.int64), ["a"]), (np.zeros(5, np.int32), ["a"]), (np.zeros((5, 2), np.float64), [])],
)
def test_labels_of_another_shape_or_type_are_named(folder, values, names):
    with pytest.raises(UserError, match=r"labels.npy holds .*, which does not fit"):
        _with_labels(folder, values, names)


def test_a_hash_is_of_every_byte(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 5000)
    whole = hash_file(path)
    assert len(whole) == 32
    for place in (0, 640_000, -1):
        data = bytearray(bytes(range(256)) * 5000)
        data[place] ^= 1
        path.write_bytes(data)
        assert hash_file(path) != whole


def test_the_fingerprint_is_of_the_top_level_and_the_labels():
    hashes = {"0004x0004.npy": "a", "0008x0008.npy": "b", "labels.npy": "c"}
    first = fingerprint(hashes, 8)
    assert fingerprint(hashes | {"0004x0004.npy": "x"}, 8) == first
    assert fingerprint(hashes | {"0008x0008.npy": "x"}, 8) != first
    assert fingerprint(hashes | {"labels.npy": "x"}, 8) != first


def test_a_pyramid_is_a_source_of_ready_levels_in_its_order(folder):
    source = pyramid_source(folder)
    assert (len(source.names), source.shuffled, source.top) == (COUNT, True, 16)
    levels = source.read(source.names[3])
    assert [level.shape for level in levels] == [(1, 16, 16), (1, 8, 8), (1, 4, 4)]
    assert [int(level[0, 0, 0]) for level in levels] == [32, 31, 30]
