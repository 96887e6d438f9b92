"""Cases: a generator's pictures, or a folder's, beside the reals that they are measured against."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from progan import seeds
from progan.console import Console, Meter
from progan.data.cache import open_data, torchvision_root
from progan.data.order import Order, order_of
from progan.data.pyramid import Pyramid
from progan.data.sources import is_faces, open_source
from progan.errors import UserError
from progan.exchange.snapshots import Snapshot, painter
from progan.metrics.sets import Fakes, Files, Kept, Pictures, Reals, Watched, content_of, files_of, real_sets
from progan.nn.families import Generator

OFFICIAL = 16384  # pictures


@dataclass(frozen=True, eq=False)
class Case:
    """Fakes, and the reals that they are measured against."""

    reals: Pictures
    fakes: Pictures
    others: Pictures | None  # as many other reals
    counts: tuple[int, int]  # reals, fakes
    ground: Mapping[str, Any]  # what the reals are: the part of the protocol that floors depend on
    subject: Mapping[str, Any]  # what the fakes are
    training: Pictures  # all reals that a generator may know by heart
    generator: Generator | None = None  # in eval mode, with its place, where gradients through it are wanted
    place: tuple[int, float] = (0, 1.0)  # stage, alpha
    unseen: Pictures | None = None  # reals that no training has shown it

    @property
    def resolution(self) -> int:
        """Of all pictures."""
        return int(self.ground["resolution"])

    def watched(self, console: Console) -> Case:
        """The same, showing how many pictures have gone by."""
        reals = Watched(self.reals, self.counts[0], lambda: Meter(console, "reals"))
        fakes = Watched(self.fakes, self.counts[1], lambda: Meter(console, "fakes"))
        others = self.others and Watched(self.others, self.counts[0], lambda: Meter(console, "other reals"))
        return replace(self, reals=reals, fakes=fakes, others=others)

    @property
    def floor(self) -> Case | None:
        """The same, with other reals in place of the fakes."""
        if self.others is None:
            return None
        return replace(self, fakes=self.others, others=None, counts=(self.counts[0], self.counts[0]), subject={})


@dataclass(frozen=True, eq=False)
class Ground:
    """Reals to measure against. about: what they are, for the protocol."""

    data: Pyramid
    order: Order
    mirrored: bool
    about: Mapping[str, Any]

    def images(self, wanted: int | None) -> int:
        """How many fakes: as wanted, else 16384, but at most half of the reals, so that there is a floor."""
        return wanted or min(OFFICIAL, max(1, self.order.count // 2))


def ground_of(snapshot: Snapshot, source: str | None, console: Console) -> Ground:
    """The reals that a snapshot's run had learnt, or those of another source, whole. UserError where there are none."""
    knobs, channels = snapshot.config.data, snapshot.config.networks.channels
    meter = Meter(console)
    if source is not None:
        data = open_data(source, snapshot.resolution, channels, console.line, meter)
        return ground(data, order_of(data.count), knobs.mirror, is_faces(source))
    data = open_data(knobs.source, snapshot.config.growth.max_res, channels, console.line, meter)
    order = order_of(data.count, data.labels, knobs.max_images, knobs.labels)
    return ground(data, order, knobs.mirror, is_faces(str(data.about.get("source", knobs.source))))


def ground(data: Pyramid, order: Order, mirrored: bool, faces: bool) -> Ground:
    """Reals of a pyramid. Those in use are known by their numbers, pictures by their content."""
    used = hashlib.blake2b(order.chosen.numpy().tobytes(), digest_size=8).hexdigest()
    whole = order.count == data.count
    about = {"data": data.fingerprint, "used": "all" if whole else used, "mirror": mirrored, "faces": faces}
    return Ground(data, order, mirrored, about)


def case_of(
    G: Generator, stage: int, alpha: float, psi: float, ground: Ground, images: int, seed: int, console: Console
) -> Case:
    """A generator's pictures at a stage beside reals of that resolution."""
    resolution, channels = G.resolutions[stage], ground.data.channels
    if resolution > ground.data.top:
        raise UserError(f"the data reaches {ground.data.top}x{ground.data.top} only, the generator {resolution}.")
    count = min(images, ground.order.count)
    reals, others = real_sets(ground.data, ground.order.chosen, count, resolution, ground.mirrored, seed)
    drawn = Fakes(painter(G, stage), images, alpha, psi, seed)
    extent = (channels, resolution, resolution)
    fakes = Kept(drawn, images, extent, Meter(console, "fakes drawn"))
    training = Reals(ground.data, ground.order.chosen, None, resolution)
    about = {**ground.about, "resolution": resolution}
    subject = {"weights": "ema", "psi": psi, "alpha": alpha}
    case = Case(reals, fakes, others, (count, images), about, subject, training, G, (stage, alpha))
    return replace(case, unseen=unseen(ground, resolution)).watched(console)


def unseen(ground: Ground, resolution: int) -> Reals | None:
    """The pictures of the data that are not in use; None where all are."""
    spared = torch.ones(ground.data.count, dtype=torch.bool)
    spared[ground.order.chosen] = False
    return Reals(ground.data, spared.nonzero()[:, 0], None, resolution) if spared.any() else None


def folders_case(fakes: str, reals: str, images: int | None, seed: int, scratch: Path, console: Console) -> Case:
    """Two folders, or whatever else `progan prepare` takes: their pictures as they are. Of reals as many as of fakes,
    if there are so many, and as many others. UserError where the pictures do not compare.
    """
    ours = opened(fakes, scratch / "fakes")
    theirs = opened(reals, scratch / "reals", ours.extent[1])
    if ours.extent != theirs.extent:
        raise UserError(f"{fakes} holds pictures of {form(ours)}, {reals} of {form(theirs)}: they do not compare.")
    for files in (ours, theirs):
        if images and files.count < images:
            raise UserError(f"--images {images}: {files.text} holds {files.count} pictures.")
    shuffled = theirs.shuffled(seeds.generator(seed, "metrics reals"))
    ours = ours.part(0, images or ours.count)
    count = min(ours.count, theirs.count)
    sets = [ours, shuffled.part(0, count)] + [shuffled.part(count, 2 * count)] * (2 * count <= theirs.count)
    held = [Kept(files, files.count, files.extent, Meter(console, f"pictures of {files.text}")) for files in sets]
    about = {"data": content_of(held[1]), "used": "all", "mirror": False, "faces": is_faces(reals)}
    about["resolution"] = ours.extent[1]
    others = held[2] if len(held) > 2 else None
    if others is not None:
        about["others"] = content_of(others)
    subject = {"pictures": content_of(held[0])}
    return Case(held[1], held[0], others, (count, ours.count), about, subject, shuffled).watched(console)


def opened(text: str, scratch: Path, resolution: int = 0) -> Files:
    """The pictures that a text names, where there is a choice those of a resolution. UserError where there are none."""
    return files_of(open_source(text, resolution, torchvision_root(), False, scratch), text, resolution)


def form(files: Files) -> str:
    """`32x32 pixels in colour`"""
    channels, height, width = files.extent
    return f"{width}x{height} pixels in {'grey' if channels == 1 else 'colour'}"
