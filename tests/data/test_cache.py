"""Laws of `--data`: a pyramid is taken as it is, anything else is prepared once, and again when it changes."""

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progan.data.cache import cache_folder, open_data
from progan.data.pictures import Recipe
from progan.data.prepare import Wish, prepare
from progan.errors import UserError

R = 16


def _quiet(*_) -> None:
    pass


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(6):
        Image.new("RGB", (R, R), (n, n, n)).save(folder / f"{n}.png")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_pyramid_is_opened_where_it_lies(pictures, tmp_path, cache):
    prepare(str(pictures), tmp_path / "out", Recipe(R), Wish(workers=0))
    assert open_data(str(tmp_path / "out"), 8, 3, _quiet, _quiet).count == 6
    with pytest.raises(UserError, match=r"reaches 16x16 only; use --max-res 16, or prepare it for 32"):
        open_data(str(tmp_path / "out"), 32, 3, _quiet, _quiet)
    with pytest.raises(UserError, match=r"has 3 channels: use --set networks.channels=3"):
        open_data(str(tmp_path / "out"), 16, 1, _quiet, _quiet)
    assert not cache.exists()


def test_a_folder_is_prepared_once_and_again_when_it_changes(pictures, cache):
    said = []
    first = open_data(str(pictures), R, 3, said.append, _quiet)
    again = open_data(str(pictures), R, 3, said.append, _quiet)
    assert (first.path, len(said)) == (again.path, 1)
    assert first.path.parent == cache
    Image.new("RGB", (R, R)).save(pictures / "new.png")
    assert open_data(str(pictures), R, 3, said.append, _quiet).count == 7
    assert open_data(str(pictures), 8, 3, said.append, _quiet).count == 7
    assert open_data(str(pictures), R, 1, said.append, _quiet).channels == 1
    assert len(said) == 4


def test_what_is_left_out_is_said(pictures):
    (pictures / "x.png").write_bytes(b"")
    said = []
    pyramid = open_data(str(pictures), R, 3, said.append, _quiet)
    assert said[1] == f"Left out 1 of them: {pyramid.path / 'skipped.csv'} says why"


def test_what_had_to_be_unpacked_does_not_stay(pictures, tmp_path, cache):
    with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as tar:
        tar.add(pictures, "p")
    np.savez(tmp_path / "p.npz", np.zeros((5, R, R, 3), np.uint8))
    for name, count in (("p.tar.gz", 6), ("p.npz", 5)):
        assert open_data(str(tmp_path / name), R, 3, _quiet, _quiet).count == count
    assert [p for p in cache.iterdir() if p.suffix == ".scratch"] == []
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 2


def test_what_had_to_be_unpacked_is_not_unpacked_again(pictures, tmp_path, cache, monkeypatch):
    def packed(count):
        with tarfile.open(tmp_path / "p.tgz", "w:gz") as tar:
            for n in range(count):
                tar.add(pictures / f"{n}.png", f"{n}.png")

    packed(5)
    first = open_data(str(tmp_path / "p.tgz"), R, 3, _quiet, _quiet)
    with monkeypatch.context() as patch:
        patch.setattr("progan.data.cache.open_source", None)
        assert open_data(str(tmp_path / "p.tgz"), R, 3, _quiet, _quiet).path == first.path
    assert open_data(str(tmp_path / "p.tgz"), 8, 3, _quiet, _quiet).top == 8
    packed(6)
    assert open_data(str(tmp_path / "p.tgz"), R, 3, _quiet, _quiet).count == 6


def test_a_name_means_the_same_everywhere(cache, tmp_path, monkeypatch):
    paths = set()
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        paths.add(open_data("faces:20", 8, 3, _quiet, _quiet).path)
    assert len(paths) == 1


@pytest.mark.parametrize("text", ["faces:20", "mnist"])
def test_names_are_understood_too(text, cache):
    if text == "mnist":
        with pytest.raises(UserError, match="mnist"):  # and says how to get it; nothing is fetched
            open_data(text, 8, 3, _quiet, _quiet)
    else:
        assert open_data(text, 8, 3, _quiet, _quiet).path.name.startswith("faces-8px-")


def test_two_runs_at_once_prepare_once(pictures, cache):
    code = (
        "import sys; from progan.data.cache import open_data\n"
        "if __name__ == '__main__':\n"
        f"    print(open_data({str(pictures)!r}, 16, 3, print, lambda d, t: None).count)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("Preparing") == 1
    assert said.split().count("6") == 2 + 1  # "6 pictures" in the one announcement
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 1


def test_a_cache_that_cannot_be_made_is_named(pictures, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cache .* cannot be made: .*PROGAN_CACHE"):
        open_data(str(pictures), R, 3, _quiet, _quiet)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("PROGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "progan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "progan"
