"""Laws of the latents: seeds stand alone, slerp and lerp end exactly, walks are functions of the index and close."""

import math

import pytest
import torch

from progan import latents
from progan.latents import WALKS, WalkPlan, latents_from_seeds, lerp, make_walk, sample_latents, slerp

D = 64


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pair(seed: int = 0, size: int = D) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = sample_latents(2, size, _generator(seed))
    return a, b


def _walk(name: str, frames: int, **changes: object) -> torch.Tensor:
    """All frames of a walk at once: [frames, cells, D]."""
    cells = int(changes.get("cells", 1))  # type: ignore[call-overload]
    seeds = range(cells) if name in ("smooth", "circle") else range(max(4, cells))
    walk = make_walk(name, WalkPlan(**{"seeds": list(seeds), "latent_size": D, "frames": frames, **changes}))  # type: ignore[arg-type]
    return walk.at(range(frames))


def _unit_steps(z: torch.Tensor) -> torch.Tensor:
    """Lengths of the steps n -> n+1 (the last one back to the first) of unit-normalised latents. -> [frames, cells]."""
    unit = z.double() / z.double().norm(dim=-1, keepdim=True)
    return (unit.roll(-1, 0) - unit).norm(dim=-1)


# --- draws ---


def test_latents_are_standard_normal_and_a_function_of_the_generator():
    z = sample_latents(2000, D, _generator(3))
    assert z.shape == (2000, D)
    assert z.dtype == torch.float32
    assert z.device.type == "cpu"
    assert abs(z.mean().item()) < 0.01  # standard error 0.0028
    assert 0.98 < z.var().item() < 1.02  # standard error 0.004
    assert torch.equal(z, sample_latents(2000, D, _generator(3)))


def test_a_seed_does_not_depend_on_its_neighbours():
    alone = latents_from_seeds([7], D)
    assert torch.equal(latents_from_seeds([3, 7, 11], D)[1:2], alone)
    assert torch.equal(alone, sample_latents(1, D, _generator(7)))
    assert not torch.equal(alone, latents_from_seeds([8], D))
    assert latents_from_seeds([], D).shape == (0, D)


# --- lerp and slerp ---


@pytest.mark.parametrize("between", [lerp, slerp])
@pytest.mark.parametrize("size", [1, 2, 512])
def test_ends_are_exact(between, size):
    a, b = _pair(1, size)
    assert torch.equal(between(a, b, 0.0), a)
    assert torch.equal(between(a, b, 1.0), b)
    assert torch.equal(between(a, b, torch.tensor(1.0)), b)
    assert torch.equal(between(a.double() / 3, b.double() / 3, 1.0), b.double() / 3)


def test_slerp_keeps_equal_norms_where_lerp_does_not():
    a, b = _pair(2)
    b = b * (a.norm() / b.norm())
    t = torch.linspace(0, 1, 21)
    norms = slerp(a.expand(21, D), b.expand(21, D), t).norm(dim=-1)
    assert torch.allclose(norms, a.norm().expand(21), rtol=2e-7, atol=0)
    assert lerp(a, b, 0.5).norm() < 0.9 * a.norm()


def test_slerp_turns_at_constant_speed_and_stays_in_the_plane():
    a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    points = slerp(a.expand(4, 3), b.expand(4, 3), torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]))
    degrees = torch.atan2(points[:, 1], points[:, 0]).rad2deg()
    assert torch.allclose(degrees, torch.tensor([0.0, 30.0, 60.0, 90.0]), atol=1e-5)
    assert torch.allclose(points.norm(dim=-1), torch.tensor([2.0, 5 / 3, 4 / 3, 1.0]), atol=1e-6)
    assert points[:, 2].abs().max() == 0


def test_slerp_equals_shoemakes_formula():
    a, b = (x.double() / x.double().norm() for x in _pair(3))
    angle = torch.arccos(a @ b)
    for t in (0.1, 0.5, 0.77):
        expected = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
        assert torch.allclose(slerp(a, b, t), expected, atol=1e-14, rtol=0)


def test_slerp_of_nearly_parallel_vectors_is_lerp_to_float32():
    a, noise = _pair(4)
    for scale in (0.0, 1e-7, 1e-4):
        b = a + scale * noise
        assert torch.allclose(slerp(a, b, 0.3), lerp(a, b, 0.3), atol=5e-7, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-3])
def test_slerp_of_nearly_opposite_vectors_goes_round_not_through_the_middle(scale):
    a, noise = _pair(5)
    b = -a + scale * noise
    middle = slerp(a, b, 0.5)
    assert torch.isfinite(middle).all()
    assert 0.99 < (middle.norm() / a.norm()).item() < 1.01
    assert abs(torch.nn.functional.cosine_similarity(middle, a, dim=0).item()) < 2e-3
    assert torch.equal(slerp(a, b, 1.0), b)


def test_slerp_of_zero_and_of_one_dimension_is_finite():
    a, _ = _pair(6)
    assert torch.isfinite(slerp(torch.zeros(D), a, torch.tensor(0.5))).all()
    assert torch.isfinite(slerp(torch.ones(1), -torch.ones(1), 0.5)).all()


# --- walks ---


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("loop", [True, False])
def test_chunks_equal_the_whole(name, loop):
    if name == "circle" and not loop:
        pytest.skip("a circle is always closed")
    walk = make_walk(name, WalkPlan([0, 1, 2], D, frames=37, cells=3, loop=loop, fps=10))
    whole = walk.at(range(37))
    assert whole.shape == (37, 3, D)
    assert whole.dtype == torch.float32
    for size in (1, 5, 36):
        chunks = [walk.at(range(k, min(k + size, 37))) for k in range(0, 37, size)]
        assert torch.allclose(torch.cat(chunks), whole, atol=5e-7, rtol=0)
    assert torch.allclose(walk.at([30, 2]), whole[[30, 2]], atol=5e-7, rtol=0)


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("frames", [48, 50, 51])
def test_loops_close_no_step_larger_than_the_others(name, frames):
    steps = _unit_steps(_walk(name, frames, cells=2, fps=10))
    assert (steps[-1] <= steps[:-1].max(0).values * (1 + 1e-5)).all()
    assert (steps[-1] > 0.2 * steps[:-1].mean(0)).all()  # nor does it stand still


@pytest.mark.parametrize("name", ["slerp", "lerp", "smooth"])
def test_an_open_walk_does_not_come_back(name):
    steps = _unit_steps(_walk(name, 120, loop=False, fps=10))
    assert steps[-1].item() > 5 * steps[:-1].max().item()


@pytest.mark.parametrize("name", ["slerp", "lerp"])
def test_key_walks_visit_the_seeds_exactly_each_cell_from_its_own(name):
    keys = latents_from_seeds(range(4), D)
    looped, opened = _walk(name, 40, cells=2), _walk(name, 31, cells=2, loop=False)
    for k in range(4):
        for cell in (0, 1):
            assert torch.equal(looped[10 * k, cell], keys[(k + cell) % 4])
            assert torch.equal(opened[10 * k, cell], keys[(k + cell) % 4])
    assert torch.equal(opened[-1, 0], keys[3])
    assert torch.equal(
        looped[5, 0], (slerp if name == "slerp" else lerp)(keys[0].double(), keys[1].double(), 0.5).float()
    )


def test_slerp_walk_has_the_same_speed_on_all_of_an_arc():
    steps = _unit_steps(_walk("slerp", 40))[:, 0]
    for arc in steps.view(4, 10):
        assert torch.allclose(arc, arc[0].expand(10), rtol=1e-5)


def test_circle_starts_at_the_seed_and_keeps_norm_and_speed():
    z = _walk("circle", 45, cells=2)
    first = latents_from_seeds([0, 1], D)
    assert torch.allclose(z[0], first, atol=1e-6)
    assert torch.allclose(z.norm(dim=-1), first.norm(dim=-1).expand(45, 2), rtol=1e-6)
    assert torch.allclose(_unit_steps(z), torch.tensor(2 * math.sin(math.pi / 45), dtype=torch.float64), rtol=1e-5)


@pytest.mark.parametrize("name", ["circle", "smooth"])
def test_coordinates_are_standard_normal_at_every_time(name):
    plan = WalkPlan(range(3000), 4, frames=60, cells=3000, fps=10)
    z = make_walk(name, plan).at([0, 7, 29])  # [3, 3000 walks, 4]
    assert torch.allclose(z.mean((1, 2)), torch.zeros(3), atol=0.04)  # standard error 0.009
    assert torch.allclose(z.var((1, 2)), torch.ones(3), atol=0.06)  # standard error 0.013


@pytest.mark.parametrize("width", [0.01, 0.1, 0.5, 3.0])
def test_smooth_series_has_unit_variance_exactly(width):
    assert abs(latents._gaussian_spectrum(width).square().sum().item() - 1) < 1e-12


def test_smooth_walk_has_the_covariance_of_gaussian_filtered_noise():
    """Covariance at a lag: exp(-lag^2 / 4 sigma^2), sigma 1 s = 10 frames, over a period much longer than that."""
    z = make_walk("smooth", WalkPlan([5], 2000, frames=300, fps=10)).at([0, 10, 20, 60])[:, 0]  # [4, 2000]
    covariance = (z[0] * z).mean(-1) / z[0].square().mean()
    expected = torch.tensor([1.0, math.exp(-0.25), math.exp(-1.0), math.exp(-9.0)])
    assert torch.allclose(covariance, expected, atol=0.06)  # standard error about 0.022


def test_smooth_walk_is_periodic_and_slower_with_more_smoothing():
    path = make_walk("smooth", WalkPlan([5], D, frames=100, fps=10)).path
    assert torch.allclose(path(torch.tensor([3])), path(torch.tensor([103])), atol=1e-9)
    fast, slow = (_unit_steps(_walk("smooth", 200, fps=10, smoothing_sec=s)).mean() for s in (0.5, 2.0))
    assert 3 < fast / slow < 5


def test_memory_of_a_walk_does_not_grow_with_its_frame_rate():
    """An hour at 1000 frames a second: the millionth frame costs what the first does."""
    walk = make_walk("slerp", WalkPlan(range(5), D, frames=3_600_000))
    assert walk.at([3_599_999]).shape == (1, 1, D)
    series = latents._gaussian_spectrum(1.0 / 60)
    assert len(series) == len(latents._gaussian_spectrum(1000.0 / 60_000)) < 60


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("spiral", {}, "no walk is called 'spiral': choose one of slerp, lerp, smooth, circle"),
        ("slerp", {"seeds": [1]}, "at least 2 seeds, not 1"),
        ("lerp", {"cells": 5}, "5 cells"),
        ("slerp", {"frames": 3}, "at least 4 frames, not 3"),
        ("slerp", {"frames": 0}, "at least one frame"),
        ("smooth", {}, "one seed a cell: 1 cells, but 4 seeds"),
        ("circle", {"cells": 5}, "one seed a cell: 5 cells, but 4 seeds"),
        ("circle", {"seeds": [1], "loop": False}, "--no-loop"),
        ("smooth", {"seeds": [1], "smoothing_sec": 0.0}, "longer than 0 seconds"),
    ],
)
def test_what_cannot_be_a_walk_says_why(name, changes, words):
    plan = WalkPlan(**{"seeds": [0, 1, 2, 3], "latent_size": D, "frames": 20} | changes)
    with pytest.raises(ValueError, match=words):
        make_walk(name, plan)
