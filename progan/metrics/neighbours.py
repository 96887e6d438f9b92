"""The nearest training picture of each generated one: does the generator copy?

A distance is the root mean square difference in pixel levels (0..255) at 32x32 or, where pictures are smaller, at their
own size. Such distances see layout and colour, not meaning, and a blurred picture is near to everything: a ratio below
1 alone is no proof of copying. Look at the closest pairs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Pictures = Iterable[Tensor]
"""A set of pictures: iterated as often as needed, it gives the same uint8 batches [n, C, R, R], C 1 or 3, each time."""

SIDE = 32  # pictures are compared at this size at most
COPY = 0.01  # as near as this share of the reals are to each other counts as a copy
QUERIES, POOL = 1 << 14, 1 << 10  # pictures that are compared at once: 200 MB against 13 MB
BLOCK = 1 << 22  # values (pixels x channels) that are worked on at once


def memorisation(
    fakes: Pictures, reals: Pictures, held_out: Pictures | None = None, mirrored: bool = False
) -> tuple[dict[str, float], Tensor]:
    """Do fakes lie nearer to the training pictures than other real pictures do? Values, and pairs [N, 2] for a sheet.

    `neighbour`: mean distance from a fake to the nearest real. `neighbour_floor`: the same of the held-out pictures, or
    without these of the first reals, as many as there are fakes, each to the nearest other real. `neighbour_ratio`:
    their quotient. `copies`: share of fakes that are as near to a real as the nearest hundredth of those pictures are
    (no farther than 99 % of them); 0.01 is chance. Pairs: number of a fake and of its nearest real, closest first.
    Raises ValueError for sets that are empty or differ in size, for one real alone, and where all reals have doubles.
    """
    distances, indices = nearest(fakes, reals, mirrored)
    floor = nearest_others(reals, mirrored, len(distances)) if held_out is None else nearest(held_out, reals, mirrored)
    usual = floor[0].double()
    if not usual.any():
        raise ValueError(f"each of {len(usual)} real pictures has an exact double: no distance to compare with")
    order = distances.argsort(stable=True)
    values = {
        "neighbour": distances.double().mean().item(),
        "neighbour_floor": usual.mean().item(),
        "neighbour_ratio": (distances.double().mean() / usual.mean()).item(),
        "copies": (distances <= usual.sort().values[int(COPY * (len(usual) - 1))]).double().mean().item(),
    }
    return values, torch.stack([order, indices[order]], 1)


def nearest(fakes: Pictures, reals: Pictures, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Distance from each fake to the nearest real, and that one's number: float32 [N], int64 [N], on the CPU.

    mirrored: the reals are meant in both orientations. Of equally near ones any may be named. For every 16384 fakes the
    reals are read once. Raises ValueError for sets that are empty or differ in size.
    """
    return _search(fakes, reals, mirrored, own=False)


def nearest_others(reals: Pictures, mirrored: bool = False, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """`nearest` of the first `limit` reals (all) among all other reals: a picture, or its mirror image, is not its own.

    Raises ValueError for fewer than two reals.
    """
    found = _search(reals if limit is None else _first(reals, limit), reals, mirrored, own=True)
    if found[0].isinf().any():
        raise ValueError("a single real picture has no other to be near to")
    return found


def reduced(pictures: Pictures) -> Iterator[Tensor]:
    """The pictures, box-filtered to 32x32 if they are larger: float32 [n, C, r, r] in pixel levels.

    Raises ValueError where a batch is not uint8 [n, 1 or 3, R, R].
    """
    for batch in pictures:
        kind = str(batch.dtype).removeprefix("torch.")
        if kind != "uint8" or batch.dim() != 4 or batch.shape[1] not in (1, 3) or batch.shape[2] != batch.shape[3]:
            raise ValueError(f"a set of pictures is uint8 [N, 1 or 3, R, R], not {kind} {list(batch.shape)}")
        if len(batch):
            for part in torch.split(batch, max(1, BLOCK // batch.shape[1:].numel())):
                yield F.adaptive_avg_pool2d(part.float(), min(SIDE, part.shape[3]))


def _search(queries: Pictures, pool: Pictures, mirrored: bool, own: bool) -> tuple[Tensor, Tensor]:
    """`nearest`, block by block; own: queries are the first of the pool, and none is its own neighbour."""
    distances, indices, start = [torch.empty(0)], [torch.empty(0, dtype=torch.int64)], 0
    for block in _blocks(reduced(queries), QUERIES):
        squares, numbers = _nearest_of(block, pool, mirrored, start if own else None)
        distances.append(squares.sqrt().cpu())
        indices.append(numbers.cpu())
        start += len(block)
    if not start:
        raise ValueError("a set without pictures has no neighbours")
    return torch.cat(distances), torch.cat(indices)


def _nearest_of(queries: Tensor, pool: Pictures, mirrored: bool, own: int | None) -> tuple[Tensor, Tensor]:
    """Mean square to the nearest of the pool, and that one's number: [n, C, r, r] -> [n], [n].

    All are taken relative to the queries' mean, which makes the products small and their differences exact.
    """
    centre, start = queries.mean(0), 0
    a = (queries - centre).flatten(1)
    best, index = torch.full_like(a[:, 0], torch.inf), torch.full_like(a[:, 0], -1, dtype=torch.int64)
    for block in _blocks(reduced(pool), POOL):
        if block.shape[1:] != centre.shape:
            raise ValueError(f"pictures of {list(centre.shape)} and of {list(block.shape[1:])} have no distance")
        for view in (block, block.flip(3)) if mirrored else (block,):
            _improve(best, index, a, (view.to(centre) - centre).flatten(1), start, own)
        start += len(block)
    if not start:
        raise ValueError("there are no real pictures to be near to")
    return best, index


def _improve(best: Tensor, index: Tensor, a: Tensor, b: Tensor, start: int, own: int | None) -> None:
    """Enter into best [n] and index [n] which rows of b [m, D] are nearer to rows of a [n, D] than what is there.

    b's rows are number `start` and following of the pool; a's are number `own` and following, if they are of it at all.
    """
    scores = _mean_squares(a, b)
    if own is not None:
        same = torch.arange(max(own, start), max(own, start, min(own + len(a), start + len(b))))
        scores[same - own, same - start] = torch.inf
    about, column = scores.min(1)
    for rows in torch.split((about < best).nonzero()[:, 0], POOL):
        exact = (a[rows] - b[column[rows]]).square().mean(1)
        won = exact < best[rows]
        best[rows[won]] = exact[won]
        index[rows[won]] = start + column[rows[won]]


def _mean_squares(a: Tensor, b: Tensor) -> Tensor:
    """Mean square difference of each row of a with each of b, to about 0.001 levels^2. [n, D], [m, D] -> [n, m]."""
    with _true_float32():
        products = a @ b.T
    return products.mul_(-2).add_(a.square().sum(1, keepdim=True)).add_(b.square().sum(1)).div_(a.shape[1])


@contextlib.contextmanager
def _true_float32() -> Iterator[None]:
    """No TF32 in matrix products, also where a training allows it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _blocks(parts: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same pictures in the same order, `size` at a time, at last what is left. Raises ValueError for two sizes.

    A block is good until the next is asked for: all are one place in memory.
    """
    room, filled = torch.empty(0), 0
    for part in parts:
        if not len(room):
            room = part.new_empty(size, *part.shape[1:])  # small tensors kept between large ones scatter the memory
        if room.shape[1:] != part.shape[1:]:
            raise ValueError(f"pictures of {list(room.shape[1:])} and of {list(part.shape[1:])} in one set")
        while len(part):
            taken = min(len(part), size - filled)
            room[filled : filled + taken] = part[:taken]
            part, filled = part[taken:], filled + taken
            if filled == size:
                yield room
                filled = 0
    if filled:
        yield room[:filled]


def _first(pictures: Pictures, limit: int) -> Iterator[Tensor]:
    """The first `limit` pictures of a set."""
    for batch in pictures:
        yield batch[:limit]
        limit -= len(batch)
        if limit <= 0:
            return
