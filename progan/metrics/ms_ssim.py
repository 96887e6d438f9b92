"""Multi-scale structural similarity (MS-SSIM): how alike two pictures look, from 0 to 1 (equal).

Wang, Simoncelli and Bovik 2003, with the settings of Karras et al. 2018, sec. 5. Between random pairs of pictures from
one generator it measures diversity (Odena et al. 2017): the lower, the more diverse. It says nothing of their quality.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Pictures = Iterable[Tensor]
"""A set of pictures: iterated as often as needed, it gives the same uint8 batches [n, C, R, R], C 1 or 3, each time."""

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
WINDOW, SIGMA = 11, 1.5  # side and standard deviation of the Gaussian window, in pixels of its scale
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # keep both quotients finite on black and on flat pictures
BLOCK = 1 << 22  # values (pixels x channels) that are worked on at once


def ms_ssim_of_pairs(pictures: Pictures) -> dict[str, float]:
    """MS-SSIM of the 1st picture with the 2nd, of the 3rd with the 4th and so on; a last one left over does not count.

    `ms_ssim`: the mean over the pairs, `ms_ssim_error`: its standard error. The order of the pictures must be random:
    neighbours of one class are more alike than two pictures at large. Raises ValueError for fewer than four pictures.
    """
    found: list[float] = []  # no small tensors: kept between large ones, they would break up the memory
    for block in blocks(pictures):
        found += ms_ssim(block[: len(block) // 2 * 2 : 2], block[1::2]).tolist()
    each = torch.tensor(found, dtype=torch.float64)  # [pairs]
    if len(each) < 2:
        raise ValueError(f"MS-SSIM wants at least four pictures, two pairs; here are {len(each)} pairs")
    return {"ms_ssim": each.mean().item(), "ms_ssim_error": each.std().item() / math.sqrt(len(each))}


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of each a with its b: pixels [N, C, H, W], 0..255 -> float32 [N] in 0..1; 1 where a equals b.

    The product of the mean contrast similarity of four scales and the mean full similarity of the fifth, the coarsest,
    each to its weight. Means run over pixels and channels; a negative one counts as 0, as in the official code.
    """
    a, b = a.float(), b.float()
    result = torch.ones(len(a), device=a.device)
    for weight in WEIGHTS[:-1]:
        result *= similarity(a, b)[1].clamp(min=0).pow(weight)
        a, b = halve(a), halve(b)
    return result * similarity(a, b)[0].clamp(min=0).pow(WEIGHTS[-1])


def similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Structural similarity of one scale (SSIM), and its contrast and structure part alone: [N, C, H, W] -> [N], [N].

    Moments under a Gaussian window of 11x11, or as large as the picture is; only where the window lies wholly inside.
    """
    window = gaussian(min(WINDOW, a.shape[2], a.shape[3]))
    mean_a, mean_b, aa, bb, ab = blur(torch.cat([a, b, a * a, b * b, a * b]), window).chunk(5)
    both = mean_a.square() + mean_b.square()
    contrast = (2 * (ab - mean_a * mean_b) + C2) / ((aa - mean_a.square()) + (bb - mean_b.square()) + C2)
    luminance = (2 * mean_a * mean_b + C1) / (both + C1)
    return (luminance * contrast).mean((1, 2, 3)), contrast.mean((1, 2, 3))


def gaussian(size: int) -> list[float]:
    """`size` weights of sum 1, symmetric; a smaller window is narrower in proportion: sigma = 1.5 size / 11."""
    sigma = SIGMA * size / WINDOW
    weights = [math.exp(-(((i - (size - 1) / 2) / sigma) ** 2) / 2) for i in range(size)]
    return [weight / sum(weights) for weight in weights]


def blur(x: Tensor, window: list[float]) -> Tensor:
    """Weighted mean over window x window pixels, where it lies wholly inside. [N, C, H, W] -> [N, C, H-n+1, W-n+1].

    By shifted copies and no convolution: that may round to TF32, too coarse for a variance from mean squares.
    """
    for axis in (2, 3):
        length = x.shape[axis] - len(window) + 1
        total = x.narrow(axis, 0, length) * window[0]
        for shift, weight in enumerate(window[1:], 1):
            total.add_(x.narrow(axis, shift, length), alpha=weight)
        x = total
    return x


def halve(x: Tensor) -> Tensor:
    """Mean of 2x2 pixels; at an odd edge of those that there are. [N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


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
