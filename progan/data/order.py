"""Which picture is shown when: pure functions of (seed, cur_nimg), so that a run that goes on needs no history."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from progan import seeds
from progan.data.source import Array, Labels
from progan.errors import UserError

Draw = Callable[[torch.Generator], Tensor]
"""One piece of an endless row: [length] int64."""

TURNS = 4096  # classes drawn at once


@dataclass(frozen=True)
class Row:
    """An endless row of numbers, made of pieces of one length, each drawn by itself. The last two are kept."""

    stream: str  # of the seed
    length: int  # of a piece
    draw: Draw

    def part(self, seed: int, start: int, count: int) -> Tensor:
        """Numbers start .. start + count - 1 of the row: [count] int64, a copy. count: at least 1."""
        pieces = range(start // self.length, (start + count - 1) // self.length + 1)
        begins = {piece: start - piece * self.length for piece in pieces}
        return torch.cat([self._piece(seed, p)[max(0, at) : at + count] for p, at in begins.items()])

    @functools.cached_property
    def _piece(self) -> Callable[[int, int], Tensor]:
        def drawn(seed: int, piece: int) -> Tensor:
            return self.draw(seeds.generator(seed, self.stream, piece))

        return functools.lru_cache(maxsize=2)(drawn)


def shuffles(stream: str, count: int) -> Row:
    """A row of permutations of 0..count-1, one an epoch."""
    return Row(stream, count, lambda generator: torch.randperm(count, generator=generator))


def turns(classes: int) -> Row:
    """A row in which every block of `classes` numbers holds each of 0..classes-1 once, in a random order."""
    blocks = max(1, TURNS // classes)

    def draw(generator: torch.Generator) -> Tensor:
        keys = torch.rand(blocks, classes, generator=generator, dtype=torch.float64)
        return keys.argsort(dim=1, stable=True).flatten()

    return Row("classes", blocks * classes, draw)


@functools.lru_cache(maxsize=2)
def _epochs(count: int) -> Row:
    return shuffles("order", count)


def batch_indices(seed: int, cur_nimg: int, batch: int, count: int) -> Tensor:
    """Which of `count` pictures the step at cur_nimg shows: [batch] int64. Each epoch shows every picture once.

    Positions cur_nimg .. cur_nimg + batch - 1 of an endless row of permutations of 0..count-1, one an epoch.
    """
    return _epochs(count).part(seed, cur_nimg, batch)


@dataclass(frozen=True, eq=False)
class Order:
    """The pictures in use and the order in which a run shows them.

    Where `members` is empty each epoch shows every picture once. Else it holds the pictures of each of K classes: each
    block of K positions shows every class once, and each epoch of a class shows each of its pictures once.
    """

    chosen: Tensor  # numbers of the pictures in use, ascending
    members: tuple[Tensor, ...] = ()

    @property
    def count(self) -> int:
        """Pictures in use."""
        return len(self.chosen)

    def first(self, count: int) -> Tensor:
        """The first pictures in use, from the beginning again where there are fewer: [count] numbers."""
        return self.chosen[torch.arange(count) % self.count]

    def indices(self, seed: int, cur_nimg: int, batch: int) -> Tensor:
        """Numbers of the pictures at positions cur_nimg .. cur_nimg + batch - 1: [batch] int64, a pure function."""
        if self.members:
            return self._balanced(seed, cur_nimg, batch)
        return self.chosen[batch_indices(seed, cur_nimg, batch, self.count)]

    def _balanced(self, seed: int, cur_nimg: int, batch: int) -> Tensor:
        classes, rows = self._rows
        order, blocks = classes.part(seed, cur_nimg, batch), torch.arange(cur_nimg, cur_nimg + batch) // len(rows)
        shown = torch.empty(batch, dtype=torch.int64)
        for number in np.unique(order.numpy()).tolist():
            mine = order == number
            first, count = int(blocks[mine][0]), int(mine.sum())  # its turns are blocks without a gap
            shown[mine] = self.members[number][rows[number].part(seed, first, count)]
        return shown

    @functools.cached_property
    def _rows(self) -> tuple[Row, list[Row]]:
        """The row of the classes, and each class's own of its pictures."""
        own = [shuffles(f"order of class {number}", len(members)) for number, members in enumerate(self.members)]
        return turns(len(own)), own


def order_of(
    count: int,
    labels: Labels | None = None,
    max_images: int = 0,
    subset: Collection[str] = (),
    balance: bool = False,
) -> Order:
    """The order of a run over `count` pictures: of the classes named in `subset` (empty: all) the first max_images
    (0: all), each class equally often where `balance` says so.

    Raises UserError where there are no classes to choose or to balance, and where a name is none of them.
    """
    chosen = np.arange(count)
    if subset:
        chosen = _of_classes(_classes(labels, "data.labels"), subset)
    chosen = chosen[: max_images or None]
    if not balance:
        return Order(torch.from_numpy(chosen))
    values = _classes(labels, "data.balance").values[chosen]
    return Order(torch.from_numpy(chosen), tuple(torch.from_numpy(chosen[values == n]) for n in np.unique(values)))


def _classes(labels: Labels | None, key: str) -> Labels:
    """The labels, if they are classes."""
    if labels is not None and labels.names:
        return labels
    found = "no labels" if labels is None else "vectors as labels, no classes"
    raise UserError(
        f"{key} asks for classes, but the data has {found}; leave it out, or prepare the data from one folder a class."
    )


def _of_classes(labels: Labels, subset: Collection[str]) -> Array:
    """Numbers of the pictures of some classes, ascending."""
    for name in subset:
        if name not in labels.names:
            raise UserError(f"data.labels: the data has no class `{name}`{_nearest(name, labels.names)}.")
        if not (labels.values == labels.names.index(name)).any():
            raise UserError(f"data.labels: the class `{name}` is empty; choose another one.")
    return np.flatnonzero(np.isin(labels.values, [labels.names.index(name) for name in subset]))


def _nearest(name: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; there are {', '.join(names[:20])}" + (f" and {len(names) - 20:,} more" if len(names) > 20 else "")


def share(batch: int, group: int, rank: int, world: int) -> Tensor:
    """Sample numbers of one of `world` processes: whole minibatch-stddev groups, laid out as `training.steps.split`
    does. Sample n of the batch is in group n mod batch/group; process `rank` takes groups rank, rank + world, ...

    Raises ValueError where the groups do not make up the batch, or do not go round.
    """
    if batch % group:
        raise ValueError(f"groups of {group} do not make up a batch of {batch}")
    if not 0 <= rank < world <= batch // group:
        raise ValueError(f"process {rank} of {world} has no share of {batch // group} groups")
    return torch.arange(batch).reshape(group, batch // group)[:, rank::world].flatten()
