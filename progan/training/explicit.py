"""The gradients of `steps`, with every derivative written out: the same numbers, and no autograd.

D's loss holds the norm of D's own gradient, so moving D takes a second derivative. Autograd finds it by walking back
through its own walk back, at a price. But between its kinks D is linear, minibatch stddev aside: each layer is a linear
map A, a bias, and a mask (1 where the unit is above 0, the slope below). So four chains of plain convolutions do:

1. forward   reals, fakes and mixed images together: x -> mask(A x + b), up to the scores.
2. backward  all three: q = mask(g), g = A' q, from d total / d score for reals and fakes, and 1 for mixed, down to the
             picture. What arrives at the mixed pictures is the gradient whose norm is penalised.
3. tangent   u = d total / d that gradient, back up through the same maps: u -> mask(A u), the derivative of pass 2.
4. second    the one curved layer, minibatch stddev, sends a gradient down once more, for the mixed images.

A weight's gradient is that of <q, A x> over the first two passes and the fourth, and of <q, A u> over the mixed images.
Being a plain function of tensors, all of it can be compiled whole, and captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progan import losses
from progan.nn.layers import Scaled
from progan.nn.maps import Dense, DenseTo4x4, Kernels, Map
from progan.nn.ops import blend, downscale2d, pixel_norm, upscale2d
from progan.nn.progressive import (
    Discriminator,
    DiscriminatorBlock,
    FirstBlock,
    Generator,
    GeneratorBlock,
    LastBlock,
    is_one,
)
from progan.training.steps import CriticLoss, Part, Stats, Where

PLAIN = Kernels()
Gradients = list[tuple[nn.Parameter, Tensor]]
"""Parameters, and what their `.grad` grows by."""


@torch.no_grad()
def d_terms(
    G: Generator, D: Discriminator, part: Part, where: Where, loss: CriticLoss, kernels: Kernels = PLAIN
) -> tuple[Stats, Gradients]:
    """`steps.d_gradients`, with the gradients returned."""
    count = len(part.reals)
    fakes = generator(G, where, kernels).forward(part.latents).to(part.reals.dtype)
    mixed = torch.lerp(part.reals, fakes, part.mix[:, None, None, None])
    critic = discriminator(D, where, 3, count, kernels)
    images = torch.cat([part.reals, fakes, mixed]).contiguous(memory_format=torch.channels_last)
    scores = critic.forward(images)  # [3N, 1]
    real_scores, fake_scores, mixed_scores = scores.view(3, count)
    d_real = (2 * loss.epsilon * real_scores - 1) / where.batch
    d_fake = torch.full_like(fake_scores, 1 / where.batch)
    slope = critic.backward(torch.cat([d_real, d_fake, torch.ones_like(mixed_scores)])[:, None])  # [N, C, R, R]
    penalty, d_slope = penalise(slope.to(part.reals.dtype), loss)
    critic.tangent(d_slope / where.batch)
    critic.second(None)
    distance, drift = losses.wasserstein(real_scores, fake_scores), losses.drift(real_scores, loss.epsilon)
    terms = {
        "loss_D": distance + penalty + drift,
        "wasserstein": -distance,
        "gradient_penalty": penalty,
        "drift": drift,
    }
    terms |= {"score_real": real_scores, "score_fake": fake_scores}
    return {name: term.sum() / where.batch for name, term in terms.items()}, critic.gradients()


@torch.no_grad()
def g_terms(
    G: Generator, D: Discriminator, latents: Tensor, where: Where, kernels: Kernels = PLAIN
) -> tuple[Stats, Gradients]:
    """`steps.g_gradients`, with the gradients returned."""
    painter, critic = generator(G, where, kernels), discriminator(D, where, 1, len(latents), kernels)
    scores = critic.forward(painter.forward(latents))  # [N, 1]
    painter.backward(critic.backward(torch.full_like(scores, -1 / where.batch)))
    return {"loss_G": losses.generator_loss(scores).sum() / where.batch}, painter.gradients()


def penalise(slope: Tensor, loss: CriticLoss) -> tuple[Tensor, Tensor]:
    """The penalty of `losses.gradient_penalty` for D's gradient at the mixed pictures, and its own derivative.

    slope: [N, C, R, R] -> penalty [N], d penalty / d slope [N, C, R, R] (0 where the slope is 0).
    """
    length = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    factor, excess = loss.weight / loss.target**2, loss.scale * length - loss.target
    per_length = torch.where(length > 0, 2 * factor * loss.scale * excess / length, 0)
    return factor * excess.square(), slope * per_length[:, None, None, None]


def wide(x: Tensor) -> Tensor:
    """Norms and statistics need more than half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- the pieces of D


class Node(Protocol):
    """A piece of D with its four passes. Rows are samples; the mixed images are the last ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Input -> output."""

    def backward(self, g: Tensor) -> Tensor:
        """d total / d output -> d total / d input."""

    def tangent(self, u: Tensor) -> Tensor:
        """The derivative of `backward`, transposed. Mixed images only."""

    def second(self, g: Tensor | None) -> Tensor | None:
        """`backward` once more, for the mixed images; None is zero. Ends the node's work."""

    def gradients(self) -> Gradients:
        """Of its parameters, after `second`."""


class Layer:
    """Map, bias, leaky ReLU (slope 1: none), then the mean of 2x2 pixels where `pool`."""

    def __init__(self, module: Scaled, linear: Map, slope: float = 1.0, pool: bool = False) -> None:
        self.module, self.linear, self.slope, self.pool = module, linear, slope, pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x, self.module.bias)
        self.x, self.y = x, F.leaky_relu(y, self.slope, inplace=True) if self.slope != 1 else y
        return downscale2d(self.y) if self.pool else self.y

    def backward(self, g: Tensor) -> Tensor:
        self.q = self.unpool_and_mask(g, self.y)
        return self.linear.adjoint(self.q).view_as(self.x)

    def tangent(self, u: Tensor) -> Tensor:
        self.u = u
        v = self.mask(self.linear(u), self.y[-len(u) :])
        return downscale2d(v) if self.pool else v

    def second(self, g: Tensor | None) -> Tensor | None:
        """Pass 4, and the weights' gradients: of <q, A u>, and of <q, A x>, to which pass 4 adds its own q."""
        mixed, others = slice(-len(self.u), None), slice(-len(self.u))
        of_tangent, _ = self.linear.gradient(self.q[mixed], self.u)
        if g is None:
            of_images, bias = self.linear.gradient(self.q[others], self.x[others])
        else:
            self.q[mixed] = self.unpool_and_mask(g, self.y[mixed])
            of_images, bias = self.linear.gradient(self.q, self.x)
            g = self.below(self.q[mixed])
        self.found = of_tangent.add_(of_images), bias
        del self.x, self.y, self.q, self.u  # the next layer's can take their place
        return g

    def below(self, q: Tensor) -> Tensor | None:
        """What `second` hands down."""
        return self.linear.adjoint(q)

    def mask(self, g: Tensor, y: Tensor) -> Tensor:
        """g where y is above 0, slope * g elsewhere. May write over g: nobody else has it."""
        g, mask = g.to(y.dtype), torch.ops.aten.leaky_relu_backward
        if self.slope == 1:
            return g
        if torch.compiler.is_compiling():  # which finds its own memory
            return mask(g, y, self.slope, True)  # type: ignore[no-any-return]
        return mask.grad_input(g, y, self.slope, True, grad_input=g)  # type: ignore[no-any-return]

    def unpool_and_mask(self, g: Tensor, y: Tensor) -> Tensor:
        return self.mask(upscale2d(g) / 4 if self.pool else g, y)

    def gradients(self) -> Gradients:
        assert self.module.bias is not None
        return list(zip((self.module.weight, self.module.bias), self.found))


class FromRGB(Layer):
    """The layer that meets the pictures. Only the last `rows` of them want a gradient, and none a second one."""

    def __init__(self, module: Scaled, linear: Map, slope: float, rows: int) -> None:
        super().__init__(module, linear, slope)
        self.rows = rows

    def backward(self, g: Tensor) -> Tensor:
        self.q = self.mask(g, self.y)
        return self.linear.adjoint(self.q[-self.rows :])

    def below(self, q: Tensor) -> None:
        return None


class Stddev:
    """Minibatch stddev of several batches at once, see `ops.minibatch_stddev`.

    sigma = sqrt(mean over the group of deviation^2), s = mean of sigma over maps and pixels. Hence, with K the number
    of values in a group, ds/dx = deviation / (K sigma). With v the tangent's own deviation and c the group's mean of
    deviation * v, the tangent of s is the mean of c / sigma; its derivative is (v / sigma - deviation c / sigma^3) / K.
    """

    def __init__(self, group: int, batches: int) -> None:
        self.group, self.batches = group, batches

    def forward(self, x: Tensor) -> Tensor:
        y = self.grouped(x, self.batches)  # [B, G, M, C, H, W] M groups of G in each batch
        self.deviation = y - y.mean(1, keepdim=True)
        self.sigma = (self.deviation.square().mean(1, keepdim=True) + 1e-8).sqrt()  # [B, 1, M, C, H, W]
        self.values = self.group * x[0].numel()
        return self.with_map(x, self.sigma)

    def backward(self, g: Tensor) -> Tensor:
        d_s = self.grouped(g[:, -1:], self.batches).sum((1, 3, 4, 5), keepdim=True)  # [B, 1, M, 1, 1, 1]
        self.weight = d_s / self.values
        return g[:, :-1] + (self.weight * self.deviation / self.sigma).flatten(0, 2)

    def tangent(self, u: Tensor) -> Tensor:
        self.deviation, self.sigma, self.weight = self.deviation[-1:], self.sigma[-1:], self.weight[-1:]
        v = self.grouped(u, 1)
        self.v = v - v.mean(1, keepdim=True)
        self.covariance = (self.deviation * self.v).mean(1, keepdim=True)
        return self.with_map(u, self.covariance / self.sigma)

    def second(self, g: Tensor | None) -> Tensor:
        assert g is None, "the layers above are linear between their kinks"
        curvature = self.v / self.sigma - self.deviation * self.covariance / self.sigma**3
        return (self.weight * curvature).flatten(0, 2)

    def grouped(self, x: Tensor, batches: int) -> Tensor:
        return wide(x).view(batches, self.group, -1, *x.shape[1:])

    def with_map(self, x: Tensor, values: Tensor) -> Tensor:
        """x and one more map, the mean of its group's values."""
        s = values.mean((3, 4, 5), keepdim=True).expand(-1, self.group, -1, 1, *x.shape[2:])
        return torch.cat([x, s.flatten(0, 2).to(x.dtype)], 1)

    def gradients(self) -> Gradients:
        return []


class Chain:
    """One node after the other."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    def forward(self, x: Tensor) -> Tensor:
        for node in self.nodes:
            x = node.forward(x)
        return x

    def backward(self, g: Tensor) -> Tensor:
        for node in reversed(self.nodes):
            g = node.backward(g)
        return g

    def tangent(self, u: Tensor) -> Tensor:
        for node in self.nodes:
            u = node.tangent(u)
        return u

    def second(self, g: Tensor | None) -> Tensor | None:
        for node in reversed(self.nodes):
            g = node.second(g)
        return g

    def gradients(self) -> Gradients:
        return [pair for node in self.nodes for pair in node.gradients()]


class Fade:
    """blend(old(downscale2d(x)), new(x), alpha)."""

    def __init__(self, old: Node, new: Node, alpha: float | Tensor) -> None:
        self.old, self.new, self.alpha = old, new, alpha

    def forward(self, x: Tensor) -> Tensor:
        return blend(self.old.forward(downscale2d(x)), self.new.forward(x), self.alpha)

    def backward(self, g: Tensor) -> Tensor:
        to_old, to_new = shares(g, self.alpha)
        return upscale2d(self.old.backward(to_old)) / 4 + self.new.backward(to_new)

    def tangent(self, u: Tensor) -> Tensor:
        return blend(self.old.tangent(downscale2d(u)), self.new.tangent(u), self.alpha)

    def second(self, g: Tensor | None) -> None:
        to_old, to_new = (None, None) if g is None else shares(g, self.alpha)
        self.old.second(to_old)
        self.new.second(to_new)

    def gradients(self) -> Gradients:
        return self.old.gradients() + self.new.gradients()


def shares(g: Tensor, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
    """What `blend` hands back to old and new."""
    to_new = g * alpha
    return g - to_new, to_new


def discriminator(D: Discriminator, where: Where, batches: int, rows: int, kernels: Kernels) -> Chain:
    """D at a point of its growth, for several batches at once; the last `rows` pictures want a gradient."""

    def from_rgb(stage: int) -> Node:
        return FromRGB(D.rgb_layer(stage), kernels.convolution(D.rgb_layer(stage), D.resolutions[stage]), D.slope, rows)

    top: list[Node] = [from_rgb(where.stage), *(block(D, where.stage, kernels) if where.stage else [])]
    if where.stage and not is_one(where.alpha):
        top = [Fade(from_rgb(where.stage - 1), Chain(top), where.alpha)]
    middle = [layer for s in reversed(range(1, where.stage)) for layer in block(D, s, kernels)]
    return Chain([*top, *middle, *last_block(D, where.group, batches, kernels)])


def block(D: Discriminator, stage: int, kernels: Kernels) -> list[Node]:
    """Conv, conv, downscale."""
    module, resolution = D.block(stage), D.resolutions[stage]
    assert isinstance(module, DiscriminatorBlock)
    first = Layer(module.conv0, kernels.convolution(module.conv0, resolution), D.slope)
    if module.pool == "before":
        return [first, Layer(module.conv1, kernels.downscaling(module.conv1, resolution), D.slope)]
    return [first, Layer(module.conv1, kernels.convolution(module.conv1, resolution), D.slope, pool=True)]


def last_block(D: Discriminator, group: int, batches: int, kernels: Kernels) -> list[Node]:
    """Minibatch stddev, conv, dense, dense."""
    module, slope = D.block(0), D.slope
    assert isinstance(module, LastBlock)
    return [
        *([Stddev(group, batches)] if module.stddev else []),
        Layer(module.conv, kernels.convolution(module.conv, 4), slope),
        Layer(module.dense0, Dense(module.dense0), slope),
        Layer(module.dense1, Dense(module.dense1)),
    ]


# ---- the pieces of G, of which the first derivative is enough


class NormedLayer(Layer):
    """A layer of G: map, bias, leaky ReLU, pixel norm where `norm`."""

    def __init__(self, module: Scaled, linear: Map, slope: float = 1.0, norm: bool = False) -> None:
        super().__init__(module, linear, slope)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.norm:
            length = torch.linalg.vector_norm(wide(y), dim=1, keepdim=True)  # [N, 1, H, W]
            self.inverse = torch.rsqrt(length.square() / y.shape[1] + 1e-8)
            y.mul_(self.inverse)
        return y

    def backward(self, g: Tensor) -> Tensor:
        if self.norm:
            share = wide(g * self.y).mean(1, keepdim=True)  # [N, 1, H, W] of y in g
            g = g.addcmul_(self.y, share.to(g.dtype), value=-1).mul_(self.inverse)
        q = self.mask(g, self.y)
        self.found = self.linear.gradient(q, self.x)
        return self.linear.adjoint(q)


class Painter:
    """G at a point of its growth: layers up to the previous resolution, those of the present one, the RGB layers."""

    def __init__(
        self, norm: bool, below: Sequence[NormedLayer], top: Sequence[NormedLayer], rgb: NormedLayer,
        old: NormedLayer | None, alpha: float | Tensor,
    ) -> None:  # fmt: skip
        self.norm, self.below, self.top, self.rgb, self.old, self.alpha = norm, below, top, rgb, old, alpha

    def forward(self, z: Tensor) -> Tensor:
        """Latents [N, latent_size] -> images [N, C, R, R]."""
        x = pixel_norm(z) if self.norm else z
        for layer in self.below:
            x = layer.forward(x)
        below = x
        for layer in self.top:
            x = layer.forward(x)
        images = self.rgb.forward(x)
        return images if self.old is None else blend(upscale2d(self.old.forward(below)), images, self.alpha)

    def backward(self, g: Tensor) -> None:
        """g: d total / d images. Finds the gradients of all weights on its way down."""
        to_old, to_new = shares(g, self.alpha) if self.old else (None, g)
        g = self.rgb.backward(to_new)
        for layer in reversed(self.top):
            g = layer.backward(g)
        if self.old and to_old is not None:
            g = g + self.old.backward(4 * downscale2d(to_old))
        for layer in reversed(self.below):
            g = layer.backward(g)

    def gradients(self) -> Gradients:
        rgb = [self.rgb] if self.old is None else [self.rgb, self.old]
        return [pair for layer in (*self.below, *self.top, *rgb) for pair in layer.gradients()]


def generator(G: Generator, where: Where, kernels: Kernels) -> Painter:
    """G at a point of its growth."""

    def layers(stage: int) -> list[NormedLayer]:
        """Dense and conv at 4x4; upscaling conv and conv above."""
        module, resolution = G.block(stage), G.resolutions[stage]
        if isinstance(module, FirstBlock):
            first = NormedLayer(module.dense, DenseTo4x4(module.dense), G.slope, G.pixel_norm)
            return [first, NormedLayer(module.conv, kernels.convolution(module.conv, 4), G.slope, G.pixel_norm)]
        assert isinstance(module, GeneratorBlock)
        first = NormedLayer(module.conv0, kernels.upscaling(module.conv0, resolution), G.slope, G.pixel_norm)
        second = kernels.convolution(module.conv1, resolution)
        return [first, NormedLayer(module.conv1, second, G.slope, G.pixel_norm)]

    def to_rgb(stage: int) -> NormedLayer:
        return NormedLayer(G.rgb_layer(stage), kernels.convolution(G.rgb_layer(stage), G.resolutions[stage]))

    old = to_rgb(where.stage - 1) if where.stage and not is_one(where.alpha) else None
    below = [layer for s in range(where.stage) for layer in layers(s)]
    return Painter(G.pixel_norm, below, layers(where.stage), to_rgb(where.stage), old, where.alpha)
