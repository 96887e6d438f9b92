"""Before the first tick: does the whole training fit into memory?"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from progan.nn import progressive
from progan.nn.families import Discriminator, Generator
from progan.nn.maps import Kernels
from progan.training.explicit import PLAIN, d_terms
from progan.training.steps import CriticLoss, Part, Where, d_gradients

PROGAN = CriticLoss()
HEADROOM = 1.3  # of the tensors that a step keeps, for those that come and go


def saved_bytes(G: Generator, D: Discriminator, stage: int, loss: CriticLoss = PROGAN) -> float:
    """Bytes that one image costs the readable D step of a fade to keep for its derivatives. G, D: on device meta,
    without data.
    """
    n, storages = 4, {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[id(storage)] = storage  # kept, so that the id stays its own
        return tensor

    meta = torch.device("meta")
    where = Where(stage, torch.zeros((), device=meta), n, n)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        d_gradients(G, D, random_part(G, stage, n, meta), where, loss)
    weights = {id(p.untyped_storage()) for net in (G, D) for p in net.parameters()}
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights) / n


def held_bytes(G: progressive.Generator, D: progressive.Discriminator, stage: int, kernels: Kernels = PLAIN) -> float:
    """Bytes that one more image of a large batch costs at the height of a D step of a fade, with derivatives written
    out (`explicit.d_terms`). G, D: on device meta, without data.
    """
    meta, heights = torch.device("meta"), []
    for n in (64, 128):  # in a small batch the weights may stand higher than the images
        where = Where(stage, torch.zeros((), device=meta), n, 4)
        with Height() as tensors:
            d_terms(G, D, random_part(G, stage, n, meta), where, PROGAN, kernels)
        heights.append(tensors.highest)
    return float(heights[1] - heights[0]) / 64


class Height(TorchDispatchMode):
    """Bytes of all tensors that have been made under it and are still in use: now, and at their highest."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.highest = 0
        self.known: Any = WeakIdKeyDictionary(ref_type=weakref.ref)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known:
            return
        self.known[storage] = True
        self.now += storage.nbytes()
        self.highest = max(self.highest, self.now)
        weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, nbytes: int) -> None:
        self.now -= nbytes


def fitting(batch: int, group: int, bytes_an_image: float, free: float) -> int:
    """The largest of `halvings` that fits: HEADROOM times its bytes are free. Where none does, one group."""
    return next((n for n in halvings(batch, group) if n * bytes_an_image * HEADROOM <= free), group)


def halvings(batch: int, group: int) -> Iterator[int]:
    """Micro-batches to try: the whole batch, then half of it, and so on down to one group; always whole groups."""
    yield batch
    while batch > group:
        batch = max(group, batch // 2 // group * group)
        yield batch


def random_part(G: Generator, stage: int, count: int, device: torch.device) -> Part:
    """A part of a batch for trial: its content does not matter. (Nothing of a run is drawn here.)"""
    resolution = 4 << stage
    return Part(
        torch.zeros(count, G.channels, resolution, resolution, device=device),
        torch.ones(count, G.latent_size, device=device),
        torch.full((count,), 0.5, device=device),
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory; only CUDA has a class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
