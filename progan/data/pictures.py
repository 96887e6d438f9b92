"""One raw picture -> pixels as a person sees it: upright, in sRGB, over the background, a square.

Grey of more than 8 bits has no one way to be shown; here black .. white are, by the first line that fits:

    16-bit grey, and a PNG's or PPM's mode I      0 .. 65535
    12-bit grey TIFF                              0 .. 4095
    signed 16-bit TIFF, nothing negative in it    0 .. 32767
    floats, all within 0 .. 2                     0 .. 1 (what is brighter is white)
    integers and floats, all within 0 .. 255      0 .. 255
    integers and floats, all within 0 .. 65535    0 .. 65535
    other integers and floats                     the lowest .. the highest of the whole picture

A TIFF that says WhiteIsZero is inverted. What is not a number is black, infinities are black and white. Not heeded: a
PNG's gAMA, and the range of values that a TIFF claims (by TIFF 6.0 it must not change what is seen).
"""

from __future__ import annotations

import contextlib
import logging
import lzma
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageFile, TiffImagePlugin, UnidentifiedImageError

from progan.console import plain
from progan.data.source import Array, Levels, Raw, Unreadable
from progan.errors import UserError

FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF", "JPEG2000", "PPM", "ICO", "ICNS", "CUR", "DIB", "PSD",
    "DDS", "QOI", "SGI", "SUN", "PCX", "DCX", "FLI", "BLP", "FTEX", "GBR", "IM", "MSP", "PCD", "PIXAR", "XBM", "XPM",
    "TGA",
)  # fmt: skip
"""What is opened, the commonest first, TGA last because it has no signature. Not here: what runs another program (EPS:
Ghostscript), what only names a file (WMF, GRIB, HDF5 ...), and what takes nearly any bytes for a picture (SPIDER).
"""

SUFFIXES = (
    ".apng", ".avif", ".avifs", ".blp", ".bmp", ".bw", ".cur", ".dcx", ".dds", ".dib", ".flc", ".fli", ".ftc", ".ftu",
    ".gbr", ".gif", ".icb", ".icns", ".ico", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf",
    ".jpg", ".jpx", ".mpo", ".msp", ".pbm", ".pcd", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".pxr",
    ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp", ".xbm", ".xpm",
)  # fmt: skip
"""Of the files that are taken for pictures, in lower case."""

FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
CROPS = "centre, pad, pad:SIZE, refuse, celeba or X,Y,SIZE"
CELEBA, CELEBA_BOX = (178, 218), (25, 57, 153, 185)  # the official crop: 128x128 around (89, 121)
LARGEST = 178_956_970  # pixels: where Pillow suspects a bomb
LONGEST_PAD = 8192

TOO_LARGE = f"larger than {LARGEST // 10**6} million pixels"
ENDS_EARLY = "unreadable: the file ends too early"
UNKNOWN = "unreadable: not an image that is understood"

READING_FAULTS = (
    Unreadable, OSError, ValueError, SyntaxError, EOFError, LookupError, RuntimeError, MemoryError, OverflowError,
    Image.DecompressionBombError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
"""What reading a damaged, encrypted or vanished file raises."""

SHOWING_FAULTS = (OSError, ValueError, OverflowError, MemoryError)
"""What Pillow raises for a picture that it has loaded and then finds odd, by its palette for one."""

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its remarks on damaged files go to stderr


@dataclass(frozen=True)
class Recipe:
    """How a picture is turned into pixels. crop: one of CROPS, in pixels of the upright picture. background: what
    shows through transparency and beside a padded picture. upscale: also take pictures smaller than max_res.
    """

    max_res: int
    channels: int = 3
    crop: str = "centre"
    filter: str = "lanczos"
    background: str = "white"
    upscale: bool = False


class Frame(NamedTuple):
    """What is kept of a picture, and the side of the square in whose middle it lies."""

    box: tuple[int, int, int, int]  # left, top, right, bottom
    side: int


def checked(recipe: Recipe) -> Recipe:
    """The recipe in its one spelling. Raises UserError where something in it is not understood."""
    if recipe.max_res not in [4 << s for s in range(9)]:
        raise UserError(f"--max-res {recipe.max_res} is not a power of two between 4 and 1024.")
    if recipe.channels not in (1, 3):
        raise UserError(f"--channels {recipe.channels}: pictures have 1 channel (grey) or 3.")
    if recipe.filter not in FILTERS:
        raise UserError(f"--filter {recipe.filter} is not known; choose {' or '.join(FILTERS)}.")
    background = recipe.background.strip().lower()
    _check_background(background)
    crop = _spelled(recipe.crop)
    _check_reach(crop, recipe)
    return replace(recipe, crop=crop, background=background)


def _check_background(background: str) -> None:
    try:
        bands = len(ImageColor.getrgb(background))
    except ValueError:
        bands = 0
    if bands != 3:
        raise UserError(f"--background {background} is not an opaque colour; write a name (white) or #rrggbb.")


def _spelled(crop: str) -> str:
    """`center` -> `centre`, `1, 2,  30` -> `1,2,30`. Raises UserError where it is not understood."""
    text = "".join(crop.lower().split())
    if text in ("centre", "center", "pad", "refuse", "celeba"):
        return text.replace("center", "centre")
    numbers = [int(n) for n in re.findall(r"[0-9]{1,6}", text)]
    if re.fullmatch(r"pad:[0-9]{1,6}", text) and 1 <= numbers[0] <= LONGEST_PAD:
        return f"pad:{numbers[0]}"
    if re.fullmatch(r"[0-9]{1,6},[0-9]{1,6},[0-9]{1,6}", text) and numbers[2]:
        return ",".join(map(str, numbers))
    raise UserError(f"--crop {crop} is not understood; write {CROPS} (whole numbers, pad at most {LONGEST_PAD}).")


def _check_reach(crop: str, recipe: Recipe) -> None:
    """Raises UserError where no picture at all could be large enough."""
    side = 128 if crop == "celeba" else int(crop.split(",")[-1]) if "," in crop else recipe.max_res
    if side < recipe.max_res and not recipe.upscale:
        raise UserError(f"--crop {recipe.crop} leaves {side}x{side}: lower --max-res {recipe.max_res}, or --upscale.")


def outcome(read: Callable[[str], Raw], name: str, recipe: Recipe) -> Levels | str:
    """One picture at max_res, max_res/2, ... 4, uint8 [C, R, R]; or why it is skipped: one line, <= 200 characters.

    Never raises for what is wrong with data. recipe: a checked one.
    """
    try:
        with _quietly():
            raw = read(name)
    except READING_FAULTS as error:
        return _reason(error)
    try:
        return _passed_on(raw, recipe) or halvings(pixels(raw, recipe))
    except Unreadable as error:
        return _reason(error)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without Pillow's warnings: of damaged EXIF, and of sizes that it takes nevertheless."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def halvings(picture: Array) -> Levels:
    """A picture [C, R, R] uint8 at R, R/2, ... 4: 2x2 means of the unrounded level above, each rounded half to even.

    Exact: float32 holds the mean of 256x256 pixels of 8 bits.
    """
    levels, level = [np.ascontiguousarray(picture)], picture.astype(np.float32)
    while level.shape[-1] > 4:
        rows = level[:, 0::2] + level[:, 1::2]
        level = (rows[:, :, 0::2] + rows[:, :, 1::2]) * np.float32(0.25)
        levels.append(np.rint(level).astype(np.uint8))
    return tuple(levels)


def _passed_on(raw: Raw, recipe: Recipe) -> Levels | None:
    """Ready levels from max_res down, untouched; None where the recipe asks for other pixels. Raises Unreadable."""
    if not isinstance(raw, tuple):
        return None
    sides = _sides(raw)
    frame = _frame(sides[0], sides[0], recipe.crop)
    whole = frame == Frame((0, 0, sides[0], sides[0]), sides[0])
    if not whole or len(raw[0]) != recipe.channels or recipe.max_res not in sides:
        return None
    return raw[sides.index(recipe.max_res) :]


def _sides(levels: Levels) -> list[int]:
    """R, R/2, ... 4. Raises Unreadable where ready levels are not what they should be."""
    top = levels[0].shape if levels else (0, 0, 0)
    sides = [top[-1] >> n for n in range(len(levels))]
    wanted = [(top[0], side, side) for side in sides]
    if not levels or top[-1] != 4 << (len(levels) - 1) or [level.shape for level in levels] != wanted:
        raise Unreadable("unreadable: the levels do not halve down to 4x4")
    if any(level.dtype != np.uint8 for level in levels):
        raise Unreadable("unreadable: the levels are not uint8")
    return sides


def pixels(raw: Raw, recipe: Recipe) -> Array:
    """One picture by a checked recipe: uint8 [channels, max_res, max_res]. Raises Unreadable with the reason."""
    with _quietly():
        image = _loaded(raw)
        try:
            shown = _shown(image, recipe)
        except SHOWING_FAULTS as error:
            raise Unreadable(_reason(error)) from error
    return np.array(np.atleast_3d(np.asarray(shown)).transpose(2, 0, 1), order="C")


def extent(raw: Raw) -> tuple[int, int, int]:
    """(channels, height, width) of one picture as a viewer shows it: 1 where it is grey, else 3. Raises Unreadable."""
    with _quietly():
        image = _loaded(raw)
        width, height = _upright(image).size
    return 1 if image.mode in GREY else 3, height, width


def _loaded(raw: Raw) -> Image.Image:
    """The picture in memory, of whatever mode. Raises Unreadable."""
    if isinstance(raw, tuple):
        _sides(raw)
        raw = raw[0]
    if isinstance(raw, np.ndarray):
        return _from_array(raw)
    if raw == b"":
        raise Unreadable("empty file")
    try:
        image = Image.open(BytesIO(raw), formats=_formats()) if isinstance(raw, bytes) else raw
        _load(image)
    except Exception as error:  # Pillow's readers fail on damaged files in every way there is
        raise Unreadable(_reason(error)) from error
    if min(image.size) < 1:
        raise Unreadable("unreadable: it has no pixels")
    return image


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Those FORMATS that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _from_array(array: Array) -> Image.Image:
    """uint8 [C, H, W]: grey, grey and alpha, RGB or RGBA."""
    if array.dtype != np.uint8 or array.ndim != 3 or len(array) not in (1, 2, 3, 4) or 0 in array.shape:
        raise Unreadable("unreadable: not uint8 [1 to 4 channels, height, width]")
    last = array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(last))


def _load(image: Image.Image) -> None:
    """Decode, and bring a transparent colour to the units of the pixels, which Pillow leaves in those of the file."""
    stored = str(image.tile[0][3]) if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    image.load()
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode in ("1", "L"):
        unit = {"1": 255, "L;2": 85, "L;4": 17}.get(stored, 1)
        image.info["transparency"] = min(255, key * unit)
    if isinstance(key, tuple) and stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _shown(image: Image.Image, recipe: Recipe) -> Image.Image:
    """A loaded picture by the recipe, L or RGB of max_res. Raises Unreadable, or what Pillow raises."""
    profile = image.info.get("icc_profile") if image.mode != "LAB" else None  # LAB is converted by its own
    image = _upright(image)
    frame = _frame(*image.size, recipe.crop)
    _check_size(frame.side, recipe)
    image = _plain(image if frame.box == (0, 0, *image.size) else image.crop(frame.box))
    laid = image.mode in ("LA", "RGBA") or image.size != (frame.side, frame.side)
    if laid or image.mode == "CMYK":  # the background is sRGB, and inks do not mix as light does
        image, profile = _in_srgb(image, profile), None
    if laid:
        image = _laid(image, frame.side, recipe.background)
    image = _in_srgb(_resized(image, recipe), profile)  # else after the resize: there is less of it
    mode = "L" if recipe.channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")

TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation."""


def _upright(image: Image.Image) -> Image.Image:
    """As the camera was held. More than 8 bits of grey become 8 here, by the range of the whole picture."""
    try:
        turn = TRANSPOSES.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF is no reason to lose a picture
        turn = None
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Modes I, I;16* and F in L, by the table above; in LA where a value is transparent."""
    values = np.asarray(image)
    if image.mode == "I" and _tag(image, BITS) == 32 and _tag(image, SAMPLE_FORMAT) != 2:
        values = values.view(np.uint32)  # which Pillow takes for signed
    lowest, highest = _range(image, values)
    scaled = (values.astype(np.float64) - lowest) * (255 / (highest - lowest))
    shown = np.rint(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0).clip(0, 255)).astype(np.uint8)
    grey = Image.fromarray(255 - shown if _tag(image, PHOTOMETRIC) == 0 else shown)  # which Pillow does for 8 bits only
    return _keyed(grey, values[..., None], image.info.get("transparency"))


def _keyed(image: Image.Image, values: Array, key: object) -> Image.Image:
    """L or RGB with the pixels of one value transparent. values: [H, W, C] as stored. key: that value, or None."""
    if not isinstance(key, (int, tuple)):
        return image
    keyed = image.copy()
    keyed.putalpha(Image.fromarray(np.where((values == key).all(-1), 0, 255).astype(np.uint8)))
    return keyed


BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF


def _tag(image: Image.Image, number: int) -> int | None:
    """A TIFF's tag, the first of several values; None for other files."""
    value = image.tag_v2.get(number) if isinstance(image, TiffImagePlugin.TiffImageFile) else None
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else None


def _range(image: Image.Image, values: Array) -> tuple[float, float]:
    """Which values are black and white: see the table above. The second is the greater."""
    if image.mode.startswith("I;16"):
        return 0, 4095 if _tag(image, BITS) == 12 else 65535
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 0, 65535
    finite = values[np.isfinite(values)]
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if image.mode == "I" and _tag(image, BITS) == 16 and lowest >= 0:
        return 0, 32767
    if lowest >= 0 and highest <= 65535:
        return 0, 1 if highest <= 2 and image.mode == "F" else 255 if highest <= 255 else 65535
    return (lowest, highest) if highest > lowest else (lowest - 1, highest)


def _frame(width: int, height: int, crop: str) -> Frame:
    """What a crop takes of an upright picture. Raises Unreadable where it takes nothing."""
    if crop.startswith("pad"):
        return Frame((0, 0, width, height), max(width, height, int(crop[4:] or 0)))
    if crop == "refuse" and width != height:
        raise Unreadable("not square")
    if crop in ("centre", "refuse"):
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
    elif crop == "celeba":
        if (width, height) != CELEBA:
            raise Unreadable("not 178x218, as aligned CelebA pictures are")
        left, top, side = CELEBA_BOX[0], CELEBA_BOX[1], CELEBA_BOX[2] - CELEBA_BOX[0]
    else:
        left, top, side = map(int, crop.split(","))
    if left + side > width or top + side > height:
        raise Unreadable("the crop reaches beyond the picture")
    return Frame((left, top, left + side, top + side), side)


def _check_size(side: int, recipe: Recipe) -> None:
    if side < recipe.max_res and not recipe.upscale:
        raise Unreadable(f"smaller than {recipe.max_res}x{recipe.max_res}")
    if side**2 > LARGEST:
        raise Unreadable(TOO_LARGE)


PLAIN = {"1": "L", "La": "LA", "PA": "RGBA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
"""Modes that Pillow itself converts without loss, and into which."""


def _plain(image: Image.Image) -> Image.Image:
    """In L, LA, RGB, RGBA or CMYK."""
    if image.mode == "LAB":
        return _applied(_lab(), image)
    if image.mode == "P":
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    plain = image.convert(PLAIN[image.mode]) if image.mode in PLAIN else image
    key = image.info.get("transparency")
    if key is None or plain.mode not in ("L", "RGB"):
        return plain
    return _keyed(plain, np.atleast_3d(np.asarray(plain)), key)


def _laid(image: Image.Image, side: int, background: str) -> Image.Image:
    """In the middle of a square of one colour, which shows through it. RGB."""
    ground = Image.new("RGB", (side, side), background)
    place = (side - image.width) // 2, (side - image.height) // 2
    if image.mode not in ("LA", "RGBA"):
        ground.paste(image.convert("RGB"), place)
        return ground
    here = Image.new("RGBA", image.size, background)
    ground.paste(Image.alpha_composite(here, image.convert("RGBA")).convert("RGB"), place)
    return ground


def _resized(image: Image.Image, recipe: Recipe) -> Image.Image:
    """A square in one step to max_res."""
    if image.width == recipe.max_res:
        return image
    enlarged = image.width < recipe.max_res  # where a box would only repeat pixels
    return image.resize((recipe.max_res, recipe.max_res), FILTERS["lanczos" if enlarged else recipe.filter])


def _in_srgb(image: Image.Image, profile: object) -> Image.Image:
    """L, LA, RGB, RGBA or CMYK through its embedded profile, where it has one that matters; inks always become RGB."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    colour = image if alpha is None else image.convert(image.mode[:-1])
    transform = _to_srgb(profile, colour.mode) if isinstance(profile, bytes) else None
    if transform is None:
        return image.convert("RGB") if image.mode == "CMYK" else image
    colour = _applied(transform, colour.convert(transform.input_mode))
    if alpha is not None:
        colour.putalpha(alpha)
    return colour


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    applied = ImageCms.applyTransform(image, transform)
    assert applied is not None  # it is only where a picture is changed in place
    return applied


@lru_cache(maxsize=1)
def _lab() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


@lru_cache(maxsize=64)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From pictures in L, RGB or CMYK to RGB; None where the profile is sRGB, or broken, or not for such pictures."""
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(opened.profile.xcolor_space, "")
        if space != mode and (mode, space) != ("L", "RGB"):  # grey is sometimes saved with the profile of colours
            return None
        # what Photoshop does unasked; for cameras' and screens' profiles all intents are one
        intent, black_point = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(opened, srgb, space, "RGB", intent, black_point)
        return None if space != "CMYK" and _changes_nothing(transform) else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether no colour moves by more than rounding does: 2 of 255."""
    steps = np.arange(0, 256, 15).astype(np.uint8)
    probe = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    if transform.input_mode == "L":
        probe = np.repeat(steps[None, :, None], 3, 2)
    image = Image.fromarray(probe).convert(transform.input_mode)
    moved = np.asarray(_applied(transform, image)).astype(int) - probe
    return bool(abs(moved).max() <= 2)


REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (UnidentifiedImageError, UNKNOWN),
    (Image.DecompressionBombError, TOO_LARGE),
    (MemoryError, "unreadable: it does not fit into memory"),
    (EOFError, ENDS_EARLY),
)
CUT_OFF = re.compile("truncated|only got|incomplete header|not enough (image )?data|unexpected end", re.IGNORECASE)
VARIABLE = re.compile(r"""b?'[^']*'?|b?"[^"]*"?|<[^>]*>|0x[0-9a-fA-F]+|(?<![\w.-])-?[0-9]+(?![\w.])""")


def _reason(error: BaseException) -> str:
    """One line for people, the same for the same fault: what differs from file to file is left out."""
    if isinstance(error, Unreadable):
        return _line(str(error)) or "unreadable"
    for kind, reason in REASONS:
        if isinstance(error, kind):
            return reason
    if CUT_OFF.search(str(error)):
        return ENDS_EARLY
    telling = isinstance(error, (OSError, ValueError, SyntaxError, RuntimeError, zipfile.BadZipFile, tarfile.TarError))
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = _line(VARIABLE.sub("...", text))
    if not telling or text in ("", "...", "decoder error ..."):
        return f"unreadable: damaged ({type(error).__name__})"
    return f"unreadable: {text}"[:200]


def _line(text: str) -> str:
    """The first line, at most 200 characters, all of them printable."""
    first = (text.strip().splitlines() or [""])[0]
    return plain(first)[:200].strip()
