"""The only source of z. Latents are [N, latent_size] float32, each coordinate N(0, 1), and always drawn on the CPU,
so that every device sees the same numbers. A walk is a path of latents: a pure function of the frame index."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LatentPath = Callable[[Tensor], Tensor]  # frame indices [n] int64 -> z [n, cells, latent_size] float64


def sample_latents(count: int, latent_size: int, generator: torch.Generator) -> Tensor:
    """`count` independent draws of N(0, I) from `generator` (a CPU generator). -> [count, latent_size] float32, CPU."""
    return torch.randn(count, latent_size, generator=generator, dtype=torch.float32)


def latents_from_seeds(seeds: Sequence[int], latent_size: int) -> Tensor:
    """One latent a seed, each from a generator of its own: a seed's picture never depends on its neighbours.
    -> [len(seeds), latent_size] float32, CPU."""
    draws = [sample_latents(1, latent_size, torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(draws) if draws else torch.empty(0, latent_size)


def lerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """The straight line from a (t = 0) to b (t = 1), exact at both ends. a, b [..., D]; t [...] -> [..., D]."""
    weight = torch.as_tensor(t, dtype=a.dtype, device=a.device)
    return torch.lerp(a, b, weight.unsqueeze(-1))


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """The great-circle arc from a (t = 0) to b (t = 1), exact at both ends: the direction turns at constant speed, the
    norm changes linearly. Parallel vectors: the arc is a point. Opposite vectors have no single arc: a fixed one is
    taken. Computed in float64. a, b: [..., D]; t: number or [...] in [0, 1] -> [..., D] in a's dtype."""
    start, end = a.double(), b.double()
    weight = torch.as_tensor(t, dtype=torch.float64, device=a.device).unsqueeze(-1)  # [..., 1]
    return _on_arc(start, end, _arc(start, end), weight).to(a.dtype)


def _on_arc(a: Tensor, b: Tensor, arc: tuple[Tensor, Tensor, Tensor], t: Tensor) -> Tensor:
    """The point at t of the arc from a to b that `_arc` has measured. a, b: [..., D]; t: [..., 1] -> [..., D]."""
    u, v, angle = arc
    direction = torch.cos(t * angle) * u + torch.sin(t * angle) * v  # [..., D]
    point = torch.lerp(_norm(a), _norm(b), t) * direction
    return torch.where(t == 0, a, torch.where(t == 1, b, point))


def _arc(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(u, v, angle): the unit vector of a, the unit vector at right angles to it towards b, and the angle from a to b
    in radians, by Kahan's formula, accurate near 0 and near pi. a, b: [..., D] -> [..., D], [..., D], [..., 1]."""
    u, w = _unit(a), _unit(b)
    angle = 2 * torch.atan2(_norm(u - w), _norm(u + w))
    towards = w - (u * w).sum(-1, keepdim=True) * u
    v = _unit(torch.where(_norm(towards) > 1e-12, towards, _some_perpendicular(u)))
    return u, v, angle


def _some_perpendicular(u: Tensor) -> Tensor:
    """A vector at right angles to the unit vector u: the axis that u uses least, without its part along u."""
    axis = torch.zeros_like(u).scatter_(-1, u.abs().argmin(-1, keepdim=True), 1.0)
    return axis - (axis * u).sum(-1, keepdim=True) * u


def _norm(x: Tensor) -> Tensor:
    """Euclidean length over the last axis. [..., D] -> [..., 1]."""
    return x.square().sum(-1, keepdim=True).sqrt()


def _unit(x: Tensor) -> Tensor:
    """x scaled to length 1; zero stays zero."""
    return x / _norm(x).clamp_min(torch.finfo(x.dtype).tiny)


@dataclass(frozen=True)
class WalkPlan:
    """What a walk is asked to be. frames: its length; cells: how many paths run side by side (a grid's cells);
    loop: frame `frames` would be frame 0 again; fps turns smoothing_sec (of the smooth walk only) into frames."""

    seeds: Sequence[int]
    latent_size: int
    frames: int
    cells: int = 1
    loop: bool = True
    fps: float = 25.0
    smoothing_sec: float = 1.0


@dataclass(frozen=True)
class Walk:
    """`cells` paths of `frames` latents. `at` is a pure function of the indices, so any chunking gives the same walk
    and memory does not grow with its length."""

    frames: int
    cells: int
    path: LatentPath

    def at(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The latents of these frames. [n] integers in [0, frames) -> z [n, cells, latent_size] float32, CPU."""
        return self.path(torch.as_tensor(indices, dtype=torch.int64)).float()


def make_walk(name: str, plan: WalkPlan) -> Walk:
    """The walk called `name` in WALKS. ValueError, in one sentence, where name or plan cannot be a walk."""
    if name not in WALKS:
        raise ValueError(f"no walk is called {name!r}: choose one of {', '.join(WALKS)}")
    if plan.frames < 1 or plan.cells < 1:
        raise ValueError(f"a walk needs at least one frame and one cell, not {plan.frames} and {plan.cells}")
    return Walk(plan.frames, plan.cells, WALKS[name](plan))


def slerp_walk(plan: WalkPlan) -> LatentPath:
    """From seed to seed along great circles; every arc takes the same time. With loop the last seed leads back to the
    first; without, the last frame is the last seed. Cell c starts at the c-th seed, the seeds rotated."""
    keys, follow = _key_frames(plan)
    arcs = _arc(keys, keys[follow])

    def path(indices: Tensor) -> Tensor:
        here, there, t = _between(plan, indices)  # [n, cells], [n, cells], [n, 1, 1]
        u, v, angle = (part[here] for part in arcs)
        return _on_arc(keys[here], keys[there], (u, v, angle), t)

    return path


def lerp_walk(plan: WalkPlan) -> LatentPath:
    """As slerp_walk, along straight lines: halfway between two seeds the latents are shorter by about sqrt(2)."""
    keys, _ = _key_frames(plan)

    def path(indices: Tensor) -> Tensor:
        here, there, t = _between(plan, indices)
        return torch.lerp(keys[here], keys[there], t)

    return path


def _key_frames(plan: WalkPlan) -> tuple[Tensor, Tensor]:
    """The seeds' latents [K, latent_size] float64 and the index [K] of the key that follows each."""
    count = len(plan.seeds)
    if count < 2:
        raise ValueError(f"a walk from seed to seed needs at least 2 seeds, not {count}")
    if count < plan.cells:
        raise ValueError(f"{plan.cells} cells, each starting at its own seed, need at least as many seeds, not {count}")
    if plan.frames < count:
        raise ValueError(f"a walk through {count} seeds needs at least {count} frames, not {plan.frames}")
    return latents_from_seeds(plan.seeds, plan.latent_size).double(), (torch.arange(count) + 1) % count


def _between(plan: WalkPlan, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a frame lies: the key before it, the key after it, each [n, cells], and the way between, [n, 1, 1] in
    [0, 1). Integer arithmetic, so that frames on a key are exactly on it."""
    count = len(plan.seeds)
    arcs, steps = (count, plan.frames) if plan.loop else (count - 1, plan.frames - 1)
    travelled = indices * arcs  # in units of 1/steps of an arc
    here = (travelled // steps).unsqueeze(1) + torch.arange(plan.cells)  # [n, cells]
    t = (travelled % steps).double() / steps  # [n]
    return here % count, (here + 1) % count, t.view(-1, 1, 1)


def circle_walk(plan: WalkPlan) -> LatentPath:
    """Once round a great circle through the seed's own latent, at constant speed; one seed a cell. The second axis is
    the seed's next draw, turned to a right angle and cut to the same norm, so every point is N(0, I). Always closed."""
    _check_one_seed_a_cell("circle", plan)
    if not plan.loop:
        raise ValueError("a circle has no end: leave out --no-loop, or choose the walk slerp, lerp or smooth")
    first, second = torch.stack([_two_latents(seed, plan.latent_size) for seed in plan.seeds]).double().unbind(1)
    _, v, _ = _arc(first, second)  # [cells, latent_size]
    side = _norm(first) * v

    def path(indices: Tensor) -> Tensor:
        angle = (2 * math.pi * indices.double() / plan.frames).view(-1, 1, 1)
        return angle.cos() * first + angle.sin() * side

    return path


def _two_latents(seed: int, latent_size: int) -> Tensor:
    """The seed's own latent and its next draw. -> [2, latent_size] float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([sample_latents(1, latent_size, generator) for _ in range(2)])


def smooth_walk(plan: WalkPlan) -> LatentPath:
    """A stationary Gaussian process of unit variance, one seed a cell: white noise under a Gaussian filter of
    smoothing_sec seconds that wraps round, as in the official interpolation videos, but in continuous time: a finite
    Fourier series of Gaussian spectrum. Without loop its period is 6 smoothing_sec longer than the walk, so that the
    two ends are all but independent (correlation 2e-4). Memory: 1.4 * latent_size doubles a cell and smoothing_sec."""
    _check_one_seed_a_cell("smooth", plan)
    sigma = plan.smoothing_sec * plan.fps  # frames
    if not sigma > 0:
        raise ValueError(f"the smoothing must be longer than 0 seconds, not {plan.smoothing_sec}")
    period = plan.frames if plan.loop else plan.frames + 6 * sigma  # frames
    scales = _gaussian_spectrum(sigma / period)
    terms = [_fourier_series(seed, plan.latent_size, scales) for seed in plan.seeds]
    series = torch.stack(terms, 1)  # [2K+1, cells, latent_size]

    def path(indices: Tensor) -> Tensor:
        angles = 2 * math.pi * torch.outer(indices.double() / period, torch.arange(len(scales)))  # [n, K+1]
        waves = torch.cat([angles.cos(), angles[:, 1:].sin()], 1)  # [n, 2K+1]
        return torch.mm(waves, series.flatten(1)).view(-1, *series.shape[1:])  # [n, cells, latent_size]

    return path


def _gaussian_spectrum(width: float) -> Tensor:
    """Standard deviations of the waves 0..K of the filtered noise; `width` is the filter's sigma over the period.
    White noise filtered by exp(-t^2 / 2 sigma^2) has power exp(-(sigma w)^2). Waves below 1e-8 of the power are cut
    off, and the sum of the squares is 1: the variance of the series at every time. -> [K+1] float64."""
    last = math.ceil(math.sqrt(math.log(1e8)) / (2 * math.pi * width))
    power = torch.exp(-((2 * math.pi * width * torch.arange(last + 1, dtype=torch.float64)) ** 2))
    power[1:] *= 2  # the waves +k and -k together
    return (power / power.sum()).sqrt()


def _fourier_series(seed: int, latent_size: int, scales: Tensor) -> Tensor:
    """Random coefficients of cos 0, ..., cos K, sin 1, ..., sin K, from the seed. -> [2K+1, latent_size] float64."""
    amplitudes = torch.cat([scales, scales[1:]])
    draws = sample_latents(len(amplitudes), latent_size, torch.Generator().manual_seed(seed))
    return draws.double() * amplitudes.unsqueeze(1)


def _check_one_seed_a_cell(name: str, plan: WalkPlan) -> None:
    """ValueError unless there are as many seeds as cells."""
    if len(plan.seeds) != plan.cells:
        raise ValueError(f"a {name} walk takes one seed a cell: {plan.cells} cells, but {len(plan.seeds)} seeds")


WALKS: dict[str, Callable[[WalkPlan], LatentPath]] = {
    "slerp": slerp_walk,
    "lerp": lerp_walk,
    "smooth": smooth_walk,
    "circle": circle_walk,
}
