"""The families of networks by name: those that grow (`progressive`), and two that do not (`dcgan`, `resnet`).

All of them map G(z [N, latent_size], stage, alpha, psi) -> images [N, channels, R, R] and D(images, stage, alpha,
group) -> scores [N], without a sigmoid, and say `resolutions`, `stage_parameters`, `macs`, `reset_parameters` and
`standard`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from progan.nn import progressive
from progan.nn.dcgan import DcganDiscriminator, DcganGenerator
from progan.nn.layers import chosen
from progan.nn.resnet import ResnetDiscriminator, ResnetGenerator

Generator = progressive.Generator | DcganGenerator | ResnetGenerator
Discriminator = progressive.Discriminator | DcganDiscriminator | ResnetDiscriminator


@dataclass(frozen=True)
class Family:
    """What builds the two networks."""

    generator: Callable[..., Generator]
    discriminator: Callable[..., Discriminator]


FAMILIES = {
    "progressive": Family(progressive.Generator, progressive.Discriminator),
    "dcgan": Family(DcganGenerator, DcganDiscriminator),
    "resnet": Family(ResnetGenerator, ResnetDiscriminator),
}

OF_SOME_GENERATORS: dict[str, Any] = {"fmap_decay": 1.0, "layout": "dcgan"}
"""Options that some families do not have, each with the value that asks for nothing."""
OF_SOME_DISCRIMINATORS = OF_SOME_GENERATORS | {"d_pool": "before", "d_wide": False, "global_pool": "sum"}


def make_generator(family: str = "progressive", **options: Any) -> Generator:
    """G of a family; the options are those of its class. Raises ValueError for a name or an option that there is not;
    those of other families may be given with the value that asks for nothing.
    """
    build = chosen("family", family, FAMILIES).generator
    return build(**_own(family, build, options, OF_SOME_GENERATORS))


def make_discriminator(family: str = "progressive", **options: Any) -> Discriminator:
    """D of a family, as `make_generator`."""
    build = chosen("family", family, FAMILIES).discriminator
    return build(**_own(family, build, options, OF_SOME_DISCRIMINATORS))


def _own(
    family: str, build: Callable[..., object], options: Mapping[str, Any], of_some: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that a family has. Raises ValueError for others that ask for something."""
    known = inspect.signature(build).parameters
    for name, value in options.items():
        if name not in known and (name not in of_some or value != of_some[name]):
            raise ValueError(f"the family `{family}` has no option `{name}` ({value!r} was asked for)")
    return {name: value for name, value in options.items() if name in known}
