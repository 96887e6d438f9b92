"""Laws of the steps: pure functions of their arguments, indifferent to how a batch is cut, still where numbers end."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from progan.errors import RunFailed
from progan.nn.progressive import Discriminator, Generator
from progan.training.steps import (
    CriticLoss,
    Part,
    Where,
    average_beta,
    d_gradients,
    d_step,
    frozen,
    g_gradients,
    g_step,
    split,
    update_average,
)

NET = {"max_res": 16, "fmap_base": 32, "fmap_max": 8}
STAGE = 1
PLACES = pytest.mark.parametrize("alpha", [1.0, 0.3], ids=["stable", "fade"])


def _nets(device: torch.device, dtype: torch.dtype = torch.float64) -> tuple[Generator, Discriminator]:
    G, D = Generator(**NET, latent_size=6), Discriminator(**NET)
    for net in (G, D):
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.normal_(std=0.3) if name.endswith("bias") else None
    return G.to(device, dtype), D.to(device, dtype)


def _adam(net: torch.nn.Module, lr: float = 0.01) -> torch.optim.Adam:
    return torch.optim.Adam(net.parameters(), lr=lr, betas=(0.0, 0.99), eps=1e-8)


def _part(count: int, device: torch.device, dtype: torch.dtype = torch.float64, stage: int = STAGE) -> Part:
    reals = torch.randn(count, 3, 4 << stage, 4 << stage, dtype=dtype).to(device)
    latents, mix = torch.randn(count, 6, dtype=dtype).to(device), torch.rand(count, dtype=dtype).to(device)
    return Part(reals, latents, mix)


def _cut(part: Part, samples: list[Tensor]) -> list[Part]:
    return [Part(part.reals[s], part.latents[s], part.mix[s]) for s in samples]


def _where(batch: int, group: int, alpha: float = 1.0, stage: int = STAGE) -> Where:
    return Where(stage, alpha if alpha == 1 else torch.tensor(alpha), batch, group)


def _gradients(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def _weights(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def _worst(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    assert a
    return max((a[name] - b[name]).abs().max().item() for name in a)


def _same(a, b) -> bool:
    """Bitwise, through dicts and lists."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


# --- a batch and its parts ---


@pytest.mark.parametrize(
    ("batch", "group", "micro", "sizes"),
    [
        (16, 4, 16, [16]), (16, 4, 8, [8, 8]), (16, 4, 4, [4] * 4), (16, 4, 7, [4] * 4), (16, 4, 1, [4] * 4),
        (15, 3, 6, [6, 6, 3]), (15, 3, 12, [12, 3]), (14, 2, 8, [8, 6]), (6, 3, 3, [3, 3]), (7, 1, 3, [3, 3, 1]),
        (3, 3, 1, [3]), (14, 14, 4, [14]), (16, 4, 99, [16]),
    ],
)  # fmt: skip
def test_a_split_deals_every_sample_once_in_whole_strided_groups(batch, group, micro, sizes):
    parts = split(batch, group, micro)
    assert [len(p) for p in parts] == sizes
    assert sorted(torch.cat(parts).tolist()) == list(range(batch))
    for part in parts:
        count = len(part) // group
        for m in range(count):  # the members of a part's group m, as minibatch stddev takes them
            assert len({n % (batch // group) for n in part[m::count].tolist()}) == 1


def test_an_uncut_batch_keeps_its_order():
    assert split(12, 4, 12)[0].tolist() == list(range(12))


CUTS = pytest.mark.parametrize(
    ("batch", "group", "micro"), [(8, 4, 4), (8, 2, 2), (8, 2, 6), (15, 3, 6), (15, 3, 3), (14, 2, 4), (6, 6, 2)]
)


@PLACES
@CUTS
def test_the_gradients_of_d_do_not_depend_on_how_the_batch_is_cut(batch, group, micro, alpha, device):
    G, D = _nets(device)
    part, where, loss = _part(batch, device), _where(batch, group, alpha), CriticLoss(scale=0.5)
    whole = d_gradients(G, D, part, where, loss)
    wanted = {name: g.clone() for name, g in _gradients(D).items()}
    D.zero_grad()
    stats = [d_gradients(G, D, p, where, loss) for p in _cut(part, split(batch, group, micro))]
    assert max(g.abs().max() for g in wanted.values()) > 1e-3
    assert _worst(_gradients(D), wanted) < 1e-10
    for name in whole:
        assert torch.allclose(sum(s[name] for s in stats), whole[name], rtol=1e-10, atol=1e-10), name


@PLACES
@CUTS
def test_the_gradients_of_g_do_not_depend_on_how_the_batch_is_cut(batch, group, micro, alpha, device):
    G, D = _nets(device)
    latents, where = _part(batch, device).latents, _where(batch, group, alpha)
    whole = g_gradients(G, D, latents, where)
    wanted = {name: g.clone() for name, g in _gradients(G).items()}
    G.zero_grad()
    stats = [g_gradients(G, D, latents[s], where) for s in split(batch, group, micro)]
    assert max(g.abs().max() for g in wanted.values()) > 1e-4
    assert _worst(_gradients(G), wanted) < 1e-10
    assert torch.allclose(sum(s["loss_G"] for s in stats), whole["loss_G"], rtol=1e-10, atol=1e-10)


def test_parts_of_neighbouring_samples_would_give_other_gradients(device):
    """Why a split deals strided groups: this is what cutting the batch into slices does."""
    G, D = _nets(device)
    part, where = _part(8, device), _where(8, 4)
    d_gradients(G, D, part, where, CriticLoss())
    wanted = {name: g.clone() for name, g in _gradients(D).items()}
    D.zero_grad()
    for piece in _cut(part, list(torch.arange(8).split(4))):
        d_gradients(G, D, piece, where, CriticLoss())
    assert _worst(_gradients(D), wanted) > 1e-6


@pytest.mark.parametrize("step", ["d", "g"])
def test_a_step_in_parts_moves_the_weights_as_a_step_at_once(step, device):
    G, D = _nets(device)
    part, where, indices = _part(15, device), _where(15, 3), split(15, 3, 6)
    moved = []
    for samples in ([torch.arange(15)], indices):
        g, d = copy.deepcopy(G), copy.deepcopy(D)
        if step == "d":
            d_step(g, d, _adam(d), _cut(part, samples), where, CriticLoss())
        else:
            g_step(g, d, _adam(g), [part.latents[s] for s in samples], where)
        moved.append(_weights(d if step == "d" else g))
    assert _worst(*moved) < 1e-6  # Adam's first step turns 1e-12 of a tiny gradient into more
    assert _worst(moved[0], _weights(D if step == "d" else G)) > 1e-3


# --- against a plain re-computation ---


def _plain_d_loss(G, D, part: Part, loss: CriticLoss, alpha: float) -> Tensor:
    """The mean loss, written out; the penalty's gradient through the whole batch."""
    where = (STAGE, alpha)
    fakes = G(part.latents, *where).detach()
    u = part.mix.reshape(-1, 1, 1, 1)
    x = ((1 - u) * part.reals + u * fakes).requires_grad_()
    (gradient,) = torch.autograd.grad(D(x, *where).sum(), x, create_graph=True)
    norm = (gradient**2).sum((1, 2, 3)).sqrt() * loss.scale
    real, fake = D(part.reals, *where), D(fakes, *where)
    penalty = loss.weight * (norm - loss.target) ** 2 / loss.target**2
    return (fake - real + penalty + loss.epsilon * real**2).mean()


@PLACES
@pytest.mark.parametrize("loss", [CriticLoss(), CriticLoss(10, 750, 0.001, 0.25), CriticLoss(3, 2, 0.5, 0.5)])
def test_a_step_of_d_is_that_of_a_plain_computation(loss, alpha, device):
    G, D = _nets(device)
    other, part = copy.deepcopy(D), _part(8, device)
    optimizer, other_optimizer = _adam(D), _adam(other)
    for _ in range(2):
        stats = d_step(G, D, optimizer, [part], _where(8, 4, alpha), loss)
        other_optimizer.zero_grad()
        wanted = _plain_d_loss(G, other, part, loss, alpha)
        wanted.backward()
        other_optimizer.step()
        assert torch.allclose(stats["loss_D"], wanted.detach(), rtol=1e-6)
        assert _worst(_gradients(D), _gradients(other)) < 1e-6
    assert _worst(_weights(D), _weights(other)) < 1e-5


@PLACES
def test_a_step_of_g_is_that_of_a_plain_computation(alpha, device):
    G, D = _nets(device)
    other, latents = copy.deepcopy(G), _part(8, device).latents
    optimizer, other_optimizer = _adam(G), _adam(other)
    for _ in range(2):
        stats = g_step(G, D, optimizer, [latents], _where(8, 4, alpha))
        other_optimizer.zero_grad()
        wanted = -D(other(latents, STAGE, alpha), STAGE, alpha).mean()
        wanted.backward()
        other_optimizer.step()
        assert torch.allclose(stats["loss_G"], wanted.detach(), rtol=1e-6)
    assert _worst(_weights(G), _weights(other)) < 1e-5


def test_adam_without_momentum_moves_by_the_rate_first(device):
    """beta1 0: the first step is lr * g / (|g| + eps), +- lr wherever there is a gradient."""
    G, D = _nets(device)
    before = _weights(D)
    d_step(G, D, _adam(D, 0.01), [_part(8, device)], _where(8, 4), CriticLoss())
    moved = torch.cat([(p.detach() - before[n]).flatten() for n, p in D.named_parameters() if p.grad is not None])
    big = torch.cat([p.grad.flatten() for p in D.parameters() if p.grad is not None]).abs() > 1e-4
    assert big.sum() > 100
    assert torch.allclose(moved[big].abs(), torch.full_like(moved[big], 0.01), rtol=1e-3)


def test_the_statistics_are_means_over_the_batch(device):
    G, D = _nets(device)
    part, where, loss = _part(8, device), _where(8, 4), CriticLoss(scale=0.5)
    real, fake = D(part.reals, STAGE).detach(), D(G(part.latents, STAGE), STAGE).detach()
    stats = d_step(G, D, _adam(D), _cut(part, split(8, 4, 4)), where, loss)
    assert set(stats) == {
        "loss_D", "wasserstein", "gradient_penalty", "drift", "score_real", "score_fake", "norm_D",
    }  # fmt: skip
    wanted = {"score_real": real.mean(), "score_fake": fake.mean(), "wasserstein": (real - fake).mean()}
    wanted["drift"] = 0.001 * (real**2).mean()
    for name, value in wanted.items():
        assert torch.allclose(stats[name], value, rtol=1e-6), name
    total = -stats["wasserstein"] + stats["gradient_penalty"] + stats["drift"]
    assert torch.allclose(stats["loss_D"], total, rtol=1e-9)
    norm = torch.cat([g.flatten() for g in _gradients(D).values()]).norm()
    assert torch.allclose(stats["norm_D"], norm, rtol=1e-6)
    assert all(s.ndim == 0 and not s.requires_grad for s in stats.values())


def test_drift_looks_at_real_scores_only(device):
    G, D = _nets(device)
    part = _part(8, device)
    with_real = d_gradients(G, D, part, _where(8, 4), CriticLoss(weight=0, epsilon=1.0))
    moved = Part(part.reals, part.latents + 1, part.mix)
    other = d_gradients(G, D, moved, _where(8, 4), CriticLoss(weight=0, epsilon=1.0))
    assert torch.equal(with_real["drift"], other["drift"])
    assert not torch.equal(with_real["score_fake"], other["score_fake"])


# --- pure ---


@pytest.mark.parametrize("step", ["d", "g"])
def test_a_step_is_a_function_of_its_arguments(step, device):
    G, D = _nets(device, torch.float32)
    part, before = _part(8, device, torch.float32), torch.get_rng_state()
    moved = []
    for _ in range(2):
        g, d = copy.deepcopy(G), copy.deepcopy(D)
        if step == "d":
            stats = d_step(g, d, _adam(d), _cut(part, split(8, 4, 4)), _where(8, 4), CriticLoss())
        else:
            stats = g_step(g, d, _adam(g), [part.latents[s] for s in split(8, 4, 4)], _where(8, 4))
        moved.append([_weights(g), _weights(d), stats])
        torch.set_rng_state(before)  # global numbers must not matter: the second time they come from elsewhere
        torch.rand(3)
        before = torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), before)
    assert _same(*moved)


@pytest.mark.parametrize("step", ["d", "g"])
def test_a_step_leaves_the_global_random_numbers_alone(step, device):
    G, D = _nets(device, torch.float32)
    part = _part(8, device, torch.float32)
    before = torch.get_rng_state()
    if step == "d":
        d_step(G, D, _adam(D), [part], _where(8, 4, 0.5), CriticLoss())
    else:
        g_step(G, D, _adam(G), [part.latents], _where(8, 4, 0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_step_of_d_leaves_g_alone(device):
    G, D = _nets(device)
    before, part = _weights(G), _part(8, device)
    d_step(G, D, _adam(D), [part], _where(8, 4), CriticLoss())
    assert _same(_weights(G), before)
    assert _gradients(G) == {}
    assert part.reals.grad is None


def test_the_step_of_g_leaves_d_alone(device):
    G, D = _nets(device)
    before = _weights(D)
    g_step(G, D, _adam(G), [_part(8, device).latents], _where(8, 4))
    assert _same(_weights(D), before)
    assert _gradients(D) == {}
    assert _gradients(G) != {}
    assert all(p.requires_grad for p in D.parameters())


def test_freezing_ends_also_after_an_error(device):
    _, D = _nets(device)

    def fail() -> None:
        with frozen(D):
            assert not any(p.requires_grad for p in D.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(p.requires_grad for p in D.parameters())


def test_a_step_starts_from_no_gradient(device):
    G, D = _nets(device)
    part, where = _part(8, device), _where(8, 4)
    clean = copy.deepcopy(D)
    for p in D.parameters():
        p.grad = torch.full_like(p, 5.0)
    d_step(G, D, _adam(D), [part], where, CriticLoss())
    d_step(G, clean, _adam(clean), [part], where, CriticLoss())
    assert _same(_gradients(D), _gradients(clean))


def test_parameters_above_the_stage_do_not_move(device):
    G, D = _nets(device)
    before_G, before_D = _weights(G), _weights(D)
    d_step(G, D, _adam(D), [_part(8, device)], _where(8, 4), CriticLoss())
    g_step(G, D, _adam(G), [_part(8, device).latents], _where(8, 4))
    for net, before in ((G, before_G), (D, before_D)):
        still = {n for n, p in _weights(net).items() if torch.equal(p, before[n])}
        assert still == {n for n in before if "16x16" in n} | {"rgb.4x4.weight", "rgb.4x4.bias"}


# --- where numbers end ---


def _poison(net: torch.nn.Module, name: str, value: float):
    return net.get_parameter(name).register_hook(lambda gradient: gradient * value)


@pytest.mark.parametrize(
    ("change", "loss", "culprit"),
    [
        (lambda p: Part(p.reals * math.nan, p.latents, p.mix), CriticLoss(), "wasserstein"),
        (lambda p: Part(p.reals, p.latents * math.nan, p.mix), CriticLoss(), "wasserstein"),
        (lambda p: Part(p.reals, p.latents, p.mix * math.nan), CriticLoss(), "gradient_penalty"),
        (lambda p: p, CriticLoss(epsilon=1e39), "drift"),  # infinite in single precision
    ],
    ids=["reals", "latents", "mix", "drift"],
)
def test_a_loss_of_d_that_is_not_finite_is_named_and_moves_nothing(change, loss, culprit, device):
    G, D = _nets(device, torch.float32)
    optimizer, part = _adam(D), _part(8, device, torch.float32)
    d_step(G, D, optimizer, [part], _where(8, 4), CriticLoss())
    weights, moments = _weights(D), copy.deepcopy(optimizer.state_dict())
    assert moments["state"]
    with pytest.raises(RunFailed, match=rf"^{culprit} is not finite; D was not moved"):
        d_step(G, D, optimizer, [change(part)], _where(8, 4), loss)
    assert _same(_weights(D), weights)
    assert _same(optimizer.state_dict(), moments)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_part_of_a_batch_stops_the_step(bad, device):
    G, D = _nets(device, torch.float32)
    parts = _cut(_part(8, device, torch.float32), split(8, 4, 4))
    parts[1] = Part(parts[1].reals * bad, parts[1].latents, parts[1].mix)
    before = _weights(D)
    with pytest.raises(RunFailed, match="is not finite"):
        d_step(G, D, _adam(D), parts, _where(8, 4), CriticLoss())
    assert _same(_weights(D), before)


@pytest.mark.parametrize(("value", "culprit"), [(math.nan, "the gradient of D.blocks.8x8.conv1.weight")])
def test_a_gradient_of_d_that_is_not_finite_is_named_and_moves_nothing(value, culprit, device):
    G, D = _nets(device, torch.float32)
    optimizer, part = _adam(D), _part(8, device, torch.float32)
    d_step(G, D, optimizer, [part], _where(8, 4), CriticLoss())
    weights, moments = _weights(D), copy.deepcopy(optimizer.state_dict())
    hook = _poison(D, "blocks.8x8.conv1.weight", value)
    with pytest.raises(RunFailed, match=rf"^{culprit} is not finite"):
        d_step(G, D, optimizer, [part], _where(8, 4), CriticLoss())
    hook.remove()
    assert _same(_weights(D), weights)
    assert _same(optimizer.state_dict(), moments)


def test_gradients_too_long_for_their_type_are_named(device):
    G, D = _nets(device, torch.float32)
    before, hook = _weights(D), _poison(D, "blocks.4x4.dense1.bias", 0.0)
    hooks = [p.register_hook(lambda g: torch.full_like(g, 1e30)) for p in D.parameters()]
    with pytest.raises(RunFailed, match=r"^the norm of D's gradients is not finite"):
        d_step(G, D, _adam(D), [_part(8, device, torch.float32)], _where(8, 4), CriticLoss())
    for h in (hook, *hooks):
        h.remove()
    assert _same(_weights(D), before)


@pytest.mark.parametrize(
    ("parameter", "value", "culprit"),
    [("blocks.4x4.conv.weight", math.nan, "the gradient of G.blocks.4x4.conv.weight"), (None, math.nan, "loss_G")],
)
def test_a_step_of_g_that_is_not_finite_is_named_and_moves_nothing(parameter, value, culprit, device):
    G, D = _nets(device, torch.float32)
    optimizer, latents = _adam(G), _part(8, device, torch.float32).latents
    g_step(G, D, optimizer, [latents], _where(8, 4))
    weights, moments = _weights(G), copy.deepcopy(optimizer.state_dict())
    hook = _poison(G, parameter, value) if parameter else None
    with pytest.raises(RunFailed, match=rf"^{culprit} is not finite; G was not moved"):
        g_step(G, D, optimizer, [latents if parameter else latents * value], _where(8, 4))
    if hook:
        hook.remove()
    assert _same(_weights(G), weights)
    assert _same(optimizer.state_dict(), moments)
    assert all(p.requires_grad for p in D.parameters())


# --- the average ---


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_average_keeps_beta_of_itself_and_leaves_higher_stages_alone(stage, device):
    G, _ = _nets(device)
    average = copy.deepcopy(G).requires_grad_(False)
    with torch.no_grad():
        for p in average.parameters():
            p.normal_()
    old, raw = _weights(average), _weights(G)
    update_average(average, G, 0.9, stage)
    active = tuple(f"{kind}.{4 << s}x{4 << s}." for s in range(stage + 1) for kind in ("blocks", "rgb"))
    touched = {n for n in old if n.startswith(active)}
    for name, p in average.named_parameters():
        wanted = 0.9 * old[name] + 0.1 * raw[name] if name in touched else old[name]
        assert torch.allclose(p, wanted, rtol=1e-12, atol=1e-12), name
        assert torch.equal(p, old[name]) == (name not in touched)
    assert _same(_weights(G), raw)
    assert len(touched) == len(G.stage_parameters(stage))


@pytest.mark.parametrize(("batch", "kimg"), [(16, 2), (128, 11.1), (4, 10)])
def test_the_average_forgets_half_in_its_half_life(batch, kimg):
    beta = average_beta(0.999, kimg, batch)
    assert math.isclose(beta ** (1000 * kimg / batch), 0.5, rel_tol=1e-9)
    assert 0 < beta < 1


def test_without_a_half_life_beta_stands_whatever_the_batch():
    assert average_beta(0.999, 0.0, 4) == average_beta(0.999, 0.0, 512) == 0.999


def test_an_average_runs_after_its_networks_weights(device):
    """After n steps towards a constant the distance is beta^n."""
    G, _ = _nets(device)
    average = copy.deepcopy(G).requires_grad_(False)
    with torch.no_grad():
        for p in average.parameters():
            p.zero_()
    for _ in range(10):
        update_average(average, G, 0.9, 2)
    name = "blocks.8x8.conv0.weight"
    wanted = (1 - 0.9**10) * G.get_parameter(name)
    assert torch.allclose(average.get_parameter(name), wanted, rtol=1e-10)
    assert F.mse_loss(average.get_parameter(name), G.get_parameter(name)) > 0
