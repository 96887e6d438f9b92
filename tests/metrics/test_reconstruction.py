"""Laws of the reconstruction error: what it is, where it is 0, and that no picture's search knows of another's."""

import dataclasses
import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from progan.metrics.reconstruction import (
    STARTS,
    Search,
    errors,
    on_sphere,
    reconstruct,
    reconstruction_error,
    starts,
)
from progan.nn.ops import pixel_norm
from progan.nn.progressive import Generator

SHAPE = (3, 2, 2)
SIZE = 12  # values of such a picture, and coordinates of z: a square matrix between them


def _draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear:
    """An invertible generator without rounding that depends on the batch. Remembers the sizes of its batches."""

    def __init__(self, seed=1):
        self.matrix = torch.linalg.qr(_draws(SIZE, SIZE, seed=seed))[0] * torch.linspace(0.5, 1, SIZE).double()
        self.calls = []

    def __call__(self, z):
        self.calls.append(len(z))
        return (z[:, None, :] * self.matrix).sum(2).reshape(-1, *SHAPE)


def _square(z):
    """A generator with 2^12 equally good latents a picture, and a flat place at 0."""
    return (z.square() - 1).reshape(-1, *SHAPE)


def _waves(z):
    """A generator with many bad minima."""
    return torch.sin(3 * z + 1).reshape(-1, *SHAPE)


def _network(seed=3):
    """A small convolutional generator in float64."""
    torch.manual_seed(seed)
    layers = nn.Linear(8, 64), nn.Unflatten(1, (4, 4, 4)), nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2)
    return nn.Sequential(*layers, nn.Conv2d(4, 3, 3, padding=1)).double().eval()


def _tiny(max_res=8, fmap_max=8):
    """The progressive generator: normalised latents."""
    G = Generator(max_res=max_res, latent_size=8, fmap_base=4 * fmap_max, fmap_max=fmap_max)
    G.reset_parameters(torch.Generator().manual_seed(1))
    return G.double().eval()


# --- the definition ---


def test_error_is_the_mean_square_of_values_from_0_to_1():
    black, white = -torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    white[1] = -1
    white[1, 0, 0, 0] = 0.5
    assert errors(white, black).tolist() == [1.0, pytest.approx(0.75**2 / 48)]


def test_an_invertible_linear_generator_makes_every_picture():
    G, images = Linear(), _draws(5, *SHAPE).clamp(-1, 1)
    found = reconstruct(G, images, SIZE, Search(steps=1500, lr=0.05, fall=1e-5), normalised=False)
    assert (found.error < 1e-8).all()
    assert (found.last < 1e-8).all()
    solved = torch.linalg.solve(G.matrix, images.flatten(1).T).T
    assert torch.allclose(found.z, solved, atol=1e-3)
    assert (found.error > 0).all()  # it was looked for


@pytest.mark.parametrize("fall", [1.0, 0.01])
def test_the_search_is_torchs_rmsprop_on_one_picture(fall):
    G, image = _network(), _draws(1, 3, 8, 8)
    search = Search(steps=30, lr=0.1, fall=fall, eps=1e-4)
    z = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.RMSprop([z], lr=0.1, alpha=0.9, eps=1e-4)
    expected = []
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.1 * fall ** (step / 29)
        loss = F.mse_loss((G(z) + 1) / 2, (image + 1) / 2)
        expected.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected.append(float(F.mse_loss((G(z) + 1) / 2, (image + 1) / 2).detach()))
    history = reconstruct(G, image, 8, search, normalised=False).history[:, 0].tolist()
    assert history == pytest.approx(expected, rel=1e-9)
    assert history[-1] < 0.96 * history[0]


def test_defaults_are_the_authors():
    assert dataclasses.astuple(Search()) == (50, 1, 0.01, 0.9, 1e-6, 0, "auto", 1.0)
    assert Search().rate(0) == Search().rate(49) == 0.01


def test_a_picture_of_the_generator_is_found():
    search = Search(steps=200, restarts=6, lr=0.1, fall=1e-3, start="normal")
    own = _square(_draws(4, SIZE))
    assert (reconstruct(_square, own, SIZE, search, normalised=False).error < 1e-5).all()
    G = _tiny(max_res=4, fmap_max=64)
    found = reconstruct(G, G(_draws(2, 8, seed=5)).detach(), 8, search, normalised=True)
    assert (found.error < 1e-4).all()
    assert (found.error < found.history[0] / 100).all()


# --- each picture for itself ---


def test_a_batch_changes_nothing_to_the_bit_where_g_rounds_alike():
    images = _draws(5, *SHAPE)
    search = Search(steps=40, restarts=2, lr=0.05)
    whole = reconstruct(Linear(), images, SIZE, search, normalised=False)
    for n in range(5):
        alone = reconstruct(Linear(), images[n : n + 1], SIZE, search, normalised=False, numbers=[n])
        assert torch.equal(alone.z[0], whole.z[n])
        assert torch.equal(alone.history[:, 0], whole.history[:, n])
        assert alone.last == whole.last[n]


@pytest.mark.parametrize("normalised", [False, True])
def test_a_batch_changes_rounding_only(normalised):
    """Convolutions sum in another order in batches of another size; hence float64, and 1e-6."""
    G, images = (_tiny() if normalised else _network()), _draws(6, 3, 8, 8)
    search = Search(steps=50, restarts=2)
    whole = reconstruct(G, images, 8, search, normalised)
    for chosen in ([0], [4], [5, 1], [1, 2, 3]):
        part = reconstruct(G, images[chosen], 8, search, normalised, numbers=chosen)
        assert torch.allclose(part.error, whole.error[chosen], rtol=1e-6, atol=0)
        assert torch.allclose(part.z, whole.z[chosen], rtol=1e-6, atol=1e-9)


def test_numbers_decide_the_starts_and_places_do_not():
    images, search = _draws(3, *SHAPE), Search(steps=5, start="normal")
    found = reconstruct(Linear(), images, SIZE, search, normalised=False)
    turned = reconstruct(Linear(), images.flip(0), SIZE, search, normalised=False, numbers=[2, 1, 0])
    assert torch.equal(turned.z.flip(0), found.z)
    same = reconstruct(Linear(), images[:1].repeat(3, 1, 1, 1), SIZE, search, normalised=False, numbers=[7, 7, 7])
    assert torch.equal(same.z[0], same.z[2])


def test_the_same_seed_the_same_result_and_another_another():
    images = _draws(2, *SHAPE)

    def found(seed):
        return reconstruct(_waves, images, SIZE, Search(steps=5, seed=seed, start="normal"), normalised=False).z

    before = torch.get_rng_state()
    first = found(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(found(1), first)
    assert not torch.isclose(found(2), first).any()


# --- starts ---


def test_starts_are_zeros_once_and_only_where_latents_are_not_normalised():
    def kinds(start, normalised):
        return [bool((starts(Search(start=start), normalised, [0, 1], restart, 16) == 0).all()) for restart in range(3)]

    assert kinds("auto", False) == kinds("zeros", False) == [True, False, False]
    assert kinds("auto", True) == kinds("normal", True) == kinds("normal", False) == [False] * 3
    with pytest.raises(ValueError, match="no direction at zero"):
        kinds("zeros", True)


def test_a_normalised_generator_has_no_picture_at_zero():
    def G(z):
        return Linear()(z / z.norm(dim=1, keepdim=True) * math.sqrt(SIZE))

    images = G(_draws(3, SIZE)).detach()
    search = Search(steps=200, restarts=4, lr=0.1, fall=1e-2)
    with pytest.raises(ValueError, match="not finite"):
        reconstruct(G, images, SIZE, search, normalised=False)  # from 0
    assert (reconstruct(G, images, SIZE, search, normalised=True).error < 1e-4).all()
    slope = torch.func.jacrev(lambda z: pixel_norm(z[None])[0])(torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(slope, 1e4 * torch.eye(4, dtype=torch.float64))  # of the one that we have: a step is a jump


def test_draws_are_normal_and_of_their_own():
    seen = torch.stack([
        starts(Search(seed=seed, start="normal"), False, range(2), restart, 2000)
        for seed in range(2)
        for restart in range(2)
    ]).flatten(0, 1)  # fmt: skip
    assert seen.mean(1).abs().max() < 4 / math.sqrt(2000)
    assert (seen.square().mean(1) - 1).abs().max() < 4 * math.sqrt(2 / 2000)
    assert (torch.corrcoef(seen) - torch.eye(8)).abs().max() < 4.5 / math.sqrt(2000)


def test_more_restarts_are_never_worse_and_begin_with_the_fewer():
    images = _draws(6, *SHAPE, seed=4).clamp(-1, 1)
    found = [reconstruct(_waves, images, SIZE, Search(20, k, lr=0.05), normalised=False) for k in (1, 2, 4, 8)]
    for fewer, more in itertools.pairwise(found):
        assert (more.error <= fewer.error).all()
        assert (more.last <= fewer.last).all()
        kept = more.restart == fewer.restart
        assert torch.equal(more.history[:, kept], fewer.history[:, kept])
    assert (found[-1].error < found[0].error).all()
    assert len(found[-1].restart.unique()) > 1


# --- what is reported ---


@pytest.mark.parametrize("restarts", [1, 3])
def test_the_best_of_all_steps_and_the_last_are_both_reported(restarts):
    images = _draws(4, *SHAPE).clamp(-1, 1)
    search = Search(steps=25, restarts=restarts, lr=0.3, start="normal")  # so fast that it overshoots
    seen = {}
    found = reconstruct(
        _waves, images, SIZE, search, False, on_step=lambda r, s, z, e: seen.__setitem__((r, s), (z, e))
    )
    assert list(seen) == [(r, s) for r in range(restarts) for s in range(26)]
    assert found.history.shape == (26, 4)
    assert torch.equal(found.error, found.history.amin(0))
    assert torch.equal(found.error, torch.stack([e for _, e in seen.values()]).amin(0))
    assert torch.equal(found.last, torch.stack([seen[r, 25][1] for r in range(restarts)]).amin(0))
    assert (found.last > found.error).any()
    for n, restart in enumerate(found.restart.tolist()):
        assert torch.equal(found.history[:, n], torch.stack([seen[restart, s][1][n] for s in range(26)]))
    assert torch.equal(errors(found.images, images), found.error)
    assert torch.equal(errors(_waves(found.z), images), found.error)
    assert not found.z.requires_grad
    assert not found.images.requires_grad


def test_more_steps_are_never_worse_and_begin_with_the_fewer():
    images = _draws(3, *SHAPE)
    found = [reconstruct(_waves, images, SIZE, Search(steps, lr=0.3), normalised=False) for steps in (0, 1, 7, 30)]
    for fewer, more in itertools.pairwise(found):
        assert torch.equal(more.history[: len(fewer.history)], fewer.history)
        assert (more.error <= fewer.error).all()
    assert [len(one.history) for one in found] == [1, 2, 8, 31]
    assert (found[0].z == 0).all()


def test_normalised_latents_end_on_the_sphere_and_the_norm_is_the_searchs():
    G, images = _tiny(), _draws(3, 3, 8, 8).clamp(-1, 1)
    path = []
    search = Search(steps=60, lr=0.1)
    found = reconstruct(G, images, 8, search, normalised=True, on_step=lambda r, s, z, e: path.append(z))
    assert torch.allclose(found.z.norm(dim=1), torch.full((3,), math.sqrt(8), dtype=torch.float64))
    assert torch.allclose(errors(G(found.z), images), found.error, rtol=1e-6)
    best = torch.stack(path)[found.history.argmin(0), torch.arange(3)]
    assert torch.allclose(found.norm, best.norm(dim=1) / math.sqrt(8))
    assert torch.allclose(on_sphere(best), found.z)
    assert not torch.allclose(found.norm, torch.ones(3).double(), rtol=0.01)

    free = reconstruct(Linear(), 2 * torch.ones(1, *SHAPE).double(), SIZE, search, normalised=False)
    assert torch.allclose(free.norm, free.z.norm(dim=1) / math.sqrt(SIZE))
    assert not torch.allclose(free.norm, torch.ones(1).double(), rtol=0.01)


def _pictures(count, sizes):
    pixels = torch.randint(0, 256, (count, *SHAPE), generator=torch.Generator().manual_seed(8)).to(torch.uint8)
    return list(torch.split(pixels, sizes))


def _single(z):
    return (z[:, None, :] * Linear().matrix.float()).sum(2).reshape(-1, *SHAPE)


def test_the_metric_of_a_set_in_every_unit():
    search = Search(steps=20, restarts=2)
    values = reconstruction_error(_single, _pictures(11, 4), SIZE, search, normalised=False)
    images = torch.cat(_pictures(11, 11)) / 127.5 - 1
    found = reconstruct(_single, images, SIZE, search, normalised=False)
    made = _single(found.z)
    own = ((made + 1) / 2 - (images + 1) / 2).square()  # in [0, 1]
    assert values["reconstruction"] == pytest.approx(float(own.mean()), rel=1e-5)
    assert values["reconstruction_11"] == pytest.approx(float((made - images).square().mean()), rel=1e-5)
    assert values["reconstruction_11"] == 4 * values["reconstruction"]
    assert values["reconstruction_sum"] == pytest.approx(float(own.sum()) / 11, rel=1e-5)
    assert values["reconstruction_sum"] == pytest.approx(SIZE * values["reconstruction"])
    assert values["reconstruction_last"] == pytest.approx(float(found.last.mean()), rel=1e-6)
    each = own.flatten(1).mean(1)
    spread = (each - each.mean()).square().sum() / 10
    assert values["reconstruction_error"] == pytest.approx(float((spread / 11).sqrt()), rel=1e-4)
    assert values["latent_norm"] == pytest.approx(float(found.z.norm(dim=1).mean()) / math.sqrt(SIZE), rel=1e-5)


def test_the_metric_does_not_depend_on_batches():
    search = Search(steps=10, restarts=2, start="normal")
    values = [
        reconstruction_error(_single, _pictures(11, sizes), SIZE, search, False, batch=batch)
        for sizes, batch in [(11, 32), (4, 32), (4, 3), (1, 1), (11, 2)]
    ]
    assert all(one == values[0] for one in values)
    G = Linear()
    G.matrix = G.matrix.float()
    reconstruction_error(G, _pictures(11, 11), SIZE, search, False, batch=4)
    assert max(G.calls) == 4


@pytest.mark.parametrize("count", [0, 1])
def test_the_metric_takes_two_pictures(count):
    with pytest.raises(ValueError, match=f"2 pictures or more, not {count}"):
        reconstruction_error(_single, _pictures(count, 1) if count else [], SIZE, Search(steps=1), False)


# --- the generator meanwhile ---


def test_parameters_are_frozen_inside_and_as_before_outside():
    G = _network()
    G[0].bias.requires_grad_(False)
    before = [p.requires_grad for p in G.parameters()]
    inside = []
    for make in (G, functools.partial(functools.partial(G))):
        inside.clear()
        reconstruct(
            make, _draws(1, 3, 8, 8), 8, Search(steps=1), False,
            on_step=lambda *_: inside.extend(p.requires_grad for p in G.parameters()),
        )  # fmt: skip
        assert inside
        assert not any(inside)
        assert [p.requires_grad for p in G.parameters()] == before
    with pytest.raises(RuntimeError):
        reconstruct(G, _draws(1, 3, 9, 9), 8, Search(steps=1), False)
    assert [p.requires_grad for p in G.parameters()] == before
    assert all(p.grad is None for p in G.parameters())


def test_a_generator_in_training_mode_is_refused_even_in_part():
    for part in (slice(None), slice(2, 3)):
        G = _network()
        G[part].train()
        with pytest.raises(ValueError, match="training mode"):
            reconstruct(functools.partial(G), _draws(1, 3, 8, 8), 8, Search(steps=1), False)


def test_it_searches_where_gradients_are_off():
    images = _draws(1, *SHAPE)
    expected = reconstruct(Linear(), images, SIZE, Search(steps=3), False).z
    with torch.no_grad():
        assert torch.equal(reconstruct(Linear(), images, SIZE, Search(steps=3), False).z, expected)
        assert not torch.is_grad_enabled()


# --- what a search may be ---


def test_a_wrong_start_is_answered_with_the_list():
    with pytest.raises(ValueError, match=", ".join(STARTS)):
        Search(start="ones")


@pytest.mark.parametrize(
    "wrong",
    [{"steps": -1}, {"restarts": 0}, {"lr": 0.0}, {"eps": 0.0}, {"alpha": 1.0}, {"fall": 0.0}, {"lr": math.nan}],
)
def test_what_no_search_can_be_is_refused(wrong):
    with pytest.raises(ValueError):
        Search(**wrong)
