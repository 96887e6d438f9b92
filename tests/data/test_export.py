"""Laws of going back: pyramid -> TFRecords -> pyramid and pyramid -> StyleGAN zip -> pyramid change no bit."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from progan.data.export import EXPORTS
from progan.data.pictures import Recipe
from progan.data.prepare import Wish, prepare
from progan.errors import UserError

HERE = Wish(workers=0)


def _quiet(*_) -> None:
    pass


def _folder(path, count, classes, size, channels, seed=0):
    random = np.random.default_rng(seed)
    for n in range(count):
        where = path / f"class {n % classes}"
        where.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (size + n % 3, size + n % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(where / f"{n}.png")
    return path


def _same(a, b):
    assert (a.count, a.channels, a.resolutions, a.fingerprint) == (b.count, b.channels, b.resolutions, b.fingerprint)
    for r in a.resolutions:
        assert np.array_equal(a.levels[r], b.levels[r]), r
    assert (a.labels is None) == (b.labels is None)
    if a.labels is not None:
        assert np.array_equal(a.labels.values, b.labels.values)
        assert a.labels.names == b.labels.names


def _there_and_back(pyramid, tmp_path, kind, name):
    path = tmp_path / (f"{name}.zip" if kind == "zip" else name)
    EXPORTS[kind](pyramid, path, pyramid.top, _quiet)
    max_res = pyramid.top if kind == "zip" else 0  # TFRecords know their own
    return prepare(str(path), tmp_path / f"{name}-back", Recipe(max_res, pyramid.channels), HERE)


@pytest.mark.parametrize("kind", ["zip", "tfrecords"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [1, 3])
def test_there_and_back_changes_no_bit(tmp_path, kind, channels, classes):
    pictures = _folder(tmp_path / "pictures", 23, classes, 40, channels)
    pyramid = prepare(str(pictures), tmp_path / "pyramid", Recipe(32, channels), HERE)
    assert (pyramid.labels is None) == (classes == 1)
    _same(pyramid, _there_and_back(pyramid, tmp_path, kind, "x"))


@pytest.mark.parametrize("kind", ["zip", "tfrecords"])
def test_through_both_and_back(tmp_path, kind):
    pictures = _folder(tmp_path / "pictures", 9, 2, 16, 3)
    pyramid = prepare(str(pictures), tmp_path / "pyramid", Recipe(16), HERE)
    other = "zip" if kind == "tfrecords" else "tfrecords"
    _same(pyramid, _there_and_back(_there_and_back(pyramid, tmp_path, kind, "x"), tmp_path, other, "y"))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(2, 9), top=st.sampled_from([4, 8, 16]), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99)
)
def test_whatever_its_shape_it_comes_back(tmp_path_factory, count, top, channels, seed):
    tmp_path = tmp_path_factory.mktemp("x")
    pictures = _folder(tmp_path / "pictures", count, 2, 18, channels, seed)
    pyramid = prepare(str(pictures), tmp_path / "pyramid", Recipe(top, channels), HERE)
    for kind in EXPORTS:
        _same(pyramid, _there_and_back(pyramid, tmp_path, kind, kind))


@pytest.mark.parametrize("kind", ["zip", "tfrecords"])
def test_a_lower_level_can_be_the_top(tmp_path, kind):
    pictures = _folder(tmp_path / "pictures", 5, 1, 16, 3)
    pyramid = prepare(str(pictures), tmp_path / "pyramid", Recipe(16), HERE)
    EXPORTS[kind](pyramid, tmp_path / "x.zip", 8, _quiet)
    back = prepare(str(tmp_path / "x.zip"), tmp_path / "back", Recipe(8), HERE)
    assert np.array_equal(back.levels[8], pyramid.levels[8])


@pytest.mark.parametrize("kind", ["zip", "tfrecords"])
def test_what_exists_is_never_written_over(tmp_path, kind):
    pyramid = prepare(str(_folder(tmp_path / "pictures", 3, 1, 8, 3)), tmp_path / "pyramid", Recipe(8), HERE)
    (tmp_path / "x.zip").write_text("mine")
    with pytest.raises(UserError, match=r"x\.zip exists already"):
        EXPORTS[kind](pyramid, tmp_path / "x.zip", 8, _quiet)
    assert (tmp_path / "x.zip").read_text() == "mine"


@pytest.mark.parametrize("kind", ["zip", "tfrecords"])
def test_an_interrupted_export_leaves_nothing(tmp_path, kind):
    pyramid = prepare(str(_folder(tmp_path / "pictures", 3, 1, 8, 3)), tmp_path / "pyramid", Recipe(8), HERE)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        EXPORTS[kind](pyramid, tmp_path / "x.zip", 8, interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "pyramid"]
