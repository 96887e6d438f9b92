"""Laws of the training state: a function of its seed, packed and restored to the bit, strict about what it is given."""

import copy
import io

import pytest
import torch
from torch import Tensor

from progan.errors import UserError
from progan.nn.progressive import Generator
from progan.training.state import OPTIMIZERS, Moving, TrainState, load_strictly, new_state, optimizer_of
from progan.training.steps import CriticLoss, Part, Where, d_step, g_step, update_average

NET = {"max_res": 8, "fmap_base": 32, "fmap_max": 8}
PROGAN = CriticLoss()


def _state(device: torch.device, seed: int = 0, **changes) -> TrainState:
    return new_state({**NET, "latent_size": 6, **changes}, {**NET, **changes}, seed, device)


def _train(state: TrainState, steps: int = 3, seed: int = 0, loss: CriticLoss = PROGAN) -> None:
    numbers = torch.Generator().manual_seed(seed)
    device, where = next(state.G.parameters()).device, Where(1, 0.5, 4, 4)
    state.set_rates(0.01, 0.02)
    for _ in range(steps):
        reals, latents = torch.randn(4, 3, 8, 8, generator=numbers), torch.randn(4, 6, generator=numbers)
        part = Part(reals.to(device), latents.to(device), torch.rand(4, generator=numbers).to(device))
        d_step(state.G, state.D, state.opt_D, [part], where, loss)
        update_average(state.G_ema, state.G, 0.9, 1)
        g_step(state.G, state.D, state.opt_G, [part.latents], where, loss=loss)
        state.cur_nimg += 4


def _same(a, b) -> bool:
    """Bitwise and of equal types, through dicts and lists."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def _through_a_file(packed: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(packed, buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location="cpu", weights_only=True)


# --- before the first image ---


def test_the_weights_are_a_function_of_the_seed(device):
    before = torch.get_rng_state()
    first = _state(device, 7).pack()
    torch.rand(5)
    assert _same(_state(device, 7).pack(), first)
    other = _state(device, 8).pack()
    for net in ("G", "D"):
        weights = [key for key in first[net] if key.endswith("weight")]
        assert weights
        assert not any(torch.equal(first[net][key], other[net][key]) for key in weights)
    assert not torch.equal(torch.get_rng_state(), before)  # (only by the draw above)


def test_g_and_d_begin_from_numbers_of_their_own(device):
    state = _state(device)
    a = state.G.get_parameter("blocks.8x8.conv1.weight").flatten()[:20]
    b = state.D.get_parameter("blocks.8x8.conv0.weight").flatten()[:20]
    assert not torch.equal(a, b)


def test_the_average_begins_as_g_and_needs_no_gradient(device):
    state = _state(device)
    assert _same(state.G_ema.state_dict(), state.G.state_dict())
    assert state.G_ema is not state.G
    assert not any(p.requires_grad for p in state.G_ema.parameters())
    assert all(p.requires_grad for net in (state.G, state.D) for p in net.parameters())
    assert not state.G_ema.training
    assert state.cur_nimg == 0
    _train(state, 1)
    assert not _same(state.G_ema.state_dict(), state.G.state_dict())


def test_adam_is_the_papers(device):
    for optimizer in (_state(device).opt_G, _state(device).opt_D):
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.Adam)
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.0, 0.99), 1e-8, 0)
        assert not group["amsgrad"]


def test_every_parameter_is_in_its_optimizer(device):
    state = _state(device)
    for net, optimizer in ((state.G, state.opt_G), (state.D, state.opt_D)):
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in net.parameters()]


def test_rates_are_set_for_each_network(device):
    state = _state(device)
    state.set_rates(0.1, 0.2)
    assert (state.opt_G.param_groups[0]["lr"], state.opt_D.param_groups[0]["lr"]) == (0.1, 0.2)


def test_a_reset_forgets_adams_moments_and_nothing_else(device):
    state = _state(device)
    _train(state)
    before = copy.deepcopy(state.pack())
    assert before["opt_G"]["state"]
    assert before["opt_D"]["state"]
    state.reset_optimizers()
    after = state.pack()
    assert after["opt_G"]["state"] == {}
    assert after["opt_D"]["state"] == {}
    assert all(_same(after[name], before[name]) for name in ("G", "D", "G_ema", "cur_nimg"))
    _train(state, 1)
    assert not _same(state.pack()["G"], before["G"])  # the new optimizers move the same networks


# --- other optimizers ---


def test_adams_knobs_reach_it(device):
    state = new_state(NET, NET, 0, device, Moving(adam_beta1=0.5, adam_beta2=0.9, adam_epsilon=1e-6))
    for optimizer in (state.opt_G, state.opt_D):
        (group,) = optimizer.param_groups
        assert (group["betas"], group["eps"], group["lr"]) == ((0.5, 0.9), 1e-6, 0.0)


def test_rmsprop_is_torchs_with_its_own_knobs(device):
    """A step of it is -lr g / (sqrt((1 - alpha) g^2) + epsilon)."""
    state = new_state(NET, NET, 0, device, Moving("rmsprop", rmsprop_alpha=0.9, rmsprop_epsilon=1e-6))
    state.set_rates(0.1, 0.2)
    assert isinstance(state.opt_D, torch.optim.RMSprop)
    p = state.D.get_parameter("rgb.8x8.weight")
    before, p.grad = p.detach().clone(), torch.randn_like(p)
    state.opt_D.step()
    wanted = before - 0.2 * p.grad / ((0.1 * p.grad**2).sqrt() + 1e-6)
    assert torch.allclose(p, wanted, rtol=1e-5, atol=1e-6)


def test_a_reset_keeps_the_kind_of_optimizer(device):
    state = new_state(NET, NET, 0, device, Moving("rmsprop", rmsprop_alpha=0.9))
    state.reset_optimizers()
    for optimizer in (state.opt_G, state.opt_D):
        assert isinstance(optimizer, torch.optim.RMSprop)
        assert optimizer.param_groups[0]["alpha"] == 0.9


def test_a_wrong_optimizer_answers_with_the_list():
    with pytest.raises(ValueError, match="the optimizer `sgd` is none of adam, rmsprop"):
        optimizer_of(torch.nn.Linear(1, 1), Moving("sgd"))
    assert list(OPTIMIZERS) == ["adam", "rmsprop"]


# --- there and back ---

TECHNIQUES = {
    "spectral": ({"weights": "spectral", "attention": 8}, {"weights": "spectral", "attention": 8}, Moving()),
    "batch norm": ({"norm": "batch"}, {"norm": "batch"}, Moving()),
    "strict": ({"weights": "weightnorm-strict"}, {"weights": "weightnorm-strict"}, Moving("rmsprop")),
    "weightnorm": ({"weights": "weightnorm"}, {"weights": "weightnorm"}, Moving("rmsprop")),
}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_state_with_other_techniques_goes_on_as_if_nothing_had_happened(name, device):
    """Singular vectors, batch statistics and the other optimizer's moments are saved with the rest."""
    for_G, for_D, moving = TECHNIQUES[name]
    loss = CriticLoss(kind="hinge", penalty="none")

    def state(seed: int) -> TrainState:
        return new_state({**NET, "latent_size": 6, **for_G}, {**NET, **for_D}, seed, device, moving)

    straight, resumed = state(0), state(99)
    _train(straight, 3, loss=loss)
    saved = _through_a_file(straight.pack())
    _train(straight, 2, 5, loss)
    resumed.unpack(saved)
    _train(resumed, 2, 5, loss)
    assert _same(resumed.pack(), straight.pack())
    assert not _same(resumed.pack()["G_ema"], saved["G_ema"])
    if name in ("spectral", "batch norm"):
        assert any(torch.is_tensor(b) and b.numel() > 1 for b in straight.G.buffers())


def test_a_packed_state_comes_back_from_a_file_to_the_bit(device):
    state = _state(device)
    _train(state)
    packed = copy.deepcopy(state.pack())
    other = _state(device, seed=99)
    other.unpack(_through_a_file(state.pack()))
    assert _same(other.pack(), packed)
    assert other.cur_nimg == 12
    moments = [s for name in ("opt_G", "opt_D") for s in packed[name]["state"].values()]
    assert len(moments) > 10
    assert all(s["exp_avg_sq"].abs().sum() > 0 for s in moments)


def test_a_restored_state_goes_on_as_if_nothing_had_happened(device):
    straight, stopped, resumed = _state(device), _state(device), _state(device, seed=99)
    _train(straight, 5)
    straight_end = copy.deepcopy(straight.pack())
    _train(stopped, 5)
    assert _same(stopped.pack(), straight_end)
    _train(stopped, 2, seed=5)
    _train(straight, 0)
    resumed.unpack(_through_a_file(straight_end))
    _train(resumed, 2, seed=5)
    assert _same(resumed.pack(), stopped.pack())


def test_a_packed_state_holds_tensors_and_plain_values_only(device):
    state = _state(device)
    _train(state, 1)
    packed = state.pack()
    assert set(packed) == {"G", "D", "G_ema", "opt_G", "opt_D", "cur_nimg"}
    _through_a_file(packed)  # weights_only refuses anything else


# --- strict ---


def test_other_weights_are_refused_and_named():
    G = Generator(**NET, latent_size=6)
    good = copy.deepcopy(G.state_dict())
    short = {k: v for k, v in good.items() if k != "rgb.8x8.bias"}
    with pytest.raises(UserError, match=r"of G do not fit \(1 differ\): rgb.8x8.bias: None in the file, \(3,\)"):
        load_strictly(G, short, "G")
    with pytest.raises(UserError, match=r"\(1 differ\): extra: \(2,\) in the file, None wanted"):
        load_strictly(G, good | {"extra": torch.zeros(2)}, "G")
    with pytest.raises(UserError, match=r"\(1 differ\): rgb.4x4.bias: \(4,\) in the file, \(3,\) wanted"):
        load_strictly(G, good | {"rgb.4x4.bias": torch.zeros(4)}, "G")
    assert _same(G.state_dict(), good)


def test_of_many_differences_the_first_three_are_named():
    G = Generator(**NET, latent_size=6)
    with pytest.raises(UserError) as caught:
        load_strictly(G, {}, "G")
    message = str(caught.value)
    assert f"({len(G.state_dict())} differ)" in message
    assert message.count(" wanted") == 3
    assert all(name in message for name in sorted(G.state_dict())[:3])


def test_weights_of_these_names_and_shapes_are_taken_over():
    a, b = Generator(**NET, latent_size=6), Generator(**NET, latent_size=6)
    load_strictly(a, b.state_dict(), "G")
    assert _same(a.state_dict(), b.state_dict())


@pytest.mark.parametrize("changes", [{"max_res": 16}, {"fmap_max": 4}, {"channels": 1}])
def test_a_state_of_other_networks_is_refused(changes, device):
    packed = _through_a_file(_state(device, **changes).pack())
    with pytest.raises(UserError, match=r"the weights of G do not fit"):
        _state(device).unpack(packed)
