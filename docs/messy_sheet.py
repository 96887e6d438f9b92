"""Show what progan makes of every kind of picture in an archive, beside what a viewer shows.

    python docs/messy_sheet.py ARCHIVE.zip SHEET.png

One pair for every format, mode and feature (transparency, a profile, EXIF orientation, several frames), the most
colourful of its kind, and for every reason to skip a picture: left progan's at 64x64, padded; right the viewer's,
ImageMagick where it is installed, else Pillow's plain RGB.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, TiffImagePlugin

from progan.data.pictures import Recipe, checked, outcome
from progan.data.source import Levels

SIZE, COLUMNS = 64, 10
CELL = (2 * SIZE + 14, SIZE + 34)
RECIPE = checked(Recipe(SIZE, crop="pad", upscale=True))


def kind(data: bytes) -> str:
    """Format, mode and features, by which one picture stands for others: `PNG P, transparent`."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception:  # whatever is wrong with it
        return ""
    told = {
        "transparent": image.has_transparency_data,
        "profile": "icc_profile" in image.info,
        "frames": getattr(image, "n_frames", 1) > 1,
        "white is zero": isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(262) == 0,
    }
    turn = image.getexif().get(0x0112, 1)
    features = [name for name, here in told.items() if here] + ([f"turned {turn}"] if turn > 1 else [])
    return ", ".join([f"{image.format} {image.mode}", *features])


@cache
def viewer() -> str | None:
    """ImageMagick's command; None where it is not here."""
    for name in ("magick", "convert-im6.q16", "convert"):
        command = shutil.which(name)
        if command:
            answer = subprocess.run([command, "-version"], capture_output=True, text=True, check=False)
            if "ImageMagick" in answer.stdout:
                return command
    return None


def viewed(data: bytes, suffix: str, folder: Path) -> Image.Image | None:
    """A picture as the viewer shows it, SIZE x SIZE; None where it cannot."""
    command = viewer()
    if command is None:
        return _plain(data)
    picture, shown, profile = folder / f"picture{suffix}", folder / "shown.png", folder / "srgb.icc"
    picture.write_bytes(data)
    shown.unlink(missing_ok=True)
    profile.write_bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    size = f"{SIZE}x{SIZE}"
    options = f"-auto-orient -profile {profile} -background white -alpha remove -alpha off -colorspace sRGB"
    options += f" -resize {size} -gravity center -extent {size} -depth 8"
    call = [command, f"{picture}[0]", *options.split(), f"PNG24:{shown}"]
    subprocess.run(call, capture_output=True, check=False, timeout=60)
    return Image.open(shown).convert("RGB") if shown.exists() else None


def _plain(data: bytes) -> Image.Image | None:
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except Exception:  # whatever is wrong with it
        return None
    image.thumbnail((SIZE, SIZE))
    return image


def chosen(archive: zipfile.ZipFile) -> dict[str, tuple[str, Levels | str]]:
    """{kind, or reason to skip: the name of one picture of that kind, and what progan makes of it}."""
    found: dict[str, tuple[int, str, Levels | str]] = {}
    for name in sorted(archive.namelist()):
        if not name.endswith("/"):
            made = outcome(archive.read, name, RECIPE)
            what = made if isinstance(made, str) else kind(archive.read(name))
            colours = 0 if isinstance(made, str) else len(np.unique(made[0].reshape(3, -1), axis=1).T)
            if what not in found or colours > found[what][0]:
                found[what] = colours, name, made
    return {what: (name, made) for what, (_, name, made) in sorted(found.items())}


def cell(data: bytes, name: str, what: str, made: Levels | str, folder: Path) -> Image.Image:
    """One pair with its two lines of text."""
    pair = Image.new("RGB", CELL, "#d8dde6")
    draw, font = ImageDraw.Draw(pair), ImageFont.load_default(9)
    if isinstance(made, str):
        what = what.removeprefix("unreadable: ")
        draw.text((8, SIZE // 2 - 4), "skipped", "#a00000", font)
    else:
        pair.paste(Image.fromarray(made[0].transpose(1, 2, 0)), (5, 3))
    seen = viewed(data, Path(name).suffix, folder)
    if seen is None:
        draw.text((SIZE + 13, SIZE // 2 - 4), "not shown", "#606060", font)
    else:
        pair.paste(seen, (SIZE + 9, 3))
    for line, text in enumerate((what, Path(name).name)):
        while font.getlength(text) > CELL[0] - 8:
            text = text[:-2] + "…"
        draw.text((5, SIZE + 5 + 12 * line), text, "black", font)
    return pair


def sheet(archive: zipfile.ZipFile, folder: Path) -> Image.Image:
    """All pairs, COLUMNS in a row."""
    found = chosen(archive)
    pairs = [cell(archive.read(name), name, what, made, folder) for what, (name, made) in found.items()]
    rows = -(-len(pairs) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * CELL[0], rows * CELL[1]), "#d8dde6")
    for n, pair in enumerate(pairs):
        whole.paste(pair, (n % COLUMNS * CELL[0], n // COLUMNS * CELL[1]))
    return whole


if __name__ == "__main__":
    source, destination = sys.argv[1:]
    warnings.simplefilter("ignore")
    with zipfile.ZipFile(source) as opened, tempfile.TemporaryDirectory() as workplace:
        sheet(opened, Path(workplace)).save(destination, optimize=True)
