"""Laws of the loss: what a penalty of a known critic is, at which resolution its norm is taken, and what drifts."""

import pytest
import torch
import torch.nn.functional as F

from progan import losses
from progan.losses import (
    LOSSES,
    adversarial,
    drift,
    generator_loss,
    gradient_penalty,
    norm_scale,
    r1_penalty,
    r1_weight,
    wasserstein,
)


def _linear(norm: float, device: torch.device, shape: tuple[int, ...] = (3, 4, 4)):
    """A critic x -> <w, x> with |w| = norm."""
    w = torch.randn(shape, dtype=torch.float64, device=device)
    w *= norm / w.norm()
    return lambda x: (x * w).flatten(1).sum(1)


def _images(count: int, device: torch.device, resolution: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, resolution, resolution, dtype=torch.float64, device=device)


def _penalty(D, reals, fakes, mix=None, weight=10.0, target=1.0, scale=1.0):
    mix = torch.rand(len(reals)).to(reals) if mix is None else mix
    return gradient_penalty(D, reals, fakes, mix, weight, target, scale)


def _mlp(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """A critic that is not linear. [N, C, R, R] -> [N]."""
    return torch.tanh(x.flatten(1) @ w).square().sum(1)


# --- numbers ---


def test_the_critic_minimises_fake_minus_real_and_the_generator_minus_fake():
    assert wasserstein(torch.tensor([1.0, 2.0]), torch.tensor([4.0, -1.0])).tolist() == [3, -3]
    assert generator_loss(torch.tensor([4.0, -1.0])).tolist() == [-4, 1]


def test_drift_is_epsilon_times_the_square_of_the_real_score():
    scores = torch.tensor([2.0, -30.0], dtype=torch.float64)
    assert torch.allclose(drift(scores, 0.001), torch.tensor([0.004, 0.9], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("norm", "weight", "target", "scale", "wanted"),
    [
        (3, 10, 1, 1, 40),
        (1, 10, 1, 1, 0),
        (0.5, 10, 1, 1, 2.5),
        (3, 1, 1, 1, 4),
        (3, 10, 750, 1, 10 / 750**2 * 747**2),
        (750, 10, 750, 1, 0),
        (3, 10, 1, 0.5, 2.5),
        (4, 10, 1, 0.25, 0),
        (256, 10, 1, 1 / 256, 0),
    ],
)
def test_the_penalty_of_a_linear_critic(norm, weight, target, scale, wanted, device):
    got = _penalty(_linear(norm, device), _images(5, device), _images(5, device), None, weight, target, scale)
    assert got.shape == (5,)
    assert torch.allclose(got, torch.full_like(got, wanted), rtol=1e-12, atol=1e-12)


def test_the_norm_runs_over_one_sample_not_over_the_batch(device):
    w = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, device=device)

    def D(x):  # sample n: gradient of norm n + 1
        return x.flatten(1)[:, 0] * w

    got = _penalty(D, _images(3, device), _images(3, device))
    assert torch.allclose(got, torch.tensor([0.0, 10.0, 40.0]).to(got), rtol=1e-12, atol=1e-12)


SCORES = torch.tensor([-3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
LOG = torch.log
FORMS = {
    "wgan": (lambda r, f: f - r, lambda f: -f),
    "hinge": (lambda r, f: (1 - r) * (r < 1) + (1 + f) * (f > -1), lambda f: -f),
    "logistic": (lambda r, f: LOG(1 + (-r).exp()) + LOG(1 + f.exp()), lambda f: LOG(1 + (-f).exp())),
    "lsgan": (lambda r, f: r * r - 2 * r + 1 + f * f, lambda f: f * f - 2 * f + 1),
    "bce": (
        lambda r, f: -LOG(1 / (1 + (-r).exp())) - LOG(1 - 1 / (1 + (-f).exp())),
        lambda f: -LOG(1 / (1 + (-f).exp())),
    ),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_the_losses_in_closed_form(kind, device):
    real, fake = torch.cartesian_prod(SCORES, SCORES).to(device).unbind(1)
    d, g = FORMS[kind]
    for got, wanted in ((LOSSES[kind].d(real, fake), d(real, fake)), (LOSSES[kind].g(fake), g(fake))):
        assert got.shape == (49,)
        assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "d", "g"),
    [("wgan", -2.5, 1.0), ("hinge", 0.0, 1.0), ("lsgan", 1.25, 4.0), ("logistic", 0.5146747, 1.3132617)],
)
def test_the_losses_of_a_pair_of_scores(kind, d, g):
    """Of real 1.5 and fake -1. An average before the square would show in a batch, see below."""
    real, fake = torch.tensor([1.5], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)
    assert LOSSES[kind].d(real, fake).item() == pytest.approx(d, abs=1e-6)
    assert LOSSES[kind].g(fake).item() == pytest.approx(g, abs=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_sample_has_its_loss_whatever_stands_beside_it(kind):
    real, fake = torch.randn(2, 6, dtype=torch.float64)
    alone = [LOSSES[kind].d(real[n : n + 1], fake[n : n + 1]) for n in range(6)]
    assert torch.equal(LOSSES[kind].d(real, fake), torch.cat(alone))
    assert torch.equal(LOSSES[kind].g(fake), torch.cat([LOSSES[kind].g(fake[n : n + 1]) for n in range(6)]))


def test_logistic_is_the_cross_entropy_with_logits_and_bce_its_other_name():
    real, fake = 5 * torch.randn(2, 9, dtype=torch.float64)
    ones, entropy = torch.ones(9, dtype=torch.float64), F.binary_cross_entropy_with_logits
    wanted = entropy(real, ones, reduction="none") + entropy(fake, 0 * ones, reduction="none")
    assert torch.allclose(LOSSES["logistic"].d(real, fake), wanted, rtol=1e-12)
    assert torch.allclose(LOSSES["logistic"].g(fake), entropy(fake, ones, reduction="none"), rtol=1e-12)
    assert LOSSES["bce"] == LOSSES["logistic"]


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_and_slopes_are_finite_far_from_zero(kind):
    scores = torch.tensor([-1e4, 1e4], requires_grad=True)
    total = LOSSES[kind].d(scores, scores.flip(0)) + LOSSES[kind].d(scores, scores) + LOSSES[kind].g(scores)
    (slope,) = torch.autograd.grad(total.sum(), scores)
    assert torch.isfinite(total).all()
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_g_is_pulled_up_where_d_is_sure_of_itself(kind):
    """The slope at a fake that D recognises does not vanish: that is what non-saturating means."""
    fake = torch.tensor([-20.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(LOSSES[kind].g(fake).sum(), fake)
    assert slope.item() <= -0.99


def test_a_wrong_name_answers_with_the_list():
    with pytest.raises(ValueError, match="`hing` is none of wgan, hinge, logistic, lsgan, bce"):
        adversarial("hing")


# --- r1 ---


def _r1(D, reals, gamma=10.0, scale=1.0):
    reals = reals.detach().requires_grad_()
    return r1_penalty(D(reals), reals, gamma, scale)


@pytest.mark.parametrize(
    ("norm", "gamma", "scale", "wanted"), [(3, 10, 1, 45), (1, 2, 1, 1), (3, 10, 0.5, 11.25), (0, 10, 1, 0)]
)
def test_r1_of_a_linear_critic(norm, gamma, scale, wanted, device):
    got = _r1(_linear(norm, device), _images(5, device), gamma, scale)
    assert got.shape == (5,)
    assert torch.allclose(got, torch.full_like(got, wanted), rtol=1e-12, atol=1e-12)


def test_r1_is_taken_at_the_reals_of_each_sample(device):
    """Of D = |x|^2 / 2 the gradient is x."""
    reals = _images(5, device)
    got = _r1(lambda x: x.flatten(1).square().sum(1) / 2, reals, gamma=3)
    assert torch.allclose(got, 1.5 * reals.flatten(1).square().sum(1), rtol=1e-12)


def test_the_derivative_of_r1_is_right(device):
    """d/dw gamma / 2 |w|^2 = gamma w, and that of a critic that is not linear, by differences."""
    w = torch.randn(48, dtype=torch.float64, device=device, requires_grad=True)
    _r1(lambda x: x.flatten(1) @ w, _images(4, device), gamma=7).mean().backward()
    assert torch.allclose(w.grad, 7 * w.detach(), rtol=1e-12)
    v, reals = 0.3 * torch.randn(48, 5, dtype=torch.float64, device=device), _images(2, device)
    assert torch.autograd.gradcheck(lambda v: _r1(lambda x: _mlp(x, v), reals), (v.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("interval", [1, 4, 16])
def test_a_lazy_penalty_weighs_as_much_on_average(interval):
    weights = [r1_weight(10.0, interval, step) for step in range(64)]
    assert sum(weights) / 64 == 10.0
    assert [step for step, weight in enumerate(weights) if weight] == list(range(0, 64, interval))


# --- where ---


def test_each_sample_is_mixed_by_its_own_weight(device):
    seen = []

    def D(x):
        seen.append(x.detach().clone())
        return x.flatten(1).sum(1)

    reals, fakes = _images(4, device), _images(4, device)
    mix = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64, device=device)
    _penalty(D, reals, fakes, mix)
    (x,) = seen
    assert torch.equal(x[0], reals[0])
    assert torch.equal(x[3], fakes[3])
    assert torch.allclose(x[1], 0.75 * reals[1] + 0.25 * fakes[1], rtol=1e-12, atol=1e-12)
    assert torch.allclose(x[2], 0.5 * reals[2] + 0.5 * fakes[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stages_to_grow", [0, 1, 2, 3])
def test_the_full_norm_is_that_through_nearest_enlarged_images(stages_to_grow, device):
    """The official code shows D images of full resolution; D's first act is to average them back (float64)."""
    f = 2**stages_to_grow
    w = torch.randn(3 * 16, 7, dtype=torch.float64, device=device)
    reals, fakes, mix = _images(6, device), _images(6, device), torch.rand(6, dtype=torch.float64, device=device)

    def enlarge(x):
        return x.repeat_interleave(f, 2).repeat_interleave(f, 3)

    x = enlarge(torch.lerp(reals, fakes, mix[:, None, None, None])).requires_grad_()
    assert x.shape[-1] == 4 * f
    (gradient,) = torch.autograd.grad(_mlp(F.avg_pool2d(x, f), w).sum(), x)
    wanted = 10 * (gradient.square().sum((1, 2, 3)).sqrt() - 1) ** 2

    got = _penalty(lambda x: _mlp(x, w), reals, fakes, mix, scale=norm_scale("full", stages_to_grow))
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-12)
    native = _penalty(lambda x: _mlp(x, w), reals, fakes, mix, scale=norm_scale("native", stages_to_grow))
    assert torch.allclose(got, native, rtol=1e-3) == (f == 1)


@pytest.mark.parametrize(("stages", "scale"), [(0, 1.0), (1, 0.5), (3, 0.125), (8, 1 / 256)])
def test_the_scales_of_the_norm(stages, scale):
    assert norm_scale("full", stages) == scale
    assert norm_scale("native", stages) == 1.0
    assert set(losses.GP_NORMS) == {"full", "native"}


# --- derivatives ---


def test_the_penalty_reaches_the_critics_weights(device):
    """d/dw 10 (|w| - 1)^2 = 20 (|w| - 1) w / |w|."""
    w = torch.randn(48, dtype=torch.float64, device=device)
    w = (3 * w / w.norm()).requires_grad_()
    _penalty(lambda x: x.flatten(1) @ w, _images(4, device), _images(4, device)).mean().backward()
    assert torch.allclose(w.grad, 40 * w.detach() / 3, rtol=1e-12, atol=1e-12)


def test_the_penalty_does_not_reach_the_pictures(device):
    reals, fakes = _images(2, device), _images(2, device)
    w = torch.randn(48, 5, dtype=torch.float64, device=device, requires_grad=True)
    _penalty(lambda x: _mlp(x, w), reals, fakes).sum().backward()
    assert not reals.requires_grad
    assert not fakes.requires_grad
    assert w.grad.abs().sum() > 0


def test_a_zero_gradient_has_the_full_penalty_and_a_finite_derivative(device):
    w = torch.zeros(48, dtype=torch.float64, device=device, requires_grad=True)
    penalty = _penalty(lambda x: x.flatten(1) @ w, _images(4, device), _images(4, device))
    assert penalty.tolist() == [10.0] * 4
    penalty.sum().backward()
    assert torch.equal(w.grad, torch.zeros_like(w))


def test_the_penaltys_derivative_is_right(device):
    w = 0.3 * torch.randn(12, 5, dtype=torch.float64, device=device)
    reals, fakes, mix = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64, device=device).unbind() + (
        torch.rand(2, dtype=torch.float64, device=device),
    )
    assert torch.autograd.gradcheck(
        lambda w: _penalty(lambda x: _mlp(x, w), reals, fakes, mix), (w.requires_grad_(),), eps=1e-6, atol=1e-6
    )
