"""The Frechet distance between two Gaussians, and the moments of features that make them. All in float64 on the CPU."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 4096
"""Features that are float64 at a time."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What is known of a set of features [N, D] by its sums, and of the union of two sets by theirs.

    The sums are about the mean, as in Chan et al. 1979: those about zero lose all digits where the mean is large.
    """

    count: int
    mean: Tensor  # float64 [D]
    scatter: Tensor  # float64 [D, D] sum of (x - mean) (x - mean)^T

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """features: [N, D] of any float type, on any device. Raises ValueError for another form and where N is 0."""
        if features.ndim != 2 or len(features) == 0:
            raise ValueError(f"features have to be [N, D] with N at least 1, and these are {list(features.shape)}")
        return functools.reduce(Moments.merged, map(_block, torch.split(features, BLOCK)))

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets together."""
        count = self.count + other.count
        shift = other.mean - self.mean  # [D]
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)  # [D, D]
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """float64 [D, D] with divisor N-1, as np.cov has it. Raises ValueError where N is 1."""
        if self.count < 2:
            raise ValueError("a covariance needs at least 2 pictures, and there is 1")
        return self.scatter / (self.count - 1)


def _block(features: Tensor) -> Moments:
    """The moments of features [N, D] that are float64 all at once."""
    x = features.detach().cpu().to(torch.float64)  # the CPU first: mps has no float64
    mean = x.mean(0)  # [D]
    x = x - mean
    return Moments(len(x), mean, x.T @ x)


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), never negative. Dowson & Landau 1982; Heusel et
    al. 2017, sec. 4.

    mean: [D]; cov: [D, D], symmetric and positive semidefinite; its rank may be short. The trace of the root is the
    sum of the singular values of cov_a^(1/2) cov_b^(1/2): real, and exact to rounding where eigenvalues of
    cov_a cov_b are 0, while the roots of these would be half the digits off.
    """
    shift, cov_a, cov_b = _cpu64(mean_a) - _cpu64(mean_b), _cpu64(cov_a), _cpu64(cov_b)
    overlap = torch.linalg.svdvals(_root(cov_a) @ _root(cov_b)).sum()
    distance = shift.square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap
    return max(0.0, float(distance))


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a symmetric matrix [D, D]; eigenvalues that are rounding count as 0, as the root of
    1e-16 would be 1e-8.
    """
    values, vectors = torch.linalg.eigh(cov)
    rounding = len(cov) * torch.finfo(cov.dtype).eps * values.abs().max()
    root: Tensor = (vectors * values.where(values > rounding, 0.0).sqrt()) @ vectors.T
    return root


def _cpu64(x: Tensor) -> Tensor:
    return x.detach().cpu().to(torch.float64)
