"""Laws of pictures: as a person sees them, square, every time the same; what cannot be had is a reason, no error."""

import csv
import hashlib
import io
import random
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from progan.data.pictures import FORMATS, LARGEST, SUFFIXES, Recipe, checked, halvings, outcome, pixels
from progan.data.source import Unreadable
from progan.errors import UserError

R = 16
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
quick = settings(deadline=None, max_examples=40, derandomize=True)


def _recipe(max_res: int = R, **changes) -> Recipe:
    return checked(Recipe(max_res, **changes))


def _encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _outcome(raw, **changes):
    return outcome(lambda name: raw, "x", _recipe(**changes))


def _picture(raw, **changes):
    """The top level; the test fails where the picture is skipped."""
    found = _outcome(raw, **changes)
    assert not isinstance(found, str), found
    return found[0]


def _reason(raw, **changes) -> str:
    found = _outcome(raw, **changes)
    assert isinstance(found, str)
    assert found.isprintable()
    assert 0 < len(found) <= 200
    return found


def _only(picture) -> tuple[int, ...]:
    """The one colour of a picture."""
    colours = np.unique(picture.reshape(len(picture), -1), axis=1)
    assert colours.shape[1] == 1, colours
    return tuple(colours[:, 0].tolist())


def _at(picture, y: int, x: int) -> tuple[int, ...]:
    return tuple(picture[:, y, x].tolist())


def _quarters(size: int = R) -> Image.Image:
    """Red in the upper left quarter, blue in the upper right, green below."""
    image = Image.new("RGB", (size, size), GREEN)
    image.paste(RED, (0, 0, size // 2, size // 2))
    image.paste(BLUE, (size // 2, 0, size, size // 2))
    return image


def _places(width: int, height: int) -> Image.Image:
    """Each pixel says where it is: red is x, green is y."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return Image.fromarray(np.stack([x, y, 0 * x], -1))


# --- every mode ---

GREYS = ("L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")
COLOURS = {"P": 0, "PA": 0, "RGB": 0, "RGBA": 0, "RGBa": 0, "RGBX": 0, "CMYK": 0, "YCbCr": 3, "HSV": 7}
"""Modes, and by how much a colour moves in them."""
MODES = ("1", *GREYS, *COLOURS, "LAB")


def _grey(mode: str, values) -> Image.Image:
    """uint8 [H, W] in a grey mode, as bright."""
    if mode in ("L", "I"):
        return Image.fromarray(values).convert(mode)
    if mode in ("LA", "La"):
        return Image.fromarray(values).convert("LA").convert(mode)
    if mode == "F":
        return Image.fromarray((values / 255).astype(np.float32))
    order = ">u2" if mode == "I;16B" else "=u2" if mode == "I;16N" else "<u2"
    image = Image.new(mode, values.shape[::-1])
    image.frombytes((values.astype(np.uint32) * 257).astype(order).tobytes(), "raw", mode)
    return image


def _in(mode: str, image: Image.Image) -> Image.Image:
    """An RGB picture in another mode, as Pillow may hold it."""
    if mode in GREYS:
        return _grey(mode, np.asarray(image.convert("L")))
    if mode in ("P", "PA"):
        return image.quantize(16, dither=Image.Dither.NONE).convert(mode)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    if mode == "RGBa":
        return image.convert("RGBA").convert("RGBa")
    return image.convert(mode)


sizes = st.integers(1, 40)


@quick
@given(st.sampled_from(MODES), sizes, sizes, st.sampled_from([1, 3]), st.sampled_from([4, 8, 16]), st.data())
def test_any_picture_gives_all_levels_or_a_reason(mode, width, height, channels, max_res, data):
    crop = data.draw(st.sampled_from(["centre", "pad", "pad:12", "refuse", "celeba", "3,5,17"]))
    upscale, kind = data.draw(st.booleans()), data.draw(st.sampled_from(["lanczos", "box"]))
    found = _outcome(_in(mode, _places(width, height)), **vars(Recipe(max_res, channels, crop, kind, "red", upscale)))
    if isinstance(found, str):
        assert found in (
            f"smaller than {max_res}x{max_res}",
            "not square",
            "not 178x218, as aligned CelebA pictures are",
            "the crop reaches beyond the picture",
        )
        return
    sides = [max_res >> n for n in range(len(found))]
    assert sides[-1] == 4
    assert [level.shape for level in found] == [(channels, side, side) for side in sides]
    assert all(level.dtype == np.uint8 and level.flags.c_contiguous and level.flags.writeable for level in found)


@quick
@given(st.sampled_from(list(COLOURS)), st.tuples(*[st.integers(0, 255)] * 3), sizes, sizes, st.sampled_from([4, 16]))
def test_one_colour_stays_that_colour(mode, colour, width, height, max_res):
    image = _in(mode, Image.new("RGB", (width, height), colour))
    for level in _outcome(image, max_res=max_res, upscale=True):
        if COLOURS[mode] == 0:
            assert _only(level) == colour
        assert np.abs(level.astype(int) - np.reshape(colour, (3, 1, 1))).max() <= COLOURS[mode]


@quick
@given(st.sampled_from(GREYS), st.integers(0, 255), sizes, sizes, st.sampled_from([1, 3]))
def test_one_grey_stays_that_grey(mode, value, width, height, channels):
    image = _grey(mode, np.full((height, width), value, np.uint8))
    for level in _outcome(image, channels=channels, upscale=True):
        assert _only(level) == (value,) * channels


@pytest.mark.parametrize(("lab", "rgb", "tolerance"), [
    ((0, 128, 128), BLACK, 1), ((255, 128, 128), WHITE, 1), ((137, 128, 128), (128, 128, 128), 1),
    ((138, 209, 198), RED, 8), ((224, 49, 209), GREEN, 24), ((75, 196, 16), BLUE, 24),
])  # fmt: skip
def test_lab_is_shown_in_srgb(lab, rgb, tolerance):
    """L 54, a 81, b 70 under D50 is the red of sRGB. One step of a or b is a long way at the edge of sRGB."""
    for raw in (Image.new("LAB", (R, R), lab), _encoded(Image.new("LAB", (R, R), lab), "TIFF")):
        assert np.abs(np.subtract(_only(_picture(raw)), rgb)).max() <= tolerance


@pytest.mark.parametrize("channels", [1, 3])
def test_bits_are_black_and_white(channels):
    for bit, value in ((0, 0), (1, 255)):
        assert _only(_picture(Image.new("1", (R, R), bit), channels=channels)) == (value,) * channels


@pytest.mark.parametrize(("colour", "grey"), [(RED, 76), (GREEN, 150), (BLUE, 29), ((10, 200, 30), 124)])
def test_grey_of_colours_is_rec_601(colour, grey):
    assert _only(_picture(Image.new("RGB", (R, R), colour), channels=1)) == (grey,)
    assert _only(_picture(np.full((3, R, R), np.reshape(colour, (3, 1, 1)), np.uint8), channels=1)) == (grey,)


TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the camera lay that wrote an EXIF orientation."""


def _lying(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNED[orientation]
    return image if turn is None else image.transpose(turn)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_turned_upright(mode):
    for crop, orientation in product(("centre", "pad", "2,1,17"), TURNED):
        image = _places(21, 19)
        lying = (
            _in(mode, _lying(image, orientation))
            if mode not in ("1", "P", "PA")
            else _lying(_in(mode, image), orientation)
        )
        lying.getexif()[0x0112] = orientation
        assert np.array_equal(_picture(lying, crop=crop), _picture(_in(mode, image), crop=crop)), orientation


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", TURNED)
def test_a_photo_is_turned_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = _picture(_encoded(_lying(_quarters(32), orientation), kind, exif=exif, **options))
    for (y, x), colour in {(2, 2): RED, (2, R - 3): BLUE, (R - 3, 2): GREEN}.items():
        assert np.abs(np.subtract(_at(picture, y, x), colour)).max() <= 4


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nothing of the kind"])
def test_damaged_exif_is_no_reason_to_lose_a_picture(exif):
    assert _only(_picture(_encoded(Image.new("RGB", (R, R), RED), "PNG", exif=exif))) == RED
    assert (
        np.abs(np.subtract(_only(_picture(_encoded(Image.new("RGB", (R, R), RED), "JPEG", exif=exif))), RED)).max() < 3
    )


def test_the_same_picture_comes_out_the_same_in_another_process(tmp_path):
    data = _encoded(_quarters(37), "JPEG", icc_profile=_matrix_profile(2.2))
    (tmp_path / "x.jpg").write_bytes(data)
    code = (
        "import sys, hashlib; from pathlib import Path; from progan.data.pictures import *\n"
        "levels = outcome(lambda name: Path(name).read_bytes(), sys.argv[1], Recipe(16, crop='pad'))\n"
        "print(hashlib.sha256(b''.join(level.tobytes() for level in levels)).hexdigest(), 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "x.jpg"], capture_output=True, text=True, check=True)
    for _ in range(2):
        here = hashlib.sha256(b"".join(level.tobytes() for level in _outcome(data, crop="pad"))).hexdigest()
        assert found.stdout.split() == [here, "False"]


# --- transparency ---


def test_transparency_shows_the_background():
    image = Image.new("RGBA", (R, R), (0, 0, 255, 0))
    image.paste((0, 0, 255, 255), (0, 0, R // 2, R))
    image.paste((0, 0, 0, 51), (0, R // 2, R // 2, R))
    for name, colour, mixed in (("white", WHITE, (204, 204, 204)), ("#ff0000", RED, (204, 0, 0))):
        picture = _picture(_encoded(image), background=name)
        assert _at(picture, 2, 2) == BLUE
        assert _at(picture, 2, R - 3) == colour
        assert _at(picture, R - 3, 2) == mixed  # black at one fifth


def _see_through(mode: str) -> tuple[Image.Image, dict[str, object]]:
    """A picture of which nothing can be seen, and how to save it so."""
    if mode == "P":
        image = Image.new("P", (R, R), 1)
        image.putpalette([0, 0, 255, 255, 0, 0])
        return image, {"transparency": 1}
    if mode == "P alpha":
        return Image.new("RGBA", (R, R), (9, 8, 7, 0)).quantize(4), {}
    if mode == "I;16":
        return Image.fromarray(np.full((R, R), 4660, np.uint16)), {"transparency": 4660}
    colour = {"1": 1, "L": 7, "RGB": (1, 2, 3), "LA": (0, 0), "RGBA": (1, 2, 3, 0)}[mode]
    return Image.new(mode, (R, R), colour), {} if mode in ("LA", "RGBA") else {"transparency": colour}


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "LA", "P", "P alpha", "RGB", "RGBA"])
def test_every_kind_of_transparency_shows_the_background(mode):
    image, options = _see_through(mode)
    data = _encoded(image, **options)
    assert _only(_picture(data, background="#0a141e")) == (10, 20, 30)
    assert _only(_picture(data, channels=1)) == (255,)
    opened = Image.open(io.BytesIO(data))
    assert [_only(_picture(opened)) for _ in range(2)] == [WHITE, WHITE]  # the same object, twice
    assert opened.mode in mode


def _png(bits: int, kind: int, row: bytes, *chunks: tuple[bytes, bytes], size: int = R) -> bytes:
    """A PNG of equal rows, of any depth. kind: 0 grey, 2 colour, 3 palette."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", size, size, bits, kind, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress((b"\0" + row) * size)), (b"IEND", b"")]
    whole = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


@pytest.mark.parametrize(("bits", "value"), [(1, 1), (2, 1), (4, 5), (8, 85), (16, 21845)])
def test_a_transparent_grey_is_found_at_every_depth(bits, value):
    row = int(f"{value:0{bits}b}" * R, 2).to_bytes(bits * R // 8, "big")
    shown = 255 if bits == 1 else 85
    assert _only(_picture(_png(bits, 0, row))) == (shown,) * 3
    assert _only(_picture(_png(bits, 0, row, (b"tRNS", struct.pack(">H", value))), background="red")) == RED
    assert (
        _only(_picture(_png(bits, 0, row, (b"tRNS", struct.pack(">H", value ^ 1))), background="red")) == (shown,) * 3
    )


@pytest.mark.parametrize(("bits", "colour"), [(8, (7, 8, 9)), (16, (0x1234, 0x5678, 0x9ABC))])
def test_a_transparent_colour_is_found_at_every_depth(bits, colour):
    letter = "B" if bits == 8 else "H"
    row = struct.pack(f">3{letter}", *colour) * R
    assert _only(_picture(_png(bits, 2, row))) == tuple(value >> (bits - 8) for value in colour)
    assert _only(_picture(_png(bits, 2, row, (b"tRNS", struct.pack(">3H", *colour))), background="red")) == RED


def test_a_palette_may_have_alpha_of_its_own():
    image = _quarters().quantize(4).convert("PA")
    image.putalpha(Image.fromarray(np.where(np.arange(R) < 8, 255, 51).astype(np.uint8)[:, None].repeat(R, 1)))
    picture = _picture(image, background="black")
    assert (_at(picture, 2, 2), _at(picture, R - 3, 2)) == (RED, (0, 51, 0))


def test_a_transparent_edge_has_no_fringe_of_the_hidden_colour():
    image = Image.new("RGBA", (4 * R, 4 * R), (0, 255, 0, 0))  # nobody sees this green
    image.paste((255, 0, 0, 255), (0, 0, 2 * R + 2, 4 * R))
    picture = _picture(image)
    assert (picture[1] == picture[2]).all()  # red and white only


def test_a_transparent_colour_beside_alpha_is_ignored():
    image = Image.new("RGBA", (R, R), (9, 9, 9, 0))
    image.info["transparency"] = 0
    assert _only(_picture(image)) == WHITE


def test_premultiplied_colours_are_divided():
    image = Image.new("RGBA", (R, R), (200, 100, 0, 51))
    for mode in ("RGBA", "RGBa"):
        assert np.abs(np.subtract(_only(_picture(image.convert(mode))), (244, 224, 204))).max() <= 2
    grey = Image.new("LA", (R, R), (100, 51))
    for mode in ("LA", "La"):
        assert abs(_only(_picture(grey.convert(mode), channels=1))[0] - 224) <= 2


# --- more than 8 bits ---


def _tiff(values, **tags) -> bytes:
    """A grey TIFF, little endian, uncompressed. values: [H, W] of the dtype to be stored, or packed rows of bytes."""
    data = values if isinstance(values, bytes) else values.tobytes()
    known = {"width": R, "height": R, "bits": 16, "compression": 1, "photometric": 1, "offset": 8, "rows": R}
    known |= {"bytes": len(data)} | tags
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262}
    numbers |= {"offset": 273, "rows": 278, "bytes": 279, "format": 339}
    entries = sorted((numbers[name], value) for name, value in known.items())
    table = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + table + bytes(4)


def _flat(value, dtype):
    return np.full((R, R), value, dtype)


def _twelve(value: int) -> bytes:
    """Rows of 12-bit pixels."""
    return int(f"{value:03x}{value:03x}", 16).to_bytes(3, "big") * (R * R // 2)


@pytest.mark.parametrize(("data", "shown"), [
    (_tiff(_flat(65535, "<u2")), 255),
    (_tiff(_flat(32896, "<u2")), 128),
    (_tiff(_flat(300, "<u2")), 1),
    (_tiff(_twelve(4095), bits=12), 255),
    (_tiff(_twelve(2048), bits=12), 128),
    (_tiff(_flat(32767, "<i2"), format=2), 255),
    (_tiff(_flat(16384, "<i2"), format=2), 128),
    (_tiff(_flat(200, "<i4"), bits=32, format=2), 200),
    (_tiff(_flat(1, "<i4"), bits=32, format=2), 1),
    (_tiff(_flat(51400, "<u4"), bits=32), 200),
    (_tiff(_flat(0.5, "<f4"), bits=32, format=3), 128),
    (_tiff(_flat(200.4, "<f4"), bits=32, format=3), 200),
    (_tiff(_flat(51400.0, "<f4"), bits=32, format=3), 200),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_greys_are_scaled(data, shown, channels):
    assert _only(_picture(data, channels=channels)) == (shown,) * channels


def test_white_is_zero_is_inverted():
    """By Pillow for 1 and 8 bits, by us for more."""
    for photometric, shown in ((1, (255, 51)), (0, (0, 204))):
        for white, dark, options in (
            (_flat(255, "u1"), _flat(51, "u1"), {"bits": 8}),
            (_flat(65535, "<u2"), _flat(13107, "<u2"), {}),
            (_flat(1, "<f4"), _flat(0.2, "<f4"), {"bits": 32, "format": 3}),
        ):
            found = [_only(_picture(_tiff(one, photometric=photometric, **options))) for one in (white, dark)]
            assert found == [(value,) * 3 for value in shown]
        bits = _tiff(bytes([255] * (R * R // 8)), bits=1, photometric=photometric)
        assert _only(_picture(bits)) == (shown[0],) * 3


@pytest.mark.parametrize(("values", "shown"), [
    (np.array([-3.0, -1.0, 5.0]), (0, 64, 255)),
    (np.array([0, 1.0, 1.8]), (0, 255, 255)),
    (np.array([0.0, 100, 70000]), (0, 0, 255)),
    (np.array([1.0, np.nan, 0.0]), (255, 0, 0)),
    (np.array([-1.0, np.inf, 3.0]), (0, 255, 255)),
    (np.array([-np.inf, -1.0, 3.0]), (0, 0, 255)),
    (np.array([np.nan, np.inf, -np.inf]), (0, 255, 0)),
    (np.array([-7.0, -7.0, -7.0]), (255, 255, 255)),
])  # fmt: skip
def test_floats_are_shown_by_the_table(values, shown):
    image = Image.fromarray(np.repeat(np.repeat(values.astype(np.float32), 4)[:, None], 4, 1))
    rows = [_picture(image, max_res=4, crop=f"0,{y},4", channels=1)[0, 0, 0] for y in (0, 4, 8)]
    assert rows == list(shown)


def test_integers_have_the_sign_that_the_file_says():
    values = np.zeros((R, R), "<u4")
    values[:, R // 2 :] = 4_000_000_000
    for sign, shown in ((1, (0, 255)), (2, (255, 0))):
        picture = _picture(_tiff(values, bits=32, format=sign), channels=1)
        assert (_at(picture, 3, 0) + _at(picture, 3, R - 1)) == shown


def test_the_range_is_that_of_the_whole_picture():
    values = np.full((R, 2 * R), -100.0, np.float32)
    values[:, :R] = 0
    values[0, -1] = 155  # far from the crop
    assert _only(_picture(Image.fromarray(values), crop=f"0,0,{R}")) == (100, 100, 100)


@pytest.mark.parametrize(
    ("maxval", "value", "shown"), [(255, 51, 51), (1000, 200, 51), (65535, 13107, 51), (65535, 200, 1)]
)
def test_a_pgm_is_scaled_by_its_maxval(maxval, value, shown):
    pixel = struct.pack(">H" if maxval > 255 else "B", value)
    assert _only(_picture(f"P5 {R} {R} {maxval}\n".encode() + pixel * R * R)) == (shown,) * 3


def test_sixteen_bits_of_grey_in_a_png():
    for value, shown in ((0, 0), (0x8080, 128), (0xFFFF, 255), (200, 1)):
        assert _only(_picture(_encoded(Image.fromarray(_flat(value, np.uint16))))) == (shown,) * 3


# --- inks and profiles ---


def test_inks_become_light():
    for kind in ("TIFF", "JPEG"):  # Adobe's JPEGs are stored inverted
        for inks, light in (((0, 0, 0, 0), WHITE), ((0, 0, 0, 255), BLACK), ((255, 0, 0, 0), (0, 255, 255))):
            shown = _only(_picture(_encoded(Image.new("CMYK", (R, R), inks), kind)))
            assert np.abs(np.subtract(shown, light)).max() <= 1


@pytest.mark.parametrize("profile", [False, True])
def test_inks_become_light_before_they_are_mixed(profile):
    image = Image.new("CMYK", (2 * R, 2 * R), (255, 0, 0, 0))
    for x in range(0, 2 * R, 2):
        image.paste((0, 0, 0, 255), (x, 0, x + 1, 2 * R))
    options = {"icc_profile": _ink_profile()} if profile else {}
    light = _only(_picture(_encoded(image.crop((1, 0, 2, 2)), "TIFF", **options), upscale=True))
    mixed = _only(_picture(_encoded(image, "TIFF", **options), filter="box"))
    assert np.abs(np.subtract(mixed, np.divide(light, 2))).max() <= 1


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(space: bytes, tags: dict[bytes, bytes], of: bytes = b"mntr", through: bytes = b"XYZ ") -> bytes:
    """An ICC profile, version 2.4."""
    head = bytearray(128)
    head[8:24] = bytes.fromhex("02400000") + of + space + through
    head[36:40], head[68:80] = b"acsp", _fixed(0.9642, 1, 0.8249)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    whole = bytes(head) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


WHITE_POINT = b"XYZ \0\0\0\0" + _fixed(0.9642, 1, 0.8249)
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
"""RGB -> XYZ under D50."""


def _matrix_profile(gamma: float | None, matrix=ADOBE) -> bytes:
    """Of a screen. gamma: None for the curve of sRGB."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round((gamma or 1) * 256))
    if gamma is None:
        coded = np.arange(1024) / 1023
        linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
        curve = b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *np.rint(65535 * linear).astype(int).tolist())
    tags = {b"wtpt": WHITE_POINT} | {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    columns = zip((b"r", b"g", b"b"), matrix.T)
    return _profile(b"RGB ", tags | {name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(*column) for name, column in columns})


def _grey_profile(gamma: float) -> bytes:
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return _profile(b"GRAY", {b"wtpt": WHITE_POINT, b"kTRC": curve})


def _ink_profile() -> bytes:
    """A printer whose cyan is (L 60, a -40, b -40), whose blackest is L 20, and whose paper is yellowish."""
    corners = []
    for cyan, _, _, black in product((0, 1), repeat=4):
        corners += [51, 128, 128] if black else [153, 88, 88] if cyan else [255, 128, 128]
    to_inks = [0, 0, 0, 255] * 4 + [0, 0, 0, 0] * 4  # black where L is 0
    paper = b"XYZ \0\0\0\0" + _fixed(0.8, 0.83, 0.5)
    tables = {b"A2B0": _table(4, 3, corners), b"B2A0": _table(3, 4, to_inks)}
    return _profile(b"CMYK", {b"wtpt": paper, **tables}, b"prtr", b"Lab ")


def _table(ins: int, outs: int, corners: list[int]) -> bytes:
    """A lut8Type of two grid points a side."""
    ramp, identity = bytes(range(256)), _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return b"mft1\0\0\0\0" + bytes([ins, outs, 2, 0]) + identity + ramp * ins + bytes(corners) + ramp * outs


def _encode(light):
    """Linear -> sRGB, 0 .. 255."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("colour", [(200, 100, 50), (10, 200, 30), (128, 128, 128), (255, 0, 0), (0, 0, 0), WHITE])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_profile_is_converted_to_srgb(colour, kind):
    """Against the formula."""
    wanted = _encode(np.linalg.solve(SRGB, ADOBE @ (np.array(colour) / 255) ** 2.2))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = _encoded(Image.new("RGB", (R, R), colour), kind, icc_profile=_matrix_profile(2.2), **options)
    assert np.abs(_only(_picture(data)) - wanted).max() <= 2


def test_a_profile_moves_this_colour_so_far():
    data = _encoded(Image.new("RGB", (R, R), (200, 100, 50)), icc_profile=_matrix_profile(2.2))
    assert np.abs(np.subtract(_only(_picture(data)), (227, 100, 42))).max() <= 2


def test_a_profile_close_to_srgb_counts_unless_only_rounding_differs():
    steps = Image.fromarray(np.tile(np.arange(R, dtype=np.uint8)[None, :, None] * 5, (R, 1, 3)))
    found = _picture(_encoded(steps, icc_profile=_matrix_profile(2.2, SRGB)))
    assert np.abs(found[0, 0] - _encode((np.arange(R) * 5 / 255) ** 2.2)).max() <= 1
    assert np.abs(found[0, 0] - np.arange(R) * 5.0).max() >= 4
    nearly = _matrix_profile(None, SRGB * 1.015)
    noise = np.random.default_rng(0).integers(0, 256, (R, R, 3), dtype=np.uint8)
    assert np.array_equal(_picture(_encoded(Image.fromarray(noise), icc_profile=nearly)), noise.transpose(2, 0, 1))


def test_a_profile_of_screens_in_a_lab_picture_is_ignored():
    image = Image.new("LAB", (R, R), (137, 128, 128))
    assert _only(_picture(_encoded(image, "TIFF", icc_profile=_matrix_profile(1.0)))) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "LA", "I;16"])
def test_a_profile_counts_in_every_mode(mode):
    grey = 128
    image = _in(mode, Image.new("RGB", (R, R), (grey,) * 3))
    data = _encoded(image, icc_profile=_matrix_profile(1.0))  # linear light
    assert abs(_only(_picture(data))[0] - _encode(grey / 255)) <= 1


def test_a_grey_profile_counts():
    for mode, channels in product(("L", "LA"), (1, 3)):
        data = _encoded(Image.new("RGB", (R, R), (55,) * 3).convert(mode), icc_profile=_grey_profile(1.0))
        assert np.abs(np.subtract(_only(_picture(data, channels=channels)), 128)).max() <= 1


def test_a_profile_of_inks_counts():
    """Its paper is shown white and its black black, as Photoshop shows them."""
    for kind, (inks, light) in product(
        ("TIFF", "JPEG"), (((255, 0, 0, 0), (0, 160, 210)), ((0, 255, 0, 0), WHITE), ((0, 0, 0, 255), BLACK))
    ):
        shown = _only(_picture(_encoded(Image.new("CMYK", (R, R), inks), kind, icc_profile=_ink_profile())))
        assert np.abs(np.subtract(shown, light)).max() <= 8, (kind, inks)


def test_the_background_is_srgb_whatever_the_profile():
    image = Image.new("RGBA", (R, 2 * R), (0, 0, 0, 0))
    data = _encoded(image, icc_profile=_matrix_profile(1.0))
    assert _only(_picture(data, background="#646464")) == (100, 100, 100)
    data = _encoded(Image.new("RGB", (R, 2 * R), BLACK), icc_profile=_matrix_profile(1.0))
    assert _at(_picture(data, background="#646464", crop="pad"), 3, 0) == (100, 100, 100)


@pytest.mark.parametrize("profile", [
    _matrix_profile(2.2)[:200], b"no profile", _grey_profile(1.0), _ink_profile(),
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
], ids=["cut", "broken", "grey", "inks", "sRGB"])  # fmt: skip
def test_a_profile_that_says_nothing_changes_nothing(profile):
    noise = np.random.default_rng(0).integers(0, 256, (R, R, 3), dtype=np.uint8)
    picture = _picture(_encoded(Image.fromarray(noise), icc_profile=profile))
    assert np.array_equal(picture, noise.transpose(2, 0, 1))


# --- which part, how large ---


@quick
@given(sizes, sizes)
def test_the_centre_square_is_kept(width, height):
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    image = _places(width, height)
    wanted = np.asarray(image)[top : top + side, left : left + side]
    if side in (4, 8, 16, 32):
        assert np.array_equal(_picture(image, max_res=side), wanted.transpose(2, 0, 1))
    same = Image.fromarray(np.ascontiguousarray(wanted))
    assert np.array_equal(_picture(image, upscale=True), _picture(same, upscale=True))


@quick
@given(sizes, sizes, st.sampled_from(["pad", "pad:16", "pad:3"]))
def test_padding_cuts_nothing(width, height, crop):
    side = max(width, height, int(crop[4:] or 0))
    wanted = np.full((side, side, 3), 7, np.uint8)
    left, top = (side - width) // 2, (side - height) // 2
    wanted[top : top + height, left : left + width] = np.asarray(_places(width, height))
    found = _picture(_places(width, height), crop=crop, background="#070707", upscale=True)
    assert np.array_equal(found, _picture(Image.fromarray(wanted), upscale=True))


def test_official_mnist_is_padded_by_two():
    digit = np.random.default_rng(0).integers(1, 256, (1, 28, 28), dtype=np.uint8)
    picture = _picture(digit, max_res=32, channels=1, crop="pad:32", background="black")
    assert np.array_equal(picture, np.pad(digit, ((0, 0), (2, 2), (2, 2))))


def test_official_celeba_is_cropped_around_the_face():
    picture = _picture(_places(178, 218), max_res=128, crop="celeba")
    assert (_at(picture, 0, 0), _at(picture, 127, 127)) == ((25, 57, 0), (152, 184, 0))
    assert _reason(_places(218, 178), max_res=128, crop="celeba") == "not 178x218, as aligned CelebA pictures are"


def test_a_part_is_cropped():
    picture = _picture(_places(40, 50), crop="7,9,16")
    assert (_at(picture, 0, 0), _at(picture, 15, 15)) == ((7, 9, 0), (22, 24, 0))
    assert _picture(_places(40, 50), crop="24,34,16").shape == (3, 16, 16)
    for crop in ("25,34,16", "24,35,16"):
        assert _reason(_places(40, 50), crop=crop) == "the crop reaches beyond the picture"


def test_only_squares_are_taken():
    assert _reason(_places(R + 1, R), crop="refuse") == "not square"
    assert np.array_equal(_picture(_places(R, R), crop="refuse"), np.asarray(_places(R, R)).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(R - 1, R), (R, R - 1), (1, 1)])
def test_a_small_picture_is_skipped_unless_it_may_be_enlarged(size):
    data = _encoded(Image.new("RGB", size, RED))
    assert _reason(data) == f"smaller than {R}x{R}"
    assert _only(_picture(data, upscale=True)) == RED


def test_a_padded_picture_has_its_longer_side():
    assert _picture(_places(R, 1), crop="pad").shape == (3, R, R)
    assert _reason(_places(R - 1, 1), crop="pad") == f"smaller than {R}x{R}"


@pytest.mark.parametrize("name", ["lanczos", "box"])
def test_a_large_picture_is_shrunk_in_one_step(name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    kind = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}[name]
    wanted = noise.crop((8, 0, 48, 40)).resize((R, R), kind)  # what is cut off leaves no trace
    assert np.array_equal(_picture(noise, filter=name), np.asarray(wanted).transpose(2, 0, 1))


def test_a_box_is_the_mean():
    values = np.random.default_rng(0).integers(0, 256, (1, 4 * R, 4 * R), dtype=np.uint8)
    mean = values.reshape(1, R, 4, R, 4).mean((2, 4))
    assert np.abs(_picture(values, channels=1, filter="box") - mean).max() <= 1  # it rounds twice


def test_enlarging_is_smooth_with_either_filter():
    small = _places(5, 5)
    wanted = np.asarray(small.resize((R, R), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    for name in ("lanczos", "box"):
        assert np.array_equal(_picture(small, filter=name, upscale=True), wanted)


# --- levels ---


def _rounded_mean(sums, count: int):
    """sums / count, halves to even, in whole numbers."""
    quotient, rest = sums // count, sums % count
    up = (2 * rest > count) | ((2 * rest == count) & (quotient % 2 == 1))
    return quotient + up


@quick
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([4, 8, 32, 128]), st.sampled_from([1, 3]), st.sampled_from([1, 2, 255])
)
def test_levels_are_exact_means_of_the_top(seed, side, channels, highest):
    top = np.random.default_rng(seed).integers(0, highest, (channels, side, side), np.uint8, endpoint=True)
    levels = halvings(top)
    assert [level.shape[-1] for level in levels] == [side >> n for n in range(len(levels))]
    assert levels[-1].shape[-1] == 4
    for n, level in enumerate(levels):
        size = side >> n
        sums = top.astype(np.int64).reshape(channels, size, 1 << n, size, 1 << n).sum((2, 4))
        assert np.array_equal(level, _rounded_mean(sums, 4**n))
        assert level.dtype == np.uint8


def test_levels_are_exact_down_from_1024():
    top = np.random.default_rng(0).integers(0, 256, (1, 1024, 1024), dtype=np.uint8)
    top[:, :256, :256] = 254 + (np.indices((256, 256)).sum(0) % 2)  # the mean is a half, at every level
    sums = top.astype(np.int64).reshape(1, 4, 256, 4, 256).sum((2, 4))
    assert np.array_equal(halvings(top)[-1], _rounded_mean(sums, 4**8))
    assert halvings(top)[-1][0, 0, 0] == 254


def test_levels_are_means_of_what_is_not_yet_rounded():
    top = np.zeros((1, 16, 16), np.uint8)
    top[:, ::2, ::2], top[:, 1::2, ::2] = 1, 1  # every 2x2 holds a half
    assert _only(halvings(top)[1]) == (0,)
    top[:, ::4, ::4] = 2  # 4x4: 9 of 16
    assert _only(halvings(top)[2]) == (1,)


def _levels(side: int, channels: int = 3, seed: int = 0):
    noise = np.random.default_rng(seed).integers
    return tuple(noise(0, 256, (channels, side >> n, side >> n), np.uint8) for n in range(side.bit_length() - 2))


@pytest.mark.parametrize(
    ("max_res", "crop"), [(32, "centre"), (16, "refuse"), (4, "pad"), (8, "pad:32"), (16, "0,0,32")]
)
def test_ready_levels_are_passed_on_untouched(max_res, crop):
    ready = _levels(32)
    found = _outcome(ready, max_res=max_res, crop=crop)
    assert [level.shape[-1] for level in found] == [max_res >> n for n in range(len(found))]
    for level, wanted in zip(found, ready[-len(found) :]):
        assert np.array_equal(level, wanted)


@pytest.mark.parametrize(
    "changes", [{"channels": 1}, {"max_res": 64, "upscale": True}, {"crop": "pad:40"}, {"crop": "1,2,20"}]
)
def test_other_ready_levels_are_taken_from_the_top(changes):
    ready = _levels(32)
    found, wanted = _outcome(ready, **changes), _outcome(ready[0], **changes)
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted))
    assert len(found) == len(wanted)


@pytest.mark.parametrize("ready", [
    (), _levels(32)[:-1], _levels(32)[::-1], (_levels(32)[0][:, :, :16], *_levels(32)[1:]),
    (np.zeros((3, 2, 2), np.uint8),), (*_levels(8)[:1], _levels(8)[1][:1]),
    tuple(level.astype(np.int16) for level in _levels(8)),
    (np.zeros((3, 12, 12), np.uint8), np.zeros((3, 6, 6), np.uint8)), (np.zeros(4, np.uint8),),
    tuple(np.zeros((3, side, side), np.uint8) for side in (19, 9, 4)),
], ids=["none", "short", "upside down", "not square", "2x2", "channels", "int16", "12", "flat", "19"])  # fmt: skip
def test_odd_levels_are_skipped(ready):
    assert _reason(ready, max_res=4).startswith("unreadable: the levels ")
    with pytest.raises(Unreadable, match="the levels"):
        pixels(ready, _recipe(4))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_are_pictures(channels):
    array = np.random.default_rng(0).integers(0, 256, (channels, R, 2 * R), dtype=np.uint8)
    image = Image.fromarray(array[0] if channels == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
    assert image.mode == ("L", "LA", "RGB", "RGBA")[channels - 1]
    for wanted in (1, 3):
        found = _picture(array, channels=wanted, crop="pad", background="teal")
        assert np.array_equal(found, _picture(image, channels=wanted, crop="pad", background="teal"))
    if channels == 3:
        assert np.array_equal(_picture(array), array[:, :, R // 2 : R // 2 + R])


@pytest.mark.parametrize("array", [
    np.zeros((3, R, R), np.float32), np.zeros((R, R), np.uint8), np.zeros((5, R, R), np.uint8),
    np.zeros((R, R, 3), np.uint8), np.zeros((3, R, 0), np.uint8), np.zeros((0, R, R), np.uint8),
    np.zeros((3, R, R, 1), np.uint8), np.zeros(4, np.uint8),
], ids=lambda array: f"{array.dtype}{array.shape}")  # fmt: skip
def test_odd_arrays_are_skipped(array):
    assert _reason(array) == "unreadable: not uint8 [1 to 4 channels, height, width]"


# --- files ---


def test_an_icon_is_its_largest():
    icon = Image.new("RGB", (64, 64), RED)
    small = Image.new("RGB", (16, 16), BLUE)
    assert _only(_picture(_encoded(icon, "ICO", sizes=[(16, 16), (64, 64)], append_images=[small]), max_res=64)) == RED


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (R, R), BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    assert _only(_picture(_encoded(_quarters(), kind, save_all=True, append_images=frames, **options))[:, 9:]) == GREEN


def test_every_suffix_of_the_formats_is_known():
    Image.init()
    registered = {suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS}
    assert registered <= set(SUFFIXES)
    assert len(SUFFIXES) == len(set(SUFFIXES))
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)
    assert not {".eps", ".ps", ".wmf", ".emf", ".fits", ".h5", ".hdf", ".mpg", ".pdf"} & set(SUFFIXES)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_of_nothing_is_skipped(size):
    assert _reason(Image.new("RGB", size), upscale=True) == "unreadable: it has no pixels"


def test_what_would_run_a_program_is_not_opened(monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *_: pytest.fail("it ran a program"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    assert isinstance(Image.open(io.BytesIO(script)), Image.Image)  # Pillow by itself does
    assert _reason(script) == "unreadable: not an image that is understood"


def test_a_bomb_is_not_unpacked():
    head = struct.pack(">IIBBBBB", 1 << 16, 1 << 16, 8, 0, 0, 0, 0)
    data = _png(8, 0, b"", size=1)
    whole = data[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + data[33:]
    assert _reason(whole) == "larger than 178 million pixels"
    assert _reason(Image.new("L", (20_000, 1)), crop="pad") == "larger than 178 million pixels"
    assert int(LARGEST**0.5) ** 2 <= LARGEST < 20_000**2


def test_a_large_picture_makes_no_warning(monkeypatch):
    data = _encoded(Image.new("L", (R, R), 9))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", R * R - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _only(_picture(data)) == (9, 9, 9)
        assert _only(outcome(lambda name: Image.open(io.BytesIO(data)), "x", _recipe())[0]) == (9, 9, 9)
        assert _only(pixels(data, _recipe())) == (9, 9, 9)


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "empty file"),
    (b"no picture", "unreadable: not an image that is understood"),
    (_encoded(_quarters())[:60], "unreadable: the file ends too early"),
    (_encoded(_quarters(64), "JPEG")[:700], "unreadable: the file ends too early"),
    (_encoded(_quarters(), "BMP")[:200], "unreadable: the file ends too early"),
    (_encoded(_quarters(), "TIFF", compression="tiff_lzw")[:-30], "unreadable: "),
], ids=["empty", "text", "PNG", "JPEG", "BMP", "TIFF"])  # fmt: skip
def test_what_cannot_be_read_says_so(data, reason):
    found = _reason(data, max_res=4)
    assert found.startswith(reason)
    assert found == _reason(data, max_res=4)
    with pytest.raises(Unreadable, match=found):
        pixels(data, _recipe(4))


@pytest.mark.parametrize(("error", "reason"), [
    (FileNotFoundError(2, "No such file or directory", "/some/where"), "unreadable: No such file or directory"),
    (zipfile.BadZipFile("Bad CRC-32 for file 'x.png'"), "unreadable: Bad CRC-32 for file ..."),
    (RuntimeError("File 'x' is encrypted, password required for extraction"),
     "unreadable: File ... is encrypted, password required for extraction"),
    (OSError("cannot identify <object at 0x7f00>"), "unreadable: cannot identify ..."),
    (zlib.error("Error -3 while decompressing"), "unreadable: damaged (error)"),
    (tarfile.ReadError("unexpected end of data"), "unreadable: the file ends too early"),
    (tarfile.ReadError("bad checksum"), "unreadable: bad checksum"),
    (OSError("Unsupported BMP pixel depth (30000)"), "unreadable: Unsupported BMP pixel depth (...)"),
    (OSError("no JPEG2000 of 3.5 bits"), "unreadable: no JPEG2000 of 3.5 bits"),
    (ValueError(b"\0"), "unreadable: damaged (ValueError)"),
    (KeyError("There is no item named x"), "unreadable: damaged (KeyError)"),
    (EOFError(), "unreadable: the file ends too early"),
    (MemoryError(), "unreadable: it does not fit into memory"),
    (ValueError("first\nsecond"), "unreadable: first"),
    (ValueError(), "unreadable: damaged (ValueError)"),
    (OSError("decoder error -2"), "unreadable: damaged (OSError)"),
    (ValueError("\x1b[31m" + 300 * "x"), "unreadable: ?[31mxx"),
    (Unreadable("on another disk"), "on another disk"),
], ids=repr)  # fmt: skip
def test_the_reason_is_one_line_and_stable(error, reason):
    def fail(name: str) -> bytes:
        raise error

    found = outcome(fail, "x", _recipe())
    assert found == reason or (len(found) == 200 and found.startswith(reason))


def test_a_defect_of_the_reader_is_no_fault_of_the_data():
    def defect(name: str) -> bytes:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        outcome(defect, "x", _recipe())


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), struct.error("x"), AttributeError("x"), SyntaxError("x")]
)
def test_whatever_a_damaged_file_does_to_pillow_is_a_reason(error, monkeypatch):
    def load(image):
        raise error

    monkeypatch.setattr(Image.Image, "load", load)
    assert _reason(Image.new("L", (R, R))).startswith("unreadable: ")


# --- damaged files of every kind ---

SEEDS = [
    ("JPEG", "RGB", {}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}), ("MPO", "RGB", {}),
    ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "LA", {}), ("PNG", "1", {}), ("PNG", "I;16", {}), ("GIF", "P", {}),
    ("TIFF", "RGB", {}), ("TIFF", "L", {"compression": "tiff_lzw"}), ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "F", {}), ("TIFF", "I;16", {}), ("TIFF", "CMYK", {}), ("TIFF", "LAB", {}), ("WEBP", "RGBA", {}),
    ("JPEG2000", "RGB", {}), ("PPM", "RGB", {}), ("PPM", "F", {}), ("ICO", "RGBA", {}), ("ICNS", "RGBA", {}),
    ("BMP", "RGB", {}), ("BMP", "P", {}), ("DIB", "RGB", {}), ("DDS", "RGBA", {}), ("SGI", "RGB", {}), ("PCX", "P", {}),
    ("TGA", "RGBA", {}), ("TGA", "LA", {"compression": "tga_rle"}), ("BLP", "P", {}), ("MSP", "1", {}),
    ("XBM", "1", {}),
]  # fmt: skip


def fuzzed(data: bytes, seed: str) -> bytes:
    """The same damage for the same seed: bytes changed (the first ones more often), cut out, doubled, cut off."""
    dice, found = random.Random(seed), bytearray(data)
    for _ in range(dice.choice([1, 2, 8])):
        if len(found) < 8:
            break
        at = min(dice.randrange(len(found)), dice.choice([40, 200, len(found)])) % len(found)
        what = dice.randrange(6)
        if what < 3:
            found[at] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
        elif what == 3:
            found[at : at + dice.randrange(1, 5)] = dice.choice([b"", b"\xff\xff\xff\xff"])
        elif what == 4:
            found[at:at] = found[at : at + dice.randrange(1, 65)]
        else:
            del found[max(1, at) :]
    return bytes(found)


@pytest.mark.parametrize(("kind", "mode", "options"), SEEDS, ids=lambda value: value if isinstance(value, str) else "")
def test_damaged_files_give_a_picture_or_a_reason(kind, mode, options):
    profile = {"icc_profile": _matrix_profile(2.2)} if kind in ("JPEG", "PNG", "TIFF", "WEBP") and mode == "RGB" else {}
    good = _encoded(_in(mode, _places(24, 20)), kind, **options, **profile)
    recipe = _recipe(4, crop="pad")
    assert not isinstance(outcome(lambda name: good, "x", recipe), str)
    found = [outcome(lambda name, n=n: fuzzed(good, f"{kind}{n}"), "x", recipe) for n in range(10)]
    for one in found:
        if isinstance(one, str):
            assert one.isprintable()
            assert len(one) <= 200
            next(csv.reader([one]))
        else:
            assert [level.shape for level in one] == [(3, 4, 4)]


MESSY = Path(__file__).parents[2].parent / "shared" / "data" / "messy.zip"


@pytest.mark.slow
@pytest.mark.skipif(not MESSY.exists(), reason=f"{MESSY.name} is not here")
def test_a_messy_archive_gives_pictures_and_reasons():
    recipe = _recipe(64, crop="pad", upscale=True)
    with zipfile.ZipFile(MESSY) as archive:
        found = {name: outcome(archive.read, name, recipe) for name in archive.namelist() if not name.endswith("/")}
    reasons = [one for one in found.values() if isinstance(one, str)]
    assert len(found) == 470
    assert 380 <= len(found) - len(reasons) <= 420  # 407 with Pillow 13
    assert len(set(reasons)) <= 25
    for holding, way in product(("Landscape", "Portrait"), range(9)):
        upright = found[f"exif/{holding}_0.jpg"][0].astype(int)
        assert np.abs(found[f"exif/{holding}_{way}.jpg"][0] - upright).mean() < 3


# --- what is asked for ---


def test_a_recipe_has_one_spelling():
    assert checked(Recipe(64, crop="Center")) == Recipe(64)
    assert checked(Recipe(64, crop=" pad:064 ")).crop == "pad:64"
    assert checked(Recipe(16, crop="10, 020 ,64")).crop == "10,20,64"
    assert checked(Recipe(64, background=" White ")).background == "white"
    for crop in ("centre", "pad", "refuse", "celeba"):
        assert checked(Recipe(128, crop=crop)) == Recipe(128, crop=crop)
    for max_res in (4 << n for n in range(9)):
        assert checked(Recipe(max_res)).max_res == max_res


@pytest.mark.parametrize(("changes", "message"), [
    ({"max_res": 48}, "--max-res 48 is not a power of two between 4 and 1024"),
    ({"max_res": 2}, "--max-res 2 is not"), ({"max_res": 2048}, "--max-res 2048 is not"),
    ({"channels": 2}, "--channels 2: pictures have 1"),
    ({"filter": "bilinear"}, "--filter bilinear is not known; choose lanczos or box"),
    ({"background": "whitish"}, "--background whitish is not an opaque colour"),
    ({"background": "#ff000080"}, "--background #ff000080 is not an opaque colour"),
    ({"crop": "middle"}, "--crop middle is not understood; write centre, pad, pad:SIZE, refuse, celeba or X,Y,SIZE"),
    ({"crop": "pad:"}, "--crop pad: is not"), ({"crop": "pad:0"}, "--crop pad:0 is not"),
    ({"crop": "pad:9000"}, "pad at most 8192"), ({"crop": "1,2"}, "--crop 1,2 is not"),
    ({"crop": "1,2,0"}, "--crop 1,2,0 is not"), ({"crop": "-1,2,30"}, "--crop -1,2,30 is not"),
    ({"crop": "١,2,30"}, "is not understood"), ({"crop": ""}, "is not understood"),
    ({"crop": "0,0,15"}, "--crop 0,0,15 leaves 15x15: lower --max-res 16, or --upscale"),
    ({"crop": "celeba", "max_res": 256}, "--crop celeba leaves 128x128: lower --max-res 256"),
], ids=str)  # fmt: skip
def test_an_impossible_recipe_is_refused(changes, message):
    with pytest.raises(UserError) as error:
        checked(Recipe(**{"max_res": R} | changes))
    assert message in str(error.value)
    if "leaves" in message:
        checked(Recipe(**{"max_res": R} | changes, upscale=True))
