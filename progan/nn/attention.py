"""Self-attention: every pixel gathers from all others what resembles it. Zhang et al. 2019, arXiv:1805.08318.

Of the two forms in use, A is the one of the paper's first version, B the one of its authors' code:

    A   queries, keys: C/8 maps; values: C maps
    B   queries, keys: C/8 maps; values: C/2 maps; keys and values max-pooled 2x2; a 1x1 convolution back to C maps

y = x + gamma * what was gathered, gamma a parameter that begins at 0: where attention appears, nothing changes. The
products of queries and keys are not divided by the root of their dimension, and no convolution has a bias.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from progan.nn.layers import EQUALIZED, Conv2d, Drawn, Scheme, chosen

FORMS = {"A": "without pooling", "B": "with keys and values pooled"}


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Each query's mean of the values, weighted by the softmax of its products with the keys. queries: [N, L, d];
    keys: [N, M, d]; values: [N, M, v] -> [N, L, v].

    Where derivatives may be wanted, in a form that has second ones, as gradient penalties need; it keeps the map
    [N, L, M]. Elsewhere by torch's fused kernels, which do not.
    """
    q, k, v = (x[:, None] for x in (queries, keys, values))  # [N, 1, ...] one head
    with sdpa_kernel(SDPBackend.MATH) if torch.is_grad_enabled() else contextlib.nullcontext():
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0]


def plain_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`attention` as it reads in the paper (equations 1 and 2)."""
    return torch.softmax(queries @ keys.transpose(1, 2), 2) @ values


def pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H*W, C]."""
    return x.flatten(2).transpose(1, 2)


class SelfAttention(Drawn):
    """x + gamma * attention over its own pixels. [N, channels, H, W] -> same shape; H and W even in form B.

    form: `A` or `B`, see above. C/8 and C/2 are at least 1. The 1x1 convolutions follow the scheme, with gain 1.
    """

    def __init__(self, channels: int, form: str = "B", scheme: Scheme = EQUALIZED) -> None:
        super().__init__()
        chosen("the form of attention", form, FORMS)
        self.pooled = form == "B"
        near, wide = max(1, channels // 8), max(1, channels // 2) if self.pooled else channels
        self.queries = Conv2d(channels, near, 1, 1.0, scheme, bias=False)
        self.keys = Conv2d(channels, near, 1, 1.0, scheme, bias=False)
        self.values = Conv2d(channels, wide, 1, 1.0, scheme, bias=False)
        self.output = Conv2d(wide, channels, 1, 1.0, scheme, bias=False) if self.pooled else None
        self.gamma = nn.Parameter(torch.zeros(()))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        nn.init.zeros_(self.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> same shape: x, and gamma times what each pixel gathers from all."""
        keys, values = self.keys(x), self.values(x)
        if self.pooled:
            keys, values = F.max_pool2d(keys, 2), F.max_pool2d(values, 2)
        gathered = attention(pixels(self.queries(x)), pixels(keys), pixels(values))  # [N, H*W, wide]
        gathered = gathered.transpose(1, 2).view(len(x), -1, *x.shape[2:])  # [N, wide, H, W]
        if self.output is not None:
            gathered = self.output(gathered)
        return x + self.gamma * gathered

    def macs(self, resolution: int) -> int:
        """Multiply-accumulates of one image of resolution x resolution pixels."""
        layers = [self.queries, self.keys, self.values] + ([] if self.output is None else [self.output])
        near, wide = self.keys.count // self.keys.taps, self.values.count // self.values.taps
        pairs = resolution**4 // (4 if self.pooled else 1)
        return sum(layer.macs(resolution) for layer in layers) + pairs * (near + wide)
