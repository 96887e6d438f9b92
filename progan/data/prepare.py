"""From whatever a user has to a pyramid: every picture as a person sees it, square, at each resolution down to 4x4."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from progan.console import size
from progan.data.pictures import Recipe, checked
from progan.data.pyramid import VERSION, Pyramid, open_pyramid
from progan.data.source import Labels, Progress, Source
from progan.data.sources import open_source
from progan.data.workers import chunks, usable_cores
from progan.data.writer import SCRATCH, Draft, workshop
from progan.errors import UserError
from progan.schedule import stage_of

SHUFFLE_SEED = 123  # the official tool's


@dataclass(frozen=True)
class Wish:
    """How a source is to be prepared, beside the recipe of each picture."""

    strict: bool = False  # one bad picture ends it
    allow_skips: bool = False  # even more than half of the pictures may be skipped
    max_images: int = 0  # take so many names of the shuffled order; 0 = all
    workers: int | None = None  # processes; None = one a core, 0 = none


def prepare(
    text: str,
    destination: Path,
    recipe: Recipe,
    wish: Wish = Wish(),
    root: Path = Path("."),
    download: bool = False,
    progress: Progress = lambda done, total: None,
) -> Pyramid:
    """Make the pyramid of what a user names (see `sources.open_source`), or go on with its interrupted preparation.

    recipe.max_res, recipe.channels: 0 = the source's own. Raises UserError where the source or the recipe is not
    understood, too few pictures are left, the destination exists, or the disk refuses.
    """
    with workshop(destination) as folder:
        source = open_source(text, recipe.max_res, root, download, folder / SCRATCH)
        write(source, title_of(text), destination, folder, recipe, wish, progress)
    return open_pyramid(destination)


def write(
    source: Source, title: str, destination: Path, folder: Path, recipe: Recipe, wish: Wish, progress: Progress
) -> None:
    """`prepare` for an opened source, in a workshop."""
    recipe = resolved(recipe, source, title)
    names, numbers = _order(source, wish.max_images)
    resolutions = [4 << s for s in range(stage_of(recipe.max_res) + 1)]
    with Draft(folder, _key(source, recipe, names), recipe.channels, resolutions) as draft:
        _check_room(draft, len(names), destination)
        draft.refuse(source.refused)
        _check_strict(draft.skipped, wish)
        for chunk in chunks(source.read, names[draft.at.done :], recipe, _workers(source, wish, len(names))):
            draft.add(chunk.stacked, chunk.skipped)
            _check_strict(chunk.skipped, wish)
            progress(draft.at.done, len(names))
        _check_left(draft, source, wish, recipe.max_res)
        kept = [number for name, number in zip(names, numbers) if name not in draft.skipped]
        draft.finish(destination, _labels(source, kept), _about(source, title, recipe))


def title_of(text: str) -> str:
    """What a source is called in messages and manifests: a path's last part, never where it lies."""
    path = Path(text)
    return (path.resolve().name or text) if path.exists() else text


def resolved(recipe: Recipe, source: Source, title: str) -> Recipe:
    """The recipe with the source's own resolution and channels where none are wished. Raises UserError for an
    impossible one.
    """
    if not recipe.max_res:
        if source.top is None:
            raise UserError(f"{title} has pictures of any size: say --max-res R, a power of two from 4 to 1024.")
        recipe = dataclasses.replace(recipe, max_res=min(source.top, 1024))
    recipe = checked(dataclasses.replace(recipe, channels=recipe.channels or source.channels or 3))
    top, wished = source.top or recipe.max_res, recipe.max_res
    if top < wished and not recipe.upscale and not recipe.crop.startswith("pad:"):
        raise UserError(f"{title} reaches {top}x{top} only: take --max-res {top}, or --upscale with {wished}.")
    return recipe


def _order(source: Source, max_images: int) -> tuple[list[str], list[int]]:
    """Names and their numbers in the source, in an order shuffled once and for all."""
    numbers = list(range(len(source.names)))
    if not source.shuffled:
        random.Random(SHUFFLE_SEED).shuffle(numbers)
    numbers = numbers[: max_images or None]
    return [source.names[n] for n in numbers], numbers


def _workers(source: Source, wish: Wish, count: int) -> int:
    if not source.parallel:
        return 0
    return min(usable_cores() if wish.workers is None else wish.workers, count)


def _key(source: Source, recipe: Recipe, names: Sequence[str]) -> str:
    """Equal where an interrupted preparation may go on."""
    text = repr((VERSION, source.state, recipe, len(names)))
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _labels(source: Source, kept: Sequence[int]) -> Labels | None:
    return None if source.labels is None else source.labels[np.array(kept)]


def _about(source: Source, title: str, recipe: Recipe) -> dict[str, Any]:
    how = {key: value for key, value in asdict(recipe).items() if key not in ("max_res", "channels")}
    return {"source": title, "recipe": how, "passed_over": source.passed_over}


def _check_room(draft: Draft, count: int, destination: Path) -> None:
    """Raises UserError where the disk has no room for what is still to be written."""
    needed = (count - draft.at.done) * draft.channels * sum(r * r for r in draft.resolutions)
    free = shutil.disk_usage(draft.folder).free
    if needed > free:
        raise UserError(
            f"{destination} needs up to {size(needed)} more, and its disk has {size(free)} free; make room, or take a "
            "lower --max-res or fewer pictures (--max-images)."
        )


def _check_strict(skipped: Mapping[str, str], wish: Wish) -> None:
    if wish.strict and skipped:
        name, reason = next(iter(skipped.items()))
        raise UserError(f"{name}: {reason}; without --strict the same command skips it and goes on.")


def _check_left(draft: Draft, source: Source, wish: Wish, max_res: int) -> None:
    """Raises UserError where nothing is left, or less than half; what a source refused counts if all of it is taken."""
    left, skipped = draft.at.count, draft.at.done - draft.at.count
    skipped += 0 if wish.max_images else len(source.refused)
    if left and (skipped <= left or wish.allow_skips):
        return
    commonest = "; ".join(f"{n:,} x {reason}" for reason, n in Counter(draft.skipped.values()).most_common(3))
    small = f"smaller than {max_res}x{max_res}" in commonest
    mends = ["a lower --max-res", "progan prepare --upscale"] if small else []
    mends += ["progan prepare --allow-skips"] if left else []
    mend = f" ({' or '.join(mends)} would take more)" if mends else ""
    if not left:
        draft.drop()
    what = "more than half of the pictures cannot be taken" if left else "no picture is left"
    raise UserError(f"{what}: {skipped:,} of {left + skipped:,} are skipped: {commonest}{mend}.")
