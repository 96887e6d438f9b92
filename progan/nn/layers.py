"""Convolutions and dense layers, and how what they store becomes the weight that they multiply by.

equalized         drawn from N(0, 1), multiplied at run time by gain / sqrt(fan_in), He's constant, so that Adam moves
                  every weight at the same pace. Karras et al. 2018, sec. 4.1. The default
plain             drawn as large as it is used
spectral          divided by its largest singular value. Miyato et al. 2018, arXiv:1802.05957
weightnorm        g v / |v| for each output channel. Salimans & Kingma 2016, arXiv:1602.07868
weightnorm-strict v / |v|, without g and bias except in a network's last layer. Xiang & Li 2017, arXiv:1704.03971

Biases start at 0 and are not scaled.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

SQRT2 = math.sqrt(2)
T = TypeVar("T")

FIRST_ITERATIONS = 15  # of the power method on new weights: the norm is then within some per cent of 1


# ---- normalised weights, as functions


def rows(weight: Tensor, dim: int) -> Tensor:
    """A weight as a matrix, one row an output channel. dim: where output channels are. [...] -> [out, rest]."""
    return weight.transpose(0, dim).flatten(1)


def power_iteration(matrix: Tensor, v: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest singular value's vectors, `count` steps nearer. Miyato et al. 2018, algorithm 1. matrix: [m, n];
    v: [n] -> u [m], v [n].
    """
    for _ in range(count):
        u = F.normalize(torch.mv(matrix, v), dim=0, eps=1e-12)
        v = F.normalize(torch.mv(matrix.T, u), dim=0, eps=1e-12)
    return u, v


def spectral_norm(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """u' W v, of which u and v are constants: a lower bound of the largest singular value, and near it if they are."""
    return torch.vdot(u, torch.mv(matrix, v))


def wide(tensor: Tensor) -> Tensor:
    """Norms need more than half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def lengths(weight: Tensor, dim: int = 0, share: float = 1.0) -> Tensor:
    """sqrt(share * sum(w^2) + 1e-8) of each output channel, in float32 or better. dim: where output channels are.
    share: of a channel's weights, those that one output pixel meets; 1 / stride^2 in a transposed convolution.
    [..., out, ...] -> [1, out, 1, ...].
    """
    others = [d for d in range(weight.ndim) if d != dim]
    return torch.sqrt(share * wide(weight).square().sum(others, keepdim=True) + 1e-8)


def unit_length(weight: Tensor, dim: int = 0, share: float = 1.0) -> Tensor:
    """Each output channel's weights divided by their `lengths`. Xiang & Li 2017, sec. 3. -> same shape.

    Independent inputs of unit variance then give outputs of unit variance.
    """
    return (wide(weight) / lengths(weight, dim, share)).to(weight.dtype)


# ---- the same as parametrizations of torch


class Spectral(nn.Module):
    """weight / its spectral norm. Every call in train mode takes one step of the power method, except in `still`.

    State keys and numbers are those of torch.nn.utils.parametrizations.spectral_norm. Differs from it: reckoned in
    float32 or better whatever the weight's type and autocast; u and v are drawn from a generator that is given; and
    the steps can be held. A weight of zeros has no direction, and gives NaN.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.dim, self.still = dim, False
        self.register_buffer("_u", torch.zeros(shape[dim]))
        self.register_buffer("_v", torch.zeros(math.prod(shape) // shape[dim]))

    def forward(self, weight: Tensor) -> Tensor:
        with exactly(weight):
            if self.training and not self.still:
                self.iterate(weight, 1)
            w = wide(weight)
            u, v = (x.to(w.dtype, copy=True) for x in (self._u, self._v))  # a later step moves what is stored
            return (w / spectral_norm(rows(w, self.dim), u, v)).to(weight.dtype)

    @torch.no_grad()
    def iterate(self, weight: Tensor, count: int) -> None:
        """Take `count` steps of the power method."""
        matrix = rows(wide(weight), self.dim)
        u, v = power_iteration(matrix, self._v.to(matrix.dtype), count)
        self._u.copy_(u)
        self._v.copy_(v)

    @torch.no_grad()
    def reset(self, weight: Tensor, generator: torch.Generator | None) -> None:
        """Draw v anew, and bring both near to a new weight's."""
        self._v.normal_(generator=generator)
        self.iterate(weight, FIRST_ITERATIONS)


class UnitLength(nn.Module):
    """`unit_length`."""

    def __init__(self, dim: int, share: float) -> None:
        super().__init__()
        self.dim, self.share = dim, share

    def forward(self, weight: Tensor) -> Tensor:
        return unit_length(weight, self.dim, self.share)


class Gained(nn.Module):
    """g v / |v|, from g and v, with the state keys of torch.nn.utils.parametrizations.weight_norm. Differs from it: its
    second derivatives are right (torch 2.15 holds |v| for a constant in them), and v = 0 gives 0.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, gain: Tensor, direction: Tensor) -> Tensor:
        return gain * unit_length(direction, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return lengths(weight, self.dim).to(weight.dtype), weight


def exactly(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """No autocast on a tensor's device."""
    kind = tensor.device.type
    if not torch.amp.is_autocast_available(kind):
        return contextlib.nullcontext()
    return cast("contextlib.AbstractContextManager[None]", torch.autocast(kind, enabled=False))


# ---- the choice


@dataclass(frozen=True)
class Scheme:
    """How a network's layers draw and normalise their weights.

    weights: one of WEIGHTS. init: one of INITS; `equalized` draws N(0, 1) whatever it says. spectral_gain: the factor
    on every spectral weight. spectral_learned: make it a parameter of each layer, which starts there (Miyato et al.
    2018, appendix E). Raises ValueError for a name that there is not, and for a gain of 0.
    """

    weights: str = "equalized"
    init: str = "he"
    spectral_gain: float = 1.0
    spectral_learned: bool = False

    def __post_init__(self) -> None:
        chosen("weights", self.weights, WEIGHTS)
        chosen("init", self.init, INITS)
        if not self.spectral_gain > 0:
            raise ValueError(f"the spectral gain {self.spectral_gain} is not above 0")

    @property
    def strict(self) -> bool:
        """Whether hidden layers have neither gain nor bias."""
        return self.weights == "weightnorm-strict"


def chosen(what: str, name: str, table: Mapping[str, T]) -> T:
    """What a name stands for. Raises ValueError, with the list, for a name that is not in it."""
    if name not in table:
        raise ValueError(f"{what} is {', '.join(f'`{key}`' for key in table)}, not `{name}`")
    return table[name]


class Drawn(nn.Module):
    """A module with values that `draw` has to set: it says how in `reset_parameters`."""

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Set all values of its own, not its children's, as they are before training; randomness is the generator's."""
        raise NotImplementedError


def draw(net: nn.Module, generator: torch.Generator) -> None:
    """Draw all values of a network anew from one generator, in order of registration."""
    for module in net.modules():
        if isinstance(module, Drawn):
            module.reset_parameters(generator)


class Scaled(Drawn):
    """A weight with its run-time scale, and a bias.

    shape: of the weight, [out, in, ...] (dim 0), or [in, out, ...] for dim 1. share: as in `unit_length`. gain: of the
    initialisation and of the equalized scale. bias: numbers, 0 for none; a hidden layer under `weightnorm-strict` has
    none unless `affine`, as a network's last layer should be.

    scale: the factor on `weight`: gain / sqrt(fan_in) if equalized, the spectral gain if that is fixed, else 1.
    learned_gain: a factor more, a parameter: a number if spectral and learned; one an output channel, 1 at the start,
    if affine under `weightnorm-strict`; else None. fan_in: the inputs that an output sums. count: of weights.
    """

    def __init__(
        self,
        *shape: int,
        gain: float,
        bias: int,
        scheme: Scheme,
        dim: int = 0,
        share: float = 1.0,
        affine: bool = False,
    ) -> None:
        super().__init__()
        self.scheme, self.dim, self.share, self.gain = scheme, dim, share, gain
        self.count = math.prod(shape)
        self.taps = self.count // shape[dim]  # weights of one output channel
        self.fan_in = self.taps * share
        std = gain / math.sqrt(self.fan_in)
        spectral = scheme.weights == "spectral" and not scheme.spectral_learned
        self.init_std, self.scale = (1.0, std) if scheme.weights == "equalized" else (std, 1.0)
        self.scale = scheme.spectral_gain if spectral else self.scale
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(bias)) if bias and (affine or not scheme.strict) else None
        self.learned_gain = _learned_gain(scheme, shape[dim], affine)
        if scheme.weights in NORMALISED:
            NORMALISED[scheme.weights].wrap(self)
        self.reset_parameters()

    @property
    def stored(self) -> nn.Parameter:
        """The parameter behind `weight`, whose reading normalises nothing and moves nothing."""
        if not parametrize.is_parametrized(self, "weight"):
            return self.weight
        return list(_parametrization(self).parameters(recurse=False))[-1]  # weightnorm's are g, v

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weight anew, clear the bias, begin with the gain."""
        INITS["he" if self.scheme.weights == "equalized" else self.scheme.init](self, generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.learned_gain is not None:
            nn.init.constant_(self.learned_gain, 1.0 if self.learned_gain.ndim else self.scheme.spectral_gain)
        if self.scheme.weights in NORMALISED:
            NORMALISED[self.scheme.weights].begin(self, generator)

    def effective(self) -> Tensor:
        """The weight that the layer multiplies by. In train mode, reading a spectral one iterates: once a pass."""
        weight = self.weight * self.scale
        if self.learned_gain is None:
            return weight
        if self.learned_gain.ndim == 0:
            return weight * self.learned_gain
        return weight * self.learned_gain.view([-1 if d == self.dim else 1 for d in range(weight.ndim)])


def _learned_gain(scheme: Scheme, channels: int, affine: bool) -> nn.Parameter | None:
    if scheme.weights == "spectral" and scheme.spectral_learned:
        return nn.Parameter(torch.empty(()))
    return nn.Parameter(torch.empty(channels)) if scheme.strict and affine else None


# ---- how weights begin


def _he(layer: Scaled, generator: torch.Generator | None) -> None:
    """N(0, gain^2 / fan_in); N(0, 1) where the scale does the rest. He et al. 2015, arXiv:1502.01852."""
    nn.init.normal_(layer.stored, std=layer.init_std, generator=generator)


def _normal(layer: Scaled, generator: torch.Generator | None) -> None:
    """N(0, 0.02^2). Radford et al. 2016, arXiv:1511.06434."""
    nn.init.normal_(layer.stored, std=0.02, generator=generator)


def _xavier(layer: Scaled, generator: torch.Generator | None) -> None:
    """Uniform within gain * sqrt(6 / (all inputs' + all outputs' weights)). Glorot & Bengio 2010."""
    nn.init.xavier_uniform_(layer.stored, gain=layer.gain, generator=generator)


def _uniform(layer: Scaled, generator: torch.Generator | None) -> None:
    """Uniform within 1 / sqrt(weights of an output channel): torch's own for stride 1."""
    bound = 1 / math.sqrt(layer.taps)
    nn.init.uniform_(layer.stored, -bound, bound, generator=generator)


INITS: dict[str, Callable[[Scaled, torch.Generator | None], None]] = {
    "he": _he,
    "normal": _normal,
    "xavier": _xavier,
    "uniform": _uniform,
}


# ---- how weights are normalised


@dataclass(frozen=True)
class Normalised:
    """wrap: put a parametrization on a layer's weight. begin: after its weight has been drawn."""

    wrap: Callable[[Scaled], object]
    begin: Callable[[Scaled, torch.Generator | None], None]


def _parametrization(layer: Scaled) -> parametrize.ParametrizationList:
    return cast("nn.ModuleDict", layer.parametrizations)["weight"]  # type: ignore[return-value]


def _spectral(layer: Scaled) -> Spectral | None:
    """A layer's spectral norm, if it has one."""
    found = _parametrization(layer)[0] if parametrize.is_parametrized(layer, "weight") else None
    return found if isinstance(found, Spectral) else None


def _wrap_spectral(layer: Scaled) -> None:
    parametrize.register_parametrization(layer, "weight", Spectral(tuple(layer.weight.shape), layer.dim))


def _begin_spectral(layer: Scaled, generator: torch.Generator | None) -> None:
    spectral = _spectral(layer)
    assert spectral is not None
    spectral.reset(layer.stored, generator)


def _wrap_strict(layer: Scaled) -> None:
    parametrize.register_parametrization(layer, "weight", UnitLength(layer.dim, layer.share))


def _wrap_weightnorm(layer: Scaled) -> None:
    parametrize.register_parametrization(layer, "weight", Gained(layer.dim))


def _begin_weightnorm(layer: Scaled, generator: torch.Generator | None) -> None:
    """g = |v|: the weight is at first the one that was drawn."""
    cast(Tensor, _parametrization(layer).original0).copy_(lengths(layer.stored, layer.dim))


NORMALISED = {
    "spectral": Normalised(_wrap_spectral, _begin_spectral),
    "weightnorm-strict": Normalised(_wrap_strict, lambda layer, generator: None),
    "weightnorm": Normalised(_wrap_weightnorm, _begin_weightnorm),
}
WEIGHTS: dict[str, Normalised | None] = {"equalized": None, "plain": None, **NORMALISED}
EQUALIZED = Scheme()


# ---- the layers


class Conv2d(Scaled):
    """Convolution, zero-padded. [N, in, H, W] -> [N, out, H', W']. padding: default kernel // 2, which keeps the size
    where the stride is 1 and the kernel odd.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, gain: float = SQRT2, scheme: Scheme = EQUALIZED, *, bias: bool = True,
        stride: int = 1, padding: int | None = None, affine: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            c_out, c_in, kernel, kernel, gain=gain, bias=c_out if bias else 0, scheme=scheme, affine=affine
        )  # fmt: skip
        self.stride, self.padding = stride, kernel // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.effective(), self.bias, self.stride, self.padding)

    def macs(self, resolution: int) -> int:
        """Multiply-accumulates of one image at resolution x resolution output pixels."""
        return self.count * resolution**2


class ConvTranspose2d(Scaled):
    """Transposed convolution. [N, in, H, W] -> [N, out, H', W'], H' = (H - 1) * stride - 2 * padding + kernel. An
    output sums in * kernel^2 / stride^2 inputs.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0, gain: float = SQRT2,
        scheme: Scheme = EQUALIZED, *, bias: bool = True, affine: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            c_in, c_out, kernel, kernel, gain=gain, bias=c_out if bias else 0, scheme=scheme, dim=1,
            share=1 / stride**2, affine=affine,
        )  # fmt: skip
        self.stride, self.padding, self.kernel = stride, padding, kernel

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.effective(), self.bias, self.stride, self.padding)

    def macs(self, resolution: int) -> int:
        """Multiply-accumulates of one image at resolution x resolution output pixels."""
        side = (resolution + 2 * self.padding - self.kernel) // self.stride + 1
        return self.count * side**2


class Linear(Scaled):
    """Dense layer. [N, in] -> [N, out]."""

    def __init__(
        self, c_in: int, c_out: int, gain: float = SQRT2, scheme: Scheme = EQUALIZED, *, bias: bool = True,
        affine: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(c_out, c_in, gain=gain, bias=c_out if bias else 0, scheme=scheme, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective(), self.bias)

    def macs(self, resolution: int = 1) -> int:
        """Multiply-accumulates of one image."""
        return self.count


class LatentTo4x4(Scaled):
    """The dense layer from latents to 4x4 maps, whose bias is one number a map, not a unit. [N, in] -> [N, out, 4,
    4].

    Under `weightnorm-strict` its weights begin a hundred times smaller (Xiang & Li's code): the output is the same,
    and the same step turns them further.
    """

    def __init__(
        self, c_in: int, c_out: int, gain: float = SQRT2 / 4, scheme: Scheme = EQUALIZED, *, bias: bool = True
    ) -> None:
        super().__init__(c_out * 16, c_in, gain=gain, bias=c_out if bias else 0, scheme=scheme)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        super().reset_parameters(generator)
        if self.scheme.strict:
            self.stored.mul_(0.01)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.effective()).view(len(x), -1, 4, 4)
        return y if self.bias is None else y + self.bias[:, None, None]

    def macs(self, resolution: int = 4) -> int:
        """Multiply-accumulates of one image."""
        return self.count


# ---- what a network's spectral norms and buffers want


def _spectral_norms(net: nn.Module) -> list[tuple[Scaled, Spectral]]:
    pairs = [(layer, _spectral(layer)) for layer in net.modules() if isinstance(layer, Scaled)]
    return [(layer, spectral) for layer, spectral in pairs if spectral is not None]


@contextlib.contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """Let no spectral layer of a network iterate, in whatever mode: u and v stay."""
    norms = [spectral for _, spectral in _spectral_norms(net)]
    before = [spectral.still for spectral in norms]
    for spectral in norms:
        spectral.still = True
    try:
        yield
    finally:
        for spectral, was in zip(norms, before):
            spectral.still = was


def settle(net: nn.Module, count: int = FIRST_ITERATIONS) -> None:
    """Bring u and v of all spectral layers near to their weights': after these have been set or averaged."""
    for layer, spectral in _spectral_norms(net):
        spectral.iterate(layer.stored, count)


@torch.no_grad()
def copy_buffers(target: nn.Module, source: nn.Module) -> None:
    """Copy what is no parameter: spectral u and v, of which an average is no unit vector, and batch statistics."""
    theirs = dict(source.named_buffers())
    for name, buffer in target.named_buffers():
        buffer.copy_(theirs[name])
