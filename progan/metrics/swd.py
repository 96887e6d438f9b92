"""Sliced Wasserstein distance (SWD) of two sets of pictures: how far apart their small patches are, scale by scale.

Karras et al. 2018, sec. 5, as the official code computes it. A picture becomes a Laplacian pyramid with the levels R,
R/2, ..., 16; at each level 128 patches of 7x7 pixels are its descriptors. Those of a set are normalised channel by
channel, and both sets are projected onto 4 times 128 random directions. What is reported is the Wasserstein distance of
the projections, averaged over the directions, times 1000, for each level and as the mean of the levels.

On one line two equally large sets are as far apart as their sorted values are on average (`sorted_distance`). The same
is the area between their distribution functions (`counted_distance`), for which it is enough to count how many values
fall into each of many bins: nothing is sorted or kept, so memory does not grow with the number of pictures, and a set
that has been counted once (`project`) can be compared with many others.

Each set is gone through twice: for the mean and deviation of its descriptors, then to project and count them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Pictures = Iterable[Tensor]
"""May be iterated several times; each time the same batches of uint8 pixels [n, C, R, R], C 1 or 3, in one order."""

SCALE = 1000.0
BINS = 8192
BLOCK_PIXELS, BLOCK_PICTURES = 2**19, 64  # of the pictures that are worked on at once: as fit a CPU's caches
TALLIED, ROWS = 2**15, 8  # descriptors that are counted at once, and directions at a time
FEWEST_PICTURES = 2
LEAST_DEVIATION = 1e-3  # grey levels


@dataclass(frozen=True)
class Draws:
    """What is drawn from the pictures: two sets can be compared where it is the same for both.

    seed decides the positions of the patches and the directions. smallest: the last level, if there is one that small.
    patches: of one picture, at each level. There are repeats * directions directions.
    """

    seed: int = 0
    smallest: int = 16
    patches: int = 128
    repeats: int = 4
    directions: int = 128


@dataclass(frozen=True)
class Moments:
    """Mean and sum of squared deviations of `count` values in each channel. mean, squares: float64 [C]."""

    count: int
    mean: Tensor
    squares: Tensor


@dataclass(frozen=True)
class Survey:
    """A set after the first time through. moments: level -> of all its descriptors."""

    draws: Draws
    pictures: int
    channels: int
    resolution: int
    moments: dict[int, Moments]


@dataclass(frozen=True)
class Projected:
    """A set after the second time through. counts: level -> int32 [directions, BINS + 1] on the CPU (16 MB a level)."""

    survey: Survey
    counts: dict[int, Tensor]


# ---- the whole


def sliced_wasserstein(
    reals: Pictures,
    fakes: Pictures,
    seed: int = 0,
    smallest: int = 16,
    *,
    patches: int = 128,
    repeats: int = 4,
    directions: int = 128,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """{"swd": mean over the levels, "swd_R": of level R, ...}, times 1000; 0 for identical sets.

    Both sets must hold equally many pictures, two at least, of one resolution (a power of two) and channel count.
    Grey counts as colour with three equal channels. device: where to compute; None is where the pictures are.
    Raises ValueError.
    """
    draws = Draws(seed, smallest, patches, repeats, directions)
    surveys = survey(reals, draws, device), survey(fakes, draws, device)
    require_alike(*surveys)
    return distance(count(reals, surveys[0], device), count(fakes, surveys[1], device))


def project(pictures: Pictures, draws: Draws | None = None, device: torch.device | str | None = None) -> Projected:
    """A set made ready for `distance`: what costs time is done once, however many sets it is compared with."""
    return count(pictures, survey(pictures, draws or Draws(), device), device)


def distance(a: Projected, b: Projected) -> dict[str, float]:
    """What `sliced_wasserstein` returns, of two sets that have been projected."""
    require_alike(a.survey, b.survey)
    levels = {f"swd_{level}": SCALE * counted_distance(a.counts[level], b.counts[level]) for level in a.counts}
    return {"swd": sum(levels.values()) / len(levels), **levels}


def require_alike(a: Survey, b: Survey) -> None:
    """ValueError unless the two sets can be compared."""
    for what in ("resolution", "channels", "pictures", "draws"):
        mine, other = getattr(a, what), getattr(b, what)
        if mine != other:
            raise ValueError(f"SWD compares two sets alike in {what}; these have {mine} and {other}.")


# ---- Laplacian pyramid


def swd_levels(resolution: int, smallest: int = 16) -> list[int]:
    """[R, R/2, ...] down to `smallest`; [R] where R is smaller than that. Raises ValueError."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"SWD takes pictures whose side is a power of two from 4 on, not {resolution}.")
    if smallest < 4:
        raise ValueError(f"The smallest level of SWD is 4 or more, not {smallest}: no patch fits into less.")
    levels = [resolution]
    while levels[-1] // 2 >= smallest:
        levels.append(levels[-1] // 2)
    return levels


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """What each halving takes away, finest first, and what remains in the end. [n, C, R, R] -> [n, C, R, R], [n, C,
    R/2, R/2], ...: `levels` of them.
    """
    pyramid = []
    for _ in range(levels - 1):
        coarse = pyramid_down(images)
        pyramid.append(images - pyramid_up(coarse))
        images = coarse
    return [*pyramid, images]


def pyramid_down(images: Tensor) -> Tensor:
    """Every second pixel of the image blurred by [1 4 6 4 1] / 16 both ways; beyond its borders it is mirrored about
    its outermost pixels. [n, C, H, W] -> [n, C, H/2, W/2].
    """
    return _halved(_halved(F.pad(images, (2, 2, 2, 2), "reflect"), 2), 3)


def pyramid_up(images: Tensor) -> Tensor:
    """Twice as large, zeros in between, blurred by [1 4 6 4 1] / 8 both ways, borders mirrored. [n, C, H, W] -> [n, C,
    2H, 2W].
    """
    return _doubled(_doubled(images, 3), 2)  # in this order less is done along rows, which is slower


def _halved(padded: Tensor, dim: int) -> Tensor:
    """`pyramid_down` along one dimension, in which there are two pixels more at both ends."""
    a, b, c, d, e = padded.unfold(dim, 5, 2).unbind(-1)
    return (a + e).add_(b + d, alpha=4).add_(c, alpha=6).mul_(1 / 16)


def _doubled(images: Tensor, dim: int) -> Tensor:
    """`pyramid_up` along one dimension: where there is a pixel it weighs 6 and those beside it 1; in between, 4 and 4.

    The last of the larger image is a zero, about which the mirror repeats the last pixel, not the one before it.
    """
    first, last = images.narrow(dim, 1, 1), images.narrow(dim, -1, 1)
    a, b, c = torch.cat([first, images, last], dim).unfold(dim, 3, 1).unbind(-1)
    pairs = images.new_empty([*images.shape[: dim + 1], 2, *images.shape[dim + 1 :]])
    torch.mul((a + c).add_(b, alpha=6), 1 / 8, out=pairs.select(dim + 1, 0))
    torch.mul(b + c, 1 / 2, out=pairs.select(dim + 1, 1))
    return pairs.flatten(dim, dim + 1)


# ---- descriptors


def patch_size(level: int) -> int:
    """7. Not in the official code: 3 at level 4, into which no 7x7 patch fits."""
    return 7 if level >= 8 else 3


def draw_centres(generator: torch.Generator, pictures: int, patches: int, level: int) -> Tensor:
    """Where the patches' middles lie (row, column), each patch on its own. -> int64 [pictures, patches, 2]."""
    margin = patch_size(level) // 2
    return torch.randint(margin, level - margin, (pictures, patches, 2), generator=generator)


def descriptors(images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Patches of size x size pixels about the centres [n, P, 2]. images: [n, C, S, S] -> [n * P, C * size * size]."""
    (n, channels, side, _), device = images.shape, images.device
    row, column = (centres.to(device) - size // 2)[:, :, None, None].unbind(-1)  # [n, P, 1, 1] of the first pixel
    plane = torch.arange(n * channels, device=device).view(n, 1, channels, 1)
    starts = ((plane * side + row + torch.arange(size, device=device)) * side + column).flatten()
    runs = images.flatten().unfold(0, size, 1)  # [.., size] whatever `size` pixels follow each other in memory
    return runs.index_select(0, starts).view(-1, channels * size * size)


def draw_directions(draws: Draws, level: int, channels: int) -> Tensor:
    """Unit vectors of 3 * size * size numbers, evenly spread over all directions. -> [directions, channels * size *
    size]. For grey the three channels' parts are added up: the projection is that of three equal channels.
    """
    generator = _generator(draws.seed, "directions", level)
    shape = draws.repeats * draws.directions, 3, patch_size(level) ** 2
    directions = torch.randn(shape, generator=generator)
    directions /= directions.flatten(1).norm(dim=1)[:, None, None]
    return (directions if channels == 3 else directions.sum(1)).flatten(1)


def _generator(seed: int, what: str, level: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{what}/{level}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


# ---- going through a set


def blocks(pictures: Pictures, device: torch.device | str | None = None) -> Iterator[Tensor]:
    """The same pictures in batches whose size depends on the resolution only (the last may be smaller)."""
    held: Tensor | None = None
    for batch in pictures:
        size = max(1, min(BLOCK_PICTURES, BLOCK_PIXELS // _checked(batch, held).shape[-1] ** 2))
        for part in torch.split(batch, size):
            held = part.to(device or part.device) if held is None else torch.cat([held, part.to(held.device)])
            if len(held) >= size:
                yield held[:size]
                held = held[size:]
    if held is not None and len(held):
        yield held


def _checked(batch: Tensor, like: Tensor | None) -> Tensor:
    """The batch. ValueError unless it is uint8 [n, C, R, R] with 1 or 3 channels, of the size of `like`."""
    shape = tuple(batch.shape)
    if batch.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3]:
        raise ValueError(f"SWD takes uint8 pictures [n, C, R, R] with 1 or 3 channels, not {batch.dtype} {[*shape]}.")
    swd_levels(shape[3])
    if like is not None and shape[1:] != like.shape[1:]:
        raise ValueError(f"SWD takes pictures of one size [C, R, R], not {[*like.shape[1:]]} and {[*shape[1:]]}.")
    return batch


def described(
    pictures: Pictures, draws: Draws, device: torch.device | str | None = None
) -> Iterator[dict[int, Tensor]]:
    """Level -> descriptors, of one block of pictures after the other.

    Differs from the official code: where a patch lies depends on the seed, the level and its picture's place in the
    set, so it is the same in both sets. Hence identical sets are 0 apart; independent pictures are as if it were not.
    """
    generators: dict[int, torch.Generator] = {}
    for pixels in blocks(pictures, device):
        levels = swd_levels(pixels.shape[3], draws.smallest)
        generators = generators or {level: _generator(draws.seed, "positions", level) for level in levels}
        centres = [draw_centres(generators[level], len(pixels), draws.patches, level) for level in levels]
        pyramid = laplacian_pyramid(pixels.float(), len(levels))
        yield {s: descriptors(images, middle, patch_size(s)) for s, images, middle in zip(levels, pyramid, centres)}


def joined(parts: Iterable[dict[int, Tensor]]) -> Iterator[dict[int, Tensor]]:
    """Descriptors of several blocks as one of TALLIED or more (the last may be smaller)."""
    held: list[dict[int, Tensor]] = []
    for part in parts:
        held.append(part)
        if sum(len(next(iter(levels.values()))) for levels in held) >= TALLIED:
            yield {level: torch.cat([levels[level] for levels in held]) for level in part}
            held = []
    if held:
        yield {level: torch.cat([levels[level] for levels in held]) for level in held[0]}


def survey(pictures: Pictures, draws: Draws, device: torch.device | str | None = None) -> Survey:
    """The first time through: the mean and deviation of the descriptors in each channel. Raises ValueError."""
    found: dict[int, Moments] = {}
    total = 0
    for part in described(pictures, draws, device):
        total += len(part[max(part)]) // draws.patches
        for level, values in part.items():
            here = moments(values, values.shape[1] // patch_size(level) ** 2)
            found[level] = merged(found[level], here) if level in found else here
    if total < FEWEST_PICTURES:
        raise ValueError(f"SWD needs {FEWEST_PICTURES} pictures or more in a set; this one has {total}.")
    return Survey(draws, total, len(found[max(found)].mean), max(found), found)


def count(pictures: Pictures, surveyed: Survey, device: torch.device | str | None = None) -> Projected:
    """The second time through: how many projections fall into each bin, for each level and direction."""
    draws, of, total = surveyed.draws, surveyed.moments, 0
    directions: dict[int, Tensor] = {}
    counts: dict[int, Tensor] = {}
    parts = ({s: normalised(v, of[s]) for s, v in part.items()} for part in described(pictures, draws, device))
    for part in joined(parts):
        total += len(part[surveyed.resolution]) // draws.patches
        for level, values in part.items():
            if level not in counts:
                directions[level] = draw_directions(draws, level, surveyed.channels).to(values.device)
                counts[level] = directions[level].new_zeros(len(directions[level]), BINS + 1, dtype=torch.int32)
            tally(counts[level], directions[level], values)
    if total != surveyed.pictures:
        raise ValueError(f"A set of pictures gave {surveyed.pictures} the first time and {total} the second.")
    return Projected(surveyed, {level: found.cpu() for level, found in counts.items()})


# ---- normalisation


def moments(values: Tensor, channels: int) -> Moments:
    """Of descriptors [L, C * k], channel by channel over all their pixels."""
    mean = values.mean(0).view(channels, -1).mean(1)  # [C]
    deviations = values - mean.repeat_interleave(values.shape[1] // channels)
    squares = deviations.square_().sum(0).view(channels, -1).sum(1)
    return Moments(values.numel() // channels, mean.cpu().double(), squares.cpu().double())


def merged(a: Moments, b: Moments) -> Moments:
    """Of the values of both (Chan et al. 1979)."""
    total, apart = a.count + b.count, b.mean - a.mean
    squares = a.squares + b.squares + apart.square() * (a.count * b.count / total)
    return Moments(total, a.mean + apart * (b.count / total), squares)


def normalised(values: Tensor, of: Moments) -> Tensor:
    """Descriptors [L, C * k] less the mean of their channel and divided by its deviation. A channel that does not vary
    becomes 0.
    """
    deviation = (of.squares / of.count).sqrt()
    deviation[deviation < LEAST_DEVIATION] = torch.inf
    pixels = values.shape[1] // len(deviation)
    mean, deviation = (x.float().to(values.device).repeat_interleave(pixels) for x in (of.mean, deviation))
    return (values - mean).div_(deviation)


# ---- distance on a line


def sorted_distance(a: Tensor, b: Tensor) -> float:
    """Wasserstein distance of the rows of a and b (both [directions, L]), averaged over the rows: the plain form."""
    return float((a.sort(1).values - b.sort(1).values).abs().mean())


def tally(counts: Tensor, directions: Tensor, values: Tensor) -> None:
    """Project descriptors [L, K] onto directions [D, K] and add them to the counts [D, BINS + 1]."""
    for part in torch.split(values, TALLIED):
        ones = torch.ones(ROWS, len(part), dtype=counts.dtype, device=counts.device)
        for rows, projections in zip(torch.split(counts, ROWS), torch.split(products(directions, part), ROWS)):
            rows.scatter_add_(1, bins_of(projections), ones[: len(rows)])


def products(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T in float32. [D, K], [L, K] -> [D, L].

    On a CPU a convolution whose kernels are the descriptors: on AMD's twice as fast as what torch takes for products.
    """
    if a.device.type == "cpu":
        rows, kernels = (x.view(len(x), 1, -1, 1).permute(0, 3, 1, 2) for x in (a, b))  # [.., 1, 1, K] channels last
        return F.conv2d(rows, kernels)[:, :, 0, 0]
    with _full_precision():
        return a @ b.T


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 within."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def bins_of(projections: Tensor) -> Tensor:
    """Bin of each value x: (1 + x / (1 + |x|)) * BINS / 2, rounded down: narrow about 0, endless at both sides."""
    middle = torch.full((), BINS / 2, device=projections.device)
    return torch.addcdiv(middle, projections, projections.abs().add_(1), value=BINS / 2).short().long()


def bin_edges() -> Tensor:
    """The BINS - 1 values between neighbouring bins. float64."""
    position = torch.arange(1, BINS, dtype=torch.float64) * (2 / BINS) - 1
    return position / (1 - position.abs())


def counted_distance(a: Tensor, b: Tensor) -> float:
    """`sorted_distance` of two sets by their counts: the area between their distribution functions, from their values
    at the edges of the bins by the trapezoid rule.
    """
    total = a[0].sum()
    gaps = (a - b).cumsum(1)[:, : BINS - 1].double() / total  # [directions, BINS - 1] difference of the two functions
    return float(torch.trapezoid(gaps.abs_(), bin_edges()).mean())
