"""All that a training is: two networks, the averaged generator, two optimizers, and the count of real images shown."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from progan import seeds
from progan.devices import layout
from progan.errors import UserError
from progan.nn.progressive import Discriminator, Generator


@dataclass
class TrainState:
    """Everything that a step changes. Alpha, resolution, batch and rates are functions of cur_nimg and live nowhere."""

    G: Generator
    D: Discriminator
    G_ema: Generator
    opt_G: torch.optim.Adam
    opt_D: torch.optim.Adam
    cur_nimg: int = 0

    def reset_optimizers(self) -> None:
        """Forget Adam's moments, as the official code does at the start and at the end of every fade."""
        self.opt_G, self.opt_D = _adam(self.G), _adam(self.D)

    def set_rates(self, lr_G: float, lr_D: float) -> None:
        """Set Adam's step sizes."""
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
    generator_arguments: Mapping[str, Any], discriminator_arguments: Mapping[str, Any], seed: int, device: torch.device
) -> TrainState:
    """The state before the first image: weights are a function of the seed, the same on every device."""
    G, D = Generator(**generator_arguments), Discriminator(**discriminator_arguments)
    G.reset_parameters(seeds.generator(seed, "init_G"))
    D.reset_parameters(seeds.generator(seed, "init_D"))
    G, D = G.to(device).to(memory_format=layout(device)), D.to(device).to(memory_format=layout(device))
    G_ema = copy.deepcopy(G).eval().requires_grad_(False)
    return TrainState(G, D, G_ema, _adam(G), _adam(D))


def _adam(net: nn.Module) -> torch.optim.Adam:
    """Adam as in the paper: no first moment, beta2 0.99. The rate is set before every step."""
    return torch.optim.Adam(net.parameters(), lr=0.0, betas=(0.0, 0.99), eps=1e-8, fused=True)


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
