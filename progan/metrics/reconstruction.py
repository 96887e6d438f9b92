"""Reconstruction error: how near a generator comes to pictures that it has not learnt from.

Xiang & Li 2017 (arXiv 1704.03971): the mean, over pictures x, of the least squared error that any latent z has,
min_z |G(z) - x|^2. The least is looked for by gradient descent on z, so it is an upper bound, and a function of how
long and from where one looks: numbers of different searches do not compare.

The search is that of the authors' code: RMSprop(rate 0.01, alpha 0.9, eps 1e-6), 50 steps, one start. Errors are means
over a picture's values in [0, 1], as there; the paper's formula is their sum, and pictures in [-1, 1] give 4 times as
much. Two things differ:

- The authors take the mean over the batch as the loss, which makes eps, and with it the result, depend on the batch.
  Here each picture has its own loss. Beyond rounding, nothing depends on which pictures share a batch.
- They start from z = 0. A generator that normalises its latents has no picture there, and a slope of 1e4: its search
  starts from a draw of N(0, I), and what it finds is brought to the sphere of radius sqrt(latent_size), near which such
  draws lie. The generator does not see the difference.

They report the error after the last step, which is `last` here; `error` is the least of all steps.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Make = Callable[[Tensor], Tensor]
"""A generator: z [N, latent_size] -> images [N, C, R, R], around -1..1, on z's device and in its dtype."""

OnStep = Callable[[int, int, Tensor, Tensor], None]
"""Called with (start, step, z [N, latent_size], errors [N]) for the steps 0 (the start itself) to `steps`."""

Pictures = Iterable[Tensor]
"""Batches of uint8 pixels [n, C, R, R]."""

FEWEST_PICTURES = 2


@dataclass(frozen=True)
class Search:
    """How latents are looked for. ValueError for what cannot be.

    restarts: how many starts are tried, 1 at least; the first ones of more are the same. lr, alpha, eps: of RMSprop.
    start: one of STARTS. fall: what the rate is multiplied by until the last step, geometrically; 1 is no fall.
    """

    steps: int = 50
    restarts: int = 1
    lr: float = 0.01
    alpha: float = 0.9
    eps: float = 1e-6
    seed: int = 0
    start: str = "auto"
    fall: float = 1.0

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"no start is called {self.start!r}: choose one of {', '.join(STARTS)}")
        if self.steps < 0 or self.restarts < 1:
            raise ValueError(f"a search takes 0 steps or more, from 1 start or more, not {self.steps}, {self.restarts}")
        if not (self.lr > 0 and self.eps > 0 and 0 <= self.alpha < 1 and 0 < self.fall <= 1):
            raise ValueError("of a search, lr and eps are above 0, alpha is in 0..1 (below 1), fall in 0..1 (above 0)")

    def rate(self, step: int) -> float:
        """The rate of the update after a step, 0 to steps - 1: from lr to lr * fall."""
        return float(self.lr * self.fall ** (step / max(1, self.steps - 1)))


@dataclass(frozen=True)
class Reconstruction:
    """What a search found for N pictures. Errors are means over a picture's values, in [0, 1]."""

    z: Tensor  # [N, latent_size] the best of all steps; with normalised latents of norm sqrt(latent_size)
    images: Tensor  # [N, C, R, R] G(z)
    error: Tensor  # [N] of z
    last: Tensor  # [N] after the last step, of the start where that is least
    history: Tensor  # [steps + 1, N] from the start that z was found from
    restart: Tensor  # [N] int64 which start that is
    norm: Tensor  # [N] |z| / sqrt(latent_size), about 1 for N(0, I); before z is brought to that norm


def reconstruct(
    G: Make,
    images: Tensor,
    latent_size: int,
    search: Search,
    normalised: bool,
    numbers: Sequence[int] | None = None,
    on_step: OnStep | None = None,
) -> Reconstruction:
    """Look for the latents of images. Equal arguments, equal results.

    images: float [N, C, R, R], -1..1; the search is in their dtype and on their device. normalised: whether G
    normalises latents. numbers: [N] what each picture's starts are drawn by, beside the seed; default 0, 1, 2 ...
    No picture's result depends on the others, as far as G itself rounds alike in batches of every size.
    ValueError: G is (a partial of) a module in training mode, the start does not suit, G's images are not finite.
    """
    numbers = range(len(images)) if numbers is None else numbers
    descents = []
    with frozen(G):
        for restart in range(search.restarts):
            z = starts(search, normalised, numbers, restart, latent_size).to(images)
            notice = functools.partial(on_step, restart) if on_step else ignore
            descents.append(descend(G, images, z, search, notice))
        return best_of(G, descents, normalised)


def reconstruction_error(
    G: Make,
    pictures: Pictures,
    latent_size: int,
    search: Search,
    normalised: bool,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """The metric of a set of pictures, which G should not have learnt from. batch: how many are searched for at once.

    reconstruction: mean over pictures and values of the least squared error found, in [0, 1]. reconstruction_11: the
    same of values in [-1, 1]. reconstruction_sum: the sum over a picture's values, in [0, 1]. reconstruction_last: as
    the first, after the last step. reconstruction_error: standard error of the first. latent_norm: mean
    |z| / sqrt(latent_size), where the search left z. ValueError: see `reconstruct`, or fewer than 2 pictures.
    """
    found: list[Reconstruction] = []
    count = values = 0
    for pixels in (part for whole in pictures for part in torch.split(whole, batch)):
        images = pixels.to(device, torch.float32) / 127.5 - 1
        numbers = range(count, count + len(images))
        found.append(reconstruct(G, images, latent_size, search, normalised, numbers))
        count, values = count + len(images), images[0].numel()
    if count < FEWEST_PICTURES:
        raise ValueError(f"the reconstruction error takes {FEWEST_PICTURES} pictures or more, not {count}.")
    return summary(found, values)


def summary(found: Sequence[Reconstruction], values: int) -> dict[str, float]:
    """The metric's numbers. values: C * R * R of a picture."""
    error, last, norm = (torch.cat([getattr(part, name) for part in found]).double() for name in SUMMED)
    mean = float(error.mean())
    return {
        "reconstruction": mean,
        "reconstruction_11": 4 * mean,
        "reconstruction_sum": values * mean,
        "reconstruction_last": float(last.mean()),
        "reconstruction_error": float(error.std()) / math.sqrt(len(error)),
        "latent_norm": float(norm.mean()),
    }


SUMMED = ("error", "last", "norm")


# ---- starts


def drawn_start(seed: int, number: int, restart: int, latent_size: int) -> Tensor:
    """A draw of N(0, I) of its own for each (seed, number, restart), the same on every device. -> [latent_size]."""
    digest = hashlib.blake2b(f"{seed}/reconstruction/{number}/{restart}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(latent_size, generator=generator)


def zero_start(normalised: bool, restart: int) -> bool:
    """Zeros first, then draws. ValueError where latents are normalised."""
    if normalised:
        raise ValueError("normalised latents have no direction at zero: start from auto or normal")
    return restart == 0


STARTS: dict[str, Callable[[bool, int], bool]] = {
    "auto": lambda normalised, restart: restart == 0 and not normalised,
    "zeros": zero_start,
    "normal": lambda normalised, restart: False,
}
"""Whether a start is 0, of (normalised, restart); all others are drawn from N(0, I)."""


def starts(search: Search, normalised: bool, numbers: Sequence[int], restart: int, latent_size: int) -> Tensor:
    """Where the search for each picture starts for the `restart`-th time. -> [N, latent_size] float32, CPU."""
    if STARTS[search.start](normalised, restart):
        return torch.zeros(len(numbers), latent_size)
    return torch.stack([drawn_start(search.seed, number, restart, latent_size) for number in numbers])


# ---- descent


@dataclass(frozen=True)
class Descent:
    """From one start: the best z of all steps [N, latent_size], its error [N], errors of all steps [steps + 1, N]."""

    z: Tensor
    error: Tensor
    history: Tensor


def descend(
    G: Make, images: Tensor, start: Tensor, search: Search, notice: Callable[[int, Tensor, Tensor], None]
) -> Descent:
    """One search from one start. notice: called with (step, z, errors)."""
    best, least, history = start, torch.full_like(start[:, 0], math.inf), []
    for step, (z, error) in enumerate(path(G, images, start, search)):
        better = error < least
        best, least = torch.where(better[:, None], z, best), torch.where(better, error, least)
        history.append(error)
        notice(step, z, error)
    if not least.isfinite().all():
        raise ValueError("the generator's images are not finite")
    return Descent(best, least, torch.stack(history))


def path(G: Make, images: Tensor, z: Tensor, search: Search) -> Iterator[tuple[Tensor, Tensor]]:
    """(z [N, latent_size], errors [N]) of the steps 0 to `steps` of RMSprop, coordinate by coordinate."""
    square = torch.zeros_like(z)
    for step in range(search.steps):
        error, slope = error_and_slope(G, images, z)
        yield z, error
        square = search.alpha * square + (1 - search.alpha) * slope.square()
        z = z - search.rate(step) * slope / (square.sqrt() + search.eps)
    with torch.no_grad():
        error = errors(G(z), images)
    yield z, error


def error_and_slope(G: Make, images: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Errors [N], and the slope of each by its own z [N, latent_size]: of a sum, no error knows of the others."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        error = errors(G(z), images)
        (slope,) = torch.autograd.grad(error.sum(), z)
    return error.detach(), slope


def errors(made: Tensor, images: Tensor) -> Tensor:
    """Mean squared difference of each image's values in [0, 1]. [N, C, R, R] in -1..1, twice -> [N]."""
    return (made - images).square().flatten(1).mean(1) / 4


def best_of(G: Make, descents: Sequence[Descent], normalised: bool) -> Reconstruction:
    """For each picture the start that led to its least error."""
    restart = torch.stack([descent.error for descent in descents]).argmin(0)  # [N]
    place = torch.arange(len(restart), device=restart.device)
    z = torch.stack([descent.z for descent in descents])[restart, place]
    error = torch.stack([descent.error for descent in descents])[restart, place]
    history = torch.stack([descent.history for descent in descents])[restart, :, place].T
    last = torch.stack([descent.history[-1] for descent in descents]).amin(0)
    norm = z.square().mean(1).sqrt()
    z = on_sphere(z) if normalised else z
    with torch.no_grad():
        return Reconstruction(z, G(z), error, last, history, restart, norm)


def on_sphere(z: Tensor) -> Tensor:
    """In the same direction, of norm sqrt(latent_size). [N, latent_size] -> same shape."""
    return z / z.square().mean(1, keepdim=True).sqrt()


def ignore(step: int, z: Tensor, error: Tensor) -> None:
    """Nobody looks."""


# ---- the generator meanwhile


def module_of(G: Make) -> nn.Module | None:
    """The module that a generator is, or that it is a partial of; None for other functions."""
    while isinstance(G, functools.partial):
        G = G.func
    return G if isinstance(G, nn.Module) else None


@contextlib.contextmanager
def frozen(G: Make) -> Iterator[None]:
    """G's parameters take no gradient inside, and afterwards as before. ValueError where it is in training mode, in
    which batch norms and power iterations would move, and pictures depend on their neighbours.
    """
    module = module_of(G)
    if module and any(part.training for part in module.modules()):
        raise ValueError(
            "the generator is in training mode: its pictures would depend on each other; call eval() first"
        )
    learning = [p for p in module.parameters() if p.requires_grad] if module else []
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
