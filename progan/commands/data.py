"""`progan data info` and `progan data check`"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from progan.console import plain, size

if TYPE_CHECKING:
    from progan.console import Console
    from progan.data.inspect import Deviation, Statistics
    from progan.data.pyramid import Pyramid
    from progan.data.source import Array

PATH = click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
MOST_LINES = 20  # of classes
MOST_NAMED = 3  # duplicates, blank pictures, strange files
MEND = "copy these files anew from where they are whole, or prepare the data again"


@click.group(name="data")
def command() -> None:
    """Look at a pyramid: what is in it, and whether it is whole."""


@command.command()
@PATH
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the PNG goes.  [default: NAME-info.png in the current directory]",
)
def info(path: Path, out: Path | None) -> None:
    """Print what is in a pyramid, and draw samples.

    One PNG shows the mean picture and samples, a row a class where there are at most 10. Nothing is replaced: where
    another picture has its name, the command stops once all is printed. Duplicates are pictures of the same pixels.
    """
    from progan.console import Console
    from progan.data.inspect import sample_size, sheet, statistics
    from progan.data.pyramid import open_pyramid
    from progan.files import write_new
    from progan.images import png

    out = out or Path(f"{Path(os.path.abspath(path)).name}-info.png")
    if out.suffix.lower() != ".png":
        raise click.UsageError(f"--out {out}: the picture is a PNG; give a name that ends in .png.")
    console, pyramid = Console(), open_pyramid(path)
    show(console, origin(pyramid))
    show(console, level_lines(pyramid))
    numbers = statistics(pyramid.levels[pyramid.top], sample_size(pyramid), watched(console, "colours"))
    show(console, colour_lines(numbers, pyramid.count))
    show(console, oddities(pyramid, console))
    show(console, label_lines(pyramid))
    content = png(sheet(pyramid, numbers.picture), {"fingerprint": pyramid.fingerprint})
    write_new(out, content, "give --out another name")
    console.line(f"{out}: the mean picture and samples")


@command.command()
@PATH
def check(path: Path) -> None:
    """Read every byte of a pyramid: is it whole?

    Do the files hold what was written, and do all levels show the same pictures? Exits with 0 where it is whole, else
    with 2 and the names of all damaged files. Levels that came ready-made with the data may differ from the means of
    the level above: that is noted, and is no damage.
    """
    from progan.console import Console
    from progan.data import inspect
    from progan.data.pyramid import open_pyramid
    from progan.errors import UserError

    console, about = Console(), inspect.manifest(path)
    faults = inspect.damaged(path, lambda name, done, total: console.live(hashing(name, done, total)))
    if strange := inspect.strangers(path, about):
        console.line(field("no part of it", names(strange)))
    if not faults:
        pyramid = open_pyramid(path)
        off = inspect.deviations(pyramid, watched(console, "levels"))
        show(console, [deviation_line(deviation) for deviation in off])
        faults = inspect.contradictions(pyramid.labels, off)
    if faults:
        console.line(f"{path}: damaged")
        raise UserError(f"{path} is damaged: {', '.join(faults)}; {MEND}.")
    console.line(f"{path}: whole, {several(about['count'], 'picture')} in {len(inspect.parts(about))} files")


# --- lines of text ---


def origin(pyramid: Pyramid) -> Iterator[str]:
    """What it is, and how and of what it was made, as far as the manifest tells."""
    about, top = pyramid.about, pyramid.top
    colour = {1: "grey", 3: "colour"}.get(pyramid.channels, f"{pyramid.channels} channels")
    yield f"{pyramid.path}: {several(pyramid.count, 'picture')}, {colour}, 4x4 to {top}x{top}"
    if "source" in about:
        yield field("source", about["source"])
    recipe = [f"{key} {word(value)}" for key, value in (about.get("recipe") or {}).items() if value is not None]
    yield field("made", ", ".join([*recipe, f"by progan {about.get('progan', 'of unknown version')}"]))
    if about.get("skipped"):
        yield field("skipped", f"{about['skipped']:,}: {commonest_reasons(pyramid.path)}")
    if about.get("passed_over"):
        yield field("passed over", f"{about['passed_over']:,}: hidden files, and files of other kinds")
    yield field("fingerprint", pyramid.fingerprint)


def commonest_reasons(path: Path) -> str:
    """`7 x smaller than 64x64; 2 x unreadable; 1 x ...`"""
    from progan.data.inspect import reasons
    from progan.errors import UserError

    try:
        return "; ".join(f"{count:,} x {plain(reason)}" for reason, count in reasons(path).most_common(3))
    except UserError as error:
        return str(error)


def level_lines(pyramid: Pyramid) -> Iterator[str]:
    """Bytes of each level, and of the whole folder's files."""
    from progan.data.inspect import parts
    from progan.data.pyramid import MANIFEST, SKIPPED, level_name

    for r in pyramid.resolutions:
        yield field(f"{r}x{r}", size((pyramid.path / level_name(r)).stat().st_size))
    files = {pyramid.path / name for name in (*parts(pyramid.about), MANIFEST, SKIPPED)}
    yield field("on disk", size(sum(file.stat().st_size for file in files if file.is_file())))


def colour_lines(numbers: Statistics, count: int) -> Iterator[str]:
    """Mean and standard deviation of each channel."""
    channels = ("red", "green", "blue") if len(numbers.mean) == 3 else ("grey",) * len(numbers.mean)
    for channel, mean, deviation in zip(channels, numbers.mean, numbers.deviation):
        yield field(channel, f"mean {mean:.2f}, standard deviation {deviation:.2f} of 0..255{of_first(numbers, count)}")


def of_first(numbers: Statistics, count: int) -> str:
    return "" if numbers.pictures == count else f" (of {numbers.pictures:,} pictures)"


def oddities(pyramid: Pyramid, console: Console) -> Iterator[str]:
    """Pictures that are there more than once, and those of one colour."""
    from progan.data.inspect import blanks, duplicates

    groups = duplicates(pyramid, watched(console, "duplicates"))
    examples = names([names(group, " = ") for group in groups])
    found = f"{sum(map(len, groups)):,} pictures in {several(len(groups), 'group')}: {examples}" if groups else "none"
    yield field("duplicates", found)
    blank = blanks(pyramid)
    yield field("one colour", f"{several(len(blank), 'picture')}: {names(blank)}" if blank else "none")


def label_lines(pyramid: Pyramid) -> Iterator[str]:
    """The classes and their counts, at most MOST_LINES; or what the vectors are."""
    from progan.data.inspect import class_counts

    if pyramid.labels is None:
        yield field("labels", "none")
    elif not pyramid.labels.names:
        values = pyramid.labels.values
        yield field("labels", f"vectors of {values.shape[1]:,}, from {values.min():g} to {values.max():g}")
    else:
        yield field("labels", several(len(pyramid.labels.names), "class", "classes"))
        yield from class_lines(pyramid.labels.names, class_counts(pyramid.labels))


def class_lines(classes: Sequence[str], counts: Array) -> Iterator[str]:
    """A line a class in their order; where they are more than MOST_LINES, the largest, and one of all others."""
    shown = list(range(len(classes)))
    if len(classes) > MOST_LINES:
        shown = sorted(shown, key=lambda k: -counts[k])[: MOST_LINES - 1]
    width = min(30, max(len(plain(classes[k])) for k in shown))
    for k in shown:
        length = -(-30 * int(counts[k]) // max(1, int(counts.max())))
        yield f"  {k:>6}  {plain(classes[k])[:width]:<{width}} {counts[k]:>10,}  {'=' * length}".rstrip()
    if len(shown) < len(classes):
        rest = int(counts.sum()) - sum(int(counts[k]) for k in shown)
        yield f"  and {several(len(classes) - len(shown), 'class', 'classes')} more, of {several(rest, 'picture')}"


def deviation_line(off: Deviation) -> str:
    """A level that is not the official one."""
    where = f"{off.resolution}x{off.resolution}"
    found = several(off.pictures, "picture that is", "pictures that are")
    return field(where, f"{found} not the means of the level above; off by {off.most} of 255 at most")


def hashing(name: str, done: int, total: int) -> str:
    return f"reading {plain(name)}: {size(done)} of {size(total)} are read"


def field(name: str, text: object) -> str:
    return f"  {name:<13} {plain(str(text))}"


def names(things: Sequence[object], between: str = ", ") -> str:
    """`3, 14, 15, ...`"""
    return between.join([*map(str, things[:MOST_NAMED]), *["..."] * (len(things) > MOST_NAMED)])


def several(count: int, one: str, more: str = "") -> str:
    """`1 group`, `2 groups`, `1,234 classes`."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


# --- doing ---


def show(console: Console, lines: Iterator[str] | Sequence[str]) -> None:
    for line in lines:
        console.line(line)


def watched(console: Console, what: str) -> Callable[[int, int], None]:
    """Shows how far something is."""
    from progan.console import bar

    return lambda done, total: console.live(f"{what} {bar(done, total)}")
