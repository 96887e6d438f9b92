"""Colours and variety of a set of pictures, and how far a generator's differ from the reals'. All in pixel levels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

Pictures = Iterable[Tensor]
"""A set of pictures: iterated as often as needed, it gives the same uint8 batches [n, C, R, R], C 1 or 3, each time."""

CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
BLOCK = 1 << 22  # values (pixels x channels) that are worked on at once


@dataclass(frozen=True)
class Statistics:
    """What is counted of a set, all on the CPU."""

    histogram: Tensor  # int64 [C, 256] how often each level comes
    pair: float  # mean over pairs of consecutive pictures of their root mean square difference; 0 where all are alike
    pixel_std: float  # mean over pixels and channels of the standard deviation over the set; 0 where all are alike
    shape: tuple[int, ...]  # (C, R, R)


def diversity(reals: Pictures, fakes: Pictures) -> dict[str, float]:
    """Colours and variety of the fakes, of the reals (`..._reals`), and how far they are from each other.

    `colour`: Wasserstein-1 distance of the two histograms in levels, mean of the channels `colour_red` ... (of grey
    pictures `colour_grey`). `mean_red`, `std_red` ...: of all values of a channel. `pair`, `pixel_std`: see Statistics.
    `pair_ratio`, `pixel_std_ratio`: fakes' to reals', 1 at best and 0 for a generator that makes one picture.
    Raises ValueError for fewer than two pictures, sets that differ in size, and reals that are all alike.
    """
    real, fake = statistics(reals), statistics(fakes)
    if real.shape != fake.shape:
        raise ValueError(f"reals are {list(real.shape)}, fakes {list(fake.shape)}: no sets to compare")
    if not real.pair:
        raise ValueError("the reals are alike in every pair: no variety to compare with")
    return {
        **_colour_distances(real.histogram, fake.histogram),
        **_colours(fake.histogram, ""),
        **_colours(real.histogram, "_reals"),
        "pair": fake.pair,
        "pair_reals": real.pair,
        "pair_ratio": fake.pair / real.pair,
        "pixel_std": fake.pixel_std,
        "pixel_std_reals": real.pixel_std,
        "pixel_std_ratio": fake.pixel_std / real.pixel_std,
    }


def statistics(pictures: Pictures) -> Statistics:
    """Count a set in one pass, with whole numbers: exact, whatever the batching. Raises ValueError for fewer than two.

    Pairs are the 1st picture with the 2nd, the 3rd with the 4th and so on; a last one without partner is left out. The
    order must be random: neighbours of one class are more alike than two pictures at large.
    """
    pairs: list[float] = []
    count, histogram, total, squares = 0, *torch.zeros(3, dtype=torch.int64)
    for block in blocks(pictures):
        count += len(block)
        histogram = histogram + histograms(block)
        pairs += pair_differences(block).tolist()
        total = total + block.sum(0, dtype=torch.int64).cpu()  # [C, R, R]
        squares = squares + block.int().square().sum(0, dtype=torch.int64).cpu()  # [C, R, R]
    if count < 2:
        raise ValueError(f"variety wants at least two pictures; the set holds {count}")
    variance = (count * squares - total.square()).double() / count**2  # [C, R, R] exact until it is divided
    return Statistics(histogram, fmean(pairs), variance.sqrt().mean().item(), tuple(total.shape))


def histograms(pixels: Tensor) -> Tensor:
    """How often each level comes in each channel: uint8 [N, C, H, W] -> int64 [C, 256] on the CPU."""
    return torch.stack([torch.bincount(values.flatten(), minlength=256) for values in pixels.unbind(1)]).cpu()


def pair_differences(pixels: Tensor) -> Tensor:
    """Root mean square difference of the 1st and 2nd picture, the 3rd and 4th ...: uint8 [N, ...] -> float64 [N/2]."""
    a, b = pixels[: len(pixels) // 2 * 2 : 2].int(), pixels[1::2].int()
    squares = (a - b).square().flatten(1).sum(1, dtype=torch.int64).cpu().double()
    return (squares / pixels[0].numel()).sqrt()


def histogram_distance(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-1 distance in levels, the least mean shift that turns one into the other. [C, 256] each -> [C]."""
    a, b = a.double(), b.double()
    return (a.cumsum(1) / a.sum(1, keepdim=True) - b.cumsum(1) / b.sum(1, keepdim=True)).abs().sum(1)


def _colour_distances(real: Tensor, fake: Tensor) -> dict[str, float]:
    each = histogram_distance(real, fake)
    named = {f"colour_{name}": value for name, value in zip(CHANNELS[len(each)], each.tolist())}
    return {"colour": each.mean().item(), **named}


def _colours(histogram: Tensor, ending: str) -> dict[str, float]:
    """Mean and standard deviation of all values of each channel. [C, 256] -> mean_red, std_red ... with an ending."""
    share = histogram.double() / histogram.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64)
    mean = (share * levels).sum(1, keepdim=True)
    std = (share * (levels - mean).square()).sum(1).sqrt()
    names = CHANNELS[len(histogram)]
    means = {f"mean_{name}{ending}": value for name, value in zip(names, mean[:, 0].tolist())}
    return means | {f"std_{name}{ending}": value for name, value in zip(names, std.tolist())}


def blocks(pictures: Pictures) -> Iterator[Tensor]:
    """The same pictures in the same order in blocks of an even number (the last: what is left), however batched.

    Results do not depend on the batching then. Raises ValueError for pictures that are no such set.
    """
    parts: list[Tensor] = []
    for batch in pictures:
        size = 2 * max(1, min(128, BLOCK // (2 * check(batch, *parts[:1]).shape[1:].numel())))
        parts.append(batch)
        if sum(map(len, parts)) >= size:
            *whole, rest = torch.split(torch.cat(parts), size)
            yield from whole
            parts = [rest]
    if any(map(len, parts)):
        yield torch.cat(parts)


def check(batch: Tensor, *before: Tensor) -> Tensor:
    """The batch itself. Raises ValueError where it is not uint8 [n, C, R, R] or not of the size of those before."""
    kind = str(batch.dtype).removeprefix("torch.")
    if kind != "uint8" or batch.dim() != 4 or batch.shape[1] not in (1, 3) or batch.shape[2] != batch.shape[3]:
        raise ValueError(f"a set of pictures is uint8 [N, 1 or 3, R, R], not {kind} {list(batch.shape)}")
    for other in before:
        if other.shape[1:] != batch.shape[1:]:
            raise ValueError(f"pictures of {list(other.shape[1:])} and of {list(batch.shape[1:])} in one set")
    return batch
