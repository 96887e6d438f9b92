"""All that a training is: two networks, the averaged generator, two optimizers, and the count of real images shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from progan import seeds
from progan.devices import layout
from progan.errors import UserError
from progan.nn.families import Discriminator, Generator, make_discriminator, make_generator


@dataclass(frozen=True)
class Moving:
    """How gradients move weights: the optimizer's name, one of OPTIMIZERS, and its knobs. Rates are set before every
    step. Defaults: Adam as in the paper, without a first moment.
    """

    name: str = "adam"
    adam_beta1: float = 0.0
    adam_beta2: float = 0.99
    adam_epsilon: float = 1e-8
    rmsprop_alpha: float = 0.99
    rmsprop_epsilon: float = 1e-8


def _adam(net: nn.Module, knobs: Moving) -> torch.optim.Optimizer:
    betas = (knobs.adam_beta1, knobs.adam_beta2)
    return torch.optim.Adam(net.parameters(), lr=0.0, betas=betas, eps=knobs.adam_epsilon, fused=True)


def _rmsprop(net: nn.Module, knobs: Moving) -> torch.optim.Optimizer:
    alpha, eps = knobs.rmsprop_alpha, knobs.rmsprop_epsilon
    return torch.optim.RMSprop(net.parameters(), lr=0.0, alpha=alpha, eps=eps, foreach=True)


OPTIMIZERS: dict[str, Callable[[nn.Module, Moving], torch.optim.Optimizer]] = {"adam": _adam, "rmsprop": _rmsprop}


def optimizer_of(net: nn.Module, knobs: Moving) -> torch.optim.Optimizer:
    """A fresh optimizer. Raises ValueError, with the list, for a name that there is not."""
    if knobs.name not in OPTIMIZERS:
        raise ValueError(f"the optimizer `{knobs.name}` is none of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[knobs.name](net, knobs)


@dataclass
class TrainState:
    """Everything that a step changes. Alpha, resolution, batch and rates are functions of cur_nimg and live nowhere."""

    G: Generator
    D: Discriminator
    G_ema: Generator
    opt_G: torch.optim.Optimizer
    opt_D: torch.optim.Optimizer
    cur_nimg: int = 0
    moving: Moving = field(default_factory=Moving)

    def reset_optimizers(self) -> None:
        """Forget all moments, as the official code does at the start and at the end of every fade."""
        self.opt_G, self.opt_D = optimizer_of(self.G, self.moving), optimizer_of(self.D, self.moving)

    def set_rates(self, lr_G: float, lr_D: float) -> None:
        """Set the optimizers' rates."""
        for optimizer, lr in ((self.opt_G, lr_G), (self.opt_D, lr_D)):
            optimizer.param_groups[0]["lr"] = lr

    def pack(self) -> dict[str, Any]:
        """Tensors and plain values that `unpack` restores the state from, to the bit."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return parts | {"cur_nimg": self.cur_nimg}

    def unpack(self, packed: Mapping[str, Any]) -> None:
        """Take over a packed state. Raises UserError, naming what differs, where it belongs to other networks."""
        for name in ("G", "D", "G_ema"):
            load_strictly(getattr(self, name), packed[name], name)
        self.opt_G.load_state_dict(packed["opt_G"])
        self.opt_D.load_state_dict(packed["opt_D"])
        self.cur_nimg = packed["cur_nimg"]


_PARTS = ("G", "D", "G_ema", "opt_G", "opt_D")


def new_state(
    generator_arguments: Mapping[str, Any],
    discriminator_arguments: Mapping[str, Any],
    seed: int,
    device: torch.device,
    moving: Moving = Moving(),
) -> TrainState:
    """The state before the first image: weights are a function of the seed, the same on every device. The arguments
    are those of `families.make_generator` and `make_discriminator`.
    """
    G, D = make_generator(**generator_arguments), make_discriminator(**discriminator_arguments)
    G.reset_parameters(seeds.generator(seed, "init_G"))
    D.reset_parameters(seeds.generator(seed, "init_D"))
    G, D = G.to(device).to(memory_format=layout(device)), D.to(device).to(memory_format=layout(device))
    G_ema = copy.deepcopy(G).eval().requires_grad_(False)
    return TrainState(G, D, G_ema, optimizer_of(G, moving), optimizer_of(D, moving), moving=moving)


def load_strictly(net: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load weights of exactly these names and shapes. Raises UserError that names the first that differ."""
    wanted = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    differing = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
    if differing:
        shapes = "; ".join(
            f"{key}: {found.get(key)} in the file, {wanted.get(key)} wanted" for key in sorted(differing)[:3]
        )
        raise UserError(f"the weights of {name} do not fit ({len(differing)} differ): {shapes}.")
    net.load_state_dict(tensors)
