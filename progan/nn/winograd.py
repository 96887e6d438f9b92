"""A 3x3 convolution in a quarter of the products: Winograd's F(4x4, 3x3). Lavin & Gray 2016, arXiv:1509.09308.

A tile of 4x4 outputs needs 6x6 inputs d. With the matrices below it is

    y = A' [(G w G') * (B' d B)] A        * element by element, ' transposed

so, summed over channels, 36 small matrix products for 16 outputs, where the direct form has 9 * 16. The result is the
same up to rounding. The paper's points 0, +-1, +-2 would round twice as coarsely as the 0, +-sqrt(1/2), +-sqrt(2) taken
here, which are also each other's inverses: a kernel turned by 180 degrees is then its transform in another order, and
the adjoint of a convolution needs no kernels of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from progan.nn.layers import Conv2d

_P, _Q = sqrt(0.5), sqrt(2.0)
B = (  # [6, 6] B': inputs -> transformed inputs
    (1.0, 0.0, -2.5, 0.0, 1.0, 0.0),
    (0.0, _Q, 2.0, -_P, -1.0, 0.0),
    (0.0, -_Q, 2.0, _P, -1.0, 0.0),
    (0.0, -_P / 2, -0.25, _P, 0.5, 0.0),
    (0.0, _P / 2, -0.25, -_P, 0.5, 0.0),
    (0.0, 1.0, 0.0, -2.5, 0.0, 1.0),
)
G = (  # [6, 3] taps -> transformed taps
    (1.0, 0.0, 0.0),
    (2 / 3, _Q / 3, 1 / 3),
    (2 / 3, -_Q / 3, 1 / 3),
    (1 / 3, _Q / 3, 2 / 3),
    (1 / 3, -_Q / 3, 2 / 3),
    (0.0, 0.0, 1.0),
)
A = (  # [4, 6] A': products -> outputs
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, _P, -_P, _Q, -_Q, 0.0),
    (0.0, 0.5, 0.5, 2.0, 2.0, 0.0),
    (0.0, _P / 2, -_P / 2, 2 * _Q, -2 * _Q, 1.0),
)
TURNED = (5, 3, 4, 1, 2, 0)
"""Row i of G for taps in reverse order is its row TURNED[i]."""

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
CHUNK = 1 << 21
"""Values of x transformed at once (8 MB): what a cache holds of them is not fetched from memory again."""


class WinogradConvolution:
    """`maps.Convolution` of a 3x3 kernel. x: [N, in, H, W] -> [N, out, H, W], channels last, H and W multiples of 4."""

    def __init__(self, layer: Conv2d) -> None:
        self.scale, self.kernels = layer.scale, transformed_kernels(layer.weight, layer.scale)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return winograd(x, self.kernels, bias, False)  # type: ignore[no-any-return]

    def adjoint(self, g: Tensor) -> Tensor:
        return winograd(g, self.kernels, None, True)  # type: ignore[no-any-return]

    def gradient(self, g: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of <g, A x + bias> with respect to the layer's weight, and to its bias."""
        return winograd_gradient(g, x).mul_(self.scale), g.sum((0, 2, 3))


def transformed_kernels(weight: Tensor, scale: float = 1.0) -> Tensor:
    """scale * G w G'. [out, in, 3, 3] -> [36, out, in]."""
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return product(scale * _both_ways(taps), taps.T).view(36, *weight.shape[:2])


def gathered_kernels(gradient: Tensor) -> Tensor:
    """The adjoint of `transformed_kernels`. [36, out, in] -> [out, in, 3, 3], channels last."""
    taps = (_both_ways(gradient).T @ gradient.flatten(1)).view(9, *gradient.shape[1:])
    rows = taps.transpose(0, 1).contiguous()  # [out, 9, in]
    return rows.view(len(rows), 3, 3, -1).permute(0, 3, 1, 2)


def _both_ways(like: Tensor) -> Tensor:
    """G along both axes as one matrix [36, 9]."""
    one_way = torch.tensor(G, dtype=like.dtype, device=like.device)
    return torch.kron(one_way, one_way)


# Both are opaque to torch.compile: inside, its loops are no faster than these, and take half a minute a layer to build.
@torch.library.custom_op("progan::winograd", mutates_args=())
def winograd(x: Tensor, kernels: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    """conv2d(x, weight, bias, padding=1) from `transformed_kernels(weight)`; its adjoint where `turned`.
    x: [N, in, H, W] -> [N, out, H, W].
    """
    kernels = kernels.transpose(1, 2) if turned else kernels  # [36, out, in]
    order = [6 * i + j for i in TURNED for j in TURNED] if turned else range(36)
    y = _empty_tiles(x, kernels.shape[1])  # [N, H/4, 4, W/4, 4, out]
    for part, tiles in _chunks(x, y):
        for r, row in enumerate(_convolved(_padded(part), [kernels[k] for k in order])):
            for c, pixels in enumerate(row):
                if bias is None:
                    tiles[:, :, r, :, c] = pixels
                else:
                    torch.add(pixels, bias, out=tiles[:, :, r, :, c])
    return y.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


@winograd.register_fake
def _(x: Tensor, kernels: Tensor, bias: Tensor | None, turned: bool) -> Tensor:
    y = _empty_tiles(x, kernels.shape[2 if turned else 1])
    return y.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


@torch.library.custom_op("progan::winograd_gradient", mutates_args=())
def winograd_gradient(g: Tensor, x: Tensor) -> Tensor:
    """The gradient of <g, conv2d(x, weight, padding=1)> with respect to weight. [out, in, 3, 3], channels last."""
    values = max(CHUNK, 32 * g.shape[1] * x.shape[1])  # each chunk's sum costs as much as 36 kernels
    rows = max(1, values // x[0].numel())
    total: list[Tensor] = []
    for part, above in zip(torch.split(x, rows), torch.split(g, rows)):
        products = _correlated(_pixels(above), _padded(part))
        total = [t.add_(p) for t, p in zip(total, products)] or products
    return gathered_kernels(torch.stack(total))


@winograd_gradient.register_fake
def _(g: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(g.shape[1], 3, 3, x.shape[1]).permute(0, 3, 1, 2)


def _convolved(d: Tensor, kernels: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """Pixel [r][c] of all tiles, [N, H/4, W/4, out]. d: [N, H + 2, W + 2, in]; kernels: 36 of [out, in]."""
    rows = []
    for i, row in enumerate(_every(6, d, 1, transformed)):
        columns = enumerate(_every(6, row, 2, transformed))
        rows.append(combined([_times(v, kernels[6 * i + j]) for j, v in columns]))
    return list(zip(*[combined(list(column)) for column in zip(*rows)]))


def _correlated(g: Tensor, d: Tensor) -> list[Tensor]:
    """The gradients of 36 kernels, [out, in] each. g: [N, H, W, out]; d: [N, H + 2, W + 2, in]."""
    rows = zip(_every(4, g, 1, spread), _every(6, d, 1, transformed))
    pairs = (pair for u, v in rows for pair in zip(_every(4, u, 2, spread), _every(6, v, 2, transformed)))
    return [product(u.flatten(0, 2).T, v.flatten(0, 2).T) for u, v in pairs]


def _times(v: Tensor, kernel: Tensor) -> Tensor:
    return product(v.flatten(0, 2), kernel).view(*v.shape[:3], -1)


def _every(taps: int, x: Tensor, axis: int, transform: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """Transform along an axis, all tiles at once: their first values, their second ones, ... lie 4 apart."""
    length = x.shape[axis] // 4 * 4
    return transform([x.narrow(axis, k, length - 3).unfold(axis, 1, 4).squeeze(-1) for k in range(taps)])


def transformed(d: list[Tensor]) -> list[Tensor]:
    """B' d, from six values to six: rows of opposite points share their even and odd halves."""
    even_p, odd_p = torch.add(d[2] * 2, d[4], alpha=-1), torch.add(d[1] * _Q, d[3], alpha=-_P)
    even_q, odd_q = torch.add(d[4] / 2, d[2], alpha=-0.25), torch.add(d[3] * _P, d[1], alpha=-_P / 2)
    first = torch.add(d[0], d[2], alpha=-2.5).add_(d[4])
    last = torch.add(d[1], d[3], alpha=-2.5).add_(d[5])
    return [first, even_p + odd_p, even_p.sub_(odd_p), even_q + odd_q, even_q.sub_(odd_q), last]


def combined(m: list[Tensor]) -> list[Tensor]:
    """A' m, from six products to four outputs."""
    even_p, odd_p, even_q, odd_q = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    last = torch.add(m[5], odd_p, alpha=_P / 2).add_(odd_q, alpha=2 * _Q)
    first = (m[0] + even_p).add_(even_q)
    return [first, (odd_p * _P).add_(odd_q, alpha=_Q), (even_p * 0.5).add_(even_q, alpha=2), last]


def spread(g: list[Tensor]) -> list[Tensor]:
    """A g, the adjoint of `combined`: from four values to six."""
    even_p, odd_p = torch.add(g[0], g[2], alpha=0.5), torch.add(g[1] * _P, g[3], alpha=_P / 2)
    even_q, odd_q = torch.add(g[0], g[2], alpha=2), torch.add(g[1] * _Q, g[3], alpha=2 * _Q)
    return [g[0], even_p + odd_p, even_p.sub_(odd_p), even_q + odd_q, even_q.sub_(odd_q), g[3]]


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T. oneDNN's own, which torch keeps private, is 1.2 times as fast on AVX2 and 2 to 3.5 on AVX-512."""
    if ONEDNN and not torch.compiler.is_compiling() and x.device.type == "cpu" and x.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")  # type: ignore[no-any-return]
    return x @ weight.T


def _pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H, W, C]."""
    return x.permute(0, 2, 3, 1)


def _padded(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H + 2, W + 2, C]."""
    return F.pad(_pixels(x), (0, 0, 1, 1, 1, 1))


def _empty_tiles(x: Tensor, maps: int) -> Tensor:
    return x.new_empty(len(x), x.shape[2] // 4, 4, x.shape[3] // 4, 4, maps)


def _chunks(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Samples of both, CHUNK values of x at a time."""
    rows = max(1, CHUNK // x[0].numel())
    return list(zip(torch.split(x, rows), torch.split(y, rows)))
