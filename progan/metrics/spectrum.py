"""Radial power spectrum: how much detail of each size pictures have, and how far two sets differ in that.

After the spectra of Karras et al. 2021 (Alias-Free GAN, appendix), who subtract the mean picture of the set and use a
Kaiser window. Here each picture loses its own mean, and the window is Hann's: it mixes neighbouring frequencies only,
which leaves something to see at 16x16 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

Pictures = Iterable[Tensor]
"""A set of pictures: iterated as often as needed, it gives the same uint8 batches [n, C, R, R], C 1 or 3, each time."""

ROUNDING = 1 / 12  # power of the error of rounding to whole pixel levels; nothing below it can be told
BLOCK = 1 << 22  # values (pixels x channels) that are worked on at once


def spectrum_distance(reals: Pictures, fakes: Pictures) -> dict[str, float]:
    """Differences of the two radial power spectra in dB (10 log10 fakes/reals), rings 1..R/2 with equal weight.

    `spectrum`: mean absolute difference, 0 at best. `spectrum_low`, `spectrum_high`: mean difference over rings 1..R/4
    and R/4+1..R/2; below 0 where the fakes lack coarse or fine detail. Power below that of rounding counts as that.
    Raises ValueError for sets that are empty or differ in size, or pictures below 4x4.
    """
    decibels = differences(power_plane(reals), power_plane(fakes))  # [R/2]
    low, high = decibels[: len(decibels) // 2], decibels[len(decibels) // 2 :]
    return {
        "spectrum": decibels.abs().mean().item(),
        "spectrum_low": low.mean().item(),
        "spectrum_high": high.mean().item(),
    }


def differences(real: Tensor, fake: Tensor) -> Tensor:
    """10 log10 fake/real of each ring but that of the mean: two planes [C, R, R/2 + 1] -> [R/2]."""
    shapes = [[len(plane), plane.shape[1], plane.shape[1]] for plane in (real, fake)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"reals are {shapes[0]}, fakes {shapes[1]}: no spectra to compare")
    if real.shape[1] < 4:
        raise ValueError(f"a spectrum wants pictures of at least 4x4, not {real.shape[1]}x{real.shape[1]}")
    return 10 * (rings(fake).clamp(min=ROUNDING) / rings(real).clamp(min=ROUNDING)).log10()[1:]


def radial_power(pictures: Pictures, windowed: bool = True) -> Tensor:
    """Mean power of each ring of frequencies, in squared pixel levels: float64 [R/2 + 1] on the CPU.

    Ring k holds the frequencies (u, v) whose radius, in periods a picture, rounds to k. White noise of variance s^2 has
    s^2 in each ring (a little less in 0 and 1: the mean is gone). Raises ValueError for an empty set.
    """
    return rings(power_plane(pictures, windowed))


def power_plane(pictures: Pictures, windowed: bool = True) -> Tensor:
    """Mean |FFT|^2 over the pictures, by channel: float64 [C, R, R/2 + 1] on the CPU, laid out as by `rfft2`.

    Divided by the window's energy (R^2 without one): the mean over all R x R frequencies is the variance (Parseval).
    """
    total, count = torch.zeros(()), 0
    for block in blocks(pictures):
        x = block.float() - block.float().mean((2, 3), keepdim=True)
        window = hann(x.shape[-1]).to(x) if windowed else torch.ones_like(x[0, 0])
        power = torch.view_as_real(torch.fft.rfft2(x * window)).square().sum(-1)  # [n, C, R, R/2 + 1]
        total = total + (power.sum(0) / window.square().sum()).cpu().double()
        count += len(block)
    if not count:
        raise ValueError("a set without pictures has no spectrum")
    return total / count


def hann(size: int) -> Tensor:
    """Hann's window in two dimensions, periodic: float64 [size, size], 0 in the first row and column, 1 amid."""
    side = torch.hann_window(size, dtype=torch.float64)
    return side[:, None] * side


def rings(plane: Tensor) -> Tensor:
    """Mean over each ring of integer radius up to R/2, and over channels. [C, R, R/2 + 1] -> [R/2 + 1].

    The columns between the first and R/2 stand for two frequencies each, v and -v.
    """
    size, columns = plane.shape[1:]
    u, v = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)[:, None], torch.arange(columns)
    ring = torch.hypot(u, v.double()).round().long().flatten()  # [R * (R/2 + 1)]
    twice = torch.where((v == 0) | (2 * v == size), 1.0, 2.0).double().expand(size, columns)
    power = torch.bincount(ring, (plane.mean(0) * twice).flatten())
    return (power / torch.bincount(ring, twice.flatten()))[:columns]


def blocks(pictures: Pictures) -> Iterator[Tensor]:
    """The same pictures in the same order in blocks of an even number (the last: what is left), however batched.

    Results do not depend on the batching then. Raises ValueError for pictures that are no such set.
    """
    parts: list[Tensor] = []
    for batch in pictures:
        size = 2 * max(1, min(128, BLOCK // (2 * check(batch, *parts[:1]).shape[1:].numel())))
        parts.append(batch)
        if sum(map(len, parts)) >= size:
            *whole, rest = torch.split(torch.cat(parts), size)
            yield from whole
            parts = [rest]
    if any(map(len, parts)):
        yield torch.cat(parts)


def check(batch: Tensor, *before: Tensor) -> Tensor:
    """The batch itself. Raises ValueError where it is not uint8 [n, C, R, R] or not of the size of those before."""
    kind = str(batch.dtype).removeprefix("torch.")
    if kind != "uint8" or batch.dim() != 4 or batch.shape[1] not in (1, 3) or batch.shape[2] != batch.shape[3]:
        raise ValueError(f"a set of pictures is uint8 [N, 1 or 3, R, R], not {kind} {list(batch.shape)}")
    for other in before:
        if other.shape[1:] != batch.shape[1:]:
            raise ValueError(f"pictures of {list(other.shape[1:])} and of {list(batch.shape[1:])} in one set")
    return batch
