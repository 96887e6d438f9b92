"""Laws of the pyramid: every level is what it says, damage is noticed, and each epoch shows every picture once."""

import json

import numpy as np
import pytest
import torch

from progan.data.prepare import halvings
from progan.data.pyramid import MANIFEST, batch_indices, level_name, open_pyramid
from progan.errors import UserError

COUNT, RESOLUTIONS = 5, (4, 8, 16)


@pytest.fixture
def folder(tmp_path):
    """A pyramid of five pictures with one channel, written by hand; pixel value = 10 * picture + level."""
    for level, r in enumerate(RESOLUTIONS):
        pixels = np.broadcast_to(10 * np.arange(COUNT)[:, None, None, None] + level, (COUNT, 1, r, r))
        np.save(tmp_path / level_name(r), pixels.astype(np.uint8))
    manifest = {
        "version": 1,
        "count": COUNT,
        "channels": 1,
        "resolutions": list(RESOLUTIONS),
        "fingerprint": "abc",
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


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"version": 1}', '{"version": 1, "count": 5}'])
def test_a_damaged_manifest_is_a_users_mistake(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(UserError):
        open_pyramid(folder)


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_format_is_named(folder, version):
    manifest = json.loads((folder / MANIFEST).read_text()) | {"version": version}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"has the pyramid format {version}; this progan reads 1"):
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


# --- levels ---


def _box(picture: np.ndarray, factor: int) -> np.ndarray:
    c, h, w = picture.shape
    return picture.astype(np.float64).reshape(c, h // factor, factor, w // factor, factor).mean((2, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_level_is_the_rounded_box_filter_of_the_unrounded_level_above(channels):
    picture = torch.randint(0, 256, (channels, 32, 32), dtype=torch.uint8).numpy()
    levels = list(halvings(picture))
    assert [level.shape for level in levels] == [(channels, r, r) for r in (32, 16, 8, 4)]
    assert all(level.dtype == np.uint8 for level in levels)
    for k, level in enumerate(levels):
        assert np.array_equal(level, np.rint(_box(picture, 2**k)).astype(np.uint8)), k


def test_rounding_in_between_would_show():
    """2x2 means of 0.25, 0.25, 0.75 and 1 make 0.5625 -> 1; rounded first they are 0, 0, 1, 1 and make 0.5 -> 0."""
    picture = np.zeros((1, 16, 16), np.uint8)
    for y, x in [(0, 0), (0, 2), (2, 0), (2, 1), (3, 0), (2, 2), (2, 3), (3, 2), (3, 3)]:
        picture[0, y::4, x::4] = 1
    _, half, quarter = halvings(picture)
    assert half[0, :2, :2].tolist() == [[0, 0], [1, 1]]
    assert np.unique(quarter).tolist() == [1]
    assert np.unique(np.rint(_box(half, 2))).tolist() == [0]


def test_a_4x4_picture_is_its_own_pyramid():
    picture = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8).numpy()
    (level,) = halvings(picture)
    assert np.array_equal(level, picture)


# --- order ---


@pytest.mark.parametrize(("count", "batch"), [(50, 8), (50, 50), (7, 16), (64, 16), (10, 3), (1, 4)])
def test_each_epoch_shows_every_picture_once_across_batches(count, batch):
    epochs = 6
    steps = -(-epochs * count // batch)
    shown = torch.cat([batch_indices(0, n * batch, batch, count) for n in range(steps)])
    assert len(shown) >= epochs * count
    for epoch in range(epochs):
        assert sorted(shown[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


def test_the_order_is_a_function_of_seed_and_position_whatever_the_batch():
    whole = batch_indices(3, 0, 200, 30)
    for start, batch in [(0, 8), (8, 16), (25, 10), (29, 2), (120, 80)]:
        assert torch.equal(batch_indices(3, start, batch, 30), whole[start : start + batch])
    before = torch.get_rng_state()
    assert torch.equal(batch_indices(3, 0, 200, 30), whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = {tuple(batch_indices(seed, 40 * epoch, 40, 40).tolist()) for seed in range(4) for epoch in range(5)}
    assert len(orders) == 20
    assert tuple(range(40)) not in orders


def test_a_batch_may_be_moved_about_without_harm():
    """The permutation is kept between calls; nobody may change it."""
    first = batch_indices(0, 0, 10, 10)
    wanted = first.clone()
    first.fill_(-1)
    assert torch.equal(batch_indices(0, 0, 10, 10), wanted)
