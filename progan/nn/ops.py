"""The mathematics of ProGAN as pure functions of tensors [N, C, H, W]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale each pixel's feature vector to unit mean square. Karras et al. 2018, sec. 4.2. x: [N, C, ...] -> same
    shape.
    """
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps)


def largest_group(count: int, wanted: int) -> int:
    """The largest divisor of `count` that is at most `wanted`: batches such as 14, 6 and 3 form whole groups too."""
    return next(size for size in range(max(1, min(wanted, count)), 0, -1) if count % size == 0)


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """One extra map that tells D how much its group varies. Karras et al. 2018, sec. 3. x: [N, C, H, W] -> [N, C+1,
    H, W].

    N must be a multiple of `group` (see `largest_group`); sample n belongs to group n mod N/group, as in the official
    code, whose variance is the biased one.
    """
    n, c, h, w = x.shape
    y = x.to(torch.promote_types(x.dtype, torch.float32))  # statistics need more than half precision
    y = y.reshape(group, n // group, c, h, w)  # [G, M, C, H, W] M groups of G, strided
    y = y - y.mean(0)  # [G, M, C, H, W] deviation from the group
    y = y.square().mean(0)  # [M, C, H, W] variance over the group
    y = (y + 1e-8).sqrt().mean([1, 2, 3])  # [M] one number a group
    y = y.to(x.dtype).repeat(group)[:, None, None, None].expand(n, 1, h, w)  # [N, 1, H, W]
    return torch.cat([x, y], 1)


def upscale2d(x: Tensor) -> Tensor:
    """Nearest neighbour x2. [N, C, H, W] -> [N, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def downscale2d(x: Tensor) -> Tensor:
    """Mean of 2x2 pixels. [N, C, H, W] -> [N, C, H/2, W/2]."""
    return F.avg_pool2d(x, 2)


def blend(old: Tensor, new: Tensor, alpha: float | Tensor) -> Tensor:
    """old where alpha is 0, new where it is 1, bitwise at both ends. alpha: a number or a 0-dim tensor."""
    return torch.lerp(old, new, alpha.to(old) if isinstance(alpha, Tensor) else alpha)
