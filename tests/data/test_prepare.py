"""Laws of preparing: a picture as a person sees it, the same order every time, and whole or not there."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from progan.data import prepare as prepare_module
from progan.data.prepare import cache_folder, decode, faces_count, open_data, prepare, prepare_any
from progan.data.pyramid import open_pyramid
from progan.data.sources import is_picture, open_source
from progan.errors import UserError

R = 16
TRUTH = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def _quiet(*_) -> None:
    pass


def _corner_red() -> Image.Image:
    """Red in the upper left quarter, blue in the upper right, green below."""
    image = Image.new("RGB", (R, R), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, R // 2, R // 2))
    image.paste((0, 0, 255), (R // 2, 0, R, R // 2))
    return image


def _encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _decode(data: bytes, channels: int = 3, upscale: bool = False, max_res: int = R):
    return decode(lambda name: io.BytesIO(data), "x", max_res, channels, upscale)


def _rgb(picture, y: int, x: int) -> tuple[int, ...]:
    assert not isinstance(picture, str), picture
    return tuple(picture[:, y, x].tolist())


def _fill(folder: Path, count: int = 6) -> Path:
    """Grey pictures in folders, told apart by their value 10 * n."""
    for n in range(count):
        path = folder / f"part{n % 2}" / f"{n:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encoded(Image.new("RGB", (R, R), (10 * n,) * 3)))
    return folder


def _make(source: Path, folder: Path, **changes) -> dict[str, str]:
    arguments = {"max_res": R, "channels": 3, "upscale": False, "progress": _quiet} | changes
    return prepare(open_source(source), folder, **arguments)


def _values(folder: Path) -> list[int]:
    pyramid = open_pyramid(folder)
    return pyramid.batch(torch.arange(pyramid.count), R)[:, 0, 0, 0].tolist()


# --- one picture ---


def test_a_picture_is_its_pixels():
    picture = _decode(_encoded(_corner_red()))
    assert (picture.dtype, picture.shape) == (np.uint8, (3, R, R))
    assert np.array_equal(picture, np.asarray(_corner_red()).transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = _corner_red().transpose(undo[orientation]) if orientation in undo else _corner_red()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = _decode(_encoded(stored, exif=exif))
    assert _rgb(picture, 2, 2) == TRUTH["red"]
    assert _rgb(picture, 2, R - 3) == TRUTH["blue"]
    assert _rgb(picture, R - 3, 2) == TRUTH["green"]


def test_transparency_shows_white():
    image = Image.new("RGBA", (R, R), (0, 0, 255, 0))
    image.paste((0, 0, 255, 255), (0, 0, R // 2, R))
    image.paste((0, 0, 0, 51), (0, R // 2, R // 2, R))
    picture = _decode(_encoded(image))
    assert _rgb(picture, 2, 2) == TRUTH["blue"]
    assert _rgb(picture, 2, R - 3) == TRUTH["white"]
    assert _rgb(picture, R - 3, 2) == (204, 204, 204)  # black at one fifth


@pytest.mark.parametrize("mode", ["LA", "P", "RGB", "L"])
def test_every_kind_of_transparency_shows_white(mode):
    if mode == "LA":
        data = _encoded(Image.new("LA", (R, R), (0, 0)))
    elif mode == "P":
        image = Image.new("P", (R, R), 1)
        image.putpalette([0, 0, 255, 255, 0, 0])
        data = _encoded(image, transparency=1)
    else:
        colour = (1, 2, 3) if mode == "RGB" else 7
        data = _encoded(Image.new(mode, (R, R), colour), transparency=colour)
    assert _rgb(_decode(data), 5, 5) == TRUTH["white"]
    assert _rgb(_decode(data, channels=1), 5, 5) == (255,)


@pytest.mark.parametrize(
    ("image", "rgb", "grey"),
    [
        (Image.new("L", (R, R), 77), (77, 77, 77), 77),
        (Image.new("1", (R, R), 1), (255, 255, 255), 255),
        (Image.new("RGB", (R, R), (255, 0, 0)), (255, 0, 0), 76),
        (Image.new("RGB", (R, R), (10, 200, 30)).quantize(4), (10, 200, 30), 124),
    ],
    ids=["grey", "bilevel", "colour", "palette"],
)
def test_grey_palette_and_colour_come_with_the_wanted_channels(image, rgb, grey):
    assert _rgb(_decode(_encoded(image)), 3, 3) == rgb
    picture = _decode(_encoded(image), channels=1)
    assert picture.shape == (1, R, R)
    assert abs(int(picture[0, 3, 3]) - grey) <= 1


@pytest.mark.parametrize(("value", "wanted"), [(0, 0), (0x8000, 128), (0xFFFF, 255), (0x4000, 64)])
def test_sixteen_bits_of_grey_are_scaled_to_eight_not_cut_off(value, wanted):
    image = Image.fromarray(np.full((R, R), value, np.uint16))
    for channels in (1, 3):
        picture = _decode(_encoded(image), channels)
        assert all(abs(v - wanted) <= 1 for v in _rgb(picture, 3, 3))


def test_inks_are_turned_into_light():
    assert _rgb(_decode(_encoded(Image.new("CMYK", (R, R), (0, 0, 0, 0)), "TIFF")), 3, 3) == TRUTH["white"]


def test_the_centre_square_is_kept():
    image = Image.new("RGB", (3 * R, R), (255, 0, 0))
    image.paste((0, 0, 255), (R, 0, 2 * R, R))
    for picture in (image, image.transpose(Image.Transpose.ROTATE_90)):
        got = _decode(_encoded(picture))
        assert np.array_equal(np.unique(got.reshape(3, -1), axis=1)[:, 0], TRUTH["blue"])
        assert len(np.unique(got.reshape(3, -1), axis=1).T) == 1


def test_a_large_picture_is_shrunk_once_by_lanczos():
    noise = torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8).numpy()
    wanted = ImageOps.fit(Image.fromarray(noise), (R, R), Image.Resampling.LANCZOS)
    assert np.array_equal(_decode(_encoded(Image.fromarray(noise))), np.asarray(wanted).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(R - 1, R), (R, R - 1), (1, 1)])
def test_a_small_picture_is_skipped_unless_it_may_be_enlarged(size):
    data = _encoded(Image.new("RGB", size, (255, 0, 0)))
    assert _decode(data) == f"smaller than {R}x{R}"
    assert _rgb(_decode(data, upscale=True), 3, 3) == TRUTH["red"]


@pytest.mark.parametrize(
    "data", [b"", b"no picture", _encoded(_corner_red())[:60], _encoded(_corner_red(), "JPEG")[:300]]
)
def test_what_cannot_be_read_says_so(data):
    outcome = _decode(data)
    assert isinstance(outcome, str)
    assert outcome.startswith("unreadable: ")
    assert "\n" not in outcome


# --- a folder and a zip ---


@pytest.fixture
def pictures(tmp_path) -> Path:
    return _fill(tmp_path / "pictures")


def _zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def test_a_folder_becomes_a_pyramid(pictures, tmp_path):
    assert _make(pictures, tmp_path / "out") == {}
    pyramid = open_pyramid(tmp_path / "out")
    assert (pyramid.count, pyramid.channels, pyramid.resolutions) == (6, 3, (4, 8, 16))
    assert sorted(_values(tmp_path / "out")) == [0, 10, 20, 30, 40, 50]
    for r in (4, 8, 16):  # flat pictures stay flat, and picture n is picture n at every level
        assert pyramid.batch(torch.arange(6), r).amax((1, 2, 3)).tolist() == _values(tmp_path / "out")
        assert pyramid.batch(torch.arange(6), r).amin((1, 2, 3)).tolist() == _values(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "pyramid.json").read_text())["count"] == 6


def test_a_zip_gives_the_pyramid_of_the_folder_in_it(pictures, tmp_path):
    _make(pictures, tmp_path / "a")
    _make(_zipped(pictures, tmp_path / "pictures.zip"), tmp_path / "b")
    a, b = open_pyramid(tmp_path / "a"), open_pyramid(tmp_path / "b")
    assert a.fingerprint == b.fingerprint
    for r in a.resolutions:
        assert np.array_equal(a.levels[r], b.levels[r])


def test_the_order_is_shuffled_and_the_same_every_time(tmp_path):
    source = _fill(tmp_path / "pictures", 20)
    for name in ("a", "b"):
        _make(source, tmp_path / name)
    assert _values(tmp_path / "a") == _values(tmp_path / "b")
    by_name = [10 * n for n in (*range(0, 20, 2), *range(1, 20, 2))]
    assert sorted(_values(tmp_path / "a")) == sorted(by_name)
    assert _values(tmp_path / "a") != by_name
    assert open_pyramid(tmp_path / "a").fingerprint == open_pyramid(tmp_path / "b").fingerprint


def test_other_pictures_have_another_fingerprint(pictures, tmp_path):
    _make(pictures, tmp_path / "a")
    (pictures / "part0" / "00.png").write_bytes(_encoded(Image.new("RGB", (R, R), (1, 0, 0))))
    _make(pictures, tmp_path / "b")
    assert open_pyramid(tmp_path / "a").fingerprint != open_pyramid(tmp_path / "b").fingerprint


def test_grey_pyramids_have_one_channel(pictures, tmp_path):
    _make(pictures, tmp_path / "out", channels=1)
    assert open_pyramid(tmp_path / "out").levels[4].shape == (6, 1, 4, 4)


def test_progress_counts_every_picture(pictures, tmp_path):
    seen = []
    _make(pictures, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]


@pytest.mark.parametrize(
    ("name", "yes"),
    [
        ("a.png", True), ("deep/er/a.JPG", True), ("a.jpeg", True), ("a.webp", True), ("a.txt", False), ("png", False),
        (".hidden/a.png", False), ("x/.a.png", False), ("__MACOSX/a.png", False), ("a.png.txt", False),
    ],
)  # fmt: skip
def test_what_is_a_picture(name, yes):
    assert is_picture(name) is yes


# --- what is left out ---


def _spoil(pictures: Path) -> None:
    (pictures / "broken, really.png").write_bytes(b"no picture")
    (pictures / "small.png").write_bytes(_encoded(Image.new("RGB", (R - 1, R))))
    (pictures / "note.txt").write_text("not even tried")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_left_out_is_listed_with_its_reason(pictures, tmp_path, kind):
    _spoil(pictures)
    source = pictures if kind == "folder" else _zipped(pictures, tmp_path / "p.zip")
    skipped = _make(source, tmp_path / "out")
    assert set(skipped) == {"broken, really.png", "small.png"}
    assert skipped["small.png"] == f"smaller than {R}x{R}"
    assert skipped["broken, really.png"].startswith("unreadable: ")
    with (tmp_path / "out" / "skipped.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["picture", "reason"]
    assert dict(rows[1:]) == skipped
    assert open_pyramid(tmp_path / "out").count == 6
    assert len(set(_values(tmp_path / "out"))) == 6


def test_a_damaged_entry_of_a_zip_is_left_out(pictures, tmp_path):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for n in range(3):
            archive.writestr(f"{n}.png", _encoded(Image.new("RGB", (R, R), (100 + n, 0, 0))))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF  # the first picture's checksum fails
    path.write_bytes(data)
    skipped = _make(path, tmp_path / "out")
    assert list(skipped) == ["0.png"]
    assert skipped["0.png"].startswith("unreadable: ")
    assert sorted(_values(tmp_path / "out")) == [101, 102]


def test_where_nothing_is_left_the_commonest_reasons_are_said(tmp_path):
    source = tmp_path / "pictures"
    source.mkdir()
    for n in range(3):
        (source / f"{n}.png").write_bytes(_encoded(Image.new("RGB", (2, 2))))
    (source / "x.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=rf"no picture is left of 4: 3 x smaller than {R}x{R}; 1 x unreadable"):
        _make(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures"]


# --- whole or not there ---


def test_an_existing_destination_is_refused(pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match=r"out exists already; choose another destination"):
        _make(pictures, out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_preparation_leaves_nothing(pictures, tmp_path, error):
    def interrupt(done, total):
        if done == 3:
            raise error

    with pytest.raises(error):
        _make(pictures, tmp_path / "out", progress=interrupt)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures"]
    assert _make(pictures, tmp_path / "out") == {}  # and the next attempt succeeds


def test_a_disk_that_refuses_leaves_nothing(pictures, tmp_path, monkeypatch):
    def full(self, picture):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_module._Level, "append", full)
    with pytest.raises(UserError, match="out cannot be written: No space left on device"):
        _make(pictures, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures"]


# --- what is asked for ---


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: p / "missing", "missing does not exist; data is a pyramid"),
    (lambda p: (p / "empty").mkdir() or p / "empty", r"empty holds no pictures \(\.png"),
    (lambda p: (p / "x.txt").write_text("x") and p / "x.txt", "neither a folder nor a zip file"),
], ids=["missing", "empty", "text"])  # fmt: skip
def test_what_is_no_source_is_refused(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        open_source(make(tmp_path))


def test_an_empty_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(UserError, match="holds no pictures"):
        open_source(tmp_path / "x.zip")


def test_a_pyramid_is_opened_where_it_lies(pictures, tmp_path):
    _make(pictures, tmp_path / "out")
    assert open_data(str(tmp_path / "out"), 8, 3, _quiet, _quiet).count == 6
    with pytest.raises(UserError, match=r"reaches 16x16 only; use --max-res 16, or prepare it for 32"):
        open_data(str(tmp_path / "out"), 32, 3, _quiet, _quiet)
    with pytest.raises(UserError, match=r"has 3 channels: use --set networks.channels=3"):
        open_data(str(tmp_path / "out"), 16, 1, _quiet, _quiet)


def test_a_folder_is_prepared_once_and_again_when_it_changes(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "cache"))
    said = []
    first = open_data(str(pictures), R, 3, said.append, _quiet)
    again = open_data(str(pictures), R, 3, said.append, _quiet)
    assert (first.path, len(said)) == (again.path, 1)
    assert first.path.parent == tmp_path / "cache"
    (pictures / "new.png").write_bytes(_encoded(_corner_red()))
    assert open_data(str(pictures), R, 3, said.append, _quiet).count == 7
    assert open_data(str(pictures), 8, 3, said.append, _quiet).count == 7
    assert open_data(str(pictures), R, 1, said.append, _quiet).channels == 1
    assert len(said) == 4


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PROGAN_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("PROGAN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "progan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "progan"


def test_faces_are_counted():
    assert faces_count("faces:5000", 64) == 5000
    assert faces_count("faces", 32) == 10_000
    assert faces_count("faces", 1024) == 158
    for text in ("faces:", "faces:x", "faces:0", "faces:-1"):
        with pytest.raises(UserError, match=rf"--data {text}: write faces:COUNT"):
            faces_count(text, 64)


@pytest.mark.parametrize(
    ("max_res", "channels", "message"), [(48, 3, "--max-res 48"), (2, 3, "--max-res 2"), (8, 2, "--channels 2")]
)
def test_an_impossible_pyramid_is_refused(pictures, tmp_path, max_res, channels, message):
    with pytest.raises(UserError, match=message):
        prepare_any(str(pictures), tmp_path / "out", max_res, channels, False, _quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_any_source_is_prepared(pictures, tmp_path, channels):
    assert prepare_any(str(pictures), tmp_path / "a", R, channels, False, _quiet) == {}
    assert prepare_any("faces:3", tmp_path / "b", 8, channels, False, _quiet) == {}
    assert open_pyramid(tmp_path / "a").levels[R].shape == (6, channels, R, R)
    assert open_pyramid(tmp_path / "b").levels[8].shape == (3, channels, 8, 8)
