"""Laws of the Frechet distance, all in closed form, and of the moments that it is taken between."""

import functools

import numpy as np
import pytest
import torch

from progan.metrics import frechet
from progan.metrics.frechet import Moments, frechet_distance


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _covariance(size: int, rank: int | None = None, seed: int = 0) -> torch.Tensor:
    x = _normal(size, rank or 2 * size, seed=seed)
    return x @ x.T


def _rotation(size: int, seed: int = 9) -> torch.Tensor:
    return torch.linalg.qr(_normal(size, size, seed=seed)).Q


def _between(cov_a: torch.Tensor, cov_b: torch.Tensor) -> float:
    """The distance of two Gaussians with one mean."""
    mean = _normal(len(cov_a))
    return frechet_distance(mean, cov_a, mean, cov_b)


# --- the distance ---


@pytest.mark.parametrize("rank", [1, 5, 12, 40])
def test_a_gaussian_has_no_distance_to_itself_whatever_its_rank(rank):
    cov = _covariance(40, rank)
    assert 0 <= _between(cov, cov) < 1e-11 * cov.trace()


def test_a_shift_of_the_mean_counts_its_square():
    cov, mean, shift = _covariance(6), _normal(6, seed=1), torch.tensor([3.0, 4, 0, 0, 0, 0])
    assert frechet_distance(mean, cov, mean + shift, cov) == pytest.approx(25, rel=1e-10)


def test_diagonal_covariances_are_apart_by_the_squares_of_the_differences_of_their_deviations():
    a, b = torch.tensor([1.0, 2, 5, 0]), torch.tensor([4.0, 2, 1, 3])
    assert _between(torch.diag(a**2), torch.diag(b**2)) == pytest.approx(9 + 0 + 16 + 9, rel=1e-12)


def test_covariances_that_commute_are_as_far_apart_as_their_diagonals():
    a, b, turn = torch.tensor([1.0, 2, 5]).double(), torch.tensor([4.0, 2, 1]).double(), _rotation(3)
    got = _between(turn @ torch.diag(a**2) @ turn.T, turn @ torch.diag(b**2) @ turn.T)
    assert got == pytest.approx(25, rel=1e-12)


def test_a_common_rotation_changes_nothing():
    a, b, turn = _covariance(7, seed=1), _covariance(7, seed=2), _rotation(7)
    mean_a, mean_b = _normal(7, seed=3), _normal(7, seed=4)
    wanted = frechet_distance(mean_a, a, mean_b, b)
    assert frechet_distance(turn @ mean_a, turn @ a @ turn.T, turn @ mean_b, turn @ b @ turn.T) == pytest.approx(
        wanted, rel=1e-10
    )
    assert wanted > 1


def test_covariances_that_do_not_commute():
    """The trace of the root of a 2x2 matrix M with positive eigenvalues is sqrt(tr M + 2 sqrt(det M))."""
    a, b = torch.tensor([[4.0, 1.5], [1.5, 1.0]]).double(), torch.tensor([[2.0, -0.5], [-0.5, 0.5]]).double()
    assert not torch.allclose(a @ b, b @ a)
    overlap = ((a @ b).trace() + 2 * (a @ b).det().sqrt()).sqrt()
    assert _between(a, b) == pytest.approx((a.trace() + b.trace() - 2 * overlap).item(), rel=1e-12)


def test_covariances_of_rank_one():
    """(v v^T)^(1/2) (w w^T)^(1/2) has one singular value, |<v, w>|."""
    v, w = _normal(30, seed=1), _normal(30, seed=2)
    wanted = v @ v + w @ w - 2 * (v @ w).abs()
    assert _between(torch.outer(v, v), torch.outer(w, w)) == pytest.approx(wanted.item(), rel=1e-12)


def test_covariances_of_subspaces_that_have_nothing_in_common_do_not_overlap():
    turn = _rotation(30)
    a, b = turn[:, :10] @ turn[:, :10].T, 4 * turn[:, 10:25] @ turn[:, 10:25].T
    assert _between(a, b) == pytest.approx(10 + 60, rel=1e-12)


@pytest.mark.parametrize(("a", "b"), [(1.0, 3.0), (2.0, 2.0), (0.0, 2.0), (0.0, 0.0)])
def test_one_dimension(a, b):
    got = frechet_distance(torch.tensor([1.0]), torch.tensor([[a * a]]), torch.tensor([0.5]), torch.tensor([[b * b]]))
    assert got == pytest.approx(0.25 + (a - b) ** 2, abs=1e-12)


def test_the_distance_is_symmetric_and_grows_with_the_square_of_the_scale():
    a, b, mean = _covariance(5, seed=1), _covariance(5, seed=2), _normal(5, seed=3)
    zero = torch.zeros(5)
    there = frechet_distance(zero, a, mean, b)
    assert frechet_distance(mean, b, zero, a) == pytest.approx(there, rel=1e-12)
    assert frechet_distance(zero, 9 * a, 3 * mean, 9 * b) == pytest.approx(9 * there, rel=1e-12)


def test_single_precision_goes_in_and_double_precision_counts():
    a, b, zero = _covariance(5, seed=1).float(), _covariance(5, seed=2).float(), torch.zeros(5)
    wanted = frechet_distance(zero.double(), a.double(), zero.double(), b.double())
    assert frechet_distance(zero, a, zero, b) == pytest.approx(wanted, rel=1e-14)


# --- moments ---


def test_moments_are_those_of_numpy(device):
    x = _normal(50, 7).float()
    got = Moments.of(x.to(device))
    assert got.count == 50
    assert np.allclose(got.mean, x.double().numpy().mean(0), rtol=0, atol=1e-14)
    assert np.allclose(got.covariance, np.cov(x.double().numpy(), rowvar=False), rtol=1e-12, atol=1e-13)
    assert {got.mean.dtype, got.covariance.dtype} == {torch.float64}


@pytest.mark.parametrize("sizes", [[1] * 20, [7, 13], [19, 1], [1, 19], [5, 5, 10]])
def test_moments_of_parts_merge_into_those_of_the_whole(sizes):
    x = _normal(20, 4) + torch.arange(20.0)[:, None]  # parts have means of their own
    got = functools.reduce(Moments.merged, map(Moments.of, x.split(sizes)))
    wanted = Moments.of(x)
    assert got.count == 20
    assert torch.allclose(got.mean, wanted.mean, rtol=1e-12)
    assert torch.allclose(got.covariance, torch.from_numpy(np.cov(x.numpy(), rowvar=False)), rtol=1e-12)


def test_a_large_set_goes_through_in_blocks(monkeypatch):
    x = _normal(50, 4)
    monkeypatch.setattr(frechet, "BLOCK", 8)
    assert np.allclose(Moments.of(x).covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("parts", [1, 10])
def test_a_large_common_offset_costs_no_digits(parts):
    """Integers, which an offset of 1e9 leaves exact; their squares, 1e18, have no room for a variance of 1."""
    x = _normal(1000, 3).mul(10).round()
    got = functools.reduce(Moments.merged, map(Moments.of, (x + 1e9).chunk(parts)))
    assert torch.allclose(got.covariance, Moments.of(x).covariance, rtol=1e-6, atol=1e-4)
    assert (got.covariance.diagonal() > 50).all()


def test_samples_of_two_gaussians_are_as_far_apart_as_these():
    x, y = _normal(200_000, 3, seed=1), 2 * _normal(200_000, 3, seed=2) + 1
    a, b = Moments.of(x), Moments.of(y)
    assert frechet_distance(a.mean, a.covariance, b.mean, b.covariance) == pytest.approx(3 + 3, rel=0.02)


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 3, 4)])
def test_what_is_no_set_of_features_is_refused(shape):
    with pytest.raises(ValueError, match="features have to be"):
        Moments.of(torch.zeros(shape))


def test_one_picture_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2 pictures"):
        _ = Moments.of(torch.zeros(1, 3)).covariance
